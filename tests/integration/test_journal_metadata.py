"""What a journal asks of the server for metadata, on a mount where each such operation takes 0.5 ms and is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import mainstay
import slowmount
from mainstay.journal import sqlite
from slowmount import SlowMount

CALLS = 10_000
MOST = 20  # operations that the journal adds to a run
FILES = {"calls.db", "calls.db-journal", "calls.db.lock"}

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")


@pytest.fixture
def mount(tmp_path) -> Iterator[SlowMount]:
    with SlowMount(tmp_path, delay=0.0005) as mount:
        yield mount


def negate(x: int) -> int:
    return -x


def by_submit(executor: mainstay.Executor) -> list[int]:
    return [future.result() for future in [executor.submit(negate, x) for x in range(CALLS)]]


def by_map(executor: mainstay.Executor) -> list[int]:
    return list(executor.map(negate, range(CALLS)))


@pytest.mark.parametrize("run", [by_submit, by_map])
def test_ten_thousand_calls_cost_a_handful_of_operations(mount, run):
    for _ in range(2):  # the second finds all
        before = mount.counts()
        with mainstay.Executor(2, launcher="local", journal=mount.path / "calls.db") as executor:
            assert run(executor) == [-x for x in range(CALLS)]
        added = mount.counts() - before
        del added["chown"]  # SQLite gives its own journal the owner of the database, but only where root runs it
        assert added.total() <= MOST, (added, mount.rows())
        assert set(os.listdir(mount.behind)) == FILES


def test_the_lock_of_a_journal_holds_on_such_a_mount(mount):
    journal = mount.path / "calls.db"
    with mainstay.Executor(1, launcher="serial", journal=journal):
        other = f"from mainstay.journal.sqlite import Store; Store({str(journal)!r})"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert f"is in use by process {os.getpid()}" in done.stderr
    sqlite.Store(journal).close()
