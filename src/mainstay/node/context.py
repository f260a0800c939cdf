"""What a running task can ask about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from mainstay.node.place import Place


class TaskInfo(NamedTuple):
    """The task that runs now: its id, how often it was begun before, its label, and its worker's name."""

    id: int
    attempt: int
    label: str
    worker: str


class Places(NamedTuple):
    """Where a program's ranks are to be: how many on each host; what stands before its command line, and belongs in its
    environment, to start them there; variables that do not belong there, by their beginnings; why it cannot be started
    (empty: it can); and the signal that what starts them is to get at the worker's end."""

    hosts: dict[str, int]
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # noqa: RUF012  nobody writes into it
    hidden: tuple[str, ...] = ()
    why_not: str = ""
    ends_by: str = "KILL"


class Point:
    """Where a malleable program's rank 0 keeps states with the client, and hears whether all are to pause.

    Args:
        resumed: what was kept last.
        reached: keeps the states of all ranks; says whether they are to pause.
    """

    def __init__(self, resumed: Callable[[], list[Any] | None], reached: Callable[[list[Any]], bool]) -> None:
        self.resumed, self.reached = resumed, reached
        self.paused = False


current: TaskInfo | None = None
place: Place | None = None  # the worker's, for its files
places: Places | None = None  # of the program's ranks, where the task that runs is to start several
point: Point | None = None  # at which a malleable program's rank hands over
communicator: Intracomm | None = None  # of the gang that runs here


def task() -> TaskInfo:
    """Return the running task's id (int), attempt (int, 0 for the first), label (str) and worker (str).

    Raises `RuntimeError` where no task runs, such as in the client.
    """
    if current is None:
        raise RuntimeError("mainstay.task() was called where no task runs; it is for use inside a task")
    return current


def comm() -> Intracomm:
    """Return the communicator (an `mpi4py.MPI.Intracomm`) of the gang that the running task is a rank of.

    It is the gang's own, and freed after it. Raises `RuntimeError` outside of a gang.
    """
    if communicator is None:
        raise RuntimeError(
            "mainstay.comm() was called outside of a gang; submit the call with a number of ranks: "
            "ex.options(ranks=4).submit(fn, x)"
        )
    return communicator
