"""Kills clients of a journal at random points, and holds the file that each leaves against what it was told.

    python killing.py JOURNAL KILLS SECONDS LAUNCHER SYNC        prints what it did as JSON, or how it failed

Clients are forked from this process, which has imported all that they need: a kill takes some hundredths of a second.
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

DELIVERED = struct.Struct("<Qd")  # a call's argument; when its result was there (s, monotonic)
PROMISE = {"group": 0.1, "each": 0.0}  # seconds after which what was delivered is on disk
SPAN = 3000  # arguments


def square(x: int) -> tuple[int, int, bytes]:
    return x, x * x, bytes([x % 251]) * (x % 3000)


def serve(path: str, start: int, launcher: str, sync: str, told: int) -> None:
    """Be a client until the kill: call after call, and say of each that its result is there."""
    with mainstay.Executor(1, launcher=launcher, journal=path, journal_sync=sync) as executor:
        for at in range(start, start + SPAN, 8):
            futures = [executor.submit(square, i % SPAN) for i in range(at, at + 8)]
            for i, future in enumerate(futures, at):
                assert future.result() == square(i % SPAN), i
                os.write(told, DELIVERED.pack(i % SPAN, time.monotonic()))


def killed(path: str, start: int, launcher: str, sync: str, seconds: float) -> tuple[list[tuple[int, float]], float]:
    """Start a client, and kill it after as long; return what it said, and when it was killed."""
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
    at = time.monotonic()
    os.kill(client, signal.SIGKILL)
    os.waitpid(client, 0)
    while data := os.read(hears, 1 << 16):
        said += data
    os.close(hears)
    whole = len(said) // DELIVERED.size * DELIVERED.size
    return [*DELIVERED.iter_unpack(said[:whole])], at


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


def main(path: str, kills: int, seconds: float, launcher: str, sync: str) -> dict[str, int]:
    """Kill as often, each client within as many seconds of its start; return counts."""
    chance = random.Random()
    delivered = promised = 0
    owed: set[int] = set()
    for number in range(kills):
        if number % 50 == 0:  # a fresh file now and then: the first moments of one are dangerous too
            for name in (path, f"{path}-journal"):
                if os.path.exists(name):
                    os.unlink(name)
            owed.clear()
        said, at = killed(path, chance.randrange(SPAN), launcher, sync, chance.random() ** 2 * seconds)
        due = {x for x, when in said if when <= at - PROMISE[sync]}
        owed |= due
        if not os.path.exists(path):
            assert not owed
            continue
        found = examine(path)
        assert owed <= found.keys(), f"kill {number}: lost {sorted(owed - found.keys())}"
        assert set(found.values()) <= {1}, f"kill {number}: twice {[x for x, n in found.items() if n > 1]}"
        delivered += len(said)
        promised += len(due)
    return {"kills": kills, "delivered": delivered, "promised": promised}


if __name__ == "__main__":
    journal, kills, seconds, launcher, sync = sys.argv[1:]
    try:
        print(json.dumps(main(journal, int(kills), float(seconds), launcher, sync)))
    except (AssertionError, sqlite3.Error, mainstay.JournalError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
