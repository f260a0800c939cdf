"""The worker's side of a recall: whatever has not begun comes back, whenever the signal comes."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from mainstay.node.worker import Worker
from mainstay.wire.frames import Frame, FrameReader, Kind, encode
from mainstay.wire.payload import dump

worker: Worker


@pytest.fixture
def client() -> Iterator[socket.socket]:
    global worker
    ours, theirs = socket.socketpair()
    worker = Worker(theirs, "host/0")
    with ours, theirs:
        yield ours


def recall(value: object = None) -> object:
    """What the signal's handler does."""
    worker.recall()
    return value


class RecallsWhenLoaded:
    def __reduce__(self) -> Any:
        return recall, (None,)


class RecallsWhenDumped:
    def __reduce__(self) -> Any:
        worker.recall()
        return int, (7,)


def send(client: socket.socket, *calls: tuple[Any, Any]) -> None:
    """Send a definition and a call for each function and argument, and the end; tasks count from 0."""
    for number, (fn, argument) in enumerate(calls):
        body, buffers = dump(fn)
        client.sendall(b"".join(encode(Kind.DEFINE, body, buffers, number=number)))
        body, buffers = dump(((argument,), {}, ""))
        client.sendall(b"".join(encode(Kind.CALL, body, buffers, task=number, number=number)))
    client.shutdown(socket.SHUT_WR)


def answers(client: socket.socket) -> list[tuple[int, Any]]:
    """Return what the worker has sent: its kind, and a list of tasks or the number of the one."""
    worker.serve()
    reader, frames = FrameReader(), list[Frame]()
    client.setblocking(False)
    while True:
        try:
            count = client.recv_into(reader.get_buffer())
        except BlockingIOError:
            break
        frames += reader.received(count)
    return [(f.kind, pickle.loads(f.body) if f.kind == Kind.RETURNED else f.task) for f in frames]


OTHERS = (abs, -1), (abs, -2)
ALONE = [(Kind.RETURNED, [1, 2]), (Kind.RESULT, 0)]


def test_a_recall_before_the_first_call_leaves_that_one(client: socket.socket) -> None:
    send(client, (abs, -3), *OTHERS)
    worker.recall()
    assert answers(client) == ALONE


def test_a_recall_while_arguments_are_loaded(client: socket.socket) -> None:
    send(client, (id, RecallsWhenLoaded()), *OTHERS)
    assert answers(client) == ALONE


def test_a_recall_while_a_function_runs(client: socket.socket) -> None:
    send(client, (recall, 1), *OTHERS)
    assert answers(client) == ALONE


def test_a_recall_while_a_result_is_dumped(client: socket.socket) -> None:
    send(client, (make_recaller, None), *OTHERS)
    assert answers(client) == ALONE


def make_recaller(_: object) -> RecallsWhenDumped:
    return RecallsWhenDumped()


def test_two_recalls_are_answered_one_after_the_other(client: socket.socket) -> None:
    send(client, (recall_twice, None), *OTHERS)
    assert answers(client) == [(Kind.RETURNED, [1, 2]), (Kind.RETURNED, []), (Kind.RESULT, 0)]


def recall_twice(_: object) -> None:
    worker.recall()
    worker.recall()


class FailingRank:
    """A rank whose part in each gang cannot be had."""

    is_silent = False

    def takes(self, body: object) -> None:
        self.is_silent = True

    def join(self) -> None:
        raise RuntimeError("no communicator")


def test_a_gang_that_cannot_be_joined_leaves_nothing_to_the_calls_after_it(client: socket.socket) -> None:
    worker._rank = FailingRank()  # type: ignore[assignment]
    for frame in (
        encode(Kind.DEFINE, dump(abs).body, number=0),
        encode(Kind.PART, b""),
        encode(Kind.RESUME, dump([7]).body, task=0),
        encode(Kind.GANG, dump(((1,), {}, "")).body, task=0, number=0),
    ):
        client.sendall(b"".join(frame))
    send(client, (recall, 42))
    assert answers(client) == [(Kind.ERROR, 0), (Kind.RETURNED, []), (Kind.RESULT, 0)]
    assert not worker._rank.is_silent
    assert worker._resumed is None
