"""`lsf`: the hosts of an LSF job. Not tried on a real system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mainstay.launch.hosted import Hosted, Slots, counted


def slots(environ: Mapping[str, str]) -> Slots:
    """Return the slots of each host. Raises `OSError`, `ValueError`.

    They are the host's lines in the file that LSB_DJOB_HOSTFILE names, else its number in LSB_MCPU_HOSTS="n1 4 n2 2".
    """
    path = environ.get("LSB_DJOB_HOSTFILE")
    if path:
        return counted(Path(path).read_text().split(), f"LSB_DJOB_HOSTFILE={path}")
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    names, numbers = words[::2], words[1::2]
    if not words or len(names) != len(numbers) or not all(map(str.isdigit, numbers)):
        raise ValueError(f"LSB_MCPU_HOSTS={' '.join(words)!r} is not as LSF writes it: names and numbers in turn")
    return dict(zip(names, map(int, numbers), strict=True))


LAUNCHER = Hosted("lsf", "LSB_JOBID", "blaunch", slots)
