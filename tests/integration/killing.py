"""Kills clients of a journal at random points, and holds the file that each leaves against what it was told.

    python killing.py JOURNAL KILLS LAUNCHER SYNC        prints what it did as JSON, or how it failed

Clients are forked from this process, which has imported all that they need and been a client itself: a life takes
some hundredths of a second.
Every client has a moment to live, which grows when a client ended before it was owed anything and shrinks when it was:
so half of the kills fall into the start and half into the work, on a fast machine as on a slow one.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import struct
import sys
import time
from contextlib import closing

import mainstay
from mainstay.journal import sqlite
from mainstay.wire.payload import load

TOLD = struct.Struct("<QB")  # a call's argument, and what has happened to its result
DELIVERED, WRITTEN = 0, 1
OWED = {"group": WRITTEN, "each": DELIVERED}  # from when on a result must be in the file, whatever happens
SPAN = 3000  # arguments
MANY = 1000  # calls in a file; then the next client begins a fresh one, so that there is always something new to keep
FIRST_SPAN = 0.02  # seconds within which the first client is killed
GROWTH = 1.1  # of that span after a client that was owed nothing; it shrinks by as much after one that was


def square(x: int) -> tuple[int, int, bytes]:
    return x, x * x, bytes([x % 251]) * (x % 3000)


class TellingStore(sqlite.Store):
    """Tells of each result that a finished write has put on disk."""

    def __init__(self, path: str, told: int) -> None:
        super().__init__(path)
        self.told = told

    def write(self, records, replaced=()):
        ids = super().write(records, replaced)
        os.write(self.told, b"".join(TOLD.pack(load(record.body, record.buffers)[0], WRITTEN) for record in records))
        return ids


def serve(path: str, start: int, launcher: str, sync: str, told: int) -> None:
    """Be a client until the kill: call after call, and tell of each result when it is there and when it is written."""
    with mainstay.Executor(1, launcher=launcher, journal=TellingStore(path, told), journal_sync=sync) as executor:
        for at in range(start, start + SPAN, 8):
            futures = [executor.submit(square, i % SPAN) for i in range(at, at + 8)]
            for i, future in enumerate(futures, at):
                assert future.result() == square(i % SPAN), i
                os.write(told, TOLD.pack(i % SPAN, DELIVERED))


def killed(path: str, start: int, launcher: str, sync: str, seconds: float) -> list[tuple[int, int]]:
    """Start a client, and kill it after as long; return what it told."""
    hears, told = os.pipe()
    client = os.fork()
    if client == 0:
        os.close(hears)
        try:
            serve(path, start, launcher, sync, told)
        finally:
            os._exit(1)
    os.close(told)
    said, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([hears], [], [], left)[0]:
        data = os.read(hears, 1 << 16)
        if not data:
            break
        said += data
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    while data := os.read(hears, 1 << 16):
        said += data
    os.close(hears)
    whole = len(said) // TOLD.size * TOLD.size
    return [*TOLD.iter_unpack(said[:whole])]


def examine(path: str) -> dict[int, int]:
    """Return how often each call is in the file; raise if the file or a result is not as it should be."""
    with closing(sqlite.Store(path)) as store:  # as the next client would open it
        check = store.db.execute("PRAGMA integrity_check").fetchone()[0]
        assert check == "ok", check
        found: dict[int, int] = {}
        for _, call, failed, _ in store.index():
            kept = store.load(call)
            x, squared, filling = load(kept.body, kept.buffers)
            assert (not failed, x, squared, filling) == (True, *square(x)), f"a wrong result: {x}"
            found[x] = found.get(x, 0) + 1
    return found


def main(path: str, kills: int, launcher: str, sync: str) -> dict[str, int]:
    """Kill as often, each client within a moment of its start; return counts."""
    chance = random.Random()
    span = FIRST_SPAN
    found: dict[int, int] = {}
    delivered = promised = 0
    owed: set[int] = set()
    for number in range(kills):
        if number % 50 == 0 or len(found) > MANY:  # the first moments of a file are dangerous too
            for name in (path, f"{path}-journal"):
                if os.path.exists(name):
                    os.unlink(name)
            owed.clear()
        said = killed(path, chance.randrange(SPAN), launcher, sync, chance.random() * span)
        due = {x for x, what in said if what == OWED[sync]}
        span = span / GROWTH if due else span * GROWTH
        owed |= due
        if not os.path.exists(path):
            assert not owed
            continue
        found = examine(path)
        assert owed <= found.keys(), f"kill {number}: lost {sorted(owed - found.keys())}"
        assert set(found.values()) <= {1}, f"kill {number}: twice {[x for x, n in found.items() if n > 1]}"
        delivered += sum(what == DELIVERED for _, what in said)
        promised += len(due)
    return {"kills": kills, "delivered": delivered, "promised": promised}


if __name__ == "__main__":
    journal, kills, launcher, sync = sys.argv[1:]
    with mainstay.Executor(1, launcher=launcher, journal=f"{journal}-first") as executor:
        executor.submit(square, 0).result()
    try:
        print(json.dumps(main(journal, int(kills), launcher, sync)))
    except (AssertionError, sqlite3.Error, mainstay.JournalError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
