"""`map` in a pool with a journal: each item is kept under its own arguments, however fast the results are taken."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing

import numpy as np
import pytest

import mainstay
from mainstay.journal import sqlite


def double(x: int) -> int:
    return 2 * x


def end_the_worker(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def overrun(x: int) -> None:
    threading.Event().wait()


_workspace = np.zeros(4)


def into_the_workspace(x: int) -> np.ndarray:
    _workspace[:] = x
    return _workspace


@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_every_item_is_kept_and_found_again(tmp_path, launcher):
    for number in range(10):  # the thread that takes results races the one that keeps them
        journal = tmp_path / f"{number}.db"
        for _ in range(2):
            with mainstay.Executor(2, launcher=launcher, journal=journal) as executor:
                assert list(executor.map(double, range(3000))) == [2 * x for x in range(3000)]
        with closing(sqlite.Store(journal)) as store:
            assert len(list(store.index())) == 3000
            assert store.db.execute("SELECT count(*) FROM runs").fetchone() == (1,)  # the second had nothing to write


def test_an_array_that_a_function_uses_again_is_kept_as_it_was_returned():
    with mainstay.Executor(1, launcher="local", journal="memory:") as executor:
        for _ in range(2):
            found = executor.map(into_the_workspace, range(30), chunksize=10)
            assert [array.tolist() for array in found] == [[float(x)] * 4 for x in range(30)]


@pytest.mark.parametrize(
    ("function", "option", "error"),
    [(end_the_worker, {"worker_retries": 0}, mainstay.WorkerDied), (overrun, {"timeout": 0.2}, mainstay.TaskTimeout)],
)
def test_an_item_that_ends_its_worker_or_overruns_is_kept_as_failed(tmp_path, function, option, error):
    with mainstay.Executor(1, launcher="local", journal=tmp_path / "calls.db") as executor:
        with pytest.raises(error):
            list(executor.options(**option).map(function, [1]))
    with closing(sqlite.Store(tmp_path / "calls.db")) as store:
        assert [call.state for call in store.calls()] == ["failed"]
