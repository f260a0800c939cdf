"""The broker's ear: what its thread sleeps on, and how other threads serve the workers' sockets in its place.

    control (epoll) ── the door, agents, the waker
       └── data (epoll) ── workers

The broker's thread sleeps on `control`. A thread that waits for a result, or that submits many calls in one go,
serves `data` itself meanwhile: `data` is then "lent", which means that `control` does not look at it. That saves
two switches of threads per call, and the fight for the interpreter's lock. All methods but `call_soon` and
`sleep` want the broker's lock held.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable

from mainstay.wire.poller import READ, Poller

LEASE = 1e-3  # seconds for which a thread that submits in a burst keeps the data after its last turn
now = time.monotonic


class Reactor:
    """The pollers, who serves them now, and calls that other threads want run in the broker's."""

    def __init__(self) -> None:
        self.control, self.data = Poller(), Poller()
        self.control.watch(self.data, self._on_data)
        self.awake = True  # the broker's thread is at work, and need not be helped
        self.calls: deque[Callable[[], None]] = deque()
        self._lent = False
        self._leased_until = 0.0
        self._sleeps_until: float | None = 0.0
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self.control.watch(self._wake_read, self._on_wake)

    # -- the broker's thread

    def timeout(self, times: list[float | None]) -> float | None:
        """Return how long the broker's thread may sleep, given when something is due (s of the monotonic clock)."""
        lease = self._leased_until if self._lent and self._leased_until else None
        self._sleeps_until = min((t for t in [*times, lease] if t is not None), default=None)
        if self.calls:
            return 0
        return None if self._sleeps_until is None else max(0.0, self._sleeps_until - now()) + 0.0005

    def sleep(self, timeout: float | None) -> list[tuple[int, int]]:
        self.awake = False
        ready = self.control.wait(timeout)
        self.awake = True
        return ready

    def turn(self, ready: list[tuple[int, int]]) -> None:
        """Handle what the sleep ended with."""
        self.control.handle(ready)
        if self._leased_until:
            self.take_back()

    def _on_data(self, events: int) -> None:
        """A worker has spoken; leave it to the thread that submits in a burst, while it does."""
        if now() < self._leased_until:
            self._lend()
        else:
            self._leased_until = 0.0
            self.data.turn()

    def _on_wake(self, events: int) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            pass
        while self.calls:
            self.calls.popleft()()

    # -- any thread

    def call_soon(self, call: Callable[[], None]) -> None:
        """Run `call` in the broker's thread, under the lock. Takes no lock itself: finalizers call it."""
        self.calls.append(call)
        try:
            self._wake_write.send(b"x")
        except OSError:
            pass  # full, so it will wake; or closed, so it has ended

    def wake_by(self, due: float | None) -> None:
        """Wake the broker's thread if it would sleep beyond what was decided in another thread."""
        if due is not None and (self._sleeps_until is None or due < self._sleeps_until):
            self._sleeps_until = due
            self.call_soon(nothing)

    def serve_on_lease(self) -> None:
        """Serve the workers now, and keep the broker's thread from it for `LEASE` seconds."""
        self._leased_until = now() + LEASE
        self.data.turn()

    def borrow(self) -> bool:
        """Serve the workers now, and until `take_back`; say whether there was anything to do."""
        self._lend()
        self._leased_until = 0.0
        return self.data.turn()

    def take_back(self, *, at_once: bool = False) -> None:
        """Let the broker's thread serve the workers again, unless a lease runs."""
        if self._leased_until and not at_once and now() < self._leased_until:
            return
        self._leased_until = 0.0
        if self._lent:
            self._lent = False
            self.control.change(self.data, READ)

    def _lend(self) -> None:
        if not self._lent:
            self._lent = True
            self.control.change(self.data, 0)

    def close(self) -> None:
        self.data.close()
        self.control.close()
        self._wake_read.close()
        self._wake_write.close()


def nothing() -> None:
    """A call that only wakes."""
