"""Growing: new workers where there is room, and further launches where there is none.

idle cores of agents that stand ─▶ hosts that are not used ─▶ a new job ─▶ workers join ─▶ the future
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from mainstay.elastic import Place, idle_cores, placed
from mainstay.errors import GrowError
from mainstay.launch import Launcher, spread
from mainstay.launches import Attempt, Launches
from mainstay.peers import WorkerState
from mainstay.report import WorkerInfo
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler

now = time.monotonic
Later = Callable[[Callable[[], object]], None]


class NoRoom(ValueError):
    """There is room for fewer workers than are to come: for `most`."""

    def __init__(self, told: str, most: int) -> None:
        super().__init__(told)
        self.most = most


class Pool(Protocol):
    """The pool that grows."""

    scheduler: Scheduler
    roster: Roster
    launches: Launches

    def headcount_changed(self) -> None: ...


class Growth:
    """Workers that are to come, and by when: those that agents fork, and those of further launches."""

    def __init__(self, count: int | None, timeout: float) -> None:
        self.count, self.timeout = count, timeout
        self.deadline = now() + timeout
        self.future: Future[list[WorkerInfo]] = Future()
        self.future.set_running_or_notify_cancel()
        self.numbers: set[int] = set()
        self.attempts: list[Attempt] = []
        self.reasons: list[str] = []


class Growing:
    """Lets workers come. All methods want the pool's lock held.

    Args:
        later: runs a call without the lock: futures have callbacks.
        on_over: called at the end of a growth, with whether all have come.
    """

    def __init__(self, pool: Pool, later: Later, on_over: Callable[[bool], None]) -> None:
        self._pool, self._later, self._on_over = pool, later, on_over
        self.under_way: list[Growth] = []

    def grow(self, count: int | None, launcher: Launcher | None, timeout: float) -> Future[list[WorkerInfo]]:
        """Let so many workers more come; raise `NoRoom` where there is none for all (see `Executor.grow`)."""
        more, launches = self._plan(count, launcher)
        growth = Growth(count, timeout)
        self.under_way.append(growth)
        roster = self._pool.roster
        for agent, each in zip(list(roster.agents), more, strict=True):
            if each:
                roster.resize(agent, each)
                growth.numbers.update(roster.enlist(agent, each))
        for launcher, wanted in launches:
            attempt = self._pool.launches.begin_further(launcher, wanted, lambda reason: self._lost(growth, reason))
            growth.attempts.append(attempt)
        self._pool.headcount_changed()
        return growth.future

    def _plan(
        self, count: int | None, launcher: Launcher | None
    ) -> tuple[list[int], list[tuple[Launcher, int | None]]]:
        """Return how many workers each agent gets, and what else is launched, for how many (None: all that it can)."""
        agents, launches = self._pool.roster.agents, list[tuple[Launcher, int | None]]()
        places = [Place(len(agent.workers), agent.cores, agent.room) for agent in agents]
        if count is None:
            assert launcher is not None
            return [0] * len(agents), [(launcher, None)]
        more = spread(idle_cores(places), count)
        left = count - sum(more)
        elsewhere = self._elsewhere() if left else None
        if elsewhere is not None:
            taken = left if elsewhere.most_workers is None else min(left, elsewhere.most_workers)
            launches.append((elsewhere, taken))
            left -= taken
        if left and launcher is not None:
            launches.append((launcher, left))
        elif left:
            more = placed(count - (sum(taken or 0 for _, taken in launches)), places)
            if sum(more) + sum(taken or 0 for _, taken in launches) < count:
                raise self._no_room(count, count - left)
        return more, launches

    def _elsewhere(self) -> Launcher | None:
        """Return what reaches hosts that are not used yet, if anything does."""
        current = self._pool.launches.current
        further = getattr(None if current is None else current.launcher, "further", None)
        used = {agent.host for agent in self._pool.roster.agents}
        under_way = any(growth.attempts for growth in self.under_way)  # its hosts are not known yet
        found: Launcher | None = None if further is None or under_way else further(used)
        return found

    def _no_room(self, count: int, most: int) -> NoRoom:
        return NoRoom(
            f"grow({count}): the pool has {len(self._pool.roster.workers)} workers, and there is room for {most} more "
            "where it runs; for a further Slurm job say how to ask for it, as in "
            "ex.grow(8, allocate=['--nodes=2', '--time=1:00:00'])",
            most,
        )

    def _lost(self, growth: Growth, reason: str) -> None:
        growth.reasons.append(reason)
        growth.attempts = [attempt for attempt in growth.attempts if self._stands_for(attempt)]
        self.look()

    def _stands_for(self, attempt: Attempt) -> bool:
        return self._pool.launches.attempt(attempt.number) is attempt

    def look(self) -> None:
        """Somebody has come, or will not come: look which growths are complete."""
        for growth in list(self.under_way):
            self._look(growth)

    def _look(self, growth: Growth) -> None:
        roster, standing = self._pool.roster, self._pool.scheduler.workers
        gone = growth.numbers - roster.workers.keys()
        if gone:
            growth.numbers -= gone
            growth.reasons.append(f"{len(gone)} ended as they started")
        for attempt in growth.attempts:
            if self._stands_for(attempt) and (not attempt.arrived or len(attempt.arrived) < attempt.nodes):
                return
            for agent in roster.of_launch(attempt.number):
                growth.numbers.update(agent.workers)
        if not all(number in standing for number in growth.numbers):
            return
        came = [roster.workers[number].info(standing[number]) for number in sorted(growth.numbers)]
        if len(came) == growth.count or (growth.count is None and came and not growth.reasons):
            self.under_way.remove(growth)
            self._later(lambda: growth.future.set_result(came))
            self._on_over(True)
        else:
            for attempt in growth.attempts:
                self._pool.launches.resize(attempt, sum(agent.staying for agent in roster.of_launch(attempt.number)))
            self._fail(growth, "; ".join(growth.reasons) or "there is no room for more, or nodes were lost")

    def _fail(self, growth: Growth, reason: str) -> None:
        self.under_way.remove(growth)
        standing = growth.numbers & self._pool.scheduler.workers.keys()
        count = "all" if growth.count is None else growth.count
        error = GrowError(f"{len(standing)} of {count} new workers stand: {reason}")
        self._later(lambda: growth.future.set_exception(error))
        self._on_over(False)

    def _overdue(self, growth: Growth) -> None:
        """It has had its time: what was launched for it and has brought nobody is ended."""
        late = [attempt for attempt in growth.attempts if not self._pool.roster.of_launch(attempt.number)]
        states = [getattr(attempt.launcher, "state", lambda: "no agent has come")() for attempt in late]
        starting = len(growth.numbers - self._pool.scheduler.workers.keys())
        told = [f"{starting} are still starting"] if starting else []
        self._fail(growth, f"after {growth.timeout:g} s; " + "; ".join([*growth.reasons, *told, *states]))
        for attempt in late:
            attempt.on_failed = lambda reason: None
            self._pool.launches.fail(attempt, f"brought nobody within {growth.timeout:g} s")

    def replaced(self, old: WorkerState, new: int) -> None:
        """A worker has ended as it started, and another is to come in its place."""
        for growth in self.under_way:
            if old.number in growth.numbers:
                growth.numbers.add(new)

    @property
    def coming(self) -> int:
        """How many workers further launches are to bring that have not come yet."""
        attempts = [attempt for growth in self.under_way for attempt in growth.attempts]
        wanted = {attempt.number: attempt.wanted or 0 for attempt in attempts}
        came = Counter(worker.agent.launch for worker in self._pool.roster.workers.values())
        return sum(max(0, count - came[number]) for number, count in wanted.items())

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return min((growth.deadline for growth in self.under_way), default=None)

    def tick(self, time_now: float) -> None:
        """End those that have had their time."""
        for growth in [growth for growth in self.under_way if growth.deadline <= time_now]:
            self._overdue(growth)
