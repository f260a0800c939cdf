"""What started this process: a step of Slurm's, an MPI launcher below it. The processes above it tell.

The environment alone does not: a job that is submitted from within a step (by a rank that calls `sbatch`, or by hand in
the shell of `srun --pty bash`) inherits the variables of a step and of ranks that it is not among. The processes above
this one were there when it was made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mainstay.slurm import counts

MANAGERS = {  # what starts ranks, and what is typed for it
    "hydra": "mpiexec",
    "pmi_proxy": "mpiexec",
    "mpiexec": "mpiexec",
    "prte": "mpirun",
    "orted": "mpirun",
    "mpirun": "mpirun",
}
STEPD = re.compile(r"slurmstepd: \[(\d+\.\w+)\]")
OF_A_STEP = ("SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS", "SLURM_EXTERNAL_LAUNCHER")
NUMBERS = ("SLURM_NTASKS", "SLURM_NPROCS")  # of tasks: the job's, where it was asked for some


class Origin(NamedTuple):
    """What is above a process: Slurm's step as `7.batch` or `7.0`, and an MPI launcher below that.

    Both are empty where there is none, or where it cannot be seen.
    """

    step: str = ""
    manager: str = ""

    @property
    def is_batch(self) -> bool:
        return self.step.endswith(".batch") and not self.manager

    @property
    def is_step(self) -> bool:
        """Whether it is a step that srun has started, and not the batch script."""
        return self.step.rpartition(".")[2].isdigit()

    def is_in_step_of(self, environ: Mapping[str, str]) -> bool:
        """Whether the step that an environment tells of is the one above, as far as that can be seen."""
        if "SLURM_HET_SIZE" in environ:
            return True  # each component of a heterogeneous job has a number of its own, and tells the first one's
        return self.step in ("", f"{environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}")


def origin(pid: int) -> Origin:
    """Return what started a process."""
    manager = ""
    for name in _names_above(pid):
        step = STEPD.match(name)
        if step:
            return Origin(step[1], manager)
        program = os.path.basename(name.split()[0])
        manager = manager or next((typed for start, typed in MANAGERS.items() if program.startswith(start)), "")
    return Origin("", manager)


def _names_above(pid: int) -> Iterator[str]:
    """Yield the command lines of all processes above one, the nearest first."""
    while (pid := _parent(pid)) > 0:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return
        if words:
            yield words


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def present(environ: Mapping[str, str] = os.environ, above: Origin | None = None) -> Mapping[str, str]:
    """Return an environment without what was inherited from a step that this process is not in.

    `above` is what started it; None: this process.
    """
    above = origin(os.getpid()) if above is None else above
    if "SLURM_STEP_ID" not in environ or above.is_in_step_of(environ):
        return environ
    inherited = (*OF_A_STEP, *(() if _are_the_jobs(environ) else NUMBERS))
    return {name: value for name, value in environ.items() if not name.startswith(inherited)}


def _are_the_jobs(environ: Mapping[str, str]) -> bool:
    """Whether the number of tasks is this job's, whose tasks on each node Slurm tells anew."""
    try:
        return sum(counts(environ["SLURM_TASKS_PER_NODE"])) == int(environ["SLURM_NTASKS"])
    except (KeyError, ValueError):
        return False
