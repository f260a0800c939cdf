"""Who stands: the agents, their workers, and what is known of each.

a guest's first frame ─┬─ AGENT_HELLO ──▶ gets SETUP; in its turn PRELOAD, and one FORK for each of its workers
                       └─ WORKER_HELLO ─▶ its frames go to the pool
an agent's FORKED, OUTPUT, ENDED; ends of files ──▶ joined, left, replaced
"""

from __future__ import annotations

import logging
import pickle
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from mainstay.errors import InitializerFailed, PreloadFailed
from mainstay.files import Files
from mainstay.launches import GRACE, Launches, Log
from mainstay.node.preload import Failure, Report
from mainstay.orders import Task, Worker
from mainstay.outcomes import End, rebuild_error
from mainstay.preloading import Preloading
from mainstay.report import Description, Staged, WorkerInfo
from mainstay.turns import Turns
from mainstay.wire.connection import Connection
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.payload import load
from mainstay.wire.poller import Poller

MOST_STILLBORN = 3  # workers of one agent that end, one after another, before they say hello


class AgentState:
    """An agent as the client sees it."""

    def __init__(self, connection: Connection, hello: dict[str, Any], namespace: str) -> None:
        self.connection, self.namespace = connection, namespace  # the launch by which it came
        self.host: str = hello["host"]
        self.cores: int = hello["cores"]
        self.stage: dict[str, Any] | None = hello.get("stage")
        self.workers: dict[int, WorkerState] = {}
        self.stillborn = 0
        self.is_back = False  # it stands for one that was lost
        self.heard = time.monotonic()

    @property
    def stands(self) -> bool:
        """Whether all of its workers do."""
        return all(worker.pid for worker in self.workers.values())


class WorkerState:
    """A worker as the client sees it."""

    def __init__(self, number: int, agent: AgentState, rank: int) -> None:
        self.number, self.agent, self.host = number, agent, agent.host
        self.namespace, self.rank = agent.namespace, rank  # until it has enrolled, and is an MPI rank
        self.connection: Connection | None = None
        self.pid = 0
        self.known: set[int] = set()  # numbers of the functions that it has
        self.overran: Task | None = None  # for which it was killed, and whose files are to come first
        self.port = ""  # where ranks of other namespaces reach it
        self.spent: list[int] = []  # communicators that it is to free
        self.saving = False  # it has ended, and its agent brings what it left before it says so

    def info(self, scheduled: Worker | None) -> WorkerInfo:
        state = "starting" if scheduled is None else "busy" if scheduled.hand else "idle"
        return WorkerInfo(self.number, self.host, self.pid, self.namespace, self.rank, state)


class Pool(Protocol):
    """What the roster reports to."""

    def headcount_changed(self) -> None: ...
    def worker_joined(self, worker: WorkerState) -> None: ...
    def worker_spoke(self, worker: WorkerState, frames: list[Frame]) -> None: ...
    def worker_leaving(self, worker: WorkerState) -> None: ...
    def worker_left(self, worker: WorkerState, end: End) -> None: ...
    def slot_lent(self, agent: AgentState, frame: Frame) -> None: ...
    def worker_printed(self, name: str, frame: Frame) -> None: ...
    def break_down(self, error: BaseException) -> None: ...


class Roster:
    """Keeps `wanted` workers standing on the agents that came (None: one per core).

    Args:
        pool: is told of workers that join, speak and leave.
        control, data: the pollers that watch the agents' and the workers' connections.
        setup: what every agent is told before it forks.
    """

    def __init__(
        self,
        pool: Pool,
        control: Poller,
        data: Poller,
        launches: Launches,
        wanted: int | None,
        setup: dict[str, Any],
        log: Log,
    ) -> None:
        self._pool, self._control, self._data, self._launches, self._log = pool, control, data, launches, log
        self.wanted, self._setup = wanted, pickle.dumps(setup)
        self._node_timeout: float = setup["node_timeout"]  # seconds without a word, heartbeats included
        self.agents: list[AgentState] = []
        self.workers: dict[int, WorkerState] = {}
        self._leaving: dict[int, float] = {}  # closed, and waiting until then for the agent's word on why
        self._numbers = 0
        self._enlisted: Counter[str] = Counter()  # workers of each launch, those that have ended too
        self._complete = False
        self.ever_started = 0
        self.closing = False
        self.files = Files(log)
        self.preloading = Preloading((), log)  # where something is to be, another is set before the start
        self._turns: Turns[AgentState] = Turns(setup["stagger"], launches.start_timeout)

    def admit(self, sock: socket.socket) -> None:
        """A peer has proved the key; its first frame says what it is."""
        connection = Connection(sock, self._control)
        connection.on_frames = lambda frames: self._on_hello(connection, frames)
        connection.on_end = connection.close

    def _on_hello(self, connection: Connection, frames: list[Frame]) -> None:
        first, *others = frames
        if first.kind in (Kind.FETCH, Kind.BRING):
            self.files.serve(connection.detach(), first)
            return
        if self.closing:
            connection.close()  # too late; its end-of-file ends it
            return
        if first.kind == Kind.AGENT_HELLO:
            self._agent_came(connection, load(first.body))
        elif first.kind in (Kind.WORKER_HELLO, Kind.INITIALIZER_FAILED) and first.number in self.workers:
            self._worker_came(connection, self.workers[first.number], first)
        else:
            connection.close()  # of a launch or a worker that was given up
            return
        if others:
            connection.on_frames(others)

    # -- agents

    def _agent_came(self, connection: Connection, hello: dict[str, Any]) -> None:
        attempt = self._launches.current
        if attempt is None or hello["launch"] != attempt.number:
            connection.close()
            return
        agent = AgentState(connection, hello, f"{attempt.launcher.name}-{attempt.number}")
        if agent.stage and agent.stage["why"]:
            reason = f"{agent.host} runs from the shared environment, not from the staged one: {agent.stage['why']}"
            self._log(logging.WARNING, reason)
        connection.on_frames = lambda frames: self._on_agent(agent, frames)
        connection.on_end = lambda: self._agent_gone(agent)
        self.agents.append(agent)
        agent.is_back = self._launches.came(agent.host, agent.heard)
        connection.send(encode(Kind.SETUP, self._setup))
        for _ in range(self._share(hello["slots"], agent.cores, attempt.nodes)):
            self._enlist(agent)
        if agent.workers:
            self._turns.came(agent)
            self._give_turns()
        self._complete = len(self.agents) >= attempt.nodes
        self._pool.headcount_changed()

    def _share(self, slots: int | None, cores: int, nodes: int) -> int:
        """Return how many of the pool's workers the agent that came last gets."""
        if self.wanted is None:
            return slots or cores
        if slots is not None:
            return min(slots, self.wanted - len(self.workers))
        each, more = divmod(self.wanted, nodes)
        return each + (len(self.agents) <= more)

    def infos(self, scheduled: dict[int, Worker]) -> list[WorkerInfo]:
        """Return every worker and what it does."""
        return [worker.info(scheduled.get(worker.number)) for worker in self.workers.values()]

    def describe(self, standing: Collection[int], started_after: float | None) -> Description:
        """Return what stands, given the numbers of the workers that do."""
        launches = self._launches
        name = "" if launches.current is None else launches.current.launcher.name
        hosts = Counter(self.workers[number].host for number in standing)
        wanted = self.wanted or len(self.workers)
        reasons, preloaded, staged = list(launches.reasons), self.preloading.told(), self._staged()
        return Description(
            name, dict(hosts), len(standing), wanted, started_after, reasons, self.ever_started, preloaded, staged
        )

    def _staged(self) -> Staged | None:
        stage = self._launches.stage
        told = [agent.stage for agent in self.agents if agent.stage]
        if stage is None or not told:
            return None
        there = [one for one in told if not one["why"]]
        seconds, imports = max((one["took"] for one in there), default=0.0), sum(one["imports"] for one in there)
        way = stage.way(all(one.get("sent") for one in there if one["took"]))
        return Staged(way, stage.size, seconds, len(there), len(self.agents), imports, stage.manifest.prefix)

    @property
    def cores(self) -> dict[str, int]:
        """How many cores the agent of each host may use."""
        return {agent.host: agent.cores for agent in self.agents}

    @property
    def absent(self) -> dict[str, str]:
        """The nodes that the launcher had to leave out, and why."""
        return {} if self._launches.current is None else self._launches.current.absent

    def kept(self) -> dict[str, int]:
        """Return how many workers each host is to have."""
        return dict(Counter(worker.host for worker in self.workers.values()))

    def is_complete(self) -> bool:
        """Whether every agent has come, and every worker that it was to fork."""
        return self._complete and all(agent.stands for agent in self.agents)

    def _enlist(self, agent: AgentState) -> int:
        """Return the number of a worker that the agent is to fork."""
        self._numbers += 1
        rank = self._enlisted[agent.namespace]
        self._enlisted[agent.namespace] += 1
        agent.workers[self._numbers] = self.workers[self._numbers] = WorkerState(self._numbers, agent, rank)
        return self._numbers

    def _give_turns(self) -> None:
        wanted = self.preloading.wanted
        for agent in self._turns.next(time.monotonic()):
            if wanted is None:
                self._fork(agent, agent.workers)
            else:
                agent.connection.send(encode(Kind.PRELOAD, pickle.dumps(tuple(wanted))))

    def _fork(self, agent: AgentState, numbers: Iterable[int]) -> None:
        for number in numbers:
            agent.connection.send(encode(Kind.FORK, number=number))

    def _turn_ended(self, agent: AgentState) -> None:
        """Its workers stand, or it is gone."""
        self._turns.done(agent)
        self._give_turns()

    def _preload_failed(self, agent: AgentState, failure: Failure) -> None:
        if agent.is_back:  # its node may not be whole yet; the others go on
            self._agent_gone(agent, f"cannot preload {failure.name!r}: {failure.reason}")
            return
        error = PreloadFailed(agent.host, failure.name, failure.reason)
        if failure.error is not None:
            error.__cause__ = rebuild_error(failure.error, agent.host, "")
        self._pool.break_down(error)

    def _on_agent(self, agent: AgentState, frames: list[Frame]) -> None:
        agent.heard = time.monotonic()
        for frame in frames:
            if frame.kind == Kind.FORKED:
                self.ever_started += 1
            elif frame.kind == Kind.PRELOADED:
                self.preloading.reported(agent.host, Report(*load(frame.body)))
                self._fork(agent, agent.workers)
            elif frame.kind == Kind.PRELOAD_FAILED:
                self._preload_failed(agent, Failure(*load(frame.body)))
            elif frame.kind == Kind.LENT:
                self._pool.slot_lent(agent, frame)
            elif frame.kind == Kind.OUTPUT:
                self._pool.worker_printed(f"{agent.host}/{frame.number}", frame)
            elif frame.kind == Kind.SAVING and frame.number in agent.workers:
                agent.workers[frame.number].saving = True
                self._leaving.pop(frame.number, None)
            elif frame.kind == Kind.ENDED and frame.number in agent.workers:
                self._on_ended(agent.workers[frame.number], End(**load(frame.body)))

    def _on_ended(self, worker: WorkerState, end: End) -> None:
        if worker.connection is not None and not worker.connection.closed:
            rest = worker.connection.receive_rest()
            if rest:
                self._pool.worker_spoke(worker, rest)
        self._worker_gone(worker, end)

    def _agent_gone(self, agent: AgentState, what: str = "is gone") -> None:
        self.dismiss([agent])
        if self._launches.current is not None and not self.closing:
            self._log(logging.WARNING, f"the agent on {agent.host} {what}; its tasks run again elsewhere")
            self._launches.lost(agent.host, time.monotonic())
            if not self.agents:
                self._launches.lost_all(time.monotonic())

    def dismiss(self, agents: list[AgentState]) -> None:
        """Forget these agents; their workers' tasks go elsewhere."""
        self._complete = False
        for agent in agents:
            self.agents.remove(agent)
            agent.connection.close()
            self._turns.done(agent)
        lost = [worker for agent in agents for worker in agent.workers.values()]
        for worker in lost:
            self._pool.worker_leaving(worker)  # all, before the tasks of the first look for another
        for worker in lost:
            self._worker_gone(worker, End())
        self._pool.headcount_changed()

    # -- workers

    def _worker_came(self, connection: Connection, worker: WorkerState, hello: Frame) -> None:
        if hello.kind == Kind.INITIALIZER_FAILED:
            error = InitializerFailed("the initializer raised on a worker; its exception is the cause")
            error.__cause__ = rebuild_error(hello.body, worker.host, str(worker.number))
            connection.close()
            self._pool.break_down(error)
            return
        worker.connection, worker.pid, worker.agent.stillborn = connection, load(hello.body)["pid"], 0
        connection.move(self._data)
        connection.on_frames = lambda frames: self._pool.worker_spoke(worker, frames)
        connection.on_end = lambda: self._on_worker_end(worker)
        self._launches.stands()
        self._pool.worker_joined(worker)
        if worker.agent.stands:
            self._turn_ended(worker.agent)

    def _on_worker_end(self, worker: WorkerState) -> None:
        """Its socket is closed. Why, the agent tells; make sure that it has a reason to."""
        if not worker.saving:
            self._leaving[worker.number] = time.monotonic() + GRACE
        self._pool.worker_leaving(worker)
        self.tell(worker.number, Kind.KILL)

    def _worker_gone(self, worker: WorkerState, end: End) -> None:
        if self.workers.pop(worker.number, None) is None:
            return
        self._leaving.pop(worker.number, None)
        agent = worker.agent
        del agent.workers[worker.number]
        if worker.connection is not None:
            worker.connection.close()
        self._pool.worker_left(worker, end)
        if agent in self.agents and not self.closing:
            self._replace(worker, end)

    def _replace(self, worker: WorkerState, end: End) -> None:
        agent = worker.agent
        if worker.pid == 0:
            agent.stillborn += 1
        if agent.stillborn >= MOST_STILLBORN:
            words = f"; the last said: {end.stderr}" if end.stderr else ""
            self._launches.fail(f"workers on {agent.host} end as they start ({end}){words}")
        else:
            self._fork(agent, [self._enlist(agent)])

    def tell(self, number: int, kind: int) -> None:
        """Tell the agent of that worker to do something to it."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.agent.connection.send(encode(kind, number=number))

    # -- time

    def next_deadline(self) -> float | None:
        silence = min((agent.heard + self._node_timeout for agent in self.agents), default=None)
        leaving = next(iter(self._leaving.values()), None)  # the oldest is the first
        return min((t for t in (silence, leaving, self._turns.next_deadline()) if t is not None), default=None)

    def tick(self, now: float) -> None:
        for number, deadline in list(self._leaving.items()):
            if deadline <= now and number in self.workers:
                self._worker_gone(self.workers[number], End())
        for agent in [agent for agent in self.agents if agent.heard + self._node_timeout <= now]:
            self._agent_gone(agent, f"has said nothing for {self._node_timeout:g} s")
        self._turns.tick(now)
        self._give_turns()

    def stop(self, patience: float) -> None:
        """Close the workers' connections, which ends them; agents kill what still runs after `patience` seconds."""
        self.closing = True
        for worker in list(self.workers.values()):
            if worker.connection is not None:
                worker.connection.close()
        for agent in self.agents:
            agent.connection.send(encode(Kind.STOP, number=int(patience * 1000)))

    def abandon(self) -> None:
        """In a forked child: close every socket, without a word and without touching what the parent polls."""
        workers = [worker.connection for worker in self.workers.values() if worker.connection is not None]
        for connection in [*workers, *(agent.connection for agent in self.agents)]:
            connection.sock.close()

    def close(self) -> None:
        for agent in self.agents:
            agent.connection.close()
