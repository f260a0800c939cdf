"""`mainstay.psets()`: the pool's process sets, as a task sees them.

    task ── ASK ──▶ the client, on a connection of its own ── NEWS: events that this worker has not heard of ──▶ Line
                                                                                          a Listing, as the client has

A worker asks only when a task does; then the events since the last time travel, and nothing else. What follows from
them is the client's own code.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from mainstay.node import context
from mainstay.process_sets import MPI, SELF, Event, Listing, Process, ProcessSet
from mainstay.wire.address import dial
from mainstay.wire.frames import FrameReader, Kind, encode

if TYPE_CHECKING:
    import socket

    from mainstay.node.place import Place


class Ask(NamedTuple):
    """Which worker (its number) asks, how many events it has heard of, and whether it waits for another."""

    worker: int
    heard: int
    waits: bool


class News(NamedTuple):
    """Which process the worker is (None: it is about to end), and the events from the `start`th on."""

    process: Process | None
    start: int
    events: list[Event]


class Line:
    """A worker's connection to the registry, and what it has heard on it. Any of the worker's threads may use it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._reader = FrameReader()
        self._asked = 0
        self.process: Process | None = None
        self.listing = Listing()
        self.events: list[Event] = []

    def refresh(self, timeout: float = 0.0) -> None:
        """Hear of all events; if there is no new one, wait for one, for at most `timeout` seconds."""
        with self._lock:
            if self._sock is None:
                self._sock, _ = dial(*self._place.client)
            self._asked += 1
            ask = Ask(self._place.number, self.listing.heard, timeout > 0)
            self._sock.settimeout(None)
            self._sock.sendall(b"".join(encode(Kind.ASK, pickle.dumps(tuple(ask)), number=self._asked)))
            self._sock.settimeout(timeout or None)
            try:
                self._hear(self._sock)
            except TimeoutError:
                pass  # an answer that comes later is heard with the next

    def _hear(self, sock: socket.socket) -> None:
        """Take in answers, up to that to what was asked last."""
        number = 0
        while number != self._asked:
            count = sock.recv_into(self._reader.get_buffer())
            if count == 0:
                raise ConnectionError("mainstay.psets(): the client has closed the pool")
            for frame in self._reader.received(count):
                number = frame.number
                self._take(News(*pickle.loads(frame.body)))

    def _take(self, news: News) -> None:
        self.process = news.process or self.process
        for event in news.events[self.listing.heard - news.start :]:
            self.events.append(event)
            self.listing.apply(event)


class ProcessSets(Mapping[str, ProcessSet]):
    """The process sets by their names, as last heard of; `mpi://SELF` is the process that asks.

    Iterating gives the names. An invalid set stays listed until its name is deleted.
    """

    def __init__(self, line: Line) -> None:
        self._line, self._told = line, len(line.events)

    def __getitem__(self, name: str) -> ProcessSet:
        if name == SELF and self._line.process is not None:
            return ProcessSet(SELF, (self._line.process,), True, MPI, 1)
        return self._line.listing[name]

    def __iter__(self) -> Iterator[str]:
        if self._line.process is not None:
            yield SELF
        yield from self._line.listing

    def __len__(self) -> int:
        return len(self._line.listing) + (self._line.process is not None)

    def versions(self, name: str | None = None) -> list[ProcessSet]:
        """Return all sets that were ever defined under a name, the oldest first; None: the whole array."""
        return list(self._line.listing.sets) if name is None else self._line.listing.versions(name)

    def news(self, timeout: float = 0.0) -> list[Event]:
        """Return the events since this object was made, or since it was asked last, in their order.

        Args:
            timeout: seconds for which to wait for an event, if there is none.
        """
        waits = timeout if self._told == len(self._line.events) else 0.0
        self._line.refresh(waits)
        start, self._told = self._told, len(self._line.events)
        return self._line.events[start : self._told]


def psets() -> ProcessSets:
    """Return the pool's process sets as they are now: a mapping from names to `ProcessSet`.

    Raises `RuntimeError` where no task runs; in the client, `ex.psets` has them.
    """
    place = context.place
    if context.current is None or place is None:
        raise RuntimeError(
            "mainstay.psets() was called where no task runs; it is for use inside a task, and ex.psets for the client"
        )
    if place.line is None or place.line.pid != os.getpid():
        place.line = Line(place)
    place.line.refresh()
    return ProcessSets(place.line)
