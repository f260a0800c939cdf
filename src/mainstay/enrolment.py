"""How workers get MPI ranks: a launch of slots, whose identities the agents hand on, and the workers' word.

    begin ─▶ LEND ─▶ agents               launcher ─▶ mpiexec ─▶ slots ─▶ LENT ─┐
                                                                               ▼ all have come
    worlds that stand ◀── ENROLLED, all ◀── workers: MPI is initialised ◀── ENROL, to each worker

A world is one such launch: a name space of ranks that live and die together. It is launched when the first gang is
asked for (or at the start, with `mpi=True`), for the workers that idle then; workers that come later, in the place of
dead ones, are of a later world. When one worker fails to enrol, the others would wait for it for ever in MPI: all of
them are replaced, and it is tried again, `MOST_FAILURES` times one after another; then gangs are refused.
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
from mainstay.roster import AgentState, Roster, WorkerState
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


class World:
    """One launch of slots, and the workers that take over their identities."""

    def __init__(self, number: int, workers: list[WorkerState]) -> None:
        self.number, self.door = number, f"mainstay-{secrets.token_hex(8)}"
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
        patience: seconds that a world may take to stand.
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
        self._coming: World | None = None
        self._deadline: float | None = None
        self._short_since: float | None = None  # since when a gang has waited that the pool has become too small for
        self._standing: dict[int, World] = {}
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
        most = len(roster.workers) if roster.is_complete() else roster.wanted
        if most and least > most:
            raise ValueError(
                f"ranks={given!r} wants {least} workers at least, and the pool has {most}; "
                f"ask for fewer ranks, or make the pool larger: Executor({least})"
            )

    def told(self) -> str:
        """Return what is to be said of MPI: which it is, or why there is none."""
        if self.refused:
            return f"none: {self.refused}"
        ranks = sum(len(world.workers) for world in self._standing.values())
        return f"{self.library}, {ranks} ranks" if self.library else "not asked for yet"

    def stands(self) -> list[Action]:
        """The pool stands as far as it will: from now on workers may enrol."""
        scheduler = self._pool.scheduler
        actions = scheduler.enrolled([], 0, now())
        if self._mpi is True and not self.refused:
            everyone = Enrol([worker.id for worker in scheduler.workers.values() if worker.idle])
            scheduler.occupy(everyone, now())
            actions.append(everyone)
        return actions

    def begin(self, numbers: list[int]) -> None:
        """Make these workers ranks of one world."""
        launcher = self._launcher()
        if launcher is None:
            self._pool.act(self._pool.scheduler.enrolled(numbers, 0, now()))
            return
        self._count += 1
        world = self._coming = World(self._count, [self._pool.roster.workers[number] for number in numbers])
        self._deadline = now() + self._patience
        for agent in world.agents:
            agent.connection.send(encode(Kind.LEND, world.door.encode(), number=world.number))
        world.launch(launcher, lambda reason: self._post(lambda: self._launch_ended(world, reason)))

    # -- events

    def lent(self, agent: AgentState, frame: Frame) -> None:
        """A slot has brought the identity of a rank to an agent, or the agent has no door for it."""
        world = self._coming
        if world is None or frame.number != world.number:
            return
        if frame.body:
            self._fail(f"{agent.host}: {bytes(frame.body).decode()}")
            return
        world.lent[frame.task] = agent
        if len(world.lent) == world.size:
            self._tell(world)

    def _tell(self, world: World) -> None:
        """Every rank's identity is there: one for each worker, on its own node."""
        free: dict[AgentState, list[WorkerState]] = {agent: [] for agent in world.agents}
        for worker in world.workers.values():
            free[worker.agent].append(worker)
        if Counter(world.lent.values()) != {agent: len(workers) for agent, workers in free.items()}:
            where = dict(Counter(agent.host for agent in world.lent.values()))
            self._fail(f"the launcher started ranks on other nodes than it was told to: {where}")
            return
        world.told = True
        for rank, agent in sorted(world.lent.items()):
            worker = free[agent].pop(0)
            worker.rank = rank
            assert worker.connection is not None
            told = pickle.dumps(tuple(Enrolment(world.door, rank, world.size)))
            worker.connection.send(encode(Kind.ENROL, told, number=world.number))

    def answered(self, worker: WorkerState, frame: Frame) -> None:
        """A worker says whether it is a rank now."""
        world = self._coming
        if world is None or frame.number != world.number:
            return
        answer = Enrolled(*load(frame.body))
        if answer.why_not:
            self._fail(answer.why_not)
            return
        self.library = answer.library
        world.enrolled.add(worker.number)
        if len(world.enrolled) == world.size:
            self._stand(world)

    def _stand(self, world: World) -> None:
        self._coming, self._deadline, self._failures = None, None, 0
        self._standing[world.number] = world
        for worker in world.workers.values():
            worker.world = world.number
        self._pool.act(self._pool.scheduler.enrolled(list(world.workers), world.number, now()))

    def worker_left(self, worker: WorkerState, end: End) -> None:
        """A worker has ended; its rank is used up."""
        world = self._coming
        if world is not None and worker.number in world.workers:
            self._fail(f"a worker on {worker.host} ended while it became an MPI rank: {end}; {end.stderr}".rstrip("; "))
        standing = self._standing.get(worker.world)
        if standing is not None:
            standing.workers.pop(worker.number, None)
            if not standing.workers:
                del self._standing[worker.world]
                self._dissolve(standing)

    def _launch_ended(self, world: World, reason: str) -> None:
        if world is self._coming:
            self._fail(f"the MPI launcher {reason}")
        elif self._standing.get(world.number) is world:
            self._log(logging.WARNING, f"the MPI launcher of {len(world.workers)} ranks {reason}; they are replaced")
            for worker in filter(None, map(self._pool.scheduler.workers.get, world.workers)):
                worker.stale = True

    def _fail(self, reason: str) -> None:
        """The coming world is given up; who has been told of it may be blocked in MPI for ever."""
        world, self._coming, self._deadline = self._coming, None, None
        assert world is not None
        scheduler, roster = self._pool.scheduler, self._pool.roster
        self._failures += 1
        self._log(logging.WARNING, f"MPI ranks could not be started: {reason}")
        self._dissolve(world)
        if world.told:
            for number in world.workers:
                scheduler.leaving(number)
                roster.tell(number, Kind.KILL)
        if self._failures >= MOST_FAILURES:
            self.refused = (
                f"MPI ranks could not be started, {MOST_FAILURES} times one after another; the last time: {reason}"
            )
            for task in scheduler.gangs.drain():
                self._pool.resolve(task, GangError(f"no gang can run: {self.refused}"))
        self._pool.act(scheduler.enrolled([] if world.told else list(world.workers), 0, now()))

    def _dissolve(self, world: World) -> None:
        world.end()
        for agent in world.agents:
            if not agent.connection.closed:
                agent.connection.send(encode(Kind.UNLEND, number=world.number))

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
        short = {task: why for task in gangs.heads() if (why := gangs.shortage(task))} if gangs.kept else {}
        if not short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = time_now
        elif self._short_since + self._patience <= time_now:
            for task, why in short.items():
                gangs.remove(task)
                self._pool.resolve(task, GangError(why))

    def close(self) -> None:
        """The agents have ended, and the slots with them."""
        worlds = list(self._standing.values())
        if self._coming is not None:
            self._coming.end()
        for world in worlds:
            world.finish()
