"""What a running task can ask about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mainstay.node.place import Place


class TaskInfo(NamedTuple):
    """The task that runs now: its id, how often it was begun before, its label, and its worker's name."""

    id: int
    attempt: int
    label: str
    worker: str


current: TaskInfo | None = None
place: Place | None = None  # the worker's, for its files


def task() -> TaskInfo:
    """Return the running task's id (int), attempt (int, 0 for the first), label (str) and worker (str).

    Raises `RuntimeError` where no task runs, such as in the client.
    """
    if current is None:
        raise RuntimeError("mainstay.task() was called where no task runs; it is for use inside a task")
    return current
