"""What `pbs` and `lsf` share: an agent on each host of a batch job, by `mpiexec`.

mpiexec is given the hosts, and reaches them through the batch system's own remote shell where there is one: no ssh
between nodes is needed then, and the batch system knows the processes and ends them with the job.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mainstay.launch import Invitation, Launched
from mainstay.launch.mpiexec import MpiExec
from mainstay.launch.process import Process
from mainstay.launch.world import not_rank_0, open_gates
from mainstay.node.context import Places

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders

Slots = dict[str, int]  # of each host


class Hosted:
    """Uses the hosts of the batch job that this program is in.

    Args:
        name: of the launcher.
        variable: of the environment, which has the job's number.
        shell: the program that runs a command on a host of the job, called as rsh would be.
        read: returns the slots of the job's hosts, given the environment; raises `OSError` or `ValueError`.
    """

    def __init__(self, name: str, variable: str, shell: str, read: Callable[[Mapping[str, str]], Slots]) -> None:
        self.name, self.shell, self._variable, self._read = name, shell, variable, read

    @property
    def most_workers(self) -> int | None:
        try:
            return sum(self._read(os.environ).values()) if self.job(os.environ) else None
        except (OSError, ValueError):
            return None

    def job(self, environ: Mapping[str, str]) -> str:
        """Return the number of the job that an environment is in; empty outside of one."""
        return environ.get(self._variable, "")

    def slots(self, environ: Mapping[str, str]) -> Slots:
        """Return the slots of each host of the job that an environment is in. Raises `OSError`, `ValueError`."""
        return self._read(environ)

    def why_not(self) -> str | None:
        if not self.job(os.environ):
            return f"not in a {self.name.upper()} job ({self._variable} is not set)"
        try:
            self._read(os.environ)
        except (OSError, ValueError) as error:
            return str(error)
        return not_rank_0() or MpiExec().why_not()

    def start(self, invitation: Invitation) -> Launched:
        slots = self._read(os.environ)
        reached = reached_by(shutil.which(self.shell))
        return MpiExec(list(slots)).start_agents(invitation, **invitation.slots(slots), **open_gates(), **reached)

    def joins(self) -> bool:
        """Whether the ranks of separate launches can be joined, as far as mpiexec tells."""
        return MpiExec().joins()

    def places(self, places: Mapping[str, int]) -> Places:
        """Return what starts a program's ranks, as many on each host as are told, from the first of the hosts."""
        return MpiExec(list(self._read(os.environ))).places(places, **reached_by(shutil.which(self.shell)))

    def start_slots(self, slots: Lenders, places: Mapping[str, int]) -> Process:
        """Start as many MPI ranks on each host as are told."""
        reached = reached_by(shutil.which(self.shell))
        return MpiExec(list(self._read(os.environ))).start_slots(slots, places, **reached)


def reached_by(shell: str | None) -> dict[str, str]:
    """Return what makes Hydra and Open MPI reach hosts through a program; without one they do as they are used to."""
    if shell is None:
        return {}
    hydra = {"HYDRA_LAUNCHER": "rsh", "HYDRA_LAUNCHER_EXEC": shell}
    return hydra | {"PRTE_MCA_plm": "ssh", "PRTE_MCA_plm_ssh_agent": shell}


def counted(names: list[str], where: str) -> Slots:
    """Return how often each host stands in a list, which has it once for each slot."""
    if not names:
        raise ValueError(f"{where} names no host")
    return dict(Counter(names))
