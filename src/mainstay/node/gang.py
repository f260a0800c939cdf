"""A worker as an MPI rank: taking over an identity, and the communicators of the gangs that it is in.

MPI is initialised once, when the first gang is asked for, in all workers of a namespace together. Between gangs a
worker waits on its socket like any other, since a blocked MPI call would burn a core. `Create_group` builds a
communicator without the ranks that are not in it, in some 30 µs with MPICH and with Open MPI, and more where there are
fewer cores than ranks. It is kept for the next gang of the same ranks, and the client says when it is to be freed, so
that all of its ranks have it or none. It is not used again after a gang that failed, or that left a message unreceived,
and not freed then either: MPI would give its number to another, which would meet that message.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, NamedTuple

from mainstay.node.lending import fetch

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from mainstay.wire.frames import Bytes, Frame

TAGS = 30_000  # MPI promises 32,767


class Enrolment(NamedTuple):
    """What a worker is told to become: a rank (of how many) whose identity is to be had at the agent's door."""

    door: str
    rank: int
    size: int


class Enrolled(NamedTuple):
    """What a worker answers: why it did not become a rank (empty: it did), and which MPI it is of."""

    why_not: str = ""
    library: str = ""


class Part(NamedTuple):
    """A worker's part in a gang: the communicator's number, and its members' MPI ranks in their order.

    `answers` says whether this rank's result is wanted; `spent` are communicators that are to be freed.
    """

    communicator: int
    members: tuple[int, ...]
    answers: bool
    spent: tuple[int, ...]


class Rank:
    """This process as a rank of its namespace. MPI is initialised when it is made."""

    def __init__(self, enrolment: Enrolment) -> None:
        fetch(enrolment.door, enrolment.rank)
        from mpi4py import MPI

        if not MPI.Is_initialized():
            MPI.Init_thread()  # the agent has preloaded it
        self._world = MPI.COMM_WORLD
        self.library = " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split()[:4])
        if (self._world.rank, self._world.size) != (enrolment.rank, enrolment.size):
            raise RuntimeError(
                f"mpi4py on this node uses {self.library!r}, which takes this process for rank {self._world.rank} of "
                f"{self._world.size}, not for rank {enrolment.rank} of {enrolment.size}: a task has initialised MPI "
                "before the first gang (Executor(mpi=True) initialises it first), or mpiexec is of another MPI"
            )
        self._session = MPI.Session.Init() if hasattr(MPI, "Session") else None  # kept for life
        self._group = self._world.Get_group()
        self.is_silent = False  # nobody wants this rank's result
        self._communicators: dict[int, Intracomm] = {}

    def join(self, frame: Frame) -> Intracomm:
        """Return the communicator of the gang that a frame calls to; all members call this at once.

        Takes the part's buffer out of the frame, which is an ordinary call then.
        """
        part = Part(*pickle.loads(frame.buffers.pop(0)))
        for spent in part.spent:
            if spent in self._communicators:
                self._communicators.pop(spent).Free()
        self.is_silent = not part.answers
        if part.communicator not in self._communicators:
            group = self._group.Incl(part.members)
            self._communicators[part.communicator] = self._world.Create_group(group, part.communicator % TAGS)
            group.Free()
        return self._communicators[part.communicator]


def enrol(body: Bytes) -> tuple[Rank | None, Enrolled]:
    """Become the rank that an ENROL frame tells of; return that, and how it went, in words that a user can act on."""
    try:
        rank = Rank(Enrolment(*pickle.loads(body)))
    except ImportError as error:
        host = os.uname().nodename
        return None, Enrolled(
            f"mpi4py cannot be imported on {host} ({error}); `pip install 'mainstay[mpich]'` brings it"
        )
    except BaseException as error:
        return None, Enrolled(str(error))
    return rank, Enrolled(library=rank.library)
