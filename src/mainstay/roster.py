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
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mainstay.errors import InitializerFailed, PreloadFailed
from mainstay.files import Files
from mainstay.launch import spread
from mainstay.launches import GRACE, Attempt, Launches, Log
from mainstay.node.preload import Failure, Report
from mainstay.orders import Worker
from mainstay.outcomes import End, rebuild_error
from mainstay.peers import AgentState, WorkerState
from mainstay.preloading import Preloading
from mainstay.report import WorkerInfo
from mainstay.turns import Turns
from mainstay.wire.connection import Connection
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.payload import load
from mainstay.wire.poller import Poller

MOST_STILLBORN = 3  # workers of one agent that end, one after another, before they say hello


class Pool(Protocol):
    """What the roster reports to."""

    def headcount_changed(self) -> None: ...
    def node_vacated(self, agent: AgentState) -> None: ...
    def worker_replaced(self, old: WorkerState, new: int) -> None: ...
    def worker_joined(self, worker: WorkerState) -> None: ...
    def worker_spoke(self, worker: WorkerState, frames: list[Frame]) -> None: ...
    def worker_leaving(self, worker: WorkerState) -> None: ...
    def worker_left(self, worker: WorkerState, end: End) -> None: ...
    def slot_lent(self, agent: AgentState, frame: Frame) -> None: ...
    def worker_printed(self, name: str, frame: Frame) -> None: ...
    def break_down(self, error: BaseException) -> None: ...


class Roster:
    """Keeps as many workers standing as its launches are to bring, on the agents that came.

    Args:
        pool: is told of workers that join, speak and leave.
        control, data: the pollers that watch the agents' and the workers' connections.
        setup: what every agent is told before it forks.
    """

    def __init__(
        self, pool: Pool, control: Poller, data: Poller, launches: Launches, setup: dict[str, Any], log: Log
    ) -> None:
        self._pool, self._control, self._data, self._launches, self._log = pool, control, data, launches, log
        self._setup = pickle.dumps(setup)
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
        self.on_guest: Callable[[Connection, Frame], None]  # a worker has to do with process sets
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
        elif first.kind in (Kind.ASK, Kind.BRIDGED):
            self.on_guest(connection, first)
        else:
            connection.close()  # of a launch or a worker that was given up
            return
        if others:
            connection.on_frames(others)

    # -- agents

    def _agent_came(self, connection: Connection, hello: dict[str, Any]) -> None:
        attempt = self._launches.attempt(hello["launch"])
        if attempt is None:
            connection.close()
            return
        agent = AgentState(connection, hello, f"{attempt.launcher.name}-{attempt.number}", attempt.site)
        if agent.stage and agent.stage["why"]:
            reason = f"{agent.host} runs from the shared environment, not from the staged one: {agent.stage['why']}"
            self._log(logging.WARNING, reason)
        connection.on_frames = lambda frames: self._on_agent(agent, frames)
        connection.on_end = lambda: self._agent_gone(agent)
        self.agents.append(agent)
        agent.is_back = self._launches.came(attempt, agent.host, agent.heard)
        connection.send(encode(Kind.SETUP, self._setup))
        self.enlist(agent, self._share(hello["slots"], agent.cores, attempt))
        if attempt is self._launches.current:
            self._complete = len(self.of_launch(attempt.number)) >= attempt.nodes
        self._pool.headcount_changed()

    def of_launch(self, number: int) -> list[AgentState]:
        """Return the agents that came by that launch."""
        return [agent for agent in self.agents if agent.launch == number]

    def _share(self, slots: int | None, cores: int, attempt: Attempt) -> int:
        """Return how many of its launch's workers the agent that came last gets."""
        if attempt.wanted is None:
            return slots or cores
        agents = self.of_launch(attempt.number)
        if slots is not None:
            return max(0, min(slots, attempt.wanted - sum(len(agent.workers) for agent in agents)))
        each, more = divmod(attempt.wanted, attempt.nodes)
        return each + (len(agents) <= more)

    def infos(self, scheduled: dict[int, Worker]) -> list[WorkerInfo]:
        """Return every worker and what it does."""
        return [worker.info(scheduled.get(worker.number)) for worker in self.workers.values()]

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
        return dict(Counter(worker.host for worker in self.workers.values() if not worker.is_leaving))

    def is_complete(self) -> bool:
        """Whether every agent has come, and every worker that it was to fork."""
        return self._complete and all(agent.stands for agent in self.agents)

    def resize(self, agent: AgentState, change: int) -> None:
        """The launch of an agent is to have so many workers more, also when it is started again."""
        attempt = self._launches.attempt(agent.launch)
        if attempt is not None:
            mine = sum(one.staying for one in self.of_launch(agent.launch))
            self._launches.resize(attempt, (mine if attempt.wanted is None else attempt.wanted) + change)

    def enlist(self, agent: AgentState, count: int) -> list[int]:
        """Return the numbers of so many workers more that an agent is to fork, in its turn."""
        numbers = [self._enlist(agent) for _ in range(count)]
        if agent.has_forked:
            self._fork(agent, numbers)
        elif agent.workers and not agent.in_line:
            agent.in_line = True
            self._turns.came(agent)
            self._give_turns()
        return numbers

    @property
    def most(self) -> int | None:
        """How many workers there can be; None where that is not known yet."""
        return len(self.workers) if self.is_complete() else self._launches.wanted

    def _enlist(self, agent: AgentState) -> int:
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
                self.preloading.imports(agent.host)
                agent.connection.send(encode(Kind.PRELOAD, pickle.dumps(tuple(wanted))))

    def _fork(self, agent: AgentState, numbers: Iterable[int]) -> None:
        agent.has_forked = True
        for number in numbers:
            agent.connection.send(encode(Kind.FORK, number=number))

    def _turn_ended(self, agent: AgentState) -> None:
        """Its workers stand, or it is gone."""
        self._turns.done(agent)
        self._give_turns()

    def _preload_failed(self, agent: AgentState, failure: Failure) -> None:
        if agent.is_back or agent.launch in self._launches.further:  # the others go on
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
            elif frame.kind == Kind.HEARTBEAT and frame.body:
                self.preloading.imports(agent.host, bytes(frame.body).decode())
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
        if agent.is_released:
            self._pool.node_vacated(agent)
            return
        attempt = self._launches.attempt(agent.launch)
        if attempt is not None and not self.closing:
            self._log(logging.WARNING, f"the agent on {agent.host} {what}; its tasks run again elsewhere")
            self._launches.lost(attempt, agent.host, time.monotonic())
            if not self.of_launch(agent.launch):
                self._launches.lost_all(attempt, time.monotonic())

    def dismiss(self, agents: list[AgentState]) -> None:
        """Forget these agents; their workers' tasks go elsewhere."""
        for agent in agents:
            self._complete &= agent.is_released or agent.launch in self._launches.further
            self.agents.remove(agent)
            self.preloading.gone(agent.host)
            agent.connection.close()
            self._turns.done(agent)
        lost = [worker for agent in agents for worker in agent.workers.values()]
        for worker in lost:
            self._pool.worker_leaving(worker)  # all, before the tasks of the first look for another
        for worker in lost:
            self._worker_gone(worker, End())
        if not self.closing:
            self._make_up_for_all()
        self._pool.headcount_changed()

    def _make_up_for_all(self) -> None:
        """Where no worker is left, agents that had none get some; where no agent is, the launch is begun again."""
        left = [agent for agent in self.agents if not agent.is_released]
        if not left:
            self._launches.lost_all(self._launches.current, time.monotonic())
        elif not any(agent.staying for agent in left):
            missing = self._launches.wanted or 1
            room = [agent.cores if agent.room is None else agent.room for agent in left]
            for agent, count in zip(left, spread([max(1, most) for most in room], missing), strict=True):
                self.enlist(agent, count)

    def release(self, agent: AgentState) -> None:
        """Its last worker has left: its node is given back."""
        agent.is_released = True
        agent.connection.send(encode(Kind.STOP))

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
        self._launches.stands(worker.agent.launch)
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
        if agent in self.agents and not (self.closing or worker.is_leaving):
            self._replace(worker, end)

    def _replace(self, worker: WorkerState, end: End) -> None:
        agent = worker.agent
        if worker.pid == 0:
            agent.stillborn += 1
        if agent.stillborn >= MOST_STILLBORN:
            words = f"; the last said: {end.stderr}" if end.stderr else ""
            attempt = self._launches.attempt(agent.launch)
            assert attempt is not None
            self._launches.fail(attempt, f"workers on {agent.host} end as they start ({end}){words}")
        else:
            number = self._enlist(agent)
            self._pool.worker_replaced(worker, number)
            self._fork(agent, [number])

    def drop(self, worker: WorkerState) -> None:
        """A worker that does not stand yet is not to come."""
        self.tell(worker.number, Kind.KILL)
        self._worker_gone(worker, End())
        if worker.agent.stands:
            self._turn_ended(worker.agent)

    def let_go(self, number: int) -> None:
        """A worker that was to leave has nothing to do any more: it ends as its connection does."""
        worker = self.workers[number]
        assert worker.connection is not None
        worker.connection.close()
        self._leaving[number] = time.monotonic() + GRACE

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
                self.tell(number, Kind.KILL)
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
