"""The door: where processes of the pool come in, and strangers do not.

listeners ─▶ strangers (bounded in number, seconds and bytes) ─proof of the key─▶ `on_guest`
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from mainstay.wire import address
from mainstay.wire.auth import ANSWER, Listener
from mainstay.wire.poller import Poller

MOST_STRANGERS = 256  # connections without a proof; the oldest is closed for a further one
BACKLOG = 1024


class Stranger:
    """A peer that has not proved the key yet: 64 bytes at the most are read from it."""

    def __init__(self, sock: socket.socket, key: bytes) -> None:
        self.sock = sock
        self.deadline = time.monotonic() + address.HANDSHAKE_TIMEOUT
        self._listener = Listener(key)
        self._got = b""
        sock.setblocking(False)
        sock.send(self._listener.challenge)

    def step(self) -> bool | None:
        """Return True when the peer has proved the key, False when it cannot, None when more must come."""
        try:
            data = self.sock.recv(ANSWER - len(self._got))
            self._got += data
            if len(self._got) < ANSWER:
                return None if data else False
            proof = self._listener.answer(self._got)
            return proof is not None and self.sock.send(proof) == len(proof)
        except BlockingIOError:
            return None
        except OSError:
            return False


class Door:
    """Listens on a Unix socket and on TCP, for the holders of `key`.

    Args:
        poller: watches the listeners and the strangers.
        on_guest: called with the socket (non-blocking) of each peer that proved the key.
    """

    def __init__(self, poller: Poller, key: bytes, on_guest: Callable[[socket.socket], None]) -> None:
        self._poller, self._key, self._on_guest = poller, key, on_guest
        self.strangers: dict[int, Stranger] = {}
        self._listeners: list[socket.socket] = []
        self.addresses: list[address.Address] = []
        self._listen()

    def _listen(self) -> None:
        name = f"mainstay-{os.getpid()}-{os.urandom(8).hex()}"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("\0" + name)  # in the abstract namespace: no file, so no directory that must be writable
        unix.listen(BACKLOG)
        tcp = socket.create_server(("", 0), backlog=BACKLOG)
        self._listeners = [unix, tcp]
        for sock in self._listeners:
            sock.setblocking(False)
            self._poller.watch(sock, lambda events, sock=sock: self._on_knock(sock))  # type: ignore[misc]
        port = tcp.getsockname()[1]
        self.addresses = [("@" + name, 0), *((ip, port) for ip in address.own_addresses())]

    def _on_knock(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self.strangers) >= MOST_STRANGERS:
            self._dismiss(next(iter(self.strangers.values())))
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stranger = Stranger(sock, self._key)
        except OSError:
            sock.close()
            return
        self.strangers[sock.fileno()] = stranger
        self._poller.watch(sock, lambda events: self._on_proof(stranger))

    def _on_proof(self, stranger: Stranger) -> None:
        proved = stranger.step()
        if proved:
            del self.strangers[stranger.sock.fileno()]
            self._poller.forget(stranger.sock)
            self._on_guest(stranger.sock)
        elif proved is False:
            self._dismiss(stranger)

    def _dismiss(self, stranger: Stranger) -> None:
        del self.strangers[stranger.sock.fileno()]
        self._poller.forget(stranger.sock)
        stranger.sock.close()

    def next_deadline(self) -> float | None:
        return next((stranger.deadline for stranger in self.strangers.values()), None)  # the oldest is the first

    def tick(self, now: float) -> None:
        """Close the door on those who took too long."""
        for stranger in [s for s in self.strangers.values() if s.deadline <= now]:
            self._dismiss(stranger)

    def close(self) -> None:
        for sock in [*self._listeners, *(stranger.sock for stranger in self.strangers.values())]:
            sock.close()
