"""`map`: many cheap items in few messages.

    items ─▶ chunks (their size follows the measured run time) ─▶ tasks ─▶ results, in order

A chunk's task returns the results that it has and, if one raised, the exception after them, so that every item
before it is delivered as in the builtin `map`. A chunk of several that loses its worker too often is run again
item by item: only the item that is to blame fails.
"""

from __future__ import annotations

import itertools
import pickle
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
from mainstay.wire.payload import dump
from mainstay.wire.snapshot import copied, frozen, lasting

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
    """What became of a chunk: results in order; the exception that ended it, if any, as `describe_error` wrote it;
    its run time (s); and the worker's name."""

    __slots__ = ("error", "results", "seconds", "worker")

    def __init__(self, results: list[Any], error: bytes | None, seconds: float, worker: str) -> None:
        self.results, self.error, self.seconds, self.worker = results, error, seconds, worker

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkResult, (self.results, self.error, self.seconds, self.worker)


def run_chunk(fn: Callable[..., Any], columns: list[tuple[Any, ...]]) -> ChunkResult:
    """Runs on the worker: `fn` over the items, given as the tuples of first arguments, of second, …"""
    return _ended(_lasting(map(fn, *columns), len(columns[0])))


def run_kept(fn: Callable[..., Any], columns: list[tuple[Any, ...]]) -> ChunkResult:
    """As `run_chunk`, for a journal: a result is `(pickle, its buffers, run time in s)`."""
    return _ended(_pickled(fn, columns))


def _ended(items: Iterator[Any]) -> ChunkResult:
    results: list[Any] = []
    started = time.perf_counter()
    error = None
    try:
        results.extend(items)
    except BaseException as raised:
        error = describe_error(raised)
    return ChunkResult(results, error, time.perf_counter() - started, context.task().worker)


def _lasting(results: Iterator[Any], left: int) -> Iterator[Any]:
    """Yield so many results, each as it was returned; after the last, nobody writes before it is sent."""
    for result in results:
        left -= 1
        yield result if not left or type(result) in frozen else lasting(result)
        del result  # or it would be counted as held


def _pickled(fn: Callable[..., Any], columns: list[tuple[Any, ...]]) -> Iterator[Any]:
    last = len(columns[0]) - 1
    for number, item in enumerate(zip(*columns, strict=True)):
        started = time.perf_counter()
        result = fn(*item)
        seconds = time.perf_counter() - started
        body, buffers = dump(result)
        if number < last:  # the next item may write into the same array; each result is kept under its own arguments
            buffers = copied(buffers)
        yield body, [pickle.PickleBuffer(buffer) for buffer in buffers], seconds


class Chunks:
    """Feeds the chunks of one `map` and hands their results out in order.

    Chunks are submitted from the caller's thread and, as they finish, from the thread that delivers results,
    so the work goes on whether or not anyone iterates. `run` is what a worker does with a chunk.
    """

    run = staticmethod(run_chunk)

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
        self._slots: deque[Slot] = deque()
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
            slot.future = self._submit(self.run, self._fn, list(zip(*slot.items, strict=True)))
            with self._lock:
                self._more.notify_all()
            slot.future.add_done_callback(lambda future, slot=slot: self._finished(slot, future))  # type: ignore[misc]

    def _next_slot(self) -> Slot:
        left = len(self._items) - self._at
        size = self._size if self._fixed else min(self._size, max(1, left // (2 * self._workers)))
        slot = Slot(self._at, self._items[self._at : self._at + size])
        self._at += len(slot.items)
        self._under_way += 1
        self._slots.append(slot)
        return slot

    def _finished(self, slot: Slot, future: Future[Any]) -> None:
        if not future.cancelled():
            error = future.exception()
            if error is None:
                self._take_in(slot, future.result())
            else:
                self.failed(slot, error)
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

    def _adapt(self, slot: Slot, future: Future[Any]) -> None:
        if future.exception() is None:
            chunk: ChunkResult = future.result()
            self._pace.each = chunk.seconds / len(slot.items)  # its results may have been handed out
            self._size = min(self._pace.chunk(), GROWTH * len(slot.items))

    def _take_in(self, slot: Slot, chunk: ChunkResult) -> None:
        """Call `received` before anything of the chunk is handed out, in whichever thread comes first."""
        with self._lock:
            if not slot.received:
                slot.received = True
                self.received(slot, chunk)

    def received(self, slot: Slot, chunk: ChunkResult) -> None:
        """Called once for each chunk that came back, with all its results."""

    def failed(self, slot: Slot, error: BaseException) -> None:
        """Called once for each chunk that did not come back."""

    def value(self, number: int, result: Any) -> Any:
        """Return what the caller gets for a result of item `number`."""
        return result

    def alone(self, number: int, item: Item) -> Future[Any]:
        """Run one item of a chunk that lost its worker."""
        return self._submit(self._fn, *item)

    def results(self, deadline: float | None) -> Iterator[Any]:
        """Yield the items' results in order; raises what an item raised, or `TimeoutError`."""
        try:
            while (slot := self._next_result()) is not None:
                yield from self._of_slot(slot, deadline)
        finally:
            self._stop()

    def _next_result(self) -> Slot | None:
        with self._lock:
            while True:
                if self._slots and self._slots[0].future is not None:
                    return self._slots.popleft()
                if not self._slots and self._error is not None:
                    raise self._error
                if not self._slots and (self._at >= len(self._items) or self._stopped):
                    return None
                self._more.wait(1.0)

    def _of_slot(self, slot: Slot, deadline: float | None) -> Iterator[Any]:
        assert slot.future is not None
        try:
            chunk: ChunkResult = slot.future.result(_left(deadline))
        except WorkerDied:
            if len(slot.items) == 1:
                raise
            yield from self._one_by_one(slot, deadline)
            return
        self._take_in(slot, chunk)
        results = chunk.results
        slot.future = None
        results.reverse()
        number = slot.start
        while results:
            yield self.value(number, results.pop())  # nothing that was handed out is kept
            number += 1
        if chunk.error is not None:
            host, _, worker = chunk.worker.rpartition("/")
            raise rebuild_error(chunk.error, host, worker)

    def _one_by_one(self, slot: Slot, deadline: float | None) -> Iterator[Any]:
        futures = deque(self.alone(number, item) for number, item in enumerate(slot.items, slot.start))
        while futures:
            yield futures.popleft().result(_left(deadline))

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            slots = list(self._slots)
        for slot in slots:
            if slot.future is not None:
                slot.future.cancel()


class Slot:
    """A chunk's place in the order: the number of its first item, and its items."""

    __slots__ = ("future", "items", "received", "start")

    def __init__(self, start: int, items: list[Item]) -> None:
        self.start, self.items = start, items
        self.future: Future[Any] | None = None
        self.received = False


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
