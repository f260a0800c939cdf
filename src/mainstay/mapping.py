"""`map`: many cheap items in few messages.

    items ─▶ chunks (their size follows the measured run time) ─▶ tasks ─▶ results, in order

A chunk's task returns the results that it has and, if one raised, the exception after them, so that every item
before it is delivered as in the builtin `map`. A chunk of several that loses its worker too often is run again
item by item: only the item that is to blame fails.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from mainstay.errors import PoolBroken, WorkerDied
from mainstay.node import context
from mainstay.node.worker import describe_error
from mainstay.outcomes import rebuild_error

TARGET = 0.004  # seconds of work in one chunk
GROWTH = 16  # a chunk is at most so many times as large as the one it was measured on
LARGEST = 5000  # items in one chunk
AHEAD = 8  # chunks under way for each worker; more follow when half of them are done

Item = tuple[Any, ...]
Submit = Callable[..., "Future[Any]"]
Progress = Callable[[int, "int | None"], object]


class Pace:
    """What one item of a function takes (s), as measured last; None before. Kept from one map to the next."""

    each: float | None = None

    def chunk(self) -> int:
        """Return how many items make a chunk of `TARGET` seconds; 1 if that is not known."""
        return 1 if self.each is None else max(1, min(LARGEST, int(TARGET / max(self.each, 1e-8))))


class ChunkResult:
    """What became of a chunk: results in order, then the exception that ended it, if any; and its run time."""

    __slots__ = ("error", "results", "seconds")

    def __init__(self, results: list[Any], error: tuple[bytes, str] | None, seconds: float) -> None:
        self.results, self.error, self.seconds = results, error, seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkResult, (self.results, self.error, self.seconds)


def run_chunk(fn: Callable[..., Any], columns: list[tuple[Any, ...]]) -> ChunkResult:
    """Runs on the worker: `fn` over the items, given as the tuples of first arguments, of second, …"""
    results: list[Any] = []
    started = time.perf_counter()
    error = None
    try:
        results.extend(map(fn, *columns))
    except BaseException as raised:
        error = describe_error(raised), context.task().worker
    return ChunkResult(results, error, time.perf_counter() - started)


class Chunks:
    """Feeds the chunks of one `map` and hands their results out in order.

    Chunks are submitted from the caller's thread and, as they finish, from the thread that delivers results,
    so the work goes on whether or not anyone iterates.
    """

    def __init__(
        self,
        submit: Submit,
        fn: Callable[..., Any],
        items: list[Item],
        workers: int,
        size: int | None,
        pace: Pace,
    ) -> None:
        self._submit, self._fn, self._items, self._workers, self._fixed = submit, fn, items, workers, size
        self._at = 0
        self._pace = pace
        self._size = size or pace.chunk()
        self._under_way = 0
        self._lock = threading.Lock()
        self._slots: deque[_Slot] = deque()
        self._more = threading.Condition(self._lock)
        self._stopped = False
        self._error: Exception | None = None
        self._feed()

    def _feed(self) -> None:
        while True:
            with self._lock:
                if self._stopped or self._at >= len(self._items):
                    return
                if self._fixed is None and self._under_way >= AHEAD * self._workers:
                    return
                slot = self._next_slot()
            slot.future = self._submit(run_chunk, self._fn, list(zip(*slot.items, strict=True)))
            with self._lock:
                self._more.notify_all()
            slot.future.add_done_callback(lambda future, slot=slot: self._finished(slot, future))  # type: ignore[misc]

    def _next_slot(self) -> _Slot:
        left = len(self._items) - self._at
        size = self._size if self._fixed else min(self._size, max(1, left // (2 * self._workers)))
        slot = _Slot(self._items[self._at : self._at + size])
        self._at += len(slot.items)
        self._under_way += 1
        self._slots.append(slot)
        return slot

    def _finished(self, slot: _Slot, future: Future[Any]) -> None:
        with self._lock:
            self._under_way -= 1
            if self._fixed is None and not future.cancelled():
                self._adapt(slot, future)
            if 2 * self._under_way > AHEAD * self._workers:
                return
        try:
            self._feed()
        except RuntimeError as error:  # the pool was closed with `cancel_futures`, or broke
            with self._lock:
                self._slots = deque(slot for slot in self._slots if slot.future is not None)  # the rest has no turn
                self._stopped = True
                self._error = error if isinstance(error, PoolBroken) else CancelledError()
                self._more.notify_all()

    def _adapt(self, slot: _Slot, future: Future[Any]) -> None:
        if future.exception() is None:
            chunk: ChunkResult = future.result()
            self._pace.each = chunk.seconds / max(1, len(chunk.results))
            self._size = min(self._pace.chunk(), GROWTH * len(slot.items))

    def results(self, deadline: float | None) -> Iterator[Any]:
        """Yield the items' results in order; raises what an item raised, or `TimeoutError`."""
        try:
            while (slot := self._next_result()) is not None:
                yield from self._of_slot(slot, deadline)
        finally:
            self._stop()

    def _next_result(self) -> _Slot | None:
        with self._lock:
            while True:
                if self._slots and self._slots[0].future is not None:
                    return self._slots.popleft()
                if not self._slots and self._error is not None:
                    raise self._error
                if not self._slots and (self._at >= len(self._items) or self._stopped):
                    return None
                self._more.wait(1.0)

    def _of_slot(self, slot: _Slot, deadline: float | None) -> Iterator[Any]:
        assert slot.future is not None
        try:
            chunk: ChunkResult = slot.future.result(_left(deadline))
        except WorkerDied:
            if len(slot.items) == 1:
                raise
            yield from self._one_by_one(slot.items, deadline)
            return
        results = chunk.results
        slot.future = None
        results.reverse()
        while results:
            yield results.pop()  # nothing that was handed out is kept
        if chunk.error is not None:
            description, worker = chunk.error
            host, _, number = worker.rpartition("/")
            raise rebuild_error(description, host, number)

    def _one_by_one(self, items: list[Item], deadline: float | None) -> Iterator[Any]:
        futures = deque(self._submit(self._fn, *item) for item in items)
        while futures:
            yield futures.popleft().result(_left(deadline))

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            slots = list(self._slots)
        for slot in slots:
            if slot.future is not None:
                slot.future.cancel()


class _Slot:
    """A chunk's place in the order."""

    __slots__ = ("future", "items")

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.future: Future[Any] | None = None


def buffered(
    submit: Submit, fn: Callable[..., Any], items: Iterator[Item], size: int, deadline: float | None
) -> Iterator[Any]:
    """Yield results in order, with at most `size` items taken from the input and not yet handed out."""
    futures = deque(submit(fn, *item) for item in itertools.islice(items, size))

    def results() -> Iterator[Any]:
        try:
            while futures:
                result = futures.popleft().result(_left(deadline))
                futures.extend(submit(fn, *item) for item in itertools.islice(items, 1))
                yield result
        finally:
            for future in futures:
                future.cancel()

    return results()


def watched(results: Iterator[Any], total: int | None, progress: Progress | None) -> Iterator[Any]:
    """Return the results, and tell `progress` of each."""
    return results if progress is None else _told(results, total, progress)


def _told(results: Iterator[Any], total: int | None, progress: Progress) -> Iterator[Any]:
    for done, result in enumerate(results, 1):
        progress(done, total)
        yield result


def check(timeout: float | None, chunksize: int | None, buffersize: int | None) -> None:
    """Raise `TypeError` or `ValueError` for what `map` does not take, as the standard library does."""
    if chunksize is not None and chunksize < 1:
        raise ValueError(f"chunksize must be >= 1; given: {chunksize}")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def rows(iterables: tuple[Iterable[Any], ...]) -> list[Item]:
    """Return the items of the iterables, side by side."""
    return list(zip(*iterables, strict=False))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
