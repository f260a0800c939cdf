"""What the scheduler is given, what it knows of its workers, and what it orders. Pure data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple


class Members:
    """The workers of a process set, by their numbers, as they come and go: whoever holds this sees who is in it now.

    There is one for each name, and what waits for the same one is of one kind.
    """

    __slots__ = ("name", "numbers", "refills")

    def __init__(self, name: str, numbers: Iterable[int] = (), *, refills: bool = False) -> None:
        self.name, self.numbers = name, set(numbers)
        self.refills = refills  # workers that come may belong to it, in the place of some that have gone

    def __contains__(self, number: object) -> bool:
        return number in self.numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def meets(self, numbers: Iterable[int]) -> bool:
        """Whether some of these workers are in the set."""
        return not self.numbers.isdisjoint(numbers)


@dataclass(frozen=True, slots=True)
class Ranks:
    """How many workers a gang is to have, at least and at most, and which may be taken.

    `scope` is "pool", or what a gang takes as a whole: "node" (all workers of one node), "all" (of the pool) or "cores"
    (as many of one node as stand for its `cores`).
    """

    least: int = 1
    most: int = 1
    scope: str = "pool"
    on: Members | None = None  # None: any worker
    root_only: bool = False  # whether only rank 0's result is wanted
    nodes: frozenset[str] | None = None  # whose workers may be taken; None: any
    alone: bool = False  # one of the workers runs the task, and the others keep quiet meanwhile; see `holds`
    is_program: bool = False  # the others keep quiet because the ranks of a program are in their places
    cores: int = 0  # of its node that one who is alone is pinned to; 0: it is not pinned

    @property
    def is_of_one_node(self) -> bool:
        """Whether all of its workers must be."""
        return self.scope in ("node", "cores")

    @property
    def holds_others(self) -> bool:
        """Whether others of its node keep quiet while one runs it."""
        return self.alone and self.is_of_one_node


@dataclass(eq=False, slots=True)
class Task:
    """One call, from submit to its result."""

    id: int
    function: int
    payload: Any = None
    future: Any = None
    entry: Any = None  # what a journal will call it
    label: str = ""
    priority: int = 0
    timeout: float | None = None
    retries: int = 0
    worker_retries: int = 2
    attempt: int = 0
    deaths: int = 0
    solo: bool = False
    expected: float = 0.0  # seconds; what it was taken for when it came into a hand
    brings: bool = False  # what it leaves on a node's disk is brought to the client
    gang: Ranks | None = None  # None: it runs on a single worker
    on: Members | None = None  # of whom that is one; None: any
    overtaken: int = 0  # workers that have gone to later tasks while this gang was the first
    begun: bool = False  # it was sent once, so its future runs and can no longer be cancelled
    witness: Any = None  # what its worker is to compare, for the journal
    malleable: Ranks | None = None  # within what a gang may change its size while it runs; None: it does not
    state: Any = None  # what all ranks of a malleable gang have yielded last: a pickle and its buffers
    pausing: bool = False  # it has been told to hand over at its next point
    renews: bool = False  # it is to be wider then by new ranks for all, see `renewal`
    places: Any = None  # where the ranks of a program are to be
    pinned: tuple[int, ...] = ()  # the places, among its node's cores, of those that it runs on; empty: on any


def order(task: Task) -> tuple[int, int]:
    """Return what tasks are sorted by: the highest priority first, then the earliest submit."""
    return -task.priority, task.id


@dataclass(eq=False, slots=True)
class Worker:
    """What the scheduler knows of a worker: the tasks in its hand, in the order in which it runs them."""

    id: int
    node: str = ""
    hand: dict[int, Task] = field(default_factory=dict)
    load: float = 0.0  # seconds that the hand is expected to last
    since: float = 0.0  # when a result last came, or when the first company did
    deadline: float = inf
    recalled: bool = False  # it was asked for what it has not begun, and has not answered
    closed: bool = False  # it was recalled, so it gets no company until its hand is empty
    idle: bool = False
    among: OrderedDict[int, Worker] | None = None  # those with several tasks in hand, if it is one
    dying: bool = False  # it gets nothing more: it was killed, or is leaving
    leaving: bool = False  # it has been asked to, and goes when its hand is empty
    site: int = 0  # the job that its node is in; no MPI launcher reaches from one into another
    namespace: str = ""  # the launch that its MPI rank is of; empty: it has none yet
    enrolling: bool = False  # it is becoming a rank
    stale: bool = False  # its namespace is of no use any more, so it is to be replaced when it idles


class Send(NamedTuple):
    """Send these tasks to this worker; those that were cancelled meanwhile are reported by `dropped`."""

    worker: int
    tasks: list[Task]


class Recall(NamedTuple):
    """Ask this worker for the tasks that it has not begun."""

    worker: int


class Kill(NamedTuple):
    """End this worker: its task has run out of time."""

    worker: int
    task: Task


class Leave(NamedTuple):
    """This worker was to leave, and has done what it had begun: end it."""

    worker: int


class GiveUp(NamedTuple):
    """This task has ended more workers than it may."""

    task: Task
    worker: int


class Assemble(NamedTuple):
    """Send this gang to these workers."""

    task: Task
    workers: list[int]


class Hold(NamedTuple):
    """Send this task to the first of these workers, and nothing to the others until it has ended."""

    task: Task
    workers: list[int]


class Enrol(NamedTuple):
    """Make these workers ranks of one namespace; `enrolled` tells how that went."""

    workers: list[int]


class Replace(NamedTuple):
    """End this worker, blocked in a gang that has failed or a rank of no use, and fork another."""

    worker: int


class Disband(NamedTuple):
    """All parts of this gang have ended. `failed` is the worker whose part failed first, None if none has."""

    task: Task
    failed: int | None
    how: str  # "returned", "raised", "died" or "overran"


Action = Send | Recall | Kill | Leave | GiveUp | Assemble | Hold | Enrol | Replace | Disband
