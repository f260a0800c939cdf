"""The broker's ear: what its thread sleeps on, and how other threads serve the workers' sockets in its place.

    control (epoll) ── the door, agents, the waker
       └── data (epoll) ── workers

The broker's thread sleeps on `control`. A thread that waits for a result, or that submits many calls in one go,
serves `data` itself meanwhile: `data` is then "lent", which means that `control` does not look at it. That saves
two switches of threads per call, and the fight for the interpreter's lock. Each time it is lent on a lease: the
broker's thread takes over if no thread has come again by its end. All methods but `call_soon`, `sleep` and `drive`
want the broker's lock held.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

from mainstay.wire.poller import READ, Poller

LEASE = 2e-3  # seconds for which another thread may serve the workers, from the last time it did; more than `NAP`
SPIN = 100e-6  # seconds that a waiting thread polls after the last message
NAP = 1e-3  # seconds that it sleeps on the sockets itself, before it leaves them to the broker's thread
PAUSE = 64  # waits
now = time.monotonic


class Reactor:
    """The pollers, who serves them now, and calls that other threads want run in the broker's."""

    def __init__(self) -> None:
        self.control, self.data = Poller(), Poller()
        self.control.watch(self.data, self._on_data)
        self.awake = True  # the broker's thread is at work, and need not be helped
        self.calls: deque[Callable[[], None]] = deque()
        self._pause = 0  # waits for which polling does not pay
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
        self._sleeps_until = min((t for t in [*times, self._leased_until or None] if t is not None), default=None)
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
        if self._leased_until and self._leased_until <= now():
            self.take_back()

    def _on_data(self, events: int) -> None:
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

    def drive(self, serve: Callable[[], bool], done: Callable[[], bool], expected: float) -> None:
        """Serve the workers in this thread until `done`, or nothing has come for `NAP` seconds.

        Polling gives the fastest answer while each process has a core, and keeps the worker from it where they
        share one. So a thread whose polling was in vain sleeps in its next `PAUSE` waits. Takes the lock in `serve`.
        """
        polling = expected < SPIN and not self._pause
        self._pause -= self._pause > 0
        end = now() + SPIN
        while not done():
            if self.awake and not self._lent:  # the broker's thread is serving them, and will soon sleep
                if now() > end:
                    return
                self._give_way()
            elif serve():
                end = now() + SPIN
            elif not polling:
                if not self.data.wait(NAP):
                    return
            elif now() > end:
                polling, self._pause = False, PAUSE
            else:
                os.sched_yield()  # to a worker, where there are fewer cores than processes

    def _give_way(self) -> None:
        """Let another thread or process go on: a poll lets go of the interpreter's lock, a yield of the core."""
        self.data.wait(0)
        os.sched_yield()

    def borrow(self) -> bool:
        """Serve the workers now, and until the lease ends; say whether there was anything to do."""
        if not self._lent:
            self._lent = True
            self.control.change(self.data, 0)
        self._leased_until = now() + LEASE
        self.wake_by(self._leased_until)
        return self.data.turn()

    def take_back(self) -> None:
        """Serve the workers in the broker's thread from now on."""
        self._leased_until = 0.0
        if self._lent:
            self._lent = False
            self.control.change(self.data, READ)

    def close(self) -> None:
        self.data.close()
        self.control.close()
        self._wake_read.close()
        self._wake_write.close()


def nothing() -> None:
    """A call that only wakes."""
