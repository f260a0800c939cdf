"""The scheduler by behaviour: single decisions, then whole runs of a simulated pool."""

from __future__ import annotations

import random
from collections import Counter
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from simulation import LATENCY, Cluster, in_hand

from mainstay.queues import SPARE_DEADLINES
from mainstay.scheduler import (
    AHEAD,
    MOST_IN_HAND,
    NEXT,
    OVERDUE,
    STALLED,
    GiveUp,
    Kill,
    Leave,
    Recall,
    Scheduler,
    Send,
    Task,
)

TINY = AHEAD / 1e6  # seconds; what sums of run times may be off by


def sanity_check(scheduler: Scheduler) -> None:
    """Assert what must hold between any two events."""
    for worker_id, worker in scheduler.workers.items():
        hand, standing = list(worker.hand.values()), not worker.dying
        assert worker.id == worker_id
        assert worker.idle == (worker_id in scheduler._idle) == (standing and not hand)
        assert not (worker_id in scheduler._roomy and (not hand or worker.closed or worker.dying))
        assert not worker.leaving or (worker.dying and hand)
        assert (worker_id in scheduler._errands) == (worker.recalled and (standing or worker.leaving))
        assert not worker.recalled or worker.closed
        assert [among for among in (scheduler._hands.laden, scheduler._hands.heavy) if worker_id in among] == (
            [] if worker.among is None else [worker.among]
        )
        assert (worker.among is not None) == (len(hand) > 1 and not worker.recalled and standing)
        timed = (standing or worker.leaving) and any(task.timeout is not None for task in hand)
        assert timed == (worker.deadline < inf) == (timed and (worker.deadline, worker_id) in scheduler._deadlines.heap)
        if len(hand) > 1:
            assert not any(task.solo for task in hand), "a task that must be alone has company"
            assert len(hand) <= MOST_IN_HAND
            assert worker.load == pytest.approx(sum(task.expected for task in hand), abs=TINY)
            assert worker.load <= AHEAD + TINY or (len(hand) == 2 and worker.load <= 2 * NEXT + TINY)
    for hands in (scheduler._hands.laden, scheduler._hands.heavy):
        since = [worker.since for worker in hands.values()]
        assert since == sorted(since), "the longest stalled must stand first"
    assert sorted(-negated for negated in scheduler.queues.priorities) == sorted(scheduler.queues.by_priority)
    places = Counter(task.id for queue in scheduler.queues.by_priority.values() for task in queue)
    places.update(task_id for worker in scheduler.workers.values() for task_id in worker.hand)
    places.update(task.id for task in scheduler.unfit)
    assert not places or max(places.values()) == 1, "a task is in two places"
    assert places.total() == scheduler.queued + in_hand(scheduler) + len(scheduler.unfit)
    if scheduler._idle:
        assert scheduler.queued == 0, "someone idles while tasks wait"
        assert not scheduler._hands.heavy or scheduler._errands, "someone idles while another holds long tasks ahead"


def with_workers(count: int) -> Scheduler:
    scheduler = Scheduler()
    for number in range(count):
        assert scheduler.joined(number, 0.0) == []
    return scheduler


def test_what_would_not_end_before_the_pool_closes_is_not_begun():
    scheduler = with_workers(1)
    scheduler.closes(10.0, 0.0)
    assert sent(scheduler.submit(Task(1, 1, timeout=20.0), 0.0)) == []
    assert sent(scheduler.submit(Task(2, 1, timeout=5.0), 0.0)) == [(0, [2])]
    assert [task.id for task in scheduler.unfit] == [1]
    assert not scheduler.is_at_rest
    scheduler.finished(0, [(2, 3.0)], 3.0)
    assert scheduler.is_at_rest
    assert sent(scheduler.submit(Task(3, 1), 6.0)) == [(0, [3])]  # some 3 s, as the one before
    scheduler.finished(0, [(3, 3.0)], 9.0)
    assert sent(scheduler.submit(Task(4, 1), 9.0)) == []
    assert sent(scheduler.submit(Task(5, 2), 9.0)) == [(0, [5])]  # of a function that was never measured
    assert [task.id for task in scheduler.unfit] == [1, 4]


def test_a_limit_that_is_moved_lets_them_begin():
    scheduler = with_workers(1)
    scheduler.closes(10.0, 0.0)
    scheduler.submit(Task(1, 1, timeout=20.0), 0.0)
    assert sent(scheduler.closes(100.0, 1.0)) == [(0, [1])]
    assert scheduler.unfit == []


def sent(actions):
    return [(action.worker, [task.id for task in action.tasks]) for action in actions if isinstance(action, Send)]


def test_a_task_goes_to_the_worker_that_was_busy_last():
    scheduler = with_workers(3)
    assert sent(scheduler.submit(Task(1, 1), 0.0)) == [(2, [1])]
    assert sent(scheduler.submit(Task(2, 1), 0.0)) == [(1, [2])]
    scheduler.finished(2, [(1, 0.1)], 1.0)
    assert sent(scheduler.submit(Task(3, 1), 1.0)) == [(2, [3])]


def test_a_function_that_was_never_measured_gets_no_company():
    scheduler = with_workers(1)
    for number in range(5):
        scheduler.submit(Task(number, 1), 0.0)
    assert in_hand(scheduler) == 1
    assert scheduler.top_up(0.0) == []


def test_short_tasks_are_sent_ahead_as_many_as_last_a_millisecond():
    scheduler = with_workers(1)
    for number in range(500):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, AHEAD / 10)], 0.0)
    assert in_hand(scheduler) in (9, 10)


def test_long_tasks_are_not_sent_ahead():
    scheduler = with_workers(1)
    for number in range(50):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, 10.0)], 10.0)
    assert in_hand(scheduler) == 1


def test_a_hand_holds_what_is_expected_to_last_a_millisecond_whatever_the_functions():
    scheduler = with_workers(1)
    scheduler.submit(Task(0, 1), 0.0)
    scheduler.submit(Task(1, 2), 0.0)
    scheduler.finished(0, [(0, AHEAD / 100)], 0.0)  # function 1 is short
    for number in range(2, 10):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.submit(Task(10, 3), 0.0)  # nobody knows
    scheduler.submit(Task(11, 1), 0.0)
    scheduler.finished(0, [(1, AHEAD * 100)], 0.0)  # function 2 is long
    assert list(scheduler.workers[0].hand) == list(range(2, 10))


def test_the_higher_priority_goes_first_and_no_empty_queue_stays():
    scheduler = with_workers(1)
    scheduler.submit(Task(0, 1), 0.0)
    for number in range(1, 300):
        scheduler.submit(Task(number, number, priority=number % 100), 0.0)
    order = []
    for _ in range(300):
        (task,) = scheduler.workers[0].hand.values()
        order.append(task.priority)
        scheduler.finished(0, [(task.id, 1.0)], 0.0)
    assert order[1:] == sorted(order[1:], reverse=True)
    assert len(scheduler.queues.by_priority) == 1


def test_what_a_slow_task_blocks_is_recalled_when_another_worker_idles():
    scheduler = with_workers(1)
    for number in range(4):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, AHEAD / 10)], 0.0)
    assert in_hand(scheduler) == 3
    scheduler.joined(7, 0.0)
    assert scheduler.next_tick() == STALLED
    assert scheduler.tick(STALLED / 2) == []
    assert scheduler.tick(STALLED) == [Recall(0)]
    assert sent(scheduler.returned(0, [2, 3], STALLED)) == [(7, [2, 3])]
    sanity_check(scheduler)


def test_a_hand_from_which_nothing_comes_is_recalled_even_if_nobody_idles():
    """A result of a short task may wait in the worker until the next is done, and somebody may wait for it."""
    scheduler = with_workers(1)
    for number in range(4):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, AHEAD / 10)], 0.0)
    assert scheduler.tick(STALLED) == [Recall(0)]
    assert scheduler.next_tick() is None


def test_a_task_that_overruns_is_killed_and_its_worker_gets_nothing_more():
    scheduler = with_workers(1)
    scheduler.submit(Task(1, 1, timeout=2.0), 0.0)
    scheduler.submit(Task(2, 1), 0.0)
    assert scheduler.next_tick() == 2.0
    (kill,) = scheduler.tick(2.0)
    assert isinstance(kill, Kill)
    assert kill.task.id == 1
    assert scheduler.finished(0, [(1, 2.0)], 2.0) == ([], [])  # its result was under way: too late
    assert in_hand(scheduler) == 0
    scheduler.left(0, 2.1)
    assert sent(scheduler.joined(1, 2.2)) == [(1, [2])]
    assert scheduler.workers[1].hand[2].deaths == 0


def test_a_result_in_time_takes_the_deadline_away():
    scheduler = with_workers(1)
    scheduler.submit(Task(1, 1, timeout=2.0), 0.0)
    scheduler.finished(0, [(1, 1.0)], 1.0)
    assert scheduler.next_tick() is None
    assert scheduler.tick(3.0) == []


def test_only_a_task_that_was_alone_is_given_up():
    scheduler = with_workers(1)
    tasks = [Task(number, 1, worker_retries=1) for number in range(4)]
    for task in tasks:
        scheduler.submit(task, 0.0)
    scheduler.finished(0, [(0, 1e-5)], 0.0)
    assert in_hand(scheduler) == 3
    assert scheduler.left(0, 0.0) == []
    assert all(task.solo for task in tasks[1:])
    assert sent(scheduler.joined(1, 0.0)) == [(1, [1])]
    assert scheduler.left(1, 0.0) == [GiveUp(tasks[1], 1)]
    assert sent(scheduler.joined(2, 0.0)) == [(2, [2])]


def test_a_task_that_must_not_run_twice_is_given_up_at_the_first_death():
    scheduler = with_workers(1)
    task = Task(1, 1, worker_retries=0)
    scheduler.submit(task, 0.0)
    assert scheduler.left(0, 0.0) == [GiveUp(task, 0)]


def test_a_worker_whose_end_is_known_gets_nothing_to_be_blamed_for():
    scheduler = with_workers(2)
    first = Task(1, 1, worker_retries=0)
    scheduler.submit(first, 0.0)
    for worker in (0, 1):
        scheduler.leaving(worker)
    second = Task(2, 1, worker_retries=0)
    assert scheduler.submit(second, 0.0) == []
    assert scheduler.left(0, 0.0) == []
    assert scheduler.left(1, 0.0) == [GiveUp(first, 1)]
    assert second.deaths == 0
    assert sent(scheduler.joined(2, 0.0)) == [(2, [2])]


def test_words_from_a_worker_that_has_left_are_ignored():
    scheduler = with_workers(1)
    scheduler.left(0, 0.0)
    assert scheduler.finished(0, [(1, 0.1)], 0.0) == ([], [])
    assert scheduler.returned(0, [1], 0.0) == []
    assert scheduler.dropped(0, [1], 0.0) == []


def test_draining_returns_everything_that_waits():
    scheduler = with_workers(0)
    for number in range(10):
        scheduler.submit(Task(number, 1, priority=number % 3), 0.0)
    assert sorted(task.id for task in scheduler.drain()) == list(range(10))
    assert scheduler.queued == 0


def with_a_hand(*expected: float, workers: int = 1) -> Scheduler:
    """Return a scheduler whose worker 0 holds tasks 0, 1, … of functions 0, 1, … that last so long (s)."""
    scheduler = with_workers(1)
    for number, seconds in enumerate(expected):
        scheduler.times.measure(number, seconds)
        scheduler.submit(Task(number, number), 0.0)
        scheduler.top_up(0.0)
    assert list(scheduler.workers[0].hand) == list(range(len(expected)))
    for number in range(1, workers):
        scheduler.joined(number, 0.0)
    return scheduler


def test_a_task_of_some_length_gets_no_more_than_one_behind_it():
    scheduler = with_a_hand(NEXT, NEXT)
    scheduler.times.measure(7, AHEAD / 100)
    scheduler.submit(Task(7, 7), 0.0)
    assert scheduler.top_up(0.0) == []


def test_two_workers_share_what_is_there_and_nobody_hoards():
    scheduler = with_workers(2)
    for number in range(100):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(1, 0.01)], 0.01)
    for _ in range(49):
        assert max(len(worker.hand) for worker in scheduler.workers.values()) <= 2
        for worker in scheduler.workers.values():
            scheduler.finished(worker.id, [(task, 0.01) for task in list(worker.hand)[:1]], 0.01)
            sanity_check(scheduler)


def test_one_slow_call_of_a_cheap_function_is_soon_forgotten():
    scheduler = with_workers(1)
    for number in range(2000):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, 1e-5)], 0.0)
    most = len(scheduler.workers[0].hand)
    scheduler.finished(0, [(task, 1e-5) for task in list(scheduler.workers[0].hand)[1:]] + [(1, 5.0)], 0.0)
    assert in_hand(scheduler) == 1
    goes = 0
    while in_hand(scheduler) < most:
        scheduler.finished(0, [(task, 1e-5) for task in scheduler.workers[0].hand], 0.0)
        goes += 1
    assert goes < 60


def test_tasks_of_several_priorities_travel_together_highest_first():
    scheduler = with_workers(1)
    scheduler.submit(Task(0, 1), 0.0)
    for number in range(1, 20):
        scheduler.submit(Task(number, 1, priority=number), 0.0)
    scheduler.finished(0, [(0, AHEAD / 50)], 0.0)
    assert list(scheduler.workers[0].hand) == list(range(19, 0, -1))


def test_where_nobody_may_have_the_first_task_nobody_is_asked_twice():
    scheduler = with_workers(500)
    scheduler.times.measure(1, AHEAD / 4)
    scheduler.times.measure(2, AHEAD * 0.9)
    for number in range(1000):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.top_up(0.0)
    assert len(scheduler._roomy) == 500  # each with two, half full
    scheduler.submit(Task(1001, 3), 0.0)  # only for who idles
    assert scheduler.top_up(0.0) == []
    assert len(scheduler._roomy) == 500
    scheduler.submit(Task(1002, 2, priority=1), 0.0)  # for who has one at most
    assert scheduler.top_up(0.0) == []
    assert len(scheduler._roomy) == 0
    assert sent(scheduler.finished(3, [(next(iter(scheduler.workers[3].hand)), AHEAD / 4)], 0.0)[1]) == [(3, [1002])]
    sanity_check(scheduler)


def test_who_has_been_silent_gets_no_company_until_a_result_comes():
    scheduler = with_a_hand(1e-5)
    scheduler.submit(Task(8, 0), STALLED)
    assert scheduler.top_up(STALLED) == []
    assert sent(scheduler.joined(1, STALLED)) == [(1, [8])]
    scheduler.submit(Task(9, 0), STALLED)
    assert sent(scheduler.top_up(STALLED)) == [(1, [9])]


def test_patience_begins_when_company_comes():
    scheduler = with_a_hand(1e-5)
    scheduler.submit(Task(8, 0), STALLED / 2)
    assert sent(scheduler.top_up(STALLED / 2)) == [(0, [8])]
    assert scheduler.next_tick() == STALLED * 1.5
    sanity_check(scheduler)


def test_long_tasks_that_wait_behind_another_are_recalled_when_somebody_idles_or_when_it_overruns():
    assert with_a_hand(NEXT, NEXT).joined(1, 0.0) == [Recall(0)]
    scheduler = with_a_hand(NEXT, NEXT)
    assert scheduler.next_tick() == OVERDUE
    assert scheduler.tick(OVERDUE) == [Recall(0)]
    assert scheduler.joined(1, OVERDUE) == []  # it was asked already
    assert sent(scheduler.returned(0, [1], OVERDUE)) == [(1, [1])]


def test_a_recalled_worker_gets_no_company_until_its_hand_is_empty():
    scheduler = with_a_hand(1e-5, 1e-5, 1e-5, 1e-5)
    assert scheduler.tick(STALLED) == [Recall(0)]
    scheduler.submit(Task(9, 0), STALLED)
    assert scheduler.finished(0, [(0, 1e-5)], STALLED)[1] == []  # what it had, comes before its answer
    assert scheduler.returned(0, [2, 3], STALLED) == []
    assert list(scheduler.workers[0].hand) == [1]
    assert sent(scheduler.finished(0, [(1, 0.1)], 0.1)[1]) == [(0, [2, 3, 9])]
    sanity_check(scheduler)


def test_what_was_under_way_to_a_recalled_worker_is_asked_for_again():
    scheduler = with_a_hand(1e-5, 1e-5, 1e-5)
    scheduler.tick(STALLED)
    scheduler.returned(0, [1], STALLED)  # task 2 had not arrived
    assert scheduler.next_tick() == 2 * STALLED
    assert scheduler.tick(2 * STALLED) == [Recall(0)]
    sanity_check(scheduler)


def test_a_recalled_worker_that_ends_owes_no_answer():
    scheduler = with_a_hand(NEXT, NEXT, workers=2)
    scheduler.left(0, 1.0)
    assert not scheduler._errands
    assert scheduler.returned(0, [1], 1.0) == []
    sanity_check(scheduler)


def test_a_late_answer_to_a_recall_does_not_take_a_deadline_away():
    scheduler = with_a_hand(1e-5, 1e-5)
    scheduler.tick(STALLED)
    scheduler.finished(0, [(0, 1e-5), (1, 1e-5)], STALLED)
    scheduler.submit(Task(2, 1, timeout=1.0), STALLED)
    scheduler.returned(0, [], STALLED)
    (kill,) = scheduler.tick(STALLED + 1.0)
    assert isinstance(kill, Kill)


def test_deadlines_of_tasks_that_are_done_do_not_pile_up():
    scheduler = with_workers(2)
    scheduler.submit(Task(0, 1, timeout=3600.0), 0.0)
    for number in range(1, 1000):
        scheduler.submit(Task(number, 1, timeout=3600.0), 1.0)
        scheduler.finished(0, [(number, 0.1)], 1.0)
    assert len(scheduler._deadlines.heap) <= 2 * 2 + SPARE_DEADLINES
    assert scheduler.next_tick() == 3600.0
    assert [action.task.id for action in scheduler.tick(4000.0)] == [0]


def test_two_tasks_with_the_same_deadline_end_their_worker_once():
    scheduler = with_workers(1)
    scheduler.submit(Task(0, 1, timeout=1.0), 0.0)
    scheduler.finished(0, [(0, 0.0)], 0.0)
    scheduler.submit(Task(1, 1, timeout=1.0), 0.0)
    assert [action.task.id for action in scheduler.tick(1.0)] == [1]


def test_a_task_that_overran_and_is_tried_again_has_no_death_counted():
    scheduler = with_workers(1)
    task = Task(0, 1, timeout=1.0, retries=2)
    scheduler.submit(task, 0.0)
    (kill,) = scheduler.tick(1.0)
    assert scheduler.retry(kill.task, 1.0) == []  # nobody stands
    assert scheduler.left(0, 1.1) == []
    assert sent(scheduler.joined(1, 1.2)) == [(1, [0])]
    assert (task.retries, task.attempt, task.deaths) == (1, 1, 0)
    assert scheduler.next_tick() == 2.2


def test_a_worker_that_is_leaving_still_tells_its_results_and_is_asked_nothing():
    scheduler = with_a_hand(NEXT, NEXT)
    scheduler.leaving(0)
    assert scheduler.joined(1, 0.0) == []
    assert scheduler.next_tick() is None
    assert [task.id for task in scheduler.finished(0, [(0, 0.1)], 0.0)[0]] == [0]
    assert sent(scheduler.left(0, 0.0)) == [(1, [1])]
    scheduler.leaving(0)  # it has left: nothing to say
    sanity_check(scheduler)


def test_a_death_in_company_is_not_held_against_a_task_for_ever_but_counts_when_it_was_alone():
    scheduler = with_a_hand(1e-5, 1e-5)
    task = scheduler.workers[0].hand[0]
    for death in range(2):
        assert scheduler.left(death, 0.0) == []
        scheduler.joined(death + 1, 0.0)
    assert scheduler.left(2, 0.0) == [GiveUp(task, 2)]
    assert task.deaths == 3
    assert task.attempt == 2


def test_the_end_of_a_worker_without_blame_counts_for_nothing():
    scheduler = with_workers(1)
    task = Task(0, 1, worker_retries=0)
    scheduler.submit(task, 0.0)
    assert scheduler.left(0, 0.0, blame=False) == []
    assert (task.deaths, task.attempt, scheduler.queued) == (0, 1, 1)


def test_what_is_tried_again_after_draining_runs():
    scheduler = with_workers(1)
    tasks = [Task(number, 1, retries=1, priority=number) for number in range(3)]
    for task in tasks:
        scheduler.submit(task, 0.0)
    assert scheduler.drain() == [tasks[2], tasks[1]]
    scheduler.finished(0, [(0, 0.1)], 0.1)
    assert sent(scheduler.retry(tasks[0], 0.1)) == [(0, [0])]
    assert (tasks[0].retries, tasks[0].attempt) == (0, 1)


def test_what_was_cancelled_makes_room_for_others():
    scheduler = with_workers(1)
    for number in range(3):
        scheduler.submit(Task(number, number), 0.0)
    assert sent(scheduler.dropped(0, [0], 0.0)) == [(0, [1])]
    assert sent(scheduler.dropped(0, [1, 77], 0.0)) == [(0, [2])]
    sanity_check(scheduler)


def test_long_tasks_keep_all_workers_busy():
    cluster = Cluster(4)
    for _ in range(400):
        cluster.submit(0.01)
    cluster.run()
    assert cluster.ended_at < 1.03 * 100 * (0.01 + 2 * LATENCY)


def test_cheap_tasks_do_not_wait_for_messages():
    cluster = Cluster(2, checked=False)
    for _ in range(3_000):
        cluster.submit(20e-6)
    cluster.run()
    assert cluster.ended_at < 1.1 * 3_000 / 2 * 20e-6


def test_a_task_that_is_suddenly_slow_holds_up_none_of_the_others():
    cluster = Cluster(2)
    for _ in range(100):
        cluster.submit(50e-6)
    cluster.run()
    slow = cluster.submit(5.0)
    others = [cluster.submit(50e-6) for _ in range(50)]
    cluster.run(until=cluster.now + 0.1)
    assert {task.id for task in others} <= {number for number, _ in cluster.outcomes}
    cluster.run()
    assert (slow.id, "done") in cluster.outcomes


class RealisticCluster(Cluster):
    """Its workers tell results together, late or with the answer to a recall; some calls are cancelled in the queue."""

    FLUSH = 500e-6  # seconds

    def __init__(self, workers: int) -> None:
        self._outbox: dict[int, list[Task]] = {}
        self._flushed: dict[int, float] = {}
        self._blocked: dict[int, float] = {}
        self.cancelled: set[int] = set()
        super().__init__(workers)

    def act(self, actions) -> None:
        dropped = []
        for action in actions:
            if isinstance(action, Send):
                gone = [task for task in action.tasks if task.id in self.cancelled and not task.begun]
                for task in gone:
                    action.tasks.remove(task)
                    self._settle(task, "cancelled")
                for task in action.tasks:
                    task.begun = True
                if gone:
                    dropped.append((action.worker, [task.id for task in gone]))
        super().act(actions)
        sanity_check(self.scheduler)
        for worker, ids in dropped:
            self.act(self.scheduler.dropped(worker, ids, self.now))
        self._check_that_nothing_is_blocked()

    def _check_that_nothing_is_blocked(self) -> None:
        """No task may wait behind another for long while somebody idles."""
        waiting = [task.id for inbox in self._inbox.values() for task in inbox] if self.scheduler._idle else []
        self._blocked = {number: self._blocked.get(number, self.now) for number in waiting}
        assert all(self.now - since <= STALLED + 6 * LATENCY for since in self._blocked.values())

    def _succeeded(self, worker: int, task: Task) -> None:
        self._outbox.setdefault(worker, []).append(task)
        if not self._inbox[worker] or self.now - self._flushed.get(worker, -1.0) > self.FLUSH:
            self._flush(worker, None)

    def _give_back(self, worker: int) -> None:
        if worker in self._running:
            ids = [task.id for task in self._inbox[worker]]
            self._inbox[worker].clear()
            self._flush(worker, ids)

    def _flush(self, worker: int, returned: list[int] | None) -> None:
        self._flushed[worker] = self.now
        self._later(LATENCY, self._hear, worker, self._outbox.pop(worker, []), returned)

    def _hear(self, worker: int, done: list[Task], returned: list[int] | None) -> None:
        if done:
            tasks, actions = self.scheduler.finished(worker, [(task.id, task.payload) for task in done], self.now)
            for task in tasks:
                self._settle(task, "done")
            self.act(actions)
        if returned is not None:
            self.act(self.scheduler.returned(worker, returned, self.now))


@pytest.mark.parametrize("seed", range(10))
def test_in_a_pool_like_the_real_one_nothing_is_lost_or_blocked(seed):
    chance = random.Random(seed)
    cluster = RealisticCluster(chance.randint(1, 5))
    tasks = {}
    for _ in range(300):
        seconds = chance.choice([1e-6, 1e-5, 1e-5, 1e-4, 1e-3, 0.02, 0.2]) * chance.choice([1, 1, 1, 1, 1, 50])
        options = {"function": chance.randint(1, 3), "priority": chance.choice([0, 0, 0, 1])}
        if chance.random() < 0.05:
            options["timeout"] = chance.choice([0.01, 1.0])
        task = cluster.submit(-seconds if chance.random() < 0.02 else seconds, **options)
        tasks[task.id] = task
        if chance.random() < 0.1:
            cluster.cancelled.add(task.id)
        if chance.random() < 0.05:
            cluster.run(until=cluster.now + chance.choice([1e-4, 1e-3, 0.05]))
        if chance.random() < 0.02:
            cluster.kill(chance.choice(list(cluster.scheduler.workers)))
    cluster.run()
    assert sorted(number for number, _ in cluster.outcomes) == sorted(tasks)
    for number, how in cluster.outcomes:
        task = tasks[number]
        assert how != "died" or task.deaths > task.worker_retries
        assert how != "timeout" or task.timeout is not None
        assert how != "cancelled" or number in cluster.cancelled
        assert how != "done" or task.payload >= 0


@pytest.mark.parametrize("workers", [2, 7])
def test_the_makespan_of_mixed_long_tasks_is_near_the_ideal(workers):
    chance = random.Random(workers)
    cluster = RealisticCluster(workers)
    seconds = [chance.uniform(0.005, 0.2) for _ in range(200)]
    for number, each in enumerate(seconds):
        cluster.submit(each, function=number % 3)
    cluster.run()
    assert cluster.ended_at <= (sum(seconds) / workers + max(seconds)) * 1.02


SECONDS = st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 0.02, 0.5, -1e-5, -1e-3])
CALL = st.fixed_dictionaries(
    {"seconds": SECONDS},
    optional={
        "function": st.integers(1, 3),
        "priority": st.integers(-1, 1),
        "timeout": st.sampled_from([1e-4, 0.1, 10.0]),
        "worker_retries": st.integers(0, 3),
    },
)
STEP = st.one_of(
    CALL.map(lambda call: ("submit", call)),
    st.floats(1e-5, 0.1).map(lambda seconds: ("wait", seconds)),
    st.just(("kill", None)),
    st.just(("join", None)),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(workers=st.integers(1, 4), steps=st.lists(STEP, max_size=60))
def test_every_task_ends_once_and_for_a_good_reason(workers, steps):
    cluster = Cluster(workers)
    tasks: dict[int, Task] = {}
    for kind, what in steps:
        if kind == "submit":
            task = cluster.submit(**what)
            tasks[task.id] = task
        elif kind == "wait":
            cluster.run(until=cluster.now + what)
        elif kind == "join":
            cluster.join()
        else:
            cluster.kill(min(cluster.scheduler.workers))
    cluster.run()
    assert sorted(number for number, _ in cluster.outcomes) == sorted(tasks)
    for number, how in cluster.outcomes:
        task = tasks[number]
        if how == "died":
            assert task.deaths > task.worker_retries
        elif how == "timeout":
            assert task.timeout is not None
        else:
            assert task.payload >= 0
    assert in_hand(cluster.scheduler) == cluster.scheduler.queued == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_whose_workers_die_all_the_time_still_finishes(seed):
    chance = random.Random(seed)
    cluster = Cluster(3)
    tasks = [cluster.submit(chance.choice([1e-5, 1e-3, 0.01]), worker_retries=50) for _ in range(300)]
    while len(cluster.outcomes) < len(tasks):
        cluster.run(until=cluster.now + chance.uniform(1e-3, 0.05))
        cluster.kill(chance.choice(list(cluster.scheduler.workers)))
    assert {how for _, how in cluster.outcomes} == {"done"}


class Conversation(RuleBasedStateMachine):
    """The scheduler talks with workers that say anything at any time, the unlikely and the late included."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.now = 0.0
        self.tasks: dict[int, Task] = {}
        self.ended: dict[int, str] = {}
        self.hands: dict[int, list[int]] = {}  # what each worker was sent and has not answered for
        self.gone: list[int] = []
        self.told: set[int] = set()  # to leave
        self.doomed: set[int] = set()  # they are about to end anyhow
        self.retired: set[int] = set()
        self.ids = 0

    def act(self, actions) -> None:
        for action in actions:
            if isinstance(action, Send):
                held = self.hands[action.worker]
                highest = max(
                    (task.priority for q in self.scheduler.queues.by_priority.values() for task in q), default=-9
                )
                assert action.worker in self.scheduler.workers
                assert min(task.priority for task in action.tasks) >= highest
                assert not any(task.id in self.ended for task in action.tasks)
                assert all(
                    self.now + self.scheduler.times.lasts(task) < self.scheduler.closes_at for task in action.tasks
                )
                held += [task.id for task in action.tasks]
            elif isinstance(action, Kill):
                assert action.task.timeout is not None
                self.doomed.add(action.worker)
                self.hands[action.worker].remove(action.task.id)
                if action.task.retries:
                    self.act(self.scheduler.retry(action.task, self.now))
                else:
                    self.end(action.task, "timeout")
            elif isinstance(action, GiveUp):
                assert action.task.deaths > action.task.worker_retries
                assert self.alone, "it was given up for what another may have done"
                self.end(action.task, "died")
            elif isinstance(action, Leave):
                assert action.worker not in self.told
                self.told.add(action.worker)

    def end(self, task: Task, how: str) -> None:
        assert task.id not in self.ended
        self.ended[task.id] = how

    def some_worker(self, data) -> int:
        return data.draw(st.sampled_from(sorted(self.hands)))

    @rule(
        function=st.integers(1, 3),
        options=st.fixed_dictionaries(
            {},
            optional={
                "priority": st.integers(-2, 2),
                "timeout": st.sampled_from([0.001, 1.0]),
                "retries": st.integers(0, 2),
                "worker_retries": st.integers(0, 2),
            },
        ),
        count=st.sampled_from([1, 1, 5, 30]),
    )
    def submit(self, function, options, count) -> None:
        for _ in range(count):
            self.ids += 1
            task = self.tasks[self.ids] = Task(self.ids, function, **options)
            self.act(self.scheduler.submit(task, self.now))

    @rule()
    def join(self) -> None:
        self.ids += 1
        self.hands[self.ids] = []
        self.act(self.scheduler.joined(self.ids, self.now))

    @rule()
    def top_up(self) -> None:
        self.act(self.scheduler.top_up(self.now))

    @rule(seconds=st.sampled_from([1e-5, 1e-3, STALLED, OVERDUE, 1.0]))
    def wait(self, seconds) -> None:
        self.now += seconds
        self.act(self.scheduler.tick(self.now))
        tick = self.scheduler.next_tick()
        assert tick is None or tick > self.now

    @rule(seconds=st.sampled_from([0.0, 1e-4, 0.5, inf, inf]))
    def closes(self, seconds) -> None:
        self.act(self.scheduler.closes(self.now + seconds, self.now))

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 0.02, 1.0]), fails=st.booleans())
    def finish(self, data, seconds, fails) -> None:
        worker = self.some_worker(data)
        count = data.draw(st.integers(0, min(20, len(self.hands[worker]))))
        self.finish_these(worker, self.hands[worker][:count], seconds, fails)

    def finish_these(self, worker, numbers, seconds, fails=False) -> None:
        tasks, actions = self.scheduler.finished(worker, [(number, seconds) for number in numbers], self.now)
        assert [task.id for task in tasks] == numbers
        del self.hands[worker][: len(numbers)]
        self.act(actions)
        for task in tasks:
            if fails and task.retries:
                self.act(self.scheduler.retry(task, self.now))
            else:
                self.end(task, "done")

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), begun=st.integers(0, 3))
    def give_back(self, data, begun) -> None:
        """With a recall or without, since an answer may come late."""
        worker = self.some_worker(data)
        hand = self.hands[worker]
        back, hand[begun:] = hand[begun:], []
        self.act(self.scheduler.returned(worker, back, self.now))

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def drop(self, data) -> None:
        worker = self.some_worker(data)
        if self.hands[worker]:
            number = self.hands[worker].pop()
            self.end(self.tasks[number], "cancelled")
            self.act(self.scheduler.dropped(worker, [number], self.now))

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def leaving(self, data) -> None:
        worker = self.some_worker(data)
        self.doomed.add(worker)
        self.scheduler.leaving(worker)

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def retire(self, data) -> None:
        worker = self.some_worker(data)
        if not self.scheduler.workers[worker].dying:
            self.retired.add(worker)
        self.act(self.scheduler.retire([worker], self.now))

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), blame=st.booleans())
    def leave(self, data, blame) -> None:
        worker = self.some_worker(data)
        self.alone = len(self.hands[worker]) == 1
        deaths = {number: self.tasks[number].deaths for number in self.hands.pop(worker)}
        self.gone.append(worker)
        self.act(self.scheduler.left(worker, self.now, blame=blame))
        assert all(self.tasks[number].deaths == before + blame for number, before in deaths.items())
        assert all(self.tasks[number].solo for number in deaths if blame)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def late_words(self, data) -> None:
        worker, ids = data.draw(st.sampled_from(self.gone)), sorted(self.tasks)[:3]
        assert self.scheduler.finished(worker, [(number, 1.0) for number in ids], self.now) == ([], [])
        assert self.scheduler.returned(worker, ids, self.now) == []
        assert self.scheduler.dropped(worker, ids, self.now) == []
        assert self.scheduler.left(worker, self.now) == []
        self.scheduler.leaving(worker)
        self.act(self.scheduler.retire([worker], self.now))

    @rule()
    def drain(self) -> None:
        waiting, unfit = self.scheduler.queued, len(self.scheduler.unfit)
        drained = self.scheduler.drain()
        priorities = [task.priority for task in drained[:waiting]]
        assert priorities == sorted(priorities, reverse=True)
        assert len(drained) == waiting + unfit
        for task in drained:
            self.end(task, "cancelled")

    @invariant()
    def is_sane(self) -> None:
        sanity_check(self.scheduler)
        hands = {number: set(worker.hand) for number, worker in self.scheduler.workers.items()}
        assert hands == {number: set(hand) for number, hand in self.hands.items()}
        done = {number for number in self.retired & hands.keys() if not hands[number]}
        assert self.told & hands.keys() <= done
        assert all(number in self.told or self.doomed & {number} for number in done)
        queued = {task.id for queue in self.scheduler.queues.by_priority.values() for task in queue}
        queued |= {task.id for task in self.scheduler.unfit}
        assert set(self.tasks) == set(self.ended) | queued | set().union(*hands.values())

    def teardown(self) -> None:
        """Where workers behave, everything ends."""
        self.closes(inf)
        self.join()
        for _ in range(3 * len(self.tasks) + 3):
            for worker, hand in list(self.hands.items()):
                self.finish_these(worker, list(hand), 1e-3)
        self.is_sane()
        assert set(self.ended) == set(self.tasks)


def test_whatever_workers_say_no_task_is_lost_or_done_twice():
    run_state_machine_as_test(
        Conversation, settings=settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
    )
