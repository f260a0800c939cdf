"""Who keeps the process sets of a pool: what roster and ranks tell goes in, events go out.

    roster, enrolments ─▶ noted ─▶ refresh ─▶ Registry ─▶ events ─┬─▶ watches (in the broker's thread, without the lock)
    define, delete ────────────────────────────▲                  ├─▶ lines of tasks that ask
    PMIx, by bridges ──────────────────────────┘                  ├─▶ bridges, and so PMIx
                                                                  └─▶ members, of whom calls run `on=` a set

Nothing is kept before somebody first asks, so a pool that uses no sets pays nothing for them. From then on the registry
is brought up to date at the end of each of the broker's turns, and before it is looked at: what changed at once makes
one new version. Predicates and callbacks are the user's code: they run in the broker's thread and without its lock.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Protocol

from mainstay.bridging import Bridges
from mainstay.enrolment import Enrolments
from mainstay.errors import ProcessSetError
from mainstay.interrupts import GuardedLock
from mainstay.launches import Log
from mainstay.lines import Lines
from mainstay.orders import Action, Members, Ranks, Task
from mainstay.peers import WorkerState
from mainstay.process_sets import HOST, PMIX, RESERVED, SELF, USER, WORLD, Define, Event, Process, ProcessSet, Registry
from mainstay.report import WorkerInfo
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.wire.connection import Connection
from mainstay.wire.frames import Frame, Kind

Predicate = Callable[[WorkerInfo], object]
Callback = Callable[[Event], object]
Later = Callable[[Callable[[], object]], None]
now = time.monotonic


class Pool(Protocol):
    """The pool whose processes are named."""

    lock: GuardedLock
    scheduler: Scheduler
    roster: Roster
    enrolments: Enrolments

    def act(self, actions: list[Action]) -> None: ...
    def resolve(self, task: Task, error: BaseException) -> None: ...


class Watch:
    """A callback that hears of events until it is stopped; a context manager that stops it."""

    def __init__(self, callback: Callback, log: Log) -> None:
        self._callback, self._log, self.is_over = callback, log, False

    def stop(self) -> None:
        """Call back no more; a call that has begun goes on."""
        self.is_over = True

    def tell(self, events: list[Event]) -> None:
        for event in events:
            if self.is_over:
                return
            try:
                self._callback(event)
            except BaseException as error:  # also `SystemExit`: it would keep the events that follow from others
                self._log(logging.ERROR, f"a callback of ex.psets.watch raised {error!r}, and is called on")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


class Registrar:
    """Keeps the sets. All methods want the pool's lock held, but `narrowed`, which takes it.

    Args:
        later: runs a call in the broker's thread, without the lock.
        patience: seconds for which calls wait for a living set that has lost its members, while the pool is not whole.
    """

    def __init__(self, pool: Pool, later: Later, patience: float, log: Log) -> None:
        self._pool, self._later, self._patience, self._log = pool, later, patience, log
        self.registry = Registry()
        self.lines = Lines(self.refreshed, lambda number: self._process.get(number))
        self.bridges = Bridges(pool, self.found, self.registry.listing.values, log)
        self.watches: list[Watch] = []
        self._is_used = self._is_stale = False
        self._process: dict[int, Process] = {}  # of each worker, as the registry knows it
        self._members: dict[str, Members] = {}  # of the sets that calls run on
        self._predicates: dict[str, Predicate] = {}  # of living sets
        self._judging: Counter[str] = Counter()  # judgements of a predicate that are still to come
        self._short_since: dict[tuple[str, int], float] = {}  # since when calls have waited for so many of a set
        pool.roster.on_guest, pool.enrolments.on_standing = self.guest_came, self.stands

    # -- what changes who is there

    def noted(self) -> None:
        """A worker has joined."""
        self._is_stale = True

    def stands(self, namespace: str, has_pmix: bool) -> None:
        """Workers have become ranks, and these may have PMIx."""
        self._is_stale = True
        self.bridges.stands(namespace, has_pmix)

    def left(self, worker: WorkerState) -> None:
        """A worker has ended; no call goes there any more."""
        self._is_stale = True
        for members in self._members.values():
            members.numbers.discard(worker.number)
        self.bridges.left(worker)

    def refreshed(self) -> Registry:
        """Return the registry as it is now; from the first time on it is kept so."""
        self._is_stale |= not self._is_used
        self._is_used = True
        if self._is_stale:
            self._refresh()
        return self.registry

    def _refresh(self) -> None:
        self._is_stale = False
        scheduled = self._pool.scheduler.workers
        workers = {number: worker for number, worker in self._pool.roster.workers.items() if number in scheduled}
        there = {number: Process(worker.namespace, worker.rank) for number, worker in workers.items()}
        known, self._process = self._process, there
        new = [number for number, process in there.items() if known.get(number) != process]
        events = self.registry.changed(
            left=[process for number, process in known.items() if number not in there],
            renamed={known[number]: there[number] for number in new if number in known},
            joined={there[number]: workers[number].host for number in new if number not in known},
        )
        self._tell(events)
        for name, predicate in self._predicates.items():
            self._ask(name, predicate, new)

    # -- what users ask for

    def define(self, name: str, numbers: Collection[int], living: bool) -> ProcessSet:
        """Define a set of these workers, under a name that is free."""
        registry = self.refreshed()
        members = [self._process[number] for number in numbers if number in self._process]
        events = registry.define(name, members, living=living)
        self._tell(events)
        return events[0].set if events else ProcessSet(name, (), False, USER, 0)

    def follow(self, name: str, predicate: Predicate, judged: Collection[int]) -> None:
        """Workers that come from now on belong to a living set where the predicate says so; some were judged."""
        self._predicates[name] = predicate
        if name in self._members:
            self._members[name].refills = True
        self._ask(name, predicate, [number for number in self._process if number not in judged])

    def delete(self, name: str) -> None:
        """Give up a name; the calls that wait for a worker of it will not run."""
        if self._predicates.pop(name, None) and name in self._members:
            self._members[name].refills = False
        self._tell(self.registry.delete(name))

    def watch(self, callback: Callback) -> Watch:
        """Tell of all events that follow."""
        self.refreshed()
        self.watches.append(Watch(callback, self._log))
        return self.watches[-1]

    def number_of(self, given: object) -> int | None:
        """Return the number of a worker that stands, given that or its process; None: there is no such worker."""
        found = [number for number, process in self._process.items() if given in (number, process)]
        return found[0] if found else None

    def is_free(self, name: str) -> bool:
        """Whether a set of that name can be defined: none has it, or it has turned invalid for good."""
        registry = self.refreshed()
        return not registry.lives(name) and (name not in registry.listing or not registry.listing[name].valid)

    def infos(self, numbers: Iterable[int]) -> list[WorkerInfo]:
        """Return what is known of these workers, those that have gone left out."""
        scheduled, workers = self._pool.scheduler.workers, self._pool.roster.workers
        return [workers[number].info(scheduled.get(number)) for number in numbers if number in self._process]

    def _ask(self, name: str, predicate: Predicate, numbers: Collection[int]) -> None:
        if numbers:
            infos = self.infos(numbers)
            self._judging[name] += 1
            self._later(lambda: self._judge(name, predicate, infos))

    def _judge(self, name: str, predicate: Predicate, infos: list[WorkerInfo]) -> None:
        """In the broker's thread, without the lock: let the user's predicate say who belongs to a living set."""
        verdicts = {info.id: self.holds(predicate, info) for info in infos}
        with self._pool.lock:
            self._judging[name] -= 1
            if self._predicates.get(name) is predicate:
                processes = {self._process[number]: yes for number, yes in verdicts.items() if number in self._process}
                joined = [process for process, yes in processes.items() if yes]
                self._tell(self.registry.amend(name, joined, processes.keys() - set(joined)))

    def holds(self, predicate: Predicate, info: WorkerInfo) -> bool:
        """Whether a worker belongs to a set, by the user's word; one that raises says no."""
        try:
            return bool(predicate(info))
        except BaseException as error:
            self._log(logging.ERROR, f"the predicate of a process set raised {error!r} for {info}; it does not belong")
            return False

    # -- what comes from elsewhere

    def guest_came(self, connection: Connection, first: Frame) -> None:
        """A task asks for the sets, or a rank stands between PMIx and the pool."""
        if first.kind == Kind.ASK:
            self.lines.open(connection, first)
        else:
            self.bridges.open(connection, first)

    def found(self, name: str, members: list[Process]) -> None:
        """PMIx tells of a set that was defined there."""
        registry = self.refreshed()
        known = registry.listing.get(name)
        if known is not None and known.source == PMIX and set(known.members) == set(members):
            return
        if registry.lives(name) or (known is not None and known.source != PMIX):
            self._log(logging.WARNING, f"PMIx has a process set {name!r} too, of others; the pool's own is kept")
            return
        self._tell(registry.define(name, members, PMIX))

    # -- calls that run on a set

    def narrowed(self, gang: Ranks | None, given: str | ProcessSet) -> tuple[Ranks | None, Members | None]:
        """Return a gang that is to be of a set's members; of a call for one worker (None), of whom that is to be.

        Raises `ProcessSetError` where that can never be.
        """
        with self._pool.lock:
            members = self._resolve(given, 1 if gang is None else gang.least)
            if gang is None or members is None:
                return gang, members
            if gang.scope == "all" and not self.registry.lives(members.name):
                return replace(gang, least=len(members), most=len(members), scope="pool", on=members), None
            return replace(gang, on=members), None

    def _resolve(self, given: str | ProcessSet, least: int) -> Members | None:
        """Return on whom a call may run that names a set; None: on any."""
        name = given if isinstance(given, str) else given.name
        registry = self.refreshed()
        if name == WORLD:
            return None
        if name == SELF:
            raise ProcessSetError(f"on={name!r} names the process of a task itself; name another set")
        if name not in registry.listing and not registry.lives(name):
            known = ", ".join(map(repr, registry.known()))
            raise ProcessSetError(f"on={name!r}: there is no such process set; there are {known}")
        if not registry.lives(name) and not registry.listing[name].valid:
            raise ProcessSetError(
                f"on={name!r}: the set is invalid, since {self._who_left(name)}; define it anew, or with living=True, "
                "so that it follows its members' coming and going"
            )
        if name not in self._members:
            self._members[name] = self._fill(Members(name, refills=name in self._predicates or name.startswith(HOST)))
        members = self._members[name]
        if (reason := self._why_short(members, least)) is not None:
            raise ProcessSetError(f"on={name!r}: {reason}")
        return members

    def _who_left(self, name: str) -> str:
        gone = [process for process in self.registry.listing[name].members if process not in self.registry.hosts]
        return f"{', '.join(f'({one.namespace!r}, {one.rank})' for one in gone) or 'it was deleted'} has gone"

    def _why_short(self, members: Members, least: int) -> str | None:
        """Return why a set cannot have as many members, if it cannot."""
        if len(members) >= least or self._may_come(members.name, least):
            return None
        have = f"has {len(members)}" if len(members) else "has none"
        return f"{least} of its members are wanted, and the set {have}"

    def _may_come(self, name: str, least: int) -> bool:
        """Whether a set may get members that it does not have yet; for a gang of `least` the pool may grow."""
        if not self.registry.lives(name):
            return False
        takes_others = name in self._predicates or name.startswith(RESERVED)
        if least > 1 and takes_others and self._pool.scheduler.gangs.may_grow:
            return True
        return self._judging[name] > 0 or not self._pool.roster.is_complete()

    def _fill(self, members: Members) -> Members:
        """Note who is in a set now."""
        newest = self.registry.listing.get(members.name)
        processes = set(newest.members if newest is not None else ())
        members.numbers = {number for number, process in self._process.items() if process in processes}
        return members

    # -- events

    def _tell(self, events: list[Event]) -> None:
        if not events:
            return
        for name in {event.set.name for event in events} & self._members.keys():
            self._fill(self._members[name])
        if self._members:
            self._pool.act(self._pool.scheduler.top_up(now()))
        self.watches = [watch for watch in self.watches if not watch.is_over]
        for watch in self.watches:
            self._later(lambda watch=watch: watch.tell(events))  # type: ignore[misc]
        self.lines.tell(self.registry)
        for event in events:
            if isinstance(event, Define) and event.set.source != PMIX:
                self.bridges.publish(event.set)

    # -- time

    def next_deadline(self) -> float | None:
        """Return when calls will have waited long enough for members that do not come."""
        return min((since + self._patience for since in self._short_since.values()), default=None)

    def tick(self, time_now: float) -> None:
        """Bring the registry up to date, if anybody uses it; give up calls whose set has no members for them."""
        if self._is_used and self._is_stale:
            self._refresh()
        if self._members:
            self._give_up_short(time_now)

    def _give_up_short(self, time_now: float) -> None:
        scheduler = self._pool.scheduler
        waiting = [(members, 1) for members in scheduler.queues.bound] + scheduler.gangs.waiting.wanting()
        short = {(members.name, least): members for members, least in waiting if len(members) < least}
        self._short_since = {wish: self._short_since.get(wish, time_now) for wish in short}
        for (name, least), members in short.items():
            if not self._may_come(name, least) or self._short_since[name, least] + self._patience <= time_now:
                self._give_up(members, least)

    def _give_up(self, members: Members, least: int) -> None:
        """Give up the calls that want so many members of a set: what wants more has a time of its own."""
        del self._short_since[members.name, least]
        scheduler, left = self._pool.scheduler, len(members) or "none"
        singles = scheduler.queues.withdraw(members) if least == 1 else []
        kinds = [kind for kind in scheduler.gangs.waiting.kinds() if kind.on is members and kind.least == least]
        for task in [*singles, *(task for kind in kinds for task in scheduler.gangs.waiting.withdraw(kind))]:
            wants = 1 if task.gang is None else task.gang.least
            reason = f"it wants {wants} of its members, and {left} is there, and no other will come"
            error = ProcessSetError(f"{task.label or 'the call'} cannot run on {members.name!r}: {reason}")
            self._pool.resolve(task, error)

    def close(self) -> None:
        """Nobody asks any more."""
        for connection in [*self.lines.connections, *self.bridges.connections]:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: close every socket, without touching what the parent polls."""
        for connection in [*self.lines.connections, *self.bridges.connections]:
            connection.sock.close()
