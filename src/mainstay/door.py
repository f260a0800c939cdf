"""The door: where processes of the pool come in, and strangers do not.

listeners ─▶ strangers (bounded in number, seconds and bytes) ─proof of the key─▶ `on_guest`
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable

from mainstay.wire import address
from mainstay.wire.auth import ANSWER, Listener
from mainstay.wire.poller import READ, Poller

MOST_STRANGERS = 256  # connections without a proof; the oldest is closed for a further one
BACKLOG = 1024
PAUSE = 1.0  # seconds for which nobody is let in when the process may open no more files


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
        log: takes a level and what is to be told.
    """

    def __init__(
        self, poller: Poller, key: bytes, on_guest: Callable[[socket.socket], None], log: Callable[[int, str], None]
    ) -> None:
        self._poller, self._key, self._on_guest, self._log = poller, key, on_guest, log
        self._opens_at: float | None = None  # it is closed until then
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
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._raise_limit()
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

    def _raise_limit(self) -> None:
        """Allow this process as many open files as it may have; where that is not enough, say so and wait."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return
        self._log(
            logging.WARNING,
            f"a worker or agent waits at the door: this process may open no more than {hard} files, and each worker "
            f"takes one. Close files, ask for fewer workers, or raise the limit (ulimit -n)",
        )
        self._opens_at = time.monotonic() + PAUSE
        self._listen_for(0)

    def _listen_for(self, events: int) -> None:
        for sock in self._listeners:
            self._poller.change(sock, events)

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
        oldest = next((stranger.deadline for stranger in self.strangers.values()), None)
        return min((at for at in (oldest, self._opens_at) if at is not None), default=None)

    def tick(self, now: float) -> None:
        """Close the door on those who took too long, and open it after a pause."""
        if self._opens_at is not None and self._opens_at <= now:
            self._opens_at = None
            self._listen_for(READ)
        for stranger in [s for s in self.strangers.values() if s.deadline <= now]:
            self._dismiss(stranger)

    def close(self) -> None:
        for sock in [*self._listeners, *(stranger.sock for stranger in self.strangers.values())]:
            sock.close()
