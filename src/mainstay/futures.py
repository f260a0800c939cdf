"""The stdlib's Future, whose waiter does the pool's I/O itself for the first moment."""

from __future__ import annotations

import concurrent.futures
from typing import Any, TypeVar

from mainstay.broker import Broker

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future`; a short wait in `result` or `exception` costs no switch of threads."""

    _broker: Broker | None = None

    def result(self, timeout: float | None = None) -> T:
        if self._broker is not None and not self.done():
            self._broker.drive(self)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._broker is not None and not self.done():
            self._broker.drive(self)
        return super().exception(timeout)

    def set_result(self, result: T) -> None:
        self._broker = None
        super().set_result(result)

    def set_exception(self, exception: Any) -> None:
        self._broker = None
        super().set_exception(exception)
