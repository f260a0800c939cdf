"""The agent's end of lending: slots bring their MPI identities to a door, workers fetch them there.

    slot ── rank, variables, PMI's descriptor ──▶ Door ──▶ worker

A door is an abstract Unix socket, so it is reached from this host only, and there is no file to be left behind. Only
processes of the same user are let in. A slot's connection stays open: its end-of-file tells the slot that the agent
has ended, and tells the agent that the slot has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from mainstay.wire.address import uid_of_peer
from mainstay.wire.frames import Bytes, Frame, Kind, encode
from mainstay.wire.poller import Poller

LARGEST = 1 << 17  # bytes of an identity; some hundreds are usual
MOST_WAITING = 4096
FETCH = b"fetch"
TIMEOUT = 10.0  # seconds for a worker to be answered


class Door:
    """The door of one namespace on this node.

    Args:
        name: of the abstract socket; hard to guess, and new for each namespace.
        poller: the agent's.
        on_lent: called with the rank of each slot that has come.
    """

    def __init__(self, name: str, poller: Poller, on_lent: Callable[[int], None]) -> None:
        self._poller, self._on_lent = poller, on_lent
        self._identities: dict[bytes, tuple[bytes, list[int]]] = {}  # by rank: the variables, and descriptors
        self._guests: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind("\0" + name)
        except OSError:
            self._listener.close()
            raise
        self._listener.listen(MOST_WAITING)
        self._listener.setblocking(False)
        poller.watch(self._listener, self._on_guest)

    def _on_guest(self, events: int) -> None:
        try:
            guest, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        if uid_of_peer(guest) != os.getuid():
            guest.close()
            return
        self._guests.add(guest)
        self._poller.watch(guest, lambda events: self._on_message(guest))

    def _on_message(self, guest: socket.socket) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(guest, LARGEST, 1)
        except OSError:
            message, fds = b"", []
        first, _, rest = message.partition(b"\0")
        if first == FETCH and rest in self._identities:
            identity, rights = self._identities.pop(rest)
            socket.send_fds(guest, [identity], rights)
            for fd in rights:
                os.close(fd)
        elif first.isdigit():
            self._identities[first] = rest, list(fds)
            self._on_lent(int(first))
            return  # the slot stays
        self._poller.forget(guest)
        self._guests.discard(guest)
        guest.close()

    def close(self) -> None:
        """Let the slots go, and forget what they lent."""
        for sock in (self._listener, *self._guests):
            self._poller.forget(sock)
        self.let_go()

    def let_go(self) -> None:
        """In a child of the agent: close what is the agent's, without touching what it polls."""
        for sock in (self._listener, *self._guests):
            sock.close()
        for _, fds in self._identities.values():
            for fd in fds:
                os.close(fd)
        self._identities.clear()
        self._guests.clear()


class Doors:
    """The doors of an agent, one for each namespace; `send` takes what the client is to know."""

    def __init__(self, poller: Poller, send: Callable[[list[Bytes]], None]) -> None:
        self._poller, self._send = poller, send
        self._doors: dict[int, Door] = {}

    def open(self, namespace: int, name: str) -> None:
        """Open a door; the client hears of each slot that comes (LENT)."""
        try:
            self._doors[namespace] = Door(
                name, self._poller, lambda rank: self._send(encode(Kind.LENT, number=namespace, task=rank))
            )
        except OSError as error:
            self._send(encode(Kind.LENT, f"no door for slots: {error}".encode(), number=namespace))

    def close(self, namespace: int) -> None:
        """A namespace is over: its slots are let go."""
        door = self._doors.pop(namespace, None)
        if door is not None:
            door.close()

    def on_frame(self, frame: Frame) -> None:
        """The client opens or closes a door (LEND, UNLEND)."""
        if frame.kind == Kind.LEND:
            self.open(frame.number, bytes(frame.body).decode())
        else:
            self.close(frame.number)

    def let_go(self) -> None:
        """In a child of the agent."""
        for door in self._doors.values():
            door.let_go()


def fetch(name: str, rank: int) -> None:
    """In a worker: take over the identity of that rank. Raises `OSError` where it is not to be had."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect("\0" + name)
        sock.sendall(FETCH + b"\0%d" % rank)
        identity, fds, _, _ = socket.recv_fds(sock, LARGEST, 1)
    if not identity:
        raise ConnectionError(f"the agent has no identity of rank {rank} to lend")
    for word in identity.split(b"\0"):
        name_, _, value = word.partition(b"=")
        os.environb[name_] = value
    if fds:
        os.environ["PMI_FD"] = str(fds[0])  # MPI's own number for it may be taken here
