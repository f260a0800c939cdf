"""The stdlib's Future, made cheap, whose waiter does the pool's I/O itself for the first moment.

A stdlib future makes a condition (a lock, a deque, eight objects in all) when it is born; of a hundred thousand
queued calls hardly one is ever waited for. Here the condition is made when somebody first wants it. Until then a
future's state changes under `_newborn`, one lock for all futures, which is also held while a condition is made:
so every change either comes before the condition, and whoever made it sees the new state, or finds it, and goes
the stdlib's way.
"""

from __future__ import annotations

import concurrent.futures
import threading
from functools import partial
from typing import Any, TypeVar

from mainstay.broker import Broker

T = TypeVar("T")
PENDING, RUNNING, FINISHED = "PENDING", "RUNNING", "FINISHED"  # as in the stdlib
_newborn = threading.Lock()
_RLock: Any = type(threading.RLock())


class Condition(_RLock):  # type: ignore[misc]
    """A condition that Ctrl-C cannot leave locked.

    `threading.Condition.__enter__` is a function in Python: an interrupt between its taking the lock and the first
    line of the `with` block leaves the lock taken for ever, and whoever sets the future's result hangs. Here
    `with` goes straight to the lock's own methods, which are in C.
    """

    def __init__(self) -> None:
        inner = threading.Condition(self)
        self.wait, self.notify, self.notify_all = inner.wait, inner.notify, inner.notify_all


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future`; a short wait in `result` or `exception` costs no switch of threads.

    Callbacks run in the broker's thread, as the stdlib's process pool runs them in its manager's: the thread
    that happens to receive a result may hold a lock that the callback wants.
    """

    _done_callbacks: list[Any]
    unlike: tuple[str, ...] = ()  # what a worker has otherwise than this process: the journal does not keep the result

    def __init__(self, broker: Broker, function: int) -> None:
        self._broker, self._function = broker, function
        self._state = PENDING
        self._result = self._exception = None
        self._made: Condition | None = None

    # -- what the stdlib's methods use, made on demand

    @property
    def _condition(self) -> Condition:  # type: ignore[override]
        if self._made is None:
            with _newborn:
                if self._made is None:
                    self._waiters: list[Any] = []
                    self._done_callbacks = []
                    self._made = Condition()
        return self._made

    # -- what happens to most futures, without a condition

    def done(self) -> bool:
        return self._state == FINISHED or (self._made is not None and super().done())

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self._broker.drive(self, self._function)
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            self._broker.drive(self, self._function)
        return super().exception(timeout)

    def set_running_or_notify_cancel(self) -> bool:
        with _newborn:
            if self._made is None:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        with _newborn:
            if self._made is None:
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks and not self._broker.hand_over(self._invoke_callbacks):
            for (
                callback
            ) in self._done_callbacks:  # each by itself: what one raises is not to keep the next from its turn
                self._broker.call_back(partial(callback, self))
