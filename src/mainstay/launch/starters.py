"""What starts MPI ranks where a launcher has started agents."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import cast

from mainstay.launch import Launcher, Starter
from mainstay.launch.mpiexec import MpiExec


def starter(launcher: Launcher, hosts: list[str]) -> Starter:
    """Return what starts MPI ranks where a launcher has started agents; mpiexec, if it has no way of its own."""
    if hasattr(launcher, "start_slots"):
        return cast("Starter", launcher)
    return MpiExec() if hosts == [os.uname().nodename] else MpiExec(hosts)


def missing(launcher: Launcher, is_staged: bool) -> str:
    """Return what ranks want that is not here, and so not on the nodes; empty: nothing that can be told before.

    Nodes may run from another environment than this program's, where `is_staged`.
    """
    if not is_staged and find_spec("mpi4py") is None:
        return "mpi4py is not installed; `pip install 'mainstay[mpich]'` brings it, and an MPI"
    return "" if hasattr(launcher, "start_slots") else MpiExec().why_not() or ""
