"""When malleable gangs change their size, and to which."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.malleable import CALM, IN_VAIN, LOOK, Malleability, size
from mainstay.options import Options
from mainstay.orders import Assemble, Leave, Ranks, Task
from mainstay.scheduler import Scheduler

BOUNDS = Ranks(2, 8)


@pytest.mark.parametrize(
    ("now", "waiting", "idle", "leaving", "then"),
    [
        (4, 0, 0, 0, 4),
        (4, 0, 3, 0, 7),
        (4, 0, 9, 0, 8),  # no more than the most
        (4, 1, 0, 0, 3),
        (4, 9, 0, 0, 2),  # no fewer than the least
        (4, 2, 3, 0, 4),  # what waits will have those that idle
        (4, 3, 2, 0, 3),
        (4, 0, 3, 1, 3),
        (4, 2, 0, 1, 2),
    ],
)
def test_to_which_size(now, waiting, idle, leaving, then):
    assert size(BOUNDS, now, waiting, idle, leaving) == then


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 8), st.integers(0, 20), st.integers(0, 20), st.integers(0, 8))
def test_a_size_is_within_its_bounds(now, waiting, idle, leaving):
    assert BOUNDS.least <= size(BOUNDS, now, waiting, idle, leaving) <= BOUNDS.most


def with_a_gang(workers: int) -> tuple[Scheduler, Task, list]:
    """Return a scheduler on whose workers a malleable gang runs, and what is to pause."""
    scheduler = Scheduler()
    scheduler.gangs.kept = {"": workers}
    for number in range(workers):
        scheduler.joined(number, 0.0)
    scheduler.enrolled(list(range(workers)), "mpi-1", 0.0)
    task = Task(1, 1, gang=BOUNDS, malleable=BOUNDS)
    assert [action for action in scheduler.submit(task, 0.0) if isinstance(action, Assemble)]
    return scheduler, task, []


def look(watcher: Malleability, now: float) -> float:
    watcher.tick(now)
    return now + LOOK


def test_a_gang_makes_room_for_those_who_wait_and_takes_those_who_idle():
    scheduler, task, told = with_a_gang(4)
    watcher = Malleability(scheduler, lambda task: told.append(task.gang))
    now = look(watcher, 0.0)
    scheduler.submit(Task(2, 1), now)
    now = look(watcher, now)
    assert told == []  # it has just begun
    now = look(watcher, now + CALM)
    assert told == [Ranks(2, 3)]
    now = look(watcher, now + CALM)
    assert len(told) == 1  # it has not come to a point yet
    for worker in range(4):
        scheduler.finished(worker, [(1, 1.0)], now)
        ended = scheduler.gangs.parts.ended(task, worker, "returned", now)
    scheduler.released(ended, now)
    task.attempt, task.pausing = 1, False
    scheduler.submit(task, now)
    assert [len(workers) for _, workers in scheduler.gangs.parts.malleable()] == [3]
    busy = next(worker for worker in scheduler.workers.values() if 2 in worker.hand)
    now = look(watcher, now)
    scheduler.finished(busy.id, [(2, 1.0)], now)
    look(watcher, now + CALM)
    assert told[1:] == [Ranks(2, 4)]


def test_one_that_could_not_grow_waits_before_it_tries_again():
    scheduler, task, told = with_a_gang(2)
    watcher = Malleability(scheduler, lambda task: told.append(task))
    scheduler.joined(9, 0.0)  # of no use to it
    now = look(watcher, look(watcher, 0.0) + CALM)
    assert len(told) == 1
    task.attempt, task.pausing = 1, False  # it began again, and is no larger
    now = look(watcher, look(watcher, now) + CALM)
    assert len(told) == 1
    look(watcher, now + IN_VAIN)
    assert len(told) == 2


def test_one_with_a_worker_that_is_to_leave_lets_it_go():
    scheduler, _, told = with_a_gang(4)
    watcher = Malleability(scheduler, lambda task: told.append(task.gang))
    now = look(watcher, 0.0)
    assert not [action for action in scheduler.retire([3], now) if isinstance(action, Leave)]
    look(watcher, now + CALM)
    assert told == [Ranks(2, 3)]


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"malleable": "yes", "ranks": (1, 2)}, "malleable must be True, False or a function"),
        ({"malleable": True}, r"malleable= wants ranks=\(least, most\)"),
        ({"malleable": True, "ranks": 4}, r"malleable= wants ranks=\(least, most\); given: ranks=4"),
    ],
)
def test_what_cannot_be(given_, told):
    with pytest.raises(ValueError, match=told):
        Options().changed(given_)
