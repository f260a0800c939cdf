"""What a pool is given: checked, and put together for its nodes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mainstay import preloading, turns
from mainstay.elastic import Elastic
from mainstay.launches import Log
from mainstay.wire.payload import dump

JOURNAL_SYNCS = ("group", "each")


def check_workers(max_workers: int | None, initializer: object) -> None:
    """Raise `TypeError` or `ValueError` for a number of workers that cannot be, or what cannot be called."""
    if max_workers is not None and not isinstance(max_workers, int):
        raise TypeError(f"max_workers must be None or an int; given: {max_workers!r}")
    if max_workers is not None and max_workers <= 0:
        raise ValueError(f"max_workers must be greater than 0; given: {max_workers}")
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a callable; given: {initializer!r}")


def check_times(start_timeout: float, node_timeout: float, drain: float) -> None:
    """Raise `ValueError` for times (s) that cannot be."""
    if not start_timeout > 0:
        raise ValueError(f"start_timeout must be a number of seconds > 0; given: {start_timeout!r}")
    if not node_timeout >= 1:
        raise ValueError(f"node_timeout must be a number of seconds >= 1; given: {node_timeout!r}")
    if not drain >= 0:
        raise ValueError(f"drain must be a number of seconds >= 0; given: {drain!r}")


def check_journal(journal: object, journal_sync: str, requeue: bool) -> None:
    """Raise `ValueError` for what does not go together."""
    if requeue and journal is None:
        raise ValueError("requeue=True wants a journal=, or the job would begin anew each time")
    if journal_sync not in JOURNAL_SYNCS:
        raise ValueError(f"journal_sync must be 'group' or 'each'; given: {journal_sync!r}")


def check_scratch(scratch: str | os.PathLike[str] | None) -> None:
    """Raise `ValueError` for a directory that is not told from the root."""
    if scratch is not None and not os.fspath(scratch).startswith(("/", "$", "~")):
        raise ValueError(f"scratch must be None or an absolute path of a directory; given: {scratch!r}")


def elastic(
    min_workers: int | None, max_workers: int | None, idle_timeout: float | None, allocate: Sequence[str] | None
) -> Elastic | None:
    """Return the policy of a pool that grows and shrinks by load; None for one that does not. Raises `ValueError`."""
    if min_workers is None and idle_timeout is None:
        if allocate is not None:
            raise ValueError("allocate= is for a pool that grows by load: give it min_workers= or idle_timeout= too")
        return None
    least, idle = 1 if min_workers is None else min_workers, 60.0 if idle_timeout is None else idle_timeout
    if max_workers is None:
        raise ValueError("a pool that grows by load wants max_workers=: how many workers it may have at the most")
    _check_flags(allocate)
    if not 1 <= least <= max_workers:
        raise ValueError(f"min_workers must be from 1 to max_workers={max_workers}; given: {min_workers}")
    if not idle > 0:
        raise ValueError(f"idle_timeout must be a number of seconds > 0; given: {idle_timeout!r}")
    return Elastic(least, max_workers, idle)


def check_growth(count: int | None, allocate: Sequence[str] | None, timeout: float | None) -> None:
    """Raise `TypeError` or `ValueError` for what `Executor.grow` cannot do."""
    if count is None and allocate is None:
        raise ValueError("grow(): say how many workers, as grow(4), or how to ask for a job, as grow(allocate=[...])")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise ValueError(f"grow({count!r}): how many workers must be an int >= 1")
    _check_flags(allocate)
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise ValueError(f"timeout must be None or a number of seconds > 0; given: {timeout!r}")


def _check_flags(allocate: object) -> None:
    is_list = isinstance(allocate, (list, tuple)) and all(isinstance(flag, str) for flag in allocate)
    if allocate is not None and not (is_list and allocate):
        raise TypeError(f"allocate must be a list of flags of salloc, as ['--nodes=2']; given: {allocate!r}")


def setup(
    own: Sequence[str],
    preload: str | Sequence[str],
    stagger: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    scratch: str | os.PathLike[str] | None,
    node_timeout: float,
    mpi: bool | str,
    timeline: bool,
) -> dict[str, Any]:
    """Return what each node is told, so that its workers look like this process.

    `own` are modules of Mainstay that its workers will need; `preload` and `stagger` are checked.
    """
    return {
        "directory": os.getcwd(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "own": tuple(own),
        "learns": preloading.checked(preload) == preloading.AUTO,
        "stagger": turns.checked(stagger),
        "initializer": None if initializer is None else _detached((initializer, initargs)),
        "scratch": None if scratch is None else os.fspath(scratch),
        "node_timeout": node_timeout,
        "mpi": _checked_mpi(mpi),
        "timeline": timeline,
    }


def _checked_mpi(mpi: bool | str) -> bool | str:
    if mpi not in ("auto", True, False):
        raise ValueError(f"mpi must be 'auto', True or False; given: {mpi!r}")
    return mpi


def _detached(obj: object) -> tuple[bytes, list[bytearray]]:
    """Return a payload with arrays of its own: it is sent whenever a node comes."""
    body, buffers = dump(obj)
    return body, [bytearray(buffer) for buffer in buffers]


def logger(log: Callable[[str], object] | None) -> Log:
    """Return what lines are told to, with their levels; raise `TypeError` for what cannot be called."""
    if log is None:
        return logging.getLogger("mainstay").log
    if not callable(log):
        raise TypeError(f"log must be None (the logger 'mainstay') or a callable that takes a str; given: {log!r}")

    def say(level: int, line: str) -> None:
        log(line)

    return say
