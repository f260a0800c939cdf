"""Calls of one key while the first of them is under way: each future ends, however the first one does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from contextlib import closing

import pytest

import mainstay
from mainstay.journal import sqlite
from mainstay.journal.memory import Store


def slow(x):
    time.sleep(0.3)
    return x


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
            view.submit(slow, threading.Lock())
    assert view.submit(slow, 1).result(10) == 1


def test_a_pool_that_is_broken_says_so_each_time():
    with mainstay.Executor(1, launcher="local", journal="memory:", initializer=fail) as executor:
        with pytest.raises(mainstay.PoolBroken):
            executor.submit(slow, 1).result(10)
        for _ in range(2):
            with pytest.raises(mainstay.PoolBroken):
                executor.submit(slow, 2)


def test_those_that_follow_a_cancelled_call_are_cancelled_with_the_pool(executor):
    for x in (-1, -2, -3):
        executor.submit(slow, x)
    futures = [executor.submit(slow, 7) for _ in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(10)


def test_one_that_runs_again_for_its_follower_is_cancelled_with_the_pool(executor):
    for x in (-1, -2, -3):
        executor.submit(slow, x)
    leader, follower = executor.submit(slow, 7), executor.submit(slow, 7)
    assert leader.cancel()
    time.sleep(0.1)  # for the callback of the leader, which runs in another thread
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        follower.result(10)


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
        while not executor._keeper.journal._waiting:
            time.sleep(0.01)
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
