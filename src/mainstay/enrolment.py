"""How workers get MPI ranks: a launch of slots, whose identities the agents hand on, and the workers' word.

    begin ─▶ LEND ─▶ agents               launcher ─▶ mpiexec ─▶ slots ─▶ LENT ─┐
                                                                               ▼ all have come
    namespaces that stand ◀── ENROLLED, all ◀── workers: MPI is initialised ◀── ENROL, to each worker

A namespace is one such launch, and its ranks. It is launched when the first gang is asked for (or at the start, with
`mpi=True`), for the workers that idle then; workers that come later, in the place of dead ones, are of a later
namespace. When one worker fails to enrol, the others would wait for it for ever in MPI: all of them are replaced, and
it is tried again, `MOST_FAILURES` times one after another; then gangs are refused.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from mainstay.errors import GangError
from mainstay.launch import Launched, Launcher
from mainstay.launch.mpiexec import MpiExec
from mainstay.launches import GRACE, Log, Post
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
        self.lent: dict[int, AgentState] = {}  # who holds the identity of a rank
        self.told = False
        self.enrolled: set[int] = set()
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
            places = Counter(worker.host for worker in self.workers.values())
            launched = self._launched = starter(launcher, list(places)).start_slots(self.door, places)
            if self._over:
                launched.end()
            return launched.wait()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def end(self) -> None:
        self._over = True
        if self._launched is not None:
            self._launched.end()

    def finish(self) -> None:
        """Its slots are gone: let the launcher end by itself, for a moment."""
        self._thread.join(GRACE)
        self.end()


def starter(launcher: Launcher, hosts: list[str]) -> MpiExec:
    """Return what starts MPI ranks where a launcher has started agents; mpiexec, if it has no way of its own."""
    if hasattr(launcher, "start_slots"):
        return launcher  # type: ignore[return-value]
    return MpiExec() if hosts == [os.uname().nodename] else MpiExec(hosts)


class Enrolments:
    """Makes workers ranks. All methods want the pool's lock held.

    Args:
        mpi: "auto" (when the first gang is asked for), True (at the start) or False (never).
        launcher: returns the launcher whose agents stand, None between two.
        patience: seconds that a namespace may take to stand.
        post: runs a call in the broker's thread.
    """

    def __init__(
        self,
        pool: Pool,
        mpi: bool | str,
        launcher: Callable[[], Launcher | None],
        patience: float,
        post: Post,
        log: Log,
    ) -> None:
        self._pool, self._mpi, self._launcher = pool, mpi, launcher
        self._patience, self._post, self._log = patience, post, log
        self.refused = "" if mpi else "the pool was made with mpi=False; leave that out, or say mpi=True"
        self.library = ""
        self._coming: Namespace | None = None
        self._deadline: float | None = None
        self._short_since: float | None = None  # since when a gang has waited that the pool has become too small for
        self._standing: dict[str, Namespace] = {}  # by name
        self._count = self._failures = 0

    def checked(self, ranks: int | tuple[int, int] | str, gather: str) -> Ranks:
        """Return the option as the scheduler knows it; raise `GangError` or `ValueError` where it can never be."""
        if isinstance(ranks, str):
            wanted = Ranks(scope=ranks, root_only=gather == "root")
        else:
            least, most = (ranks, ranks) if isinstance(ranks, int) else ranks
            wanted = Ranks(least, most, root_only=gather == "root")
        self._check(wanted.least, ranks)
        return wanted

    def _check(self, least: int, given: object) -> None:
        roster, launcher = self._pool.roster, self._launcher()
        if launcher is not None and getattr(launcher, "in_process", False):
            raise GangError(
                f"the launcher {launcher.name!r} has no processes for a gang; launcher='local' or another has"
            )
        if self.refused:
            raise GangError(f"no gang can run: {self.refused}")
        most = max(roster.most or 0, self._pool.scheduler.gangs.ceiling)
        if most and least > most:
            raise ValueError(
                f"ranks={given!r} wants {least} workers at least, and the pool has {most}; "
                f"ask for fewer ranks, or make the pool larger: Executor({least})"
            )

    def told(self) -> str:
        """Return what is to be said of MPI: which it is, or why there is none."""
        if self.refused:
            return f"none: {self.refused}"
        ranks = sum(len(namespace.workers) for namespace in self._standing.values())
        return f"{self.library}, {ranks} ranks" if self.library else "not asked for yet"

    def stands(self) -> list[Action]:
        """The pool stands as far as it will: from now on workers may enrol."""
        scheduler = self._pool.scheduler
        actions = scheduler.enrolled([], "", now())
        if self._mpi is True and not self.refused:
            everyone = Enrol([worker.id for worker in scheduler.workers.values() if worker.idle])
            scheduler.occupy(everyone, now())
            actions.append(everyone)
        return actions

    def begin(self, numbers: list[int]) -> None:
        """Make these workers ranks of one namespace."""
        launcher = self._launcher()
        if launcher is None:
            self._pool.act(self._pool.scheduler.enrolled(numbers, "", now()))
            return
        self._count += 1
        namespace = self._coming = Namespace(self._count, [self._pool.roster.workers[number] for number in numbers])
        self._deadline = now() + self._patience
        for agent in namespace.agents:
            agent.connection.send(encode(Kind.LEND, namespace.door.encode(), number=namespace.number))
        namespace.launch(launcher, lambda reason: self._post(lambda: self._launch_ended(namespace, reason)))

    # -- events

    def lent(self, agent: AgentState, frame: Frame) -> None:
        """A slot has brought the identity of a rank to an agent, or the agent has no door for it."""
        namespace = self._coming
        if namespace is None or frame.number != namespace.number:
            return
        if frame.body:
            self._fail(f"{agent.host}: {bytes(frame.body).decode()}")
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
            self._fail(f"the launcher started ranks on other nodes than it was told to: {where}")
            return
        namespace.told = True
        for rank, agent in sorted(namespace.lent.items()):
            worker = free[agent].pop(0)
            worker.namespace, worker.rank = namespace.name, rank
            assert worker.connection is not None
            told = pickle.dumps(tuple(Enrolment(namespace.door, rank, namespace.size)))
            worker.connection.send(encode(Kind.ENROL, told, number=namespace.number))

    def answered(self, worker: WorkerState, frame: Frame) -> None:
        """A worker says whether it is a rank now."""
        namespace = self._coming
        if namespace is None or frame.number != namespace.number:
            return
        answer = Enrolled(*load(frame.body))
        if answer.why_not:
            self._fail(answer.why_not)
            return
        self.library = answer.library
        namespace.enrolled.add(worker.number)
        if len(namespace.enrolled) == namespace.size:
            self._stand(namespace)

    def _stand(self, namespace: Namespace) -> None:
        self._coming, self._deadline, self._failures = None, None, 0
        self._standing[namespace.name] = namespace
        self._pool.act(self._pool.scheduler.enrolled(list(namespace.workers), namespace.name, now()))

    def worker_left(self, worker: WorkerState, end: End) -> None:
        """A worker has ended; its rank is used up."""
        namespace = self._coming
        if namespace is not None and worker.number in namespace.workers:
            self._fail(f"a worker on {worker.host} ended while it became an MPI rank: {end}; {end.stderr}".rstrip("; "))
        standing = self._standing.get(worker.namespace)
        if standing is not None:
            standing.workers.pop(worker.number, None)
            if not standing.workers:
                del self._standing[worker.namespace]
                self._dissolve(standing)

    def _launch_ended(self, namespace: Namespace, reason: str) -> None:
        if namespace is self._coming:
            self._fail(f"the MPI launcher {reason}")
        elif self._standing.get(namespace.name) is namespace:
            ranks = len(namespace.workers)
            self._log(logging.WARNING, f"the MPI launcher of {ranks} ranks {reason}; they are replaced")
            for worker in filter(None, map(self._pool.scheduler.workers.get, namespace.workers)):
                worker.stale = True

    def _fail(self, reason: str) -> None:
        """The coming namespace is given up; who has been told of it may be blocked in MPI for ever."""
        namespace, self._coming, self._deadline = self._coming, None, None
        assert namespace is not None
        scheduler, roster = self._pool.scheduler, self._pool.roster
        self._failures += 1
        self._log(logging.WARNING, f"MPI ranks could not be started: {reason}")
        self._dissolve(namespace)
        if namespace.told:
            for number in namespace.workers:
                scheduler.leaving(number)
                roster.tell(number, Kind.KILL)
        if self._failures >= MOST_FAILURES:
            self.refused = (
                f"MPI ranks could not be started, {MOST_FAILURES} times one after another; the last time: {reason}"
            )
            for task in scheduler.gangs.drain():
                self._pool.resolve(task, GangError(f"no gang can run: {self.refused}"))
        self._pool.act(scheduler.enrolled([] if namespace.told else list(namespace.workers), "", now()))

    def _dissolve(self, namespace: Namespace) -> None:
        namespace.end()
        for agent in namespace.agents:
            if not agent.connection.closed:
                agent.connection.send(encode(Kind.UNLEND, number=namespace.number))

    # -- time

    def next_deadline(self) -> float | None:
        short = None if self._short_since is None else self._short_since + self._patience
        return min((at for at in (self._deadline, short) if at is not None), default=None)

    def tick(self, time_now: float) -> None:
        self._give_up_too_large(time_now)
        if self._deadline is not None and self._deadline <= time_now:
            self._fail(f"they did not stand within start_timeout={self._patience:g} s")

    def _give_up_too_large(self, time_now: float) -> None:
        """Nodes were lost, and have had their time to come back: what wants more workers than are left, has no hope."""
        gangs = self._pool.scheduler.gangs
        most = max(sum(gangs.kept.values()), gangs.ceiling)
        short = [task for task in gangs.heads() if task.gang is not None and task.gang.least > most] if most else []
        if not short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = time_now
        elif self._short_since + self._patience <= time_now:
            for task in short:
                assert task.gang is not None
                gangs.remove(task)
                told = f"it wants {task.gang.least} workers at least; the pool has lost some, and has {most} now"
                self._pool.resolve(task, GangError(f"the gang cannot run: {told}"))

    def close(self) -> None:
        """The agents have ended, and the slots with them."""
        standing = list(self._standing.values())
        if self._coming is not None:
            self._coming.end()
        for namespace in standing:
            namespace.finish()
