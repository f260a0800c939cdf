"""What can be asked of a pool that stands, and how its size is changed."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

from mainstay.broker import Broker
from mainstay.calls import Calls
from mainstay.reactor import nothing
from mainstay.report import Description, WorkerInfo
from mainstay.resizing import Resizing
from mainstay.shrinking import Shrunk, Which
from mainstay.timeline import Span

T = TypeVar("T")


class Pool(Calls):
    """The pool behind an `Executor`."""

    _broker: Broker
    _max_workers: int
    _closed: bool

    @property
    def size(self) -> int:
        """How many workers the pool has or, before any stands, expects."""
        return len(self._broker.roster.workers) or self._max_workers

    @property
    def is_broken(self) -> bool:
        """Whether the pool can run nothing more: no launcher works, or the initializer failed."""
        return self._broker.broken is not None

    @property
    def workers(self) -> list[WorkerInfo]:
        """The workers that stand or are starting, with what each does now."""
        with self._broker.lock:
            return self._broker.roster.infos(self._broker.scheduler.workers)

    @property
    def timeline(self) -> list[Span]:
        """What ran when and where, as the workers report it, in the order in which it ended; see `Span`."""
        return list(self._broker.timeline)

    def grow(
        self, n: int | None = None, *, allocate: Sequence[str] | None = None, timeout: float | None = None
    ) -> concurrent.futures.Future[list[WorkerInfo]]:
        """Let `n` workers more come: to idle cores where agents stand, else to hosts of the allocation that are not
        used, else to a further Slurm job.

        Args:
            n: how many (int >= 1); None, with `allocate`: as many as there is room for in that job.
            allocate: flags of `salloc` that ask for the further job, as `["--nodes=2", "--time=1:00:00"]`. It ends
                when the last of its workers has left, and with the pool.
            timeout: seconds for all of them to stand; None: `start_timeout`.

        Returns a future of the new workers. It raises `GrowError` when not all came in time, with the reason, such as
        the state of the job, which is cancelled then; those that came stay. Raises `ValueError` where there is no room.
        """
        return self._resize(lambda resizing: resizing.grow(n, allocate, timeout))

    def shrink(self, which: int | Which, *, now: bool = False) -> concurrent.futures.Future[Shrunk]:
        """Let workers leave, each when it has done what it has begun; a node with no worker left is given back.

        Args:
            which: how many (int >= 1); or which: a worker of `workers`, or several, also by their ids or by (namespace,
                rank). Of a number, those go first that idle, and that are all on their node.
            now: whether they end at once; what they run then runs again elsewhere.

        Returns a future of what was done (see `Shrunk`). A further job ends when the last of its workers has left. This
        program's own job is made smaller, but for its first node and this program's. Raises `ValueError` for workers
        that there are not, or where none would be left.
        """
        return self._resize(lambda resizing: resizing.shrink(which, now))

    def _resize(self, change: Callable[[Resizing], concurrent.futures.Future[T]]) -> concurrent.futures.Future[T]:
        if self._closed:
            raise RuntimeError("cannot grow or shrink after shutdown")
        with self._broker.lock:
            future = change(self._broker.resizing)
        self._broker.post(nothing)  # deadlines may have come nearer
        return future

    def describe(self) -> Description:
        """Return which launcher was chosen, why not those before it, and how many workers stand where."""
        with self._broker.lock:
            return self._broker.muster.describe()

    def wait_ready(self, n: int | None = None, timeout: float | None = None) -> Description:
        """Wait until `n` workers stand (None: all), for at most `timeout` seconds (None: without an end of its own).

        Returns `describe()`. Raises `LaunchError` when no launcher brings workers, `TimeoutError` when fewer
        than `n` stand in time, `ValueError` for an `n` that the pool will never have.
        """
        most = max(self._broker.launches.wanted or 0, self._broker.scheduler.gangs.ceiling)
        if n is not None and not 0 < n <= (most or n):
            raise ValueError(f"n must be from 1 to max_workers={most}; given: {n}")
        return self._broker.muster.wait_ready(n, timeout)
