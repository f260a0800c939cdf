"""MPI ranks of hosts in a Slurm job: a step of Slurm's own, or by Open MPI's mpiexec, which starts one itself.

The step overlaps with the agents', which has the CPUs; the ranks' processes sleep.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mainstay.launch.mpiexec import MpiExec
from mainstay.launch.process import RANK_VARIABLES, Process
from mainstay.node.context import Places
from mainstay.slurm import OPTIONS, Allocation

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders

PATIENCE = 20.0  # seconds for an answer of Slurm's
# Flags of srun for tasks of which none is bound to a core, none ends with another, and none reads what the user types.
ALONE = ("--cpu-bind=none", "--kill-on-bad-exit=0", "--no-kill", "--wait=0", "--input=none", "--export=ALL")


def joins() -> bool:
    """Whether the ranks of separate steps can be joined, as far as can be told before: Open MPI's cannot."""
    return speaks_pmi2() or MpiExec().joins()


def start_ranks(
    here: Allocation,
    program: str,
    overlap: list[str],
    slots: Lenders,
    places: Mapping[str, int],
    environment: Mapping[str, str] = {},
) -> Process:
    """Start as many MPI ranks on each host as are told.

    `program` is srun, and `overlap` what it is told to overlap with other steps. `environment` tells of the job, where
    this program is not in that.
    """
    if not speaks_pmi2():
        return MpiExec(list(places)).start_slots(slots, places, **environment)
    command = [*([f"--chdir={slots.directory}"] if slots.directory else []), *slots.command()]
    argv = slots_argv([program, *overlap], here, places, command)
    hidden = (*RANK_VARIABLES, *OPTIONS, *slots.hidden)
    return Process(argv, {}, tethered=True, hidden=hidden, directory=slots.directory)


def slots_argv(program: list[str], here: Allocation, places: Mapping[str, int], command: Sequence[str]) -> list[str]:
    """Return srun's command line for MPI ranks, as many on each host as are told, even where CPUs are fewer."""
    names = [host.partition(".")[0] for host, count in places.items() for _ in range(count)]
    return [
        *program,
        f"--jobid={here.job}",
        f"--nodes={len(places)}",
        f"--ntasks={len(names)}",
        "--distribution=arbitrary",  # as the list says, which has a host once for each rank
        f"--nodelist={','.join(names)}",
        "--overcommit",
        "--mpi=pmi2",
        *ALONE,
        "--job-name=mainstay-ranks",
        *command,
    ]


def places(here: Allocation, program: str, overlap: list[str], hosts: Mapping[str, int]) -> Places:
    """Return what starts a program's ranks, as many on each host as are told: mpiexec if there is one; srun."""
    try:
        return MpiExec(list(hosts)).places(hosts)
    except FileNotFoundError:
        kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        argv = program_argv([program, *overlap], here, hosts)
        # srun would take variables of a step to be of its own; and killed, it leaves its step running.
        return Places(dict(hosts), tuple(argv), kept, hidden=("SLURM_",), ends_by="TERM")


def program_argv(program: list[str], here: Allocation, places: Mapping[str, int]) -> list[str]:
    """Return what stands before a program's command line to start it as ranks, by the process manager that Slurm takes
    for it: which MPI it was built with cannot be told."""
    slots = slots_argv(program, here, places, [])
    unlike = ("--mpi=", "--kill-on-bad-exit=", "--no-kill", "--wait=", "--input=", "--job-name=")
    return [*(word for word in slots if not word.startswith(unlike)), "--kill-on-bad-exit=1", "--job-name=mainstay-run"]


def speaks_pmi2() -> bool:
    """Whether ranks of the MPI that is here are started by Slurm's PMI-2: it is not Open MPI, and Slurm has that."""
    return MpiExec().flavour() != "openmpi" and "pmi2" in kinds_of(shutil.which("srun") or "srun")


@functools.cache
def kinds_of(program: str) -> list[str]:
    """Return the process managers that Slurm has for MPI; none if it does not tell."""
    command = [program, "--mpi=list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (done.stdout + done.stderr).split()
