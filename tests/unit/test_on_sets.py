"""Calls that run on a process set, by behaviour: single decisions, then whole runs of a simulated pool."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from unittest.mock import Mock

from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Cluster
from test_gangs import Pool

from mainstay.orders import Members, Ranks, Send, Task
from mainstay.registrar import Registrar
from mainstay.scheduler import Scheduler

SHORT, UNKNOWN = 1, 2  # functions


def sent(actions) -> dict[int, list[int]]:
    return {action.worker: [task.id for task in action.tasks] for action in actions if isinstance(action, Send)}


def with_workers(count: int) -> Scheduler:
    scheduler = Scheduler()
    for worker in range(count):
        scheduler.joined(worker, 0.0)
    return scheduler


def done(scheduler: Scheduler, worker: int) -> dict[int, list[int]]:
    """The worker has done all that it has; return what is sent then."""
    _, actions = scheduler.finished(worker, [(task, 10.0) for task in scheduler.workers[worker].hand], 1.0)
    return sent(actions)


def test_a_call_goes_to_a_member_that_idles_and_waits_for_one_where_none_does():
    scheduler, gpu = with_workers(3), Members("gpu", [1])
    assert sent(scheduler.submit(Task(1, UNKNOWN, on=gpu), 0.0)) == {1: [1]}
    assert scheduler.submit(Task(2, UNKNOWN, on=gpu), 0.0) == []
    assert scheduler.queued == 1
    assert sent(scheduler.submit(Task(3, UNKNOWN), 0.0)) == {2: [3]}
    assert done(scheduler, 2) == {}
    assert done(scheduler, 1) == {1: [2]}


def test_a_member_takes_what_came_first_of_what_it_may_have():
    scheduler, gpu = with_workers(1), Members("gpu", [0])
    scheduler.submit(Task(1, UNKNOWN), 0.0)
    for number, options in enumerate([{}, {"on": gpu}, {}, {"on": gpu}, {"on": gpu, "priority": 1}], start=2):
        scheduler.submit(Task(number, UNKNOWN, **options), 0.0)
    assert [done(scheduler, 0) for _ in range(5)] == [{0: [6]}, {0: [2]}, {0: [3]}, {0: [4]}, {0: [5]}]


def test_a_call_for_any_worker_leaves_the_member_to_the_call_that_wants_it():
    scheduler, gpu = with_workers(0), Members("gpu", [1])
    scheduler.submit(Task(1, UNKNOWN), 0.0)
    scheduler.submit(Task(2, UNKNOWN, on=gpu), 0.0)
    gone = scheduler.workers  # both join at once, as after an enrolment
    scheduler.joined(0, 0.0)
    assert list(gone[0].hand) == [1]
    assert sent(scheduler.joined(1, 0.0)) == {1: [2]}


def test_short_calls_are_sent_ahead_to_members_and_long_ones_are_not():
    scheduler, gpu = with_workers(1), Members("gpu", [0])
    scheduler.times._means[SHORT] = 1e-5
    for number in range(10):
        scheduler.submit(Task(number, SHORT, on=gpu), 0.0)
    assert list(scheduler.workers[0].hand) == [0]
    assert sent(scheduler.top_up(0.0)) == {0: [*range(1, 10)]}
    scheduler = with_workers(2)
    scheduler.times._means[UNKNOWN] = 0.02
    for number in range(3):
        scheduler.submit(Task(number, UNKNOWN, on=gpu), 0.0)
    assert list(scheduler.workers[0].hand) == [0]
    assert scheduler.top_up(0.0) == []


def test_workers_that_come_into_a_set_are_given_its_calls_and_what_has_none_can_be_taken_out():
    scheduler, gpu = with_workers(1), Members("gpu")
    assert scheduler.submit(Task(1, UNKNOWN, on=gpu), 0.0) == []
    gang = Task(2, UNKNOWN, gang=Ranks(2, 2, on=gpu))
    assert scheduler.submit(gang, 0.0) == []
    gpu.numbers.add(0)
    assert sent(scheduler.top_up(0.0)) == {0: [1]}
    gpu.numbers.clear()
    scheduler.submit(Task(3, UNKNOWN, on=gpu), 0.0)
    assert scheduler.gangs.waiting.wanting() == [(gpu, 2)]
    assert [task.id for task in scheduler.queues.withdraw(gpu) + scheduler.gangs.waiting.withdraw(gang.gang)] == [3, 2]
    assert scheduler.queued == 0


def test_each_call_waits_in_full_for_the_members_that_it_wants():
    scheduler, given_up = with_workers(0), []
    pool = Mock(scheduler=scheduler, lock=nullcontext(), resolve=lambda task, error: given_up.append(task.id))
    pool.roster = Mock(workers={}, is_complete=lambda: False)
    registrar = Registrar(pool, Mock(), 10.0, Mock())
    registrar.define("gpu", [], living=True)
    first, _ = registrar.narrowed(Ranks(3, 3), "gpu")
    for number, least, submitted in [(1, 3, 0.0), (2, 2, 6.0), (3, 4, 9.0), (4, 2, 9.0)]:
        gang, _ = registrar.narrowed(Ranks(least, least), "gpu")
        scheduler.submit(Task(number, UNKNOWN, gang=gang), submitted)
        registrar.tick(submitted)
    ended = []
    while (due := registrar.next_deadline()) is not None:
        registrar.tick(due)
        ended.append((due, given_up[:]))
        given_up.clear()
        if due == 10.0:
            scheduler.submit(Task(5, UNKNOWN, gang=first), due)
            registrar.tick(due)
    assert ended == [(10.0, [1]), (16.0, [2, 4]), (19.0, [3]), (20.0, [5])]


def test_queues_are_drained_in_the_order_in_which_tasks_would_have_gone():
    scheduler, gpu = Scheduler(), Members("gpu", [0])
    for number, options in enumerate([{}, {"on": gpu}, {}, {"on": gpu, "priority": 1}], start=1):
        scheduler.submit(Task(number, UNKNOWN, **options), 0.0)
    assert [task.id for task in scheduler.drain()] == [4, 1, 2, 3]
    assert scheduler.queued == 0


def test_calls_for_a_set_and_gangs_take_turns():
    pool = Pool(2)
    member = Members("one", [min(pool.scheduler.workers)])
    for number in range(40):
        pool.submit(0.01, on=member) if number % 4 else pool.gang(2)
    pool.run()
    assert {how for _, how in pool.outcomes} == {"done"}
    assert len(pool.outcomes) == 40


def test_a_gang_takes_only_members():
    pool = Pool(4)
    members = Members("some", sorted(pool.scheduler.workers)[1:3])
    gangs = [pool.gang(Ranks(2, 2, on=members)) for _ in range(3)] + [pool.gang(Ranks(scope="all", on=members))]
    pool.run()
    assert {task.id: how for task, how in zip(gangs, ["done"] * 4, strict=True)} == dict(pool.outcomes)


class Grouped(Cluster):
    """A pool of two groups of workers; whoever takes a dead worker's place is of its group."""

    def __init__(self, workers: int) -> None:
        self.groups = [Members("even"), Members("odd")]
        super().__init__(workers)

    def join(self) -> int:
        number = next(self._ids)
        min(self.groups, key=len).numbers.add(number)
        self._inbox[number] = deque()
        self.act(self.scheduler.joined(number, self.now))
        return number

    def _end(self, worker, blame=False) -> None:
        for group in self.groups:
            group.numbers.discard(worker)
        super()._end(worker, blame)

    def _arrive(self, worker, tasks) -> None:
        assert all(task.on is None or worker in task.on for task in tasks)
        super()._arrive(worker, tasks)


@settings(deadline=None)
@given(
    st.integers(2, 6),
    st.lists(
        st.tuples(
            st.sampled_from([None, 0, 1]),
            st.sampled_from([1e-5, 1e-3, 0.02, 0.2, -0.001]),
            st.integers(0, 1),
            st.booleans(),
        ),
        max_size=60,
    ),
)
def test_every_call_ends_on_a_worker_of_its_set(workers, calls):
    pool = Grouped(workers)
    for group, seconds, priority, waits in calls:
        on = None if group is None else pool.groups[group]
        pool.submit(seconds, function=int(abs(seconds) * 1e6), priority=priority, on=on)
        if waits:
            pool.run(pool.now + 0.005)
    pool.run()
    assert len(pool.outcomes) == len(calls)


def test_neither_kind_of_call_starves_the_other():
    pool = Grouped(2)
    even = pool.groups[0]
    first = [pool.submit(0.01, on=even), pool.submit(0.01)]
    tasks = [pool.submit(0.01, function=9, on=even if number % 2 else None) for number in range(200)]
    pool.run()
    began = [pool.began[task.id][0] for task in tasks[1::2]]
    assert began == sorted(began)
    assert max(pool.began[task.id][0] for task in first) < 0.001


def test_a_gang_and_a_call_that_waits_for_a_member_hold_each_other_up_for_a_while_only():
    pool = Pool(3)
    member = Members("one", [max(pool.scheduler.workers)])
    first = [pool.submit(1.0, on=member), pool.gang(3), pool.submit(0.5, on=member), pool.submit(0.5)]
    pool.run()
    assert {how for _, how in pool.outcomes} == {"done"}
    assert len(pool.outcomes) == len(first)
