"""How workers get MPI ranks: launches of slots, whose identities the agents hand on, and the workers' word.

    begin ─▶ LEND ─▶ agents               launcher ─▶ mpiexec ─▶ slots ─▶ LENT ─┐
                                                                               ▼ all have come
    namespaces that stand ◀── ENROLLED, all ◀── workers: MPI is initialised ◀── ENROL, to each worker

A namespace is one such launch, and its ranks. It is launched when the first gang is asked for (or at the start, with
`mpi=True`), for the workers that idle then; workers that come later, in the place of dead ones, are of a later
namespace. Where MPI can join namespaces, each is of one node: so the end of a node ends no ranks on others. Else one
has all. When one worker fails to enrol, the others would wait for it for ever in MPI: those of its namespace are
replaced, and it is tried again, `MOST_FAILURES` times one after another; then gangs are refused.
"""

from __future__ import annotations

import logging
import pickle
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from mainstay.errors import GangError
from mainstay.launch import Launched, Launcher
from mainstay.launch.slots import Lenders
from mainstay.launch.starters import missing, starter
from mainstay.launches import GRACE, Launches, Log, Post
from mainstay.node.context import Places
from mainstay.node.gang import Enrolled, Enrolment
from mainstay.orders import Action, Enrol, Ranks, Task
from mainstay.outcomes import End
from mainstay.peers import AgentState, WorkerState
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.payload import load

MOST_FAILURES = 3
now = time.monotonic


class Pool(Protocol):
    """The pool whose workers are to be ranks."""

    scheduler: Scheduler
    roster: Roster

    def act(self, actions: list[Action]) -> None: ...
    def resolve(self, task: Task, error: BaseException) -> None: ...


class Namespace:
    """One launch of slots, and the workers that take over their identities."""

    def __init__(self, number: int, workers: list[WorkerState]) -> None:
        self.number, self.name, self.door = number, f"mpi-{number}", f"mainstay-{secrets.token_hex(8)}"
        self.size = len(workers)
        self.workers = {worker.number: worker for worker in workers}
        self.agents = list(dict.fromkeys(worker.agent for worker in workers))
        self.places = Counter(worker.host for worker in workers)
        self.lent: dict[int, AgentState] = {}  # who holds the identity of a rank
        self.ranks: dict[WorkerState, int] = {}  # what each has been told to become
        self.has_pmix = False
        self.enrolled: set[int] = set()
        self.deadline = 0.0  # when it is to stand, or to have ended
        self._launched: Launched | None = None
        self._over = False

    def launch(self, launcher: Launcher, on_ended: Callable[[str], None]) -> None:
        """Start the slots in a thread, which may block and which waits for their end."""
        self._thread = threading.Thread(
            target=lambda: on_ended(self._run(launcher)), name=f"mainstay-ranks-{self.number}", daemon=True
        )
        self._thread.start()

    def _run(self, launcher: Launcher) -> str:
        try:
            launched = self._launched = starter(launcher, list(self.places)).start_slots(self.slots(), self.places)
            if self._over:
                launched.end()
            return launched.wait()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def slots(self) -> Lenders:
        """Return what its launcher is to start as each rank."""
        commands = {agent.host: agent.slot for agent in self.agents}
        trees = {agent.tree for agent in self.agents}
        staged = all(agent.is_staged for agent in self.agents)
        return Lenders(self.door, commands, staged, trees.pop() if len(trees) == 1 else "")

    def end(self) -> None:
        self._over = True
        if self._launched is not None:
            self._launched.end()

    def finish(self, patience: float) -> None:
        """Its slots are gone: let the launcher end by itself, which clears up then, for so many seconds."""
        self._thread.join(max(patience, 0.0))
        self.end()


class Enrolments:
    """Makes workers ranks. All methods want the pool's lock held.

    Args:
        mpi: "auto" (when the first gang is asked for), True (at the start) or False (never).
        launches: by whose launchers agents have come.
        patience: seconds that a namespace may take to stand.
        post: runs a call in the broker's thread.
    """

    def __init__(
        self,
        pool: Pool,
        mpi: bool | str,
        launches: Launches,
        patience: float,
        post: Post,
        log: Log,
    ) -> None:
        self._pool, self._mpi, self._launches = pool, mpi, launches
        self._patience, self._post, self._log = patience, post, log
        self.refused = "" if mpi else "the pool was made with mpi=False; leave that out, or say mpi=True"
        self.library = ""
        self.on_standing: Callable[[str, bool], None]  # told of a namespace that stands, and whether it has PMIx
        self._joins: bool | None = None  # whether MPI can join namespaces, as far as is known
        self._coming: dict[int, Namespace] = {}  # by number
        self._short_since: dict[Ranks, float] = {}  # since when gangs have waited that the pool is too small for
        self._standing: dict[str, Namespace] = {}  # by name
        self._ending: list[Namespace] = []
        self._count = 0
        self._is_there = False  # MPI, here
        self._failures: Counter[frozenset[str]] = Counter()  # one after another, on the same hosts

    def check(self, gang: Ranks, given: object) -> None:
        """Raise `GangError` or `ValueError` for a gang that can never be, as it was `given`.

        A program's ranks are no workers.
        """
        if not gang.is_program and (why_not := self.refused or self._why_not()):
            raise GangError(f"no gang can run: {why_not}")
        if gang.least <= len(self._pool.roster.workers):
            return  # as most often; the rest takes longer
        most = max(self._pool.roster.most or 0, self._pool.scheduler.gangs.ceiling)
        if most and gang.least > most:
            launcher = self._launches.standing()
            has_one = getattr(launcher, "in_process", False)
            larger = "launcher='local' or another has more" if has_one else f"make it larger: Executor({gang.least})"
            told = f"ranks={given!r} wants {gang.least} workers at least, and the pool has {most}"
            raise ValueError(f"{told}; ask for fewer ranks, or {larger}")

    def _why_not(self) -> str:
        """Return what is missing here for MPI, and so on the nodes; empty: nothing, as far as can be told before."""
        launcher = None if self._is_there else self._launches.standing()
        if launcher is None:
            return ""
        why_not = missing(launcher, any(agent.stage for agent in self._pool.roster.agents))
        self._is_there = not why_not
        return why_not

    def division(self, gang: Ranks) -> str:
        """Return why no job that the pool is in has enough workers for a gang (see `Gangs.division`)."""
        scheduler = self._pool.scheduler
        return scheduler.gangs.division(gang, scheduler.workers.values())

    def places(self, workers: list[WorkerState]) -> Places:
        """Return where a program's ranks are to be: in the places of these workers, the first of which starts it."""
        attempt = self._launches.attempt(workers[0].agent.launch)
        launcher = self._launches.standing() if attempt is None else attempt.launcher
        hosts = Counter(worker.host for worker in workers)
        if launcher is None or len(workers) == 1:
            return Places(dict(hosts), why_not="" if len(workers) == 1 else "the launcher has just ended")
        try:
            return starter(launcher, list(hosts)).places(hosts)
        except OSError as error:
            return Places(dict(hosts), why_not=str(error))

    def told(self) -> str:
        """Return what is to be said of MPI: which it is, or why there is none."""
        if self.refused:
            return f"none: {self.refused}"
        if not self.library:
            return "not asked for yet"
        ranks, several = sum(len(one.workers) for one in self._standing.values()), len(self._standing)
        joined = "joined by gangs that want it" if self._joins else "which this MPI cannot join: a gang is of one"
        return f"{self.library}, {ranks} ranks" + (f" in {several} namespaces, {joined}" if several > 1 else "")

    def stands(self) -> list[Action]:
        """The pool stands as far as it will: from now on workers may enrol."""
        scheduler, launcher = self._pool.scheduler, self._launches.standing()
        if launcher is not None and getattr(launcher, "in_process", False):
            self._refuse(f"the launcher {launcher.name!r} has no processes for a gang; launcher='local' or another has")
        actions = scheduler.enrolled([], "", now())
        if self._mpi is True and not self.refused:
            everyone = Enrol([worker.id for worker in scheduler.workers.values() if worker.idle])
            scheduler.occupy(everyone, now())
            actions.append(everyone)
        return actions

    def begin(self, numbers: list[int]) -> None:
        """Make these workers ranks: of one namespace, or of one on each node."""
        launcher = self._launches.standing()
        workers = [self._pool.roster.workers[number] for number in numbers if number in self._pool.roster.workers]
        by_node: dict[AgentState, list[WorkerState]] = {}
        for worker in workers:
            by_node.setdefault(worker.agent, []).append(worker)
        if launcher is None:
            self._pool.act(self._pool.scheduler.enrolled(numbers, "", now()))
        elif len(by_node) > 1 and self._joins is None:
            self._ask(launcher, [agent.host for agent in by_node], numbers)
        else:
            together: dict[object, list[WorkerState]] = {}
            for worker in workers:
                together.setdefault(worker.agent if self._joins else worker.agent.site, []).append(worker)
            for where, some in together.items():
                attempt = self._launches.attempt(some[0].agent.launch) if where else None
                self._launch(launcher if attempt is None else attempt.launcher, some)

    def _ask(self, launcher: Launcher, hosts: list[str], numbers: list[int]) -> None:
        """Ask, in a thread, whether what will start ranks is of an MPI that can join namespaces; then begin."""

        def told(joins: bool) -> None:
            self._joins = joins
            self.begin(numbers)

        def ask() -> None:
            try:
                joins = starter(launcher, hosts).joins()
            except Exception:
                joins = False  # the launch will say what is wrong
            self._post(lambda: told(joins))

        threading.Thread(target=ask, name="mainstay-ranks-ask", daemon=True).start()

    def _launch(self, launcher: Launcher, workers: list[WorkerState]) -> None:
        self._count += 1
        namespace = self._coming[self._count] = Namespace(self._count, workers)
        namespace.deadline = now() + self._patience
        for agent in namespace.agents:
            agent.connection.send(encode(Kind.LEND, namespace.door.encode(), number=namespace.number))
        namespace.launch(launcher, lambda reason: self._post(lambda: self._launch_ended(namespace, reason)))

    # -- events

    def lent(self, agent: AgentState, frame: Frame) -> None:
        """A slot has brought the identity of a rank to an agent, or the agent has no door for it."""
        namespace = self._coming.get(frame.number)
        if namespace is None:
            return
        if frame.body:
            self._fail(namespace, f"{agent.host}: {bytes(frame.body).decode()}")
            return
        namespace.lent[frame.task] = agent
        if len(namespace.lent) == namespace.size:
            self._tell(namespace)

    def _tell(self, namespace: Namespace) -> None:
        """Every rank's identity is there: one for each worker, on its own node."""
        free: dict[AgentState, list[WorkerState]] = {agent: [] for agent in namespace.agents}
        for worker in namespace.workers.values():
            free[worker.agent].append(worker)
        if Counter(namespace.lent.values()) != {agent: len(workers) for agent, workers in free.items()}:
            where = dict(Counter(agent.host for agent in namespace.lent.values()))
            self._fail(namespace, f"the launcher started ranks on other nodes than it was told to: {where}")
            return
        for rank, agent in sorted(namespace.lent.items()):
            worker = free[agent].pop(0)
            namespace.ranks[worker] = rank
            assert worker.connection is not None
            told = pickle.dumps(tuple(Enrolment(namespace.door, rank, namespace.size)))
            worker.connection.send(encode(Kind.ENROL, told, number=namespace.number))

    def answered(self, worker: WorkerState, frame: Frame) -> None:
        """A worker says whether it is a rank now."""
        namespace = self._coming.get(frame.number)
        if namespace is None:
            return
        answer = Enrolled(*load(frame.body))
        if answer.why_not:
            self._fail(namespace, answer.why_not)
            return
        self.library, worker.port, self._joins = answer.library, answer.port, bool(answer.port)
        namespace.has_pmix = answer.has_pmix
        namespace.enrolled.add(worker.number)
        if len(namespace.enrolled) == namespace.size:
            self._stand(namespace)

    def _stand(self, namespace: Namespace) -> None:
        del self._coming[namespace.number]
        self._failures.pop(frozenset(namespace.places), None)
        self._standing[namespace.name] = namespace
        for worker, rank in namespace.ranks.items():
            worker.namespace, worker.rank = namespace.name, rank
        gangs = self._pool.scheduler.gangs
        gangs.joins, gangs.renewal.is_hopeful = bool(self._joins), True
        self.on_standing(namespace.name, namespace.has_pmix)
        self._pool.act(self._pool.scheduler.enrolled(list(namespace.workers), namespace.name, now()))

    def worker_left(self, worker: WorkerState, end: End) -> None:
        """A worker has ended; its rank is used up."""
        for coming in [one for one in self._coming.values() if worker.number in one.workers]:
            told = f"a worker on {worker.host} ended while it became an MPI rank: {end}; {end.stderr}"
            del coming.workers[worker.number]
            self._fail(coming, told.rstrip("; "), counts=not worker.is_taken)
        standing = self._standing.get(worker.namespace)
        if standing is not None:
            standing.workers.pop(worker.number, None)
            if not standing.workers:
                del self._standing[worker.namespace]
                self._dissolve(standing)

    def _launch_ended(self, namespace: Namespace, reason: str) -> None:
        if namespace in self._ending:
            self._ending.remove(namespace)
        elif self._coming.get(namespace.number) is namespace:
            self._fail(namespace, f"the MPI launcher {reason}")
        elif self._standing.get(namespace.name) is namespace:
            ranks = len(namespace.workers)
            self._log(logging.WARNING, f"the MPI launcher of {ranks} ranks {reason}; they are replaced")
            for worker in filter(None, map(self._pool.scheduler.workers.get, namespace.workers)):
                worker.stale = True

    def _fail(self, namespace: Namespace, reason: str, *, counts: bool = True) -> None:
        """A coming namespace is given up; who has been told of it may be blocked in MPI for ever."""
        del self._coming[namespace.number]
        scheduler, roster = self._pool.scheduler, self._pool.roster
        self._failures[frozenset(namespace.places)] += counts
        scheduler.gangs.renewal.is_hopeful &= not counts
        self._log(logging.WARNING, f"MPI ranks could not be started: {reason}")
        self._dissolve(namespace)
        for worker in namespace.ranks:
            scheduler.leaving(worker.number)
            roster.tell(worker.number, Kind.KILL)
        if self._failures[frozenset(namespace.places)] >= MOST_FAILURES:
            times = f"{MOST_FAILURES} times one after another"
            self._refuse(f"MPI ranks could not be started, {times}; the last time: {reason}")
        self._pool.act(scheduler.enrolled([] if namespace.ranks else list(namespace.workers), "", now()))

    def _refuse(self, why: str) -> None:
        """No gang will run; what wants several workers and no MPI still may."""
        self.refused, gangs = why, self._pool.scheduler.gangs
        for task in gangs.waiting.drain():
            if task.gang is not None and task.gang.alone:
                gangs.waiting.add(task)
            else:
                self._pool.resolve(task, GangError(f"no gang can run: {why}"))

    def _dissolve(self, namespace: Namespace) -> None:
        """Let its slots go, and its launcher end with them; an MPI launcher that is killed leaves files."""
        namespace.deadline = now() + GRACE
        self._ending.append(namespace)
        for agent in namespace.agents:
            if not agent.connection.closed:
                agent.connection.send(encode(Kind.UNLEND, number=namespace.number))

    # -- time

    def next_deadline(self) -> float | None:
        awaited = [one.deadline for one in (*self._coming.values(), *self._ending)]
        return min([*awaited, *(since + self._patience for since in self._short_since.values())], default=None)

    def tick(self, time_now: float) -> None:
        self._give_up_too_large(time_now)
        for namespace in [namespace for namespace in self._coming.values() if namespace.deadline <= time_now]:
            self._fail(namespace, f"they did not stand within start_timeout={self._patience:g} s")
        for namespace in [namespace for namespace in self._ending if namespace.deadline <= time_now]:
            self._ending.remove(namespace)
            namespace.end()

    def _give_up_too_large(self, time_now: float) -> None:
        """What wants more workers than there are has no hope, once those lost or to come have had their time."""
        gangs = self._pool.scheduler.gangs
        for kind in gangs.waiting.kinds():
            if (why := self.division(kind)) and self._pool.roster.is_complete():
                self._give_up(kind, why)
        short = {kind: why for kind in gangs.waiting.kinds() if (why := gangs.shortage(kind))} if gangs.kept else {}
        self._short_since = {kind: self._short_since.get(kind, time_now) for kind in short}
        for kind, since in list(self._short_since.items()):
            if since + self._patience <= time_now:
                self._give_up(kind, short[kind])

    def _give_up(self, kind: Ranks, why: str) -> None:
        self._short_since.pop(kind, None)  # whoever submits it again waits in full
        for task in self._pool.scheduler.gangs.waiting.withdraw(kind):
            self._pool.resolve(task, GangError(why))

    def close(self) -> None:
        """The agents have ended, and the slots with them."""
        until = now() + GRACE
        for namespace in self._coming.values():
            namespace.end()
        for namespace in [*self._standing.values(), *self._ending]:
            namespace.finish(until - now())
