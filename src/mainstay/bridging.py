"""The pool and PMIx: for each namespace whose launcher has PMIx, one of its ranks stands between the two.

    a namespace stands ──BRIDGE──▶ its first rank ──BRIDGED: what PMIx calls the namespace, sets named at the launch──┐
    sets of the pool ──PUBLISH──▶ that rank ──▶ PMIx: every rank gets the event                                       ▼
    PMIx: a set was defined from outside ──▶ that rank ──FOUND──▶ Bridges ──▶ the registry ◀──────────────────────────┘

When that rank ends, the next one takes over; PMIx tells it again of all that was ever defined, so each set with the
same name and members is heard of once.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable
from typing import Protocol

from mainstay.launches import Log
from mainstay.node.bridge import Bridged, Named
from mainstay.peers import WorkerState
from mainstay.process_sets import HOST, USER, Process, ProcessSet
from mainstay.roster import Roster
from mainstay.wire.connection import Connection
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.payload import load

Key = tuple[str, frozenset[tuple[str, int]]]  # of a set in PMIx's words: its name, and its members


class Pool(Protocol):
    """The pool whose ranks stand between."""

    roster: Roster


class Bridges:
    """The client's end. All methods want the pool's lock held.

    Args:
        found: called with the name and the members of each set that PMIx tells of and the pool did not publish.
        newest: returns the newest version of each of the pool's sets.
    """

    def __init__(
        self,
        pool: Pool,
        found: Callable[[str, list[Process]], None],
        newest: Callable[[], Iterable[ProcessSet]],
        log: Log,
    ) -> None:
        self._pool, self._found, self._newest, self._log = pool, found, newest, log
        self._rank: dict[str, WorkerState] = {}  # who stands between, of each namespace
        self._open: dict[str, Connection] = {}
        self._theirs: dict[str, str] = {}  # PMIx's name of each namespace
        self._ours: dict[str, str] = {}
        self._seen: set[Key] = set()  # published, or found
        self.told = ""

    def stands(self, namespace: str, has_pmix: bool) -> None:
        """A namespace stands, and its launcher has PMIx or has not."""
        if has_pmix:
            self._appoint(namespace)
        else:
            self.told = "none: the launcher of the ranks has none, and Open MPI's has"

    def _appoint(self, namespace: str) -> None:
        ranks = [worker for worker in self._pool.roster.workers.values() if worker.namespace == namespace]
        first = min(ranks, key=lambda worker: worker.rank, default=None)
        if first is not None and first.connection is not None:
            self._rank[namespace] = first
            first.connection.send(encode(Kind.BRIDGE))

    def left(self, worker: WorkerState) -> None:
        """A worker has ended; if it stood between, another of its namespace does now."""
        if self._rank.get(worker.namespace) is worker:
            del self._rank[worker.namespace]
            connection = self._open.pop(worker.namespace, None)
            if connection is not None:
                connection.close()
            self._appoint(worker.namespace)

    def open(self, connection: Connection, first: Frame) -> None:
        """A rank stands between, or says why it cannot."""
        told = Bridged(*load(first.body))
        worker = self._pool.roster.workers.get(told.worker)
        connection.on_end = connection.close
        connection.on_frames = lambda frames: None
        if worker is None or told.why_not:
            self.told = f"none: {told.why_not}" if told.why_not else self.told
            connection.close()
            return
        self.told = told.version
        self._theirs[worker.namespace], self._ours[told.namespace] = told.namespace, worker.namespace
        self._open[worker.namespace] = connection
        connection.on_frames = self._on_frames
        connection.on_end = lambda: self._end(worker.namespace, connection)
        for name, members in told.sets:
            self._take(Named(name, members))
        for one in self._newest():
            self._publish(one, {worker.namespace})  # the rank before may have ended with what it was told last

    def _end(self, namespace: str, connection: Connection) -> None:
        connection.close()
        if self._open.get(namespace) is connection:
            del self._open[namespace]

    # -- sets

    def publish(self, one: ProcessSet) -> None:
        """Make a set of the pool known to PMIx, if it is the user's or a host's and has ranks there."""
        self._publish(one, set(self._open))

    def _publish(self, one: ProcessSet, namespaces: set[str]) -> None:
        if not one.valid or not (one.source == USER or one.name.startswith(HOST)):
            return
        members = tuple((self._theirs[space], rank) for space, rank in one.members if space in self._theirs)
        for namespace in namespaces & {space for space, _ in one.members}:
            self._seen.add((one.name, frozenset(members)))
            told = pickle.dumps(tuple(Named(one.name, members)))
            self._open[namespace].send(encode(Kind.PUBLISH, told))

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.FOUND:
                self._take(Named(*load(frame.body)))
            elif frame.kind == Kind.REFUSED:
                self._log(logging.WARNING, f"PMIx refused a process set: {bytes(frame.body).decode()}")

    def _take(self, named: Named) -> None:
        key = named.name, frozenset(named.members)
        if key not in self._seen and named.members:
            self._seen.add(key)
            self._found(named.name, [Process(self._ours.get(space, space), rank) for space, rank in named.members])

    @property
    def connections(self) -> list[Connection]:
        """Those of the ranks that stand between."""
        return list(self._open.values())
