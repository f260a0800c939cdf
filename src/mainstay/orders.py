"""What the scheduler is given, and what it orders. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


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
    begun: bool = False  # it was sent once, so its future runs and can no longer be cancelled


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


class GiveUp(NamedTuple):
    """This task has ended more workers than it may."""

    task: Task
    worker: int


Action = Send | Recall | Kill | GiveUp
