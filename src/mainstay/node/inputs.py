"""Staged files on a node: fetched by one worker for all, held by those that use them, given up where room is short.

    hold ─▶ there? ── yes ─▶ a shared lock on the directory of the key, until the task has ended
              └─ no ─▶ the node's lock ─▶ fetch into `new`, rename ─▶ hold

What no task holds stays for the next that wants it, until its room is needed.
"""

from __future__ import annotations

import fcntl
import os

from mainstay.node.home import Home, free, locked, remove
from mainstay.node.porter import Client, fetch

Wanted = dict[str, tuple[str, int]]  # by the path on the client: the key, and the bytes


def hold(home: Home, wanted: Wanted, client: Client, held: list[int]) -> None:
    """Have these inputs on the node, and put locks that hold them into `held`, to be closed when they are not needed.

    Raises `ScratchFull`, or `StagingError` for what the client cannot give.
    """
    inputs = os.path.join(home.path, "inputs")
    sizes = dict(wanted.values())
    missing = _take(inputs, list(sizes), held)
    if not missing:
        return
    os.makedirs(inputs, 0o700, exist_ok=True)
    with open(os.path.join(inputs, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who waits here finds what another has fetched
        missing = _take(inputs, missing, held)
        if missing:
            _make_room(home, inputs, sum(sizes[key] for key in missing))
            _fetch(inputs, missing, client)
            _take(inputs, missing, held)


def _take(inputs: str, keys: list[str], held: list[int]) -> list[str]:
    """Hold what is there; return what is not."""
    missing = []
    for key in keys:
        path = os.path.join(inputs, key)
        fd = locked(path, shared=True)
        if fd >= 0:
            held.append(fd)
        if fd < 0 or not os.path.exists(path):  # it may have been given up in the moment before
            missing.append(key)
    return missing


def _make_room(home: Home, inputs: str, needed: int) -> None:
    """Give up what nobody holds, the oldest first, while there is too little room."""
    there = [path for name in os.listdir(inputs) if os.path.isdir(path := os.path.join(inputs, name))]
    for path in sorted(there, key=os.path.getmtime):
        if needed <= free(inputs)[0]:
            return
        fd = locked(path, wait=False)
        if fd >= 0:
            remove(path)
            os.close(fd)
    if needed > free(inputs)[0]:
        raise home.full(needed)


def _fetch(inputs: str, keys: list[str], client: Client) -> None:
    new = os.path.join(inputs, "new")
    remove(new)  # of one that was killed
    try:
        fetch(keys, new, client)
        for key in keys:
            os.rename(os.path.join(new, key), os.path.join(inputs, key))
    finally:
        remove(new)
