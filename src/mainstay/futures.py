"""The stdlib's Future, whose waiter does the pool's I/O itself for the first moment."""

from __future__ import annotations

import concurrent.futures
from typing import Any, TypeVar

from mainstay.broker import Broker

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future`; a short wait in `result` or `exception` costs no switch of threads.

    Callbacks run in the broker's thread, as the stdlib's process pool runs them in its manager's: the thread
    that happens to receive a result may hold a lock that the callback wants.
    """

    _done_callbacks: list[Any]

    def __init__(self, broker: Broker, function: int) -> None:
        super().__init__()
        self._broker, self._function = broker, function

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self._broker.drive(self, self._function)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            self._broker.drive(self, self._function)
        return super().exception(timeout)

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks and not self._broker.hand_over(self._invoke_callbacks):
            super()._invoke_callbacks()  # type: ignore[misc]
