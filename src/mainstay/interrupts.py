"""A lock whose holder Ctrl-C cannot tear away from half-done work.

The main thread does part of the broker's work itself. A `KeyboardInterrupt` in the middle of that would leave
the tables torn, so while the main thread holds (or waits for) the lock, the interrupt is noted, and raised
when the lock is released. Handlers that the program installs later replace this one, and are left alone.
"""

from __future__ import annotations

import signal
import threading
from threading import get_ident
from types import FrameType
from typing import Any

_main = threading.main_thread().ident
_inside = 0  # how many guarded locks the main thread holds
_pending = False
_previous: Any = None


def install() -> None:
    """Guard SIGINT, if this is the main thread and the program has a Python handler for it."""
    global _previous, _main
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and callable(handler) and handler is not _on_interrupt:
        _main = get_ident()
        _previous = handler
        signal.signal(signal.SIGINT, _on_interrupt)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _pending
    if _inside:
        _pending = True
    else:
        _previous(number, frame)


class GuardedLock:
    """A lock (not reentrant); `with` it, or `acquire(blocking=False)` and `release`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True) -> bool:
        global _inside
        main = get_ident() == _main
        if main:
            _inside += 1
        held = self._lock.acquire(blocking)
        if main and not held:
            _leave()
        return held

    def release(self) -> None:
        self._lock.release()
        if get_ident() == _main:
            _leave()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


def _leave() -> None:
    global _inside, _pending
    _inside -= 1
    if _pending and not _inside:
        _pending = False
        _previous(signal.SIGINT, None)
