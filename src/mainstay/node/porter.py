"""Moves files between a node and the client, each time on a connection of its own.

So no file holds up a result or a heartbeat, and the kernel slows a sender down to what the receiver takes.

fetch   worker ──FETCH keys──▶ client ──FILE PIECE … DONE──▶ worker (or REFUSED, with the reason)
bring   worker ──BRING errand─▶ client ──DONE: come──▶ worker ──FILE PIECE … DONE──▶ client ──DONE or REFUSED──▶
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from typing import Any

from mainstay.node.context import TaskInfo
from mainstay.node.home import Home, remove
from mainstay.node.place import Orders
from mainstay.node.worker import send_all
from mainstay.wire.address import Address, dial
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.tree import Entry, Writer, frames_from, pack, walk

Client = tuple[list[Address], bytes]


def fetch(keys: list[str], place: str, client: Client) -> None:
    """Have these inputs below a directory, each in one of its own that has its key for a name."""
    for key in keys:
        os.makedirs(os.path.join(place, key), 0o700, exist_ok=True)
    writer = Writer(lambda name, is_directory: os.path.join(place, name), mask=0o555)
    sock, _ = dial(*client)
    with sock:
        send_all(sock, encode(Kind.FETCH, pickle.dumps(keys)))
        try:
            for frame in frames_from(sock):
                if frame.kind not in (Kind.FILE, Kind.PIECE):
                    _check(frame)
                    break
                writer.take(frame)
            writer.end(seal=True)
        finally:
            writer.close()


def note(home: Home, number: int, orders: Orders, task: TaskInfo) -> None:
    """Write down what is to be brought back of a task, for whoever does it should its worker be killed."""
    errand = {
        "task": task.id,
        "attempt": task.attempt,
        "label": task.label,
        "host": home.host,
        "worker": number,
        "outputs": orders.outputs,
    }
    os.makedirs(home.of_worker(number), 0o700, exist_ok=True)
    with open(os.path.join(home.of_worker(number), "errand"), "wb") as file:
        pickle.dump(errand, file)


def bring(home: Home, number: int, client: Client, state: str) -> None:
    """Bring back what a task left. `state` is "done", "failed" or, where its worker was killed, "killed"."""
    part = home.of_worker(number)
    with open(os.path.join(part, "errand"), "rb") as file:
        errand = pickle.load(file)
    ended = os.path.join(part, "ended")
    if state != "killed":
        with open(ended, "w") as file:
            file.write(state)
    elif os.path.exists(ended):
        with open(ended) as file:  # killed as it brought them: they are whole
            state = file.read() or "done"
    _send(os.path.join(part, f"task-{errand['task']}"), errand | {"state": state}, client)
    for name in ("errand", "ended"):
        if os.path.exists(os.path.join(part, name)):
            os.unlink(os.path.join(part, name))


def _send(directory: str, errand: dict[str, Any], client: Client) -> None:
    sock, _ = dial(*client)
    with sock:
        send_all(sock, encode(Kind.BRING, pickle.dumps(errand)))
        _answer(sock)
        for pieces in pack(matches(directory, errand)):
            send_all(sock, pieces)
        send_all(sock, encode(Kind.DONE))
        _answer(sock)


def _answer(sock: socket.socket) -> None:
    _check(next(frames_from(sock)))


def _check(frame: Frame) -> None:
    if frame.kind == Kind.REFUSED:
        from mainstay.errors import StagingError

        raise StagingError(bytes(frame.body).decode())


def matches(directory: str, errand: dict[str, Any]) -> Iterator[Entry]:
    """Yield what the patterns match in a task's directory, under the names that it gets on the client."""
    from glob import glob

    words = {name: errand[name] for name in ("attempt", "label", "host", "worker")} | {"id": errand["task"]}
    seen = set()
    for pattern, target in errand["outputs"].items():
        place, cut = target.format(**words), len(fixed_part(pattern))
        for found in sorted(filter(None, glob(pattern, root_dir=directory, recursive=True))):
            name = os.path.normpath(os.path.join(place, found[cut:]))
            for entry in walk(os.path.join(directory, found), name):
                if entry.name not in seen:
                    seen.add(entry.name)
                    yield entry


def fixed_part(pattern: str) -> str:
    """Return the directories of a pattern before the first that has a wildcard: they are not kept, as with `cp`."""
    parts = pattern.split("/")[:-1]
    wild = next((at for at, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return "".join(f"{part}/" for part in parts[:wild])


def salvage(home: Home, number: int, client: Client) -> None:
    """A worker has been killed: bring back what its task left, and remove its part."""
    try:
        if home.has_errand(number):
            bring(home, number, client, "killed")
    finally:
        remove(home.of_worker(number))
