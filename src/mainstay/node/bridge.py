"""A rank that stands between PMIx and the pool: it tells the client of sets, and PMIx of the client's.

    client ──PUBLISH──▶ a thread of the worker ──▶ PMIx_Job_control
    client ◀──FOUND──── a thread of PMIx       ◀── events

It is a worker, since PMIx knows no other process of the pool; a slot is a few lines of C modules, and stays so. Both
threads sleep. While a task holds the GIL, neither gets on: sets are then known later.
"""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, NamedTuple

from mainstay.wire.address import dial
from mainstay.wire.frames import FrameReader, Kind, encode

if TYPE_CHECKING:
    import socket

    from mainstay.node.place import Place
    from mainstay.node.pmix import Pmix
    from mainstay.wire.frames import Bytes

Names = tuple[tuple[str, int], ...]  # processes, in PMIx's words


class Bridged(NamedTuple):
    """What a worker (its number) says first: why it cannot stand between (empty: it does), which PMIx it is, what that
    calls the worker's namespace, and the sets that were named at the launch."""

    worker: int
    why_not: str = ""
    version: str = ""
    namespace: str = ""
    sets: tuple[tuple[str, Names], ...] = ()


class Named(NamedTuple):
    """A set in PMIx's words."""

    name: str
    members: Names


class Bridge:
    """Serves one connection of the client."""

    def __init__(self, sock: socket.socket, pmix: Pmix) -> None:
        self._sock, self._pmix, self._sending = sock, pmix, threading.Lock()

    def found(self, name: str, members: Names) -> None:
        """In a thread of PMIx: a set was defined."""
        self._send(encode(Kind.FOUND, pickle.dumps(tuple(Named(name, members)))))

    def serve(self) -> None:
        """Publish what the client says, until its end."""
        reader = FrameReader()
        with self._sock:
            while count := self._sock.recv_into(reader.get_buffer()):
                for frame in reader.received(count):
                    named = Named(*pickle.loads(frame.body))
                    if (why_not := self._pmix.define(named.name, named.members)) is not None:
                        self._send(encode(Kind.REFUSED, f"{named.name!r}: {why_not}".encode()))

    def _send(self, pieces: list[Bytes]) -> None:
        try:
            with self._sending:
                self._sock.sendall(b"".join(pieces))
        except OSError:
            pass  # the pool is being closed


def stand_between(place: Place) -> None:
    """Connect PMIx and the client, if there is PMIx; the client hears which it is, or why there is none."""
    from mainstay.node.pmix import Pmix

    try:
        sock, _ = dial(*place.client)
    except OSError:
        return  # the pool is being closed
    try:
        pmix = Pmix()
        told = Bridged(place.number, "", pmix.version, pmix.namespace, tuple(pmix.sets().items()))
    except Exception as error:  # it may be of another kind than those that were tried; the worker works without
        with sock:
            sock.sendall(b"".join(encode(Kind.BRIDGED, pickle.dumps(tuple(Bridged(place.number, str(error)))))))
        return
    sock.sendall(b"".join(encode(Kind.BRIDGED, pickle.dumps(tuple(told)))))
    bridge = Bridge(sock, pmix)
    threading.Thread(target=bridge.serve, name="mainstay-pmix", daemon=True).start()
    pmix.listen(bridge.found)
