"""Calls of one key while the first of them is under way: each future ends, however the first one does."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import closing

import pytest

import mainstay
from conftest import wait_until
from mainstay.journal import sqlite
from mainstay.journal.memory import Store


def identity(x):
    return x


class Gate:
    """Lets calls that stand in it go on when it is opened."""

    def __init__(self, folder):
        self.begun, self.opened = folder / "begun", folder / "opened"

    def open(self):
        self.opened.touch()

    def hold(self):
        self.begun.touch()
        while not self.opened.exists():
            time.sleep(0.01)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open()


def fail():
    raise ValueError("as it must")


@pytest.fixture
def executor():
    with mainstay.Executor(1, launcher="local", journal="memory:") as executor:
        executor.wait_ready()
        yield executor


def test_a_call_whose_submit_raised_is_not_under_way(executor):
    view = executor.options(key="one")
    for _ in range(2):
        with pytest.raises(TypeError, match="pickle"):
            view.submit(identity, threading.Lock())
    assert view.submit(identity, 1).result(10) == 1


def test_a_pool_that_is_broken_says_so_each_time():
    with mainstay.Executor(1, launcher="local", journal="memory:", initializer=fail) as executor:
        with pytest.raises(mainstay.PoolBroken):
            executor.submit(identity, 1).result(10)
        for _ in range(2):
            with pytest.raises(mainstay.PoolBroken):
                executor.submit(identity, 2)


def test_what_a_callback_of_the_first_raises_does_not_keep_those_that_follow_it(executor, gate):
    first = executor.submit(gate.hold)
    first.add_done_callback(lambda future: sys.exit("as it must"))
    second = executor.submit(gate.hold)
    gate.open()
    assert second.result(10) is None


def occupy(executor, gate):
    """Let the worker be busy, so that what comes now waits."""
    executor.options(journal=False).submit(gate.hold)
    wait_until(gate.begun.exists)


def test_those_that_follow_a_cancelled_call_are_cancelled_with_the_pool(executor, gate):
    occupy(executor, gate)
    futures = [executor.submit(identity, 7) for _ in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(10)


def test_one_that_runs_again_for_its_follower_is_cancelled_with_the_pool(executor, gate):
    occupy(executor, gate)
    leader, follower = executor.submit(identity, 7), executor.submit(identity, 7)
    assert leader.cancel()
    wait_until(follower.running)  # the callback of the leader runs in another thread
    wait_until(lambda: is_under_way(executor, leader))
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    with pytest.raises(CancelledError):
        follower.result(10)


def is_under_way(executor, but):
    return any(one.future is not but for one in executor._keeper._under_way.values())


def fail_once(marker, gate):
    gate.hold()
    if not marker.exists():
        marker.touch()
        raise ValueError("the first time")
    return "done"


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [({"timeout": 0.2}, {"timeout": 60}, mainstay.TaskTimeout), ({}, {"retries": 1}, ValueError)],
)
def test_a_call_does_not_fail_by_the_options_of_the_one_that_it_follows(executor, gate, tmp_path, first, second, error):
    fn = gate.hold if first else fail_once
    args = () if first else (tmp_path / "marker", gate)
    leader = executor.options(key="one", **first).submit(fn, *args)
    follower = executor.options(key="one", **second).submit(fn, *args)
    if not first:
        gate.open()
    with pytest.raises(error):
        leader.result(30)
    gate.open()
    assert follower.result(30) == (None if first else "done")


def test_a_call_that_failed_under_the_same_options_is_not_run_again(executor, gate, tmp_path):
    futures = [executor.options(key="one").submit(fail_once, tmp_path / "marker", gate) for _ in range(2)]
    gate.open()
    for future in futures:
        with pytest.raises(ValueError, match="first time"):
            future.result(30)


def listed(gate):
    gate.hold()
    return [1]


def test_followers_of_a_result_that_is_not_kept_get_objects_of_their_own(executor, gate, monkeypatch):
    monkeypatch.setattr(executor._keeper.journal, "append", lambda record, then=None: None)
    first, *others = [executor.options(key="one").submit(listed, gate) for _ in range(3)]
    gate.open()
    first.result(30).append(2)
    for other in others:
        assert other.result(30) == [1]
        other.result(30).append(3)


class Late(Store):
    def __init__(self):
        super().__init__()
        self.may = threading.Event()

    def write(self, records, replaced=()):
        assert self.may.wait(10)
        return super().write(records, replaced)


def test_each_is_not_delivered_a_second_time_before_it_is_kept_either():
    store = Late()
    with mainstay.Executor(1, launcher="local", journal=store, journal_sync="each") as executor:
        first = executor.submit(abs, -1)
        wait_until(lambda: bool(executor._keeper.journal._waiting))
        second = executor.submit(abs, -1)
        assert not second.done()
        store.may.set()
        assert first.result(10) == second.result(10) == 1


class Moody:
    """Cannot be unpickled here when told so."""

    is_broken = False

    def __reduce__(self):
        return moody, ()


def moody():
    if Moody.is_broken:
        raise AttributeError("its class has changed")
    return Moody()


@pytest.mark.parametrize("way", ["submit", "map"])
def test_a_result_that_cannot_be_unpickled_is_replaced_by_the_next(tmp_path, monkeypatch, way):
    def run(executor, number):
        view = executor.options(key=lambda _: "one")
        return view.submit(abs, number).result(10) if way == "submit" else next(view.map(abs, [number]))

    with mainstay.Executor(1, launcher="local", journal=tmp_path / "calls.db") as executor:
        executor.options(key="one").submit(moody).result(10)
    monkeypatch.setattr(Moody, "is_broken", True)
    for number in (-1, -2):
        with mainstay.Executor(1, launcher="local", journal=tmp_path / "calls.db") as executor:
            assert run(executor, number) == 1
    with closing(sqlite.Store(tmp_path / "calls.db")) as store:
        assert len(list(store.calls())) == 1


def test_ctrl_c_while_a_result_is_read_is_raised_at_once(executor, monkeypatch):
    assert executor.submit(abs, -1).result(10) == 1

    def interrupted(key):
        raise KeyboardInterrupt

    monkeypatch.setattr(executor._keeper.journal, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(abs, -1)
