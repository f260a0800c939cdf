"""A worker as an MPI rank: taking over an identity, and the communicators of the gangs that it is in.

MPI is initialised once, when the first gang is asked for, in all workers of a namespace together. Between gangs a
worker waits on its socket like any other, since a blocked MPI call would burn a core. `Create_group` builds a
communicator without the ranks that are not in it, in some 30 µs with MPICH and with Open MPI, and more where there are
fewer cores than ranks. Ranks of several namespaces are joined, where MPI can do that, one namespace after another:

    parts   0 ──▶ 1 ──▶ 2 ──▶ 3      each accepts once, at the port of its first rank; those before it connect

In halves it would take fewer steps; but MPICH 5.0.2 crashes where a rank that connects is connected to meanwhile. So
the first rank of the first part connects and never accepts, those of the others accept once and never connect, and
nobody can come to a port out of turn.

A communicator is kept for the next gang of the same ranks, and the client says when it is to be freed, so that all of
its ranks have it or none. It is not used again after a gang that failed, or that left a message unreceived, and not
freed then either: MPI would give its number to another, which would meet that message.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, NamedTuple

from mainstay.node.lending import fetch
from mainstay.node.shm import take_names_off

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

    from mainstay.wire.frames import Bytes

JOINS = "MPICH"  # Open MPI 5 cannot accept and connect between launches that do not share a daemon of its own
TAGS = 30_000  # MPI promises 32,767
WORLD = 0  # the number of the communicator of all ranks of a namespace


class Enrolment(NamedTuple):
    """What a worker is told to become: a rank (of how many) whose identity is to be had at the agent's door."""

    door: str
    rank: int
    size: int


class Enrolled(NamedTuple):
    """What a worker answers: why it did not become a rank (empty: it did), and which MPI it is of.

    `port` is where ranks of other namespaces reach it; empty: this MPI cannot join namespaces. `has_pmix` says whether
    its launcher has PMIx.
    """

    why_not: str = ""
    library: str = ""
    port: str = ""
    has_pmix: bool = False


class Leaf(NamedTuple):
    """A part of a communicator that is to be built: ranks of one that is there. `port` is that of the first rank."""

    parent: int
    ranks: tuple[int, ...]
    port: str


class Part(NamedTuple):
    """A worker's part in a gang: the communicator's number, and what it is built from (nothing: it is kept).

    `home` is the leaf that this rank is in; `answers` says whether its result is wanted; `spent` are communicators
    that are to be freed.
    """

    communicator: int
    leaves: tuple[Leaf, ...]
    home: int
    answers: bool
    spent: tuple[int, ...]


class Rank:
    """This process as a rank of its namespace. MPI is initialised when it is made."""

    def __init__(self, enrolment: Enrolment) -> None:
        fetch(enrolment.door, enrolment.rank)
        from mpi4py import MPI

        if not MPI.Is_initialized():
            MPI.Init_thread()  # the agent has preloaded it
        take_names_off()
        world = MPI.COMM_WORLD
        self.library = " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split(",")[0].split())
        if (world.rank, world.size) != (enrolment.rank, enrolment.size):
            raise RuntimeError(
                f"mpi4py on this node uses {self.library!r}, which takes this process for rank {world.rank} of "
                f"{world.size}, not for rank {enrolment.rank} of {enrolment.size}: a task has initialised MPI "
                "before the first gang (Executor(mpi=True) initialises it first), or mpiexec is of another MPI"
            )
        self._session = MPI.Session.Init() if hasattr(MPI, "Session") else None  # kept for life
        self.port = MPI.Open_port() if self.library.startswith(JOINS) else ""
        self.is_silent = False  # nobody wants this rank's result
        self._communicators: dict[int, Intracomm] = {WORLD: world}
        self._part: Part

    def takes(self, body: Bytes) -> None:
        """This is the rank's part in the gangs that it is called to from now on."""
        self._part = Part(*pickle.loads(body))

    def join(self) -> Intracomm:
        """Return the communicator of the gang that the rank was called to; all members call this at once."""
        part = self._part
        self.is_silent = not part.answers
        if part.leaves:
            self._communicators[part.communicator] = self._built(part)
        for spent in part.spent:  # after that: one may have been a part's parent for the last time
            if spent in self._communicators:
                self._communicators.pop(spent).Free()
        return self._communicators[part.communicator]

    def _built(self, part: Part) -> Intracomm:
        """Return the communicator of all leaves, of which this rank is in one."""
        whole = self._subset(part.leaves[part.home], part.communicator % TAGS)
        for number, leaf in enumerate(part.leaves):
            if number >= max(part.home, 1):
                accepts, some = number == part.home, whole
                bridge = some.Accept(leaf.port) if accepts else some.Connect(leaf.port)
                whole = bridge.Merge(high=accepts)
                bridge.Free()
                some.Free()
        return whole

    def _subset(self, leaf: Leaf, tag: int) -> Intracomm:
        parent = self._communicators[leaf.parent]
        everyone = parent.Get_group()
        group = everyone.Incl(leaf.ranks)
        subset = parent.Create_group(group, tag)
        group.Free()
        everyone.Free()
        return subset


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
    return rank, Enrolled("", rank.library, rank.port, "PMIX_NAMESPACE" in os.environ)
