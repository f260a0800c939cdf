"""Tasks that ask for the process sets: each worker that does has a connection of its own, and is told of events.

    worker ──ASK: how many events it has heard, and whether to wait for more──▶ Lines ──NEWS: those since──▶ worker

A worker has the same array as the client, since it is made of the same events; each travels to it once.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import NamedTuple

from mainstay.node.psets import Ask, News
from mainstay.process_sets import Process, Registry
from mainstay.wire.connection import Connection
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.payload import load


class Waiting(NamedTuple):
    """An ASK whose answer is to come with the next event; `number` is its own."""

    connection: Connection
    ask: Ask
    number: int


class Lines:
    """The client's end. All methods want the pool's lock held.

    Args:
        refreshed: returns the registry, brought up to date.
        process_of: returns which process a worker is now, given its number; None: it has gone.
    """

    def __init__(self, refreshed: Callable[[], Registry], process_of: Callable[[int], Process | None]) -> None:
        self._refreshed, self._process_of = refreshed, process_of
        self.connections: set[Connection] = set()
        self._waiting: dict[Connection, Waiting] = {}

    def open(self, connection: Connection, first: Frame) -> None:
        """A worker asks for the first time."""
        self.connections.add(connection)
        connection.on_frames = lambda frames: self._on_frames(connection, frames)
        connection.on_end = lambda: self._end(connection)
        self._on_frames(connection, [first])

    def _on_frames(self, connection: Connection, frames: list[Frame]) -> None:
        for frame in frames:
            ask = Ask(*load(frame.body))
            waiting = Waiting(connection, ask, frame.number)
            if ask.waits and ask.heard >= len(self._refreshed().events):
                self._waiting[connection] = waiting
            else:
                self._waiting.pop(connection, None)
                self._answer(waiting, self._refreshed())

    def tell(self, registry: Registry) -> None:
        """There are events that those who wait have not heard of."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            self._answer(one, registry)

    def _answer(self, to: Waiting, registry: Registry) -> None:
        news = News(self._process_of(to.ask.worker), to.ask.heard, registry.events[to.ask.heard :])
        to.connection.send(encode(Kind.NEWS, pickle.dumps(tuple(news)), number=to.number))

    def _end(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._waiting.pop(connection, None)
        connection.close()
