"""`srun`: its place in the chain. It says why it is not used."""

from __future__ import annotations

import os

from mainstay.launch import Invitation, Launched


class Srun:
    """Says why srun is not used here."""

    name = "srun"
    most_workers = None

    def why_not(self) -> str | None:
        if "SLURM_JOB_ID" not in os.environ:
            return "not in a Slurm allocation (SLURM_JOB_ID is not set)"
        return "starting by srun is not built yet; use launcher='mpiexec' in this allocation"

    def start(self, invitation: Invitation) -> Launched:
        raise OSError(self.why_not())


LAUNCHER = Srun()
