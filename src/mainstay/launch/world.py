"""`world`: the MPI world that the program was started in (`mpiexec -n 4 python job.py`); rank 0 is the client.

One agent on rank 0's host forks a worker for each slot there. The ranks themselves sleep (see `mainstay.world`).
"""

from __future__ import annotations

import os

from mainstay import world
from mainstay.launch import Invitation
from mainstay.launch.process import RANK_VARIABLES, Process


class World:
    """Uses the slots of the world that already stands."""

    name = "world"

    @property
    def most_workers(self) -> int | None:
        here = world.place()
        return None if here is None else here.local_size

    def why_not(self) -> str | None:
        here = world.place()
        if here is None:
            return "not started by mpiexec with several ranks"
        if here.rank != 0:
            return not_rank_0()
        if not here.is_on_one_host:
            several = f"the world of {here.size} ranks spans several hosts, and only {here.local_size} are on this one"
            if world.job_of():
                return f"{several}; the batch system's launcher reaches them all"
            return f"{several}; start the program once, without mpiexec, and give them to launcher=MpiExec(hosts=…)"
        if "SLURM_PTY_PORT" in os.environ and _has_terminal():
            return "in the terminal of `srun --pty`: the other tasks of this step have ended; srun starts anew"
        return None

    def start(self, invitation: Invitation) -> Process:
        here = world.place()
        assert here is not None
        world.open_gate(here)
        cores = set().union(*(_cores_of(pid) for _, pid in world.local_ranks(here)))
        environment = {
            "MAINSTAY_SLOTS": str(here.local_size),
            "MAINSTAY_ROOM": str(here.local_size),
            "MAINSTAY_CORES": ",".join(map(str, sorted(cores))),
        }
        environment |= invitation.environment()
        hidden = (*RANK_VARIABLES, *invitation.hidden)
        return Process(invitation.command(), environment, hidden=hidden, directory=invitation.directory)


def not_rank_0() -> str | None:
    """Return why this process cannot hold a pool, if it is one of a world's other ranks."""
    here = world.place()
    return f"this is rank {here.rank}; only rank 0 of a world holds the pool" if here and here.rank else None


def open_gates() -> dict[str, str]:
    """Let the other ranks wait, where this is rank 0: those of this host here, those of other hosts at agents there.

    Returns what the agents must know for it.
    """
    here = world.place()
    if here is None:
        return {}
    world.open_gate(here)
    return {"MAINSTAY_GATE": world.job_of()}


def _has_terminal() -> bool:
    """Whether a terminal controls this process; steps that are started from it have none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _cores_of(pid: int) -> set[int]:
    """Return the cores that a rank was bound to: together they are what the workers may use."""
    try:
        return os.sched_getaffinity(pid)
    except OSError:
        return set()


LAUNCHER = World()
