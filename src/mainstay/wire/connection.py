"""One authenticated, non-blocking connection of the broker: frames in, pieces out, nothing waits."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from mainstay.wire.auth import ANSWER, Listener
from mainstay.wire.frames import Bytes, Frame, FrameReader

MOST_PIECES = 512  # of one sendmsg; the kernel's limit is 1,024


class Connection:
    """A peer that proved the key. `owner` is what the broker hangs on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.owner: Any = None
        self._reader = FrameReader()
        self._unsent: deque[Bytes] = deque()

    @property
    def wants_to_send(self) -> bool:
        return bool(self._unsent)

    def send(self, pieces: list[Bytes]) -> None:
        """Send what the kernel takes now and keep the rest. A broken peer shows when it is read."""
        self._unsent.extend(pieces)
        self.flush()

    def flush(self) -> None:
        unsent = self._unsent
        while unsent:
            views = [unsent[i] for i in range(min(len(unsent), MOST_PIECES))]
            try:
                sent = self.sock.sendmsg(views)
            except BlockingIOError:
                return
            except OSError:
                unsent.clear()
                return
            self._forget(sent)

    def _forget(self, sent: int) -> None:
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = memoryview(unsent[0])[sent:]

    def receive(self) -> list[Frame] | None:
        """Return the frames that are complete now; None at the end-of-file."""
        try:
            count = self.sock.recv_into(self._reader.get_buffer())
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._reader.received(count) if count else None

    def close(self) -> None:
        self.sock.close()


class Handshake:
    """A peer that has not proved the key yet: 64 bytes at the most are read from it."""

    def __init__(self, sock: socket.socket, key: bytes, deadline: float) -> None:
        self.sock, self.deadline = sock, deadline
        self._listener = Listener(key)
        self._got = b""
        sock.setblocking(False)
        sock.send(self._listener.challenge)

    def step(self) -> bool | None:
        """Return True when the peer has proved the key, False when it cannot, None when more must come."""
        try:
            data = self.sock.recv(ANSWER - len(self._got))
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._got += data
        if not data:
            return False
        if len(self._got) < ANSWER:
            return None
        proof = self._listener.answer(self._got)
        if proof is None:
            return False
        self.sock.send(proof)
        return True
