"""How calls are made: the same for a pool, and for a view of it with other task options."""

from __future__ import annotations

import concurrent.futures
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mainstay import mapping
from mainstay.contents import executable
from mainstay.node.program import Completed, Program, run_program
from mainstay.options import Options

T = TypeVar("T")


class Pool(Protocol):
    """What calls are made to."""

    def _submit(
        self, options: Options, fn: Callable[..., T], args: tuple[Any, ...], kwargs: Any
    ) -> concurrent.futures.Future[T]: ...

    def _map(
        self,
        options: Options,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        progress: mapping.Progress | None,
    ) -> Iterator[T]: ...


class Calls(concurrent.futures.Executor):
    """What has a pool and task options."""

    _options: Options

    @property
    @abstractmethod
    def _pool(self) -> Pool:
        """The pool that calls are made to."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Run `fn(*args, **kwargs)` on a worker; return its future. See `concurrent.futures.Executor.submit`."""
        return self._pool._submit(self._options, fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: mapping.Progress | None = None,
    ) -> Iterator[T]:
        """Yield `fn` over the iterables, in order. See `concurrent.futures.Executor.map` (Python 3.14).

        Args:
            timeout: seconds from this call within which each result must be there, else `TimeoutError`.
            chunksize: items per message (int >= 1); None: as many as the measured run times suggest. Items of one
                message come back together; 1 sends each as soon as it is done.
            buffersize: how many items may be taken from the iterables before their results are (int >= 1);
                None: all at once.
            progress: called as `progress(done, total)` after each result, in the thread that iterates; `total` is
                None when the iterables are taken piece by piece.
        """
        return self._pool._map(self._options, fn, iterables, timeout, chunksize, buffersize, progress)

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        text: bool = True,
        capture: bool = True,
    ) -> concurrent.futures.Future[Completed]:
        """Run a program on a worker, or as MPI ranks in the places of several: `ex.options(ranks=8).run(["./model"])`.

        Args:
            args: its command line. A relative path of the program is looked for where it runs, and then where this
                program is.
            check: whether an exit code other than 0 is an error, so that `retries` holds and the journal knows it.
            input: what it reads on its standard input; None: nothing.
            env: variables that it gets besides the worker's.
            cwd: the directory in which it runs; None: this program's or, with `stage_in` or `stage_out`, the task's own
                on the node's disk (see `mainstay.scratch`), in which staged inputs stand by their names.
            text: whether its output is `str` and not `bytes`.
            capture: whether its output comes with the result; if not, it is shown as the worker's.

        Returns a future of `Completed`: exit code, output, seconds, hosts. It raises `ProgramFailed` for a program that
        failed, with the same in it, and `TaskTimeout` after `timeout` seconds, when all of its processes are killed.
        The journal knows such a call by its command line and what the executable holds; files that it reads count if
        they are in `stage_in`.
        """
        words = tuple(os.fspath(word) for word in args)
        if isinstance(args, (str, bytes)) or not words:
            raise TypeError(f"args must be a list of words, as ['./model', '--in', path]; given: {args!r}")
        if self._options.malleable:
            ranks = self._options.ranks
            raise ValueError(f"malleable= is for generator functions; for a program leave it out: ranks={ranks!r}")
        stages = bool(self._options.stage_in or self._options.stage_out)
        where = None if cwd is None else os.path.abspath(cwd)
        program = Program(words, check, input, env and dict(env), where, text, capture, stages, executable(words[0]))
        options = self._options if self._options.label else self._options.changed({"label": os.path.basename(words[0])})
        return self._pool._submit(options, run_program, (program,), {})

    def options(self, **given: Any) -> View:
        """Return this pool seen with other task options: `timeout`, `retries`, `key`, `stage_in`, … (see `Options`).

        The view has `submit`, `map` and `options`; an unknown option raises `TypeError` with the valid ones.
        """
        return View(self._pool, self._options.changed(given))


class View(Calls):
    """A pool seen with other task options; itself an executor. It ends with the pool that it shows."""

    def __init__(self, pool: Pool, options: Options) -> None:
        self._shown, self._options = pool, options

    @property
    def _pool(self) -> Pool:
        return self._shown

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the pool is shut down by its own executor."""
