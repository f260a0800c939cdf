"""Who stands: waiting for them, and telling of them once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import Protocol

from mainstay.enrolment import Enrolments
from mainstay.launches import Launches, Log
from mainstay.origin import present
from mainstay.registrar import Registrar
from mainstay.report import Description, Staged
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.slurm import advice, allocation, crowded

now = time.monotonic


class Pool(Protocol):
    """The pool whose workers are mustered. `changed` is told when who stands has changed; it holds the pool's lock."""

    changed: threading.Condition
    broken: BaseException | None
    over: bool
    scheduler: Scheduler
    roster: Roster
    launches: Launches
    enrolments: Enrolments
    registrar: Registrar

    def stands(self) -> None: ...


class Muster:
    """Tells of a pool's start when every worker stands, or when those that are missing have had `patience` seconds.

    All methods but `wait_ready` want the pool's lock held.
    """

    def __init__(self, pool: Pool, patience: float, log: Log) -> None:
        self._pool, self._patience, self._log = pool, patience, log
        self._begun = now()
        self._told_after: float | None = None  # seconds from the beginning
        self._tell_at: float | None = None

    def describe(self) -> Description:
        """Return what stands."""
        launches, roster, standing = self._pool.launches, self._pool.roster, self._pool.scheduler.workers
        return Description(
            "" if launches.current is None else launches.current.launcher.name,
            dict(Counter(roster.workers[number].host for number in standing)),
            len(standing),
            launches.wanted or len(roster.workers),
            self._told_after,
            list(launches.reasons),
            roster.ever_started,
            roster.preloading.told(),
            self._staged(),
            self._pool.enrolments.told(),
            self._pool.registrar.bridges.told,
            dict(roster.absent),
        )

    def _staged(self) -> Staged | None:
        stage, agents, launch = self._pool.launches.stage, self._pool.roster.agents, self._pool.launches.current
        told = [agent.stage for agent in agents if agent.stage]
        if stage is None or not told:
            return None
        there = [one for one in told if not one["why"]]
        unpacked = [one for one in there if one["took"]] + ([] if launch is None else launch.unpacked)
        seconds, imports = max((one["took"] for one in unpacked), default=0.0), sum(one["imports"] for one in there)
        way = stage.way(sum(one["sent"] for one in unpacked), len(unpacked))
        unsent = {} if launch is None else launch.unsent
        return Staged(way, stage.size, seconds, len(there), len(agents), imports, stage.manifest.prefix, unsent)

    def joined(self) -> None:
        """A worker has come."""
        if self._told_after is None:
            self._tell_at = self._tell_at or now() + self._patience
        self.look()

    def look(self) -> None:
        """Look whether all stand; the last to come may be an agent that has no worker to fork."""
        self._pool.changed.notify_all()
        if self._told_after is None and self._pool.roster.is_complete():
            self._tell(logging.INFO)

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return self._tell_at

    def tick(self, time_now: float) -> None:
        """Tell of those who stand, when the others have had their time."""
        if self._tell_at is not None and self._tell_at <= time_now:
            self._tell(logging.WARNING)

    def _tell(self, level: int) -> None:
        self._told_after, self._tell_at = now() - self._begun, None
        self._pool.stands()
        description = self.describe()
        self._log(level, str(description))
        for line in self._advice(description):
            self._log(logging.WARNING, line)

    def _advice(self, description: Description) -> list[str]:
        """Return what is odd about these workers in this allocation, if it is one."""
        try:
            here = allocation(present())
        except ValueError:
            return []  # of which the launcher has told
        if here is None:
            return self._ranks_that_take_turns(description)
        return advice(here.without(self._pool.roster.absent), description.launcher, description.hosts)

    def _ranks_that_take_turns(self, description: Description) -> list[str]:
        """Return what is odd about a world of more ranks than the cores that they were given."""
        cores = {
            host: cores for host, cores in self._pool.roster.cores.items() if description.hosts.get(host, 0) > cores
        }
        if description.launcher != "world" or not cores:
            return []
        return [f"{crowded(description.hosts, cores)}; start fewer ranks"]

    def wait_ready(self, wanted: int | None, timeout: float | None) -> Description:
        """Wait until as many workers stand (None: all that will)."""
        pool = self._pool
        with pool.changed:
            pool.changed.wait_for(lambda: self._is_settled(wanted), timeout)
            if pool.broken is not None:
                raise pool.broken
            description = self.describe()
            complete = pool.roster.is_complete()
        if description.workers < (wanted or 1) or not (wanted or complete):
            when = "at shutdown" if pool.over else "and no more will come" if complete else f"after {timeout:g} s"
            raise TimeoutError(f"{description.workers} of {wanted or 'all'} workers stand {when}: {description}")
        return description

    def _is_settled(self, wanted: int | None) -> bool:
        """Whether as many workers stand, or waiting for more is in vain."""
        if self._pool.broken is not None or self._pool.over or self._pool.roster.is_complete():
            return True
        return wanted is not None and len(self._pool.scheduler.workers) >= wanted
