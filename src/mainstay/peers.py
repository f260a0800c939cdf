"""An agent and a worker, as the client sees them."""

from __future__ import annotations

import time
from typing import Any

from mainstay.node.gang import Part
from mainstay.node.slot import COMMAND
from mainstay.orders import Task, Worker
from mainstay.report import WorkerInfo
from mainstay.wire.connection import Connection


class AgentState:
    """An agent as the client sees it."""

    def __init__(self, connection: Connection, hello: dict[str, Any], namespace: str, site: int) -> None:
        self.connection, self.namespace = connection, namespace  # the launch by which it came
        self.site = site  # the job that its node is in
        self.launch: int = hello["launch"]
        self.host: str = hello["host"]
        self.cores: int = hello["cores"]
        self.room: int | None = hello.get("room", hello["slots"])  # for workers; None: for as many as one likes
        self.stage: dict[str, Any] | None = hello.get("stage")
        self.slot: list[str] = [*(self.stage or {}).get("slot", COMMAND)]  # what starts an MPI rank on its node
        self.workers: dict[int, WorkerState] = {}
        self.stillborn = 0
        self.is_back = False  # it stands for one that was lost
        self.in_line = self.has_forked = False  # its turn to begin is to come, or has come
        self.is_released = False  # it was told to end, since no worker is left on its node
        self.heard = time.monotonic()

    @property
    def staying(self) -> int:
        """How many of its workers are not to leave."""
        return sum(not worker.is_leaving for worker in self.workers.values())

    @property
    def is_staged(self) -> bool:
        """Whether it runs from its node's own copy of the environment."""
        return self.stage is not None and not self.stage["why"]

    @property
    def tree(self) -> str:
        """Where that copy is, if it stays when the agent has ended; else empty."""
        tree: str = (self.stage or {}).get("tree", "")
        return tree

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
        self.known: dict[int, Any] = {}  # numbers of the functions that it has, and what their calls compare there
        self.overran: Task | None = None  # for which it was killed, and whose files are to come first
        self.port = ""  # where ranks of other namespaces reach it
        self.part: Part | None = None  # in the gangs that it is called to, as it knows
        self.spent: list[int] = []  # communicators that it is to free
        self.spoilt = 0  # communicators that it has and can never free
        self.is_leaving = False  # nobody takes its place
        self.is_taken = False  # it is killed for that, which is no blame for its task
        self.saving = False  # it has ended, and its agent brings what it left before it says so

    def info(self, scheduled: Worker | None) -> WorkerInfo:
        state = "starting" if scheduled is None else "busy" if scheduled.hand else "idle"
        state = "leaving" if self.is_leaving else state
        return WorkerInfo(self.number, self.host, self.pid, self.namespace, self.rank, state)
