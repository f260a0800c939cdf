"""`pbs`: the hosts of a PBS job (OpenPBS, PBS Professional, Torque). Not tried on a real system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainstay.launch.hosted import Hosted, Slots, counted


def slots(environ: Mapping[str, str]) -> Slots:
    """Return the slots of each host: its lines in the file that PBS_NODEFILE names. Raises `OSError`, `ValueError`."""
    path = environ.get("PBS_NODEFILE")
    if not path:
        raise ValueError("in a PBS job, but PBS_NODEFILE is not set; start the program from the job's script")
    return counted(Path(path).read_text().split(), f"PBS_NODEFILE={path}")


LAUNCHER = Hosted("pbs", "PBS_JOBID", "pbs_tmrsh", slots)
