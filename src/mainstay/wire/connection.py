"""One authenticated, non-blocking connection of the broker: frames in, pieces out, nothing waits."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from mainstay.wire.frames import Bytes, Frame, FrameReader
from mainstay.wire.poller import READ, WRITE, Poller

MOST_PIECES = 512  # of one sendmsg; the kernel's limit is 1,024
STOP_PATIENCE = 1.0  # seconds that a last word may take


class Connection:
    """A peer that proved the key.

    `on_frames` is called with what came, `on_end` once, when the peer is gone; both may be replaced as the
    peer says what it is.
    """

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        self.sock, self._poller = sock, poller
        self.on_frames: Callable[[list[Frame]], None]
        self.on_end: Callable[[], None]
        self._reader = FrameReader()
        self._unsent: deque[Bytes] = deque()
        self._watches_out = False
        self.closed = False
        poller.watch(sock, self._ready)

    def move(self, poller: Poller) -> None:
        """Be watched by another poller from now on."""
        self._poller.forget(self.sock)
        self._poller = poller
        poller.watch(self.sock, self._ready)

    def detach(self) -> socket.socket:
        """Forget the peer, and return its socket, to be served by somebody else."""
        self.closed = True
        self._poller.forget(self.sock)
        return self.sock

    def send(self, pieces: list[Bytes]) -> None:
        """Send what the kernel takes now, and the rest as it takes more. A broken peer shows when it is read."""
        sent = self._sent_at_once(pieces)
        if sent == sum(map(len, pieces)):
            return  # as most often
        self._unsent.extend(pieces)
        self._forget(sent)
        if not self._watches_out:
            self._flush()

    def _sent_at_once(self, pieces: list[Bytes]) -> int:
        """Send of pieces what the kernel takes, where nothing stands before them; return how many bytes that was."""
        if self._unsent or len(pieces) > MOST_PIECES:
            return 0
        try:
            return self.sock.sendmsg(pieces)
        except OSError:  # it is full or broken, which `_flush` finds out
            return 0

    def receive_rest(self) -> list[Frame]:
        """Return every frame that has arrived, up to the peer's end or to where nothing more is there."""
        found: list[Frame] = []
        while frames := self._receive():
            found += frames
        return found

    def close(self, last_word: list[Bytes] | None = None) -> None:
        """Forget the peer; `last_word` is sent first if the kernel takes it."""
        if self.closed:
            return
        self.closed = True
        self._poller.forget(self.sock)
        if last_word:
            self._say(last_word)
        self.sock.close()

    def _say(self, last_word: list[Bytes]) -> None:
        try:
            self.sock.settimeout(STOP_PATIENCE)
            self.sock.sendall(b"".join([*self._unsent, *last_word]))
        except OSError:
            pass  # its end-of-file says the same

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE:
            frames = self._receive()
            if frames is None:
                self._poller.forget(self.sock)
                self.on_end()
            elif frames:
                self.on_frames(frames)

    def _receive(self) -> list[Frame] | None:
        """Return the frames that are complete now; None at the end-of-file."""
        try:
            count = self.sock.recv_into(self._reader.get_buffer())
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._reader.received(count) if count else None

    def _flush(self) -> None:
        unsent = self._unsent
        while unsent:
            views = [unsent[i] for i in range(min(len(unsent), MOST_PIECES))]
            try:
                sent = self.sock.sendmsg(views)
            except BlockingIOError:
                break
            except OSError:
                unsent.clear()
                break
            self._forget(sent)
        if bool(unsent) != self._watches_out:
            self._watches_out = bool(unsent)
            self._poller.change(self.sock, READ | WRITE if unsent else READ)

    def _forget(self, sent: int) -> None:
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = memoryview(unsent[0])[sent:]
