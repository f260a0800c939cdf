"""A pool that grows and shrinks: when it is told to, and by load.

Executor.grow, .shrink ─▶ once the pool stands ─┬─▶ Growing
what waits, who idles ─▶ Elastic ───────────────┴─▶ Shrinking
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from mainstay import settings
from mainstay.elastic import Elastic, Load
from mainstay.errors import GrowError, PoolBroken
from mainstay.growing import Growing, NoRoom
from mainstay.launch import Launcher
from mainstay.launch.salloc import Salloc
from mainstay.launches import Log, Post
from mainstay.peers import WorkerState
from mainstay.report import WorkerInfo
from mainstay.shrinking import Pool, Shrinking, Shrunk, Which

T = TypeVar("T")
now = time.monotonic


class Resizing:
    """Grows and shrinks a pool. All methods want its lock held.

    Args:
        post: runs a call in the broker's thread, under the lock.
        later: runs a call there without the lock: futures have callbacks.
    """

    def __init__(self, pool: Pool, post: Post, later: Callable[[Callable[[], object]], None], log: Log) -> None:
        self._pool, self._later, self._log = pool, later, log
        self.growing = Growing(pool, later, self._growth_over)
        self.shrinking = Shrinking(pool, post, later, log)
        self.elastic: Elastic | None = None
        self._reserve: Launcher | None = None  # where an elastic pool's further workers come from
        self._closed: BaseException | None = None
        self._stands = self._waited = False
        self._waiting: list[tuple[Callable[[], Future[Any]], Future[Any]]] = []  # for the pool to stand
        self._look_at: float | None = None

    def follow_load(self, elastic: Elastic, allocate: Sequence[str] | None) -> None:
        """Grow and shrink by load from now on; `allocate` says how to ask for a job where there is no room for more."""
        self.elastic, self._reserve = elastic, None if allocate is None else Salloc(allocate)
        self._pool.scheduler.gangs.ceiling = elastic.most

    def grow(
        self, count: int | None, allocate: Sequence[str] | None, timeout: float | None
    ) -> Future[list[WorkerInfo]]:
        """See `Executor.grow`."""
        settings.check_growth(count, allocate, timeout)
        wanted, most = self._pool.launches.wanted, self._pool.scheduler.gangs.ceiling
        if count is not None and most and (wanted or 0) + count > most:
            raise ValueError(f"grow({count}): the pool has {wanted} workers, and max_workers={most}")
        launcher = None if allocate is None else Salloc(allocate)
        patience = self._pool.launches.start_timeout if timeout is None else timeout
        return self._when_it_stands(lambda: self.growing.grow(count, launcher, patience))

    def shrink(self, which: int | Which, at_once: bool) -> Future[Shrunk]:
        """See `Executor.shrink`."""
        least = 1 if self.elastic is None else self.elastic.least
        return self._when_it_stands(lambda: self.shrinking.shrink(which, at_once, least))

    def _when_it_stands(self, change: Callable[[], Future[T]]) -> Future[T]:
        """Grow or shrink, now or as soon as the pool stands; what is wrong is raised, or told by the future."""
        if self._closed is not None:
            raise self._closed
        if self._stands:
            return change()
        promised: Future[T] = Future()
        promised.set_running_or_notify_cancel()
        self._waiting.append((change, promised))
        return promised

    def stands(self) -> None:
        """The pool stands as far as it will at its start."""
        self._stands = True
        waiting, self._waiting = self._waiting, []
        for change, promised in waiting:
            try:
                change().add_done_callback(partial(_hand_on, promised))
            except ValueError as error:
                self._later(partial(promised.set_exception, error))

    def left(self, worker: WorkerState) -> None:
        """A worker has ended; where no other takes its place, there is room for one."""
        if worker.is_leaving or worker.agent not in self._pool.roster.agents:
            self._pool.scheduler.gangs.is_full = False
        self.shrinking.left(worker)
        self.growing.look()

    def _growth_over(self, has_grown: bool) -> None:
        self._pool.scheduler.gangs.is_stuck = not has_grown
        if not has_grown:
            self._could_not_grow()

    def _could_not_grow(self) -> None:
        if self.elastic is not None:
            self.elastic.could_not_grow(now())

    # -- by load, and by time

    @property
    def lags(self) -> bool:
        """Whether tasks wait now, or no longer, and the pool has not been looked at since."""
        return self.elastic is not None and self._stands and (self._pool.scheduler.demand > 0) != self._waited

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        if self.lags:
            return 0.0
        return min((at for at in (self._look_at, self.growing.next_deadline()) if at is not None), default=None)

    def tick(self, time_now: float) -> None:
        self.growing.tick(time_now)
        is_due = self._look_at is not None and self._look_at <= time_now
        if self.elastic is not None and self._stands and (self.lags or is_due):
            self._waited = self._pool.scheduler.demand > 0
            self._follow_load(self.elastic, time_now)

    def _follow_load(self, elastic: Elastic, time_now: float) -> None:
        scheduler, staying = self._pool.scheduler, self._staying()
        coming = self.growing.coming
        starting = sum(worker.number not in scheduler.workers for worker in staying) + coming
        idle = {one.id: one.since for one in scheduler.workers.values() if one.idle}
        load = Load(len(staying) + coming, starting, scheduler.demand, idle)
        change = elastic.look(load, time_now)
        if change.more:
            self._grow_by_load(change.more)
        elif change.fewer:
            idlers = [worker for worker in staying if worker.number in change.idlers]
            self.shrinking.take(self.shrinking.choose_among(change.fewer, idlers, set()), at_once=False)
        self._look_at = elastic.next_look(load, time_now)

    def _grow_by_load(self, count: int) -> None:
        """Let so many come, or as many as there is room for."""
        try:
            growth = self.growing.grow(count, self._reserve, self._pool.launches.start_timeout)
        except NoRoom as error:
            if error.most:
                self._grow_by_load(error.most)
                return
            self._pool.scheduler.gangs.is_full = not self.growing.under_way
            self._could_not_grow()
            self._log(logging.INFO, f"the pool could be larger, but cannot be: {error}")
        else:
            self._pool.scheduler.gangs.is_full = False
            growth.add_done_callback(self._grown_by_load)

    def _grown_by_load(self, growth: Future[list[WorkerInfo]]) -> None:
        error = growth.exception()
        if isinstance(error, GrowError):
            self._log(logging.WARNING, f"the pool could not grow, and tries again later: {error}")

    def _staying(self) -> list[WorkerState]:
        return [worker for worker in self._pool.roster.workers.values() if not worker.is_leaving]

    def close(self, error: BaseException | None = None) -> None:
        """The pool has ended, or broken down: nobody will come any more, and all are gone."""
        told = self._closed = error or PoolBroken("the pool was closed")
        futures: list[Future[Any]] = [future for _, future in self._waiting]
        futures += [growth.future for growth in self.growing.under_way]
        futures += [leaving.future for leaving in self.shrinking.under_way]
        for future in futures:
            self._later(partial(future.set_exception, told))
        self._waiting, self.growing.under_way, self.shrinking.under_way = [], [], []


def _hand_on(promised: Future[T], done: Future[T]) -> None:
    error = done.exception()
    if error is None:
        promised.set_result(done.result())
    else:
        promised.set_exception(error)
