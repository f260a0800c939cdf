"""`Executor`: what the user holds. Turns calls into tasks; everything else is the broker's."""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from mainstay import mapping
from mainstay.broker import Broker
from mainstay.futures import Future
from mainstay.launch import Launcher, chain
from mainstay.options import Options
from mainstay.scheduler import Task
from mainstay.wire.functions import FunctionTable
from mainstay.wire.payload import dump

T = TypeVar("T")
_live: weakref.WeakSet[Executor] = weakref.WeakSet()
_at_exit = False


class Executor(concurrent.futures.Executor):
    """Workers that stay, behind the standard interface.

    Args:
        max_workers: how many workers (int > 0); None: as many as this process may use cores.
        launcher: "auto", a launcher's name, a list of them to try in order, or a `Launcher`.
        initializer: called with `*initargs` in each worker before its first task.
        start_timeout: seconds in which a launcher must bring a worker before the next is tried.
        retries: how often a task that raised runs again.
        worker_retries: how often a task whose worker died runs again.

    Raises `ValueError` for bad arguments at once; `LaunchError` through the futures when no launcher works.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        launcher: str | Launcher | Sequence[str | Launcher] = "auto",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        preload: Sequence[str] = (),
        start_timeout: float = 120.0,
        retries: int = 0,
        worker_retries: int = 2,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0; given: {max_workers}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable; given: {initializer!r}")
        self._max_workers = max_workers or len(os.sched_getaffinity(0))
        self._options = Options().changed({"retries": retries, "worker_retries": worker_retries})
        self._functions = FunctionTable()
        self._ids = itertools.count(1)
        self._closed = False
        setup: dict[str, Any] = {
            "directory": os.getcwd(),
            "path": list(sys.path),
            "argv": list(sys.argv),
            "preload": tuple(preload),
            "initializer": None,
        }
        if initializer is not None:
            body, buffers = dump((initializer, initargs))
            setup["initializer"] = (body, [bytearray(buffer) for buffer in buffers])
        self._broker = Broker(chain(launcher), self._max_workers, setup, start_timeout, _say)
        self._finalizer = weakref.finalize(self, self._broker.close, False)
        self._finalizer.atexit = False
        _live.add(self)
        _register_at_exit()
        self._broker.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a worker; return its future. See `concurrent.futures.Executor.submit`."""
        return self._submit(self._options, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Yield `fn` over the iterables, in order. See `concurrent.futures.Executor.map` (Python 3.14).

        Args:
            timeout: seconds from this call within which each result must be there, else `TimeoutError`.
            chunksize: items per message (int >= 1); None: as many as the measured run times suggest.
            buffersize: how many items may be taken from the iterables before their results are (int >= 1);
                None: all at once.
        """
        return self._map(self._options, fn, iterables, timeout, chunksize, buffersize)

    def options(self, **given: Any) -> View:
        """Return this pool seen with other task options: `timeout`, `retries`, `worker_retries`, `priority`, `label`.

        The view has `submit`, `map` and `options`; an unknown option raises `TypeError` with the valid ones.
        """
        return View(self, self._options.changed(given))

    def _submit(self, options: Options, fn: Callable[..., T], args: tuple[Any, ...], kwargs: Any) -> Future[T]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        function = self._functions.lookup(fn)
        future: Future[T] = Future()
        future._broker = self._broker
        task = Task(
            next(self._ids),
            function.number,
            dump((args, kwargs, options.label or function.name)),
            future,
            options.label,
            options.priority,
            options.timeout,
            options.retries,
            options.worker_retries,
        )
        self._broker.submit(task, function)
        return future

    def _map(
        self,
        options: Options,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
    ) -> Iterator[T]:
        mapping.check(timeout, chunksize, buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout

        def submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
            return self._submit(options, fn, args, {})

        if buffersize is not None:
            items: Iterator[Any] = zip(*iterables, strict=False)
            return mapping.buffered(submit, fn, items, buffersize, deadline)
        if options.timeout is not None or options.retries:
            chunksize = chunksize or 1  # these hold for an item, not for a chunk
        self._functions.lookup(fn)  # what cannot be pickled is told now
        chunks = mapping.Chunks(submit, fn, mapping.columns(iterables), self._max_workers, chunksize)
        return chunks.results(deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when all are done. See `concurrent.futures.Executor.shutdown`."""
        self._closed = True
        self._finalizer.detach()
        self._broker.close(cancel_futures)
        if wait:
            self._broker.join()


class View(concurrent.futures.Executor):
    """A pool seen with other task options; itself an executor. It ends with the pool that it shows."""

    def __init__(self, executor: Executor, options: Options) -> None:
        self._executor, self._options = executor, options

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As `Executor.submit`, with this view's options."""
        return self._executor._submit(self._options, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As `Executor.map`, with this view's options."""
        return self._executor._map(self._options, fn, iterables, timeout, chunksize, buffersize)

    def options(self, **given: Any) -> View:
        """Return a further view, with these options changed."""
        return View(self._executor, self._options.changed(given))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the pool is shut down by its own executor."""


def _say(line: str) -> None:
    print(f"mainstay: {line}", file=sys.stderr)


def _register_at_exit() -> None:
    global _at_exit
    if not _at_exit:
        _at_exit = True
        atexit.register(_close_all)


def _close_all() -> None:
    for executor in list(_live):
        executor.shutdown()
