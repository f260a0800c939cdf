"""`srun`: one step with one agent per node of the Slurm allocation; each agent forks its node's workers.

The step overlaps with whatever runs already: the batch script, the step of `srun --pty bash`, a world of ranks. It is
told everything on its command line, since what it inherits from a step (`SLURM_NTASKS`, …) it would take for options.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Sequence

from mainstay.launch import Invitation
from mainstay.launch.process import AGENT, RANK_VARIABLES, Process, staggered
from mainstay.launch.world import not_rank_0, open_gates
from mainstay.origin import present
from mainstay.slurm import OPTIONS, Allocation, allocation

IMMEDIATE = 5  # seconds that a step waits for a node that may not be back
OVERLAP_SINCE = (20, 11)  # before, steps overlapped unasked


class Srun:
    """Uses the nodes of the allocation that this program is in."""

    name = "srun"

    @property
    def most_workers(self) -> int | None:
        try:
            here = allocation(present())
        except ValueError:
            return None
        return None if here is None else sum(here.workers)

    def why_not(self) -> str | None:
        try:
            here = allocation(present())
        except ValueError as error:
            return str(error)
        if here is None:
            return "not in a Slurm allocation (SLURM_JOB_ID is not set)"
        if shutil.which("srun") is None:
            return f"in Slurm job {here.job}, but there is no srun on PATH"
        return not_rank_0()

    def start(self, invitation: Invitation) -> Process:
        return self._start(invitation, None)

    def rejoin(self, invitation: Invitation, host: str) -> Process:
        """Start an agent on one node, which was lost; the step ends at once where the node is not back."""
        return self._start(invitation, host.partition(".")[0])

    def _start(self, invitation: Invitation, node: str | None) -> Process:
        here, program = allocation(present()), shutil.which("srun")
        if here is None or program is None:
            raise FileNotFoundError(self.why_not())
        slots = ",".join(f"{node.name}={count}" for node, count in zip(here.nodes, here.workers, strict=True))
        environment = invitation.environment() | {"MAINSTAY_SLOTS": slots} | open_gates()
        argv = srun_argv(program, here, version_of(program), node, staggered(invitation.stagger))
        return Process(argv, environment, len(here.nodes), tethered=True, hidden=(*RANK_VARIABLES, *OPTIONS))


def srun_argv(
    program: str,
    here: Allocation,
    version: tuple[int, int],
    node: str | None = None,
    command: Sequence[str] = AGENT,
) -> list[str]:
    """Return srun's command line: an agent per node, or on one; not bound to a core, and none ends with another."""
    nodes = "1" if node else str(len(here.nodes))
    return [
        program,
        *(["--overlap"] if version >= OVERLAP_SINCE else []),
        f"--jobid={here.job}",
        *([f"--nodelist={node}", f"--immediate={IMMEDIATE}"] if node else []),
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--mpi=none",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--no-kill",
        "--wait=0",
        "--input=none",
        "--export=ALL",
        "--job-name=mainstay-pool",
        *command,
    ]


@functools.cache
def version_of(program: str) -> tuple[int, int]:
    """Return Slurm's version, as (22, 5); (0, 0) if it does not tell."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


LAUNCHER = Srun()
