"""When the pool is told of the end of its allocation, with a pool and a Slurm that only say what they are told to."""

from __future__ import annotations

import logging
import signal
import time

import pytest

from mainstay import ending
from mainstay.errors import AllocationEnding
from mainstay.orders import Task
from mainstay.runtimes import RunTimes


class Scheduler:
    def __init__(self) -> None:
        self.unfit: list[Task] = []
        self.is_at_rest = False
        self.times = RunTimes()


class Pool:
    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.closes_at: list[float] = []
        self.given_up: list[int] = []
        self.ended: list[AllocationEnding] = []

    def closes(self, at: float) -> None:
        self.closes_at.append(at)

    def give_up(self, tasks: list[Task], error: AllocationEnding) -> None:
        self.given_up += [task.id for task in tasks]

    def ends(self, error: AllocationEnding) -> None:
        self.ended.append(error)


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def end(pool):
    """An end of which Slurm says that it is in 100 s."""
    made = ending.Ending(pool, "7", 30.0, "Go on.", lambda call: call(), lambda level, line: None)
    made._told(time.time() + 100)
    return made


def test_the_pool_closes_before_the_job_ends(pool, end):
    (at,) = pool.closes_at
    assert at == pytest.approx(time.monotonic() + 70, abs=1)


def test_what_cannot_end_in_time_is_given_up_when_nothing_else_runs(pool, end):
    now = time.monotonic()
    pool.scheduler.unfit = [Task(1, 1, timeout=50.0)]
    end.tick(now)
    assert pool.given_up == []  # something runs, and the limit may be moved meanwhile
    pool.scheduler.is_at_rest = True
    end.tick(now)
    assert (pool.given_up, pool.scheduler.unfit, pool.ended) == ([1], [], [])
    assert end.is_short  # it would have ended in a fresh job


def test_what_fits_into_no_such_job_is_no_reason_to_queue_it_again(pool, end):
    pool.scheduler.unfit, pool.scheduler.is_at_rest = [Task(1, 1, timeout=3600.0)], True
    end.tick(time.monotonic())
    assert pool.given_up == [1]
    assert not end.is_short


def test_what_still_runs_is_given_up_just_before_the_end(pool, end):
    end.tick(time.monotonic() + 94)
    assert pool.ended == []
    end.tick(time.monotonic() + 96)
    (error,) = pool.ended
    assert (error.job, end.over, end.next_deadline()) == ("7", True, None)


def test_a_limit_that_is_moved_is_passed_on(pool, end):
    end._told(time.time() + 1000)
    assert pool.closes_at[-1] == pytest.approx(time.monotonic() + 970, abs=1)


def test_a_signal_closes_the_pool_at_once(pool, end):
    end.drain_now(signal.SIGUSR1)
    assert pool.closes_at[-1] == pytest.approx(time.monotonic(), abs=1)
    pool.scheduler.is_at_rest = True
    end.tick(time.monotonic())
    assert pool.ended == []  # nothing is left to be given up, and the program goes on


def test_a_sigterm_ends_the_pool_when_it_is_at_rest_and_then_the_program(pool, end, monkeypatch):
    killed = []
    monkeypatch.setattr(ending.os, "kill", lambda pid, number: killed.append(number))
    end.drain_now(signal.SIGTERM)
    now = time.monotonic()
    end.tick(now)
    assert pool.ended == []
    pool.scheduler.is_at_rest = True
    end.tick(now)
    assert len(pool.ended) == 1
    end.tick(now + ending.LAST + 1)
    assert killed == [signal.SIGTERM]


def test_slurm_that_does_not_tell_is_asked_again(pool):
    log = []
    end = ending.Ending(pool, "7", 30.0, "", lambda call: call(), lambda level, line: log.append(level))
    end._told(None)
    assert end.next_deadline() == pytest.approx(time.monotonic() + ending.ASK, abs=1)
    assert (pool.closes_at, log) == ([], [])
    end._told(time.time() + 50)
    assert log == [logging.INFO]


def test_the_error_tells_how_to_go_on():
    error = AllocationEnding("7", ending.how_to_resume("calls.db", False)).counted(830, 170)
    assert (error.done, error.left) == (830, 170)
    assert (
        str(error)
        == "the Slurm job 7 ends: 830 calls are done, 170 are not. Submit it again: it goes on from 'calls.db'"
    )
    assert "Executor(journal=" in ending.how_to_resume(None, False)
