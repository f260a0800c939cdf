"""`map` in a pool with a journal: each item is kept under its own arguments, however fast the results are taken."""

from __future__ import annotations

from contextlib import closing

import pytest

import mainstay
from mainstay.journal import sqlite


def double(x: int) -> int:
    return 2 * x


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
