"""The scheduler by behaviour: single decisions, then whole runs of a simulated pool."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import LATENCY, Cluster, check

from mainstay.scheduler import AHEAD, STALLED, GiveUp, Kill, Recall, Scheduler, Send, Task


def with_workers(count: int) -> Scheduler:
    scheduler = Scheduler()
    for number in range(count):
        assert scheduler.joined(number, 0.0) == []
    return scheduler


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
    assert scheduler.in_hand == 1
    assert scheduler.top_up(0.0) == []


def test_short_tasks_are_sent_ahead_as_many_as_last_a_millisecond():
    scheduler = with_workers(1)
    for number in range(500):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, AHEAD / 10)], 0.0)
    assert scheduler.in_hand in (9, 10)


def test_long_tasks_are_not_sent_ahead():
    scheduler = with_workers(1)
    for number in range(50):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, 10.0)], 10.0)
    assert scheduler.in_hand == 1


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
    assert len(scheduler._queues) == 1


def test_what_a_slow_task_blocks_is_recalled_when_another_worker_idles():
    scheduler = with_workers(1)
    for number in range(4):
        scheduler.submit(Task(number, 1), 0.0)
    scheduler.finished(0, [(0, AHEAD / 10)], 0.0)
    assert scheduler.in_hand == 3
    scheduler.joined(7, 0.0)
    assert scheduler.next_tick() == STALLED
    assert scheduler.tick(STALLED / 2) == []
    assert scheduler.tick(STALLED) == [Recall(0)]
    assert sent(scheduler.returned(0, [2, 3], STALLED)) == [(7, [2, 3])]
    check(scheduler)


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
    assert scheduler.in_hand == 0
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
    assert scheduler.in_hand == 3
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
    assert cluster.scheduler.in_hand == cluster.scheduler.queued == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_pool_whose_workers_die_all_the_time_still_finishes(seed):
    import random

    chance = random.Random(seed)
    cluster = Cluster(3)
    tasks = [cluster.submit(chance.choice([1e-5, 1e-3, 0.01]), worker_retries=50) for _ in range(300)]
    while len(cluster.outcomes) < len(tasks):
        cluster.run(until=cluster.now + chance.uniform(1e-3, 0.05))
        cluster.kill(chance.choice(list(cluster.scheduler.workers)))
    assert {how for _, how in cluster.outcomes} == {"done"}
