"""`map` in a pool with a journal: each item is kept under its own arguments, however fast the results are taken."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import mainstay
from mainstay.journal import sqlite


def double(x: int) -> int:
    return 2 * x


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
