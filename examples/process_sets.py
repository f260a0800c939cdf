"""The worked example of MPICH's pull requests on process sets: of eight processes one leaves, and one joins.

    python examples/process_sets.py      (with mpi4py and MPICH, `pip install 'mainstay[mpich]'`)

A process is written as there: a_6 is the process of namespace a with the number 6 in it. A namespace is a launch of MPI
ranks; the letters stand for the pool's names of them, such as mpi-1 and mpi-2.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import mainstay
from mainstay import Executor
from mainstay.process_sets import SELF, Define, Process

APP = "app"
letters: dict[str, str] = {}  # of namespaces, as they come


def named(process: Process) -> str:
    """Return a process as in the pull request."""
    return f"{letters.setdefault(process.namespace, chr(ord('a') + len(letters)))}_{process.rank}"


def rank() -> tuple[Process, int]:
    """As a rank of a gang: return which process this is, and its rank in the gang's communicator."""
    return mainstay.psets()[SELF].members[0], mainstay.comm().rank


def show(ex: Executor, step: str) -> None:
    """Print every version of the set, and the MPI ranks that its processes have in a communicator of the newest."""
    ranks = ex.options(ranks="all", on=APP).submit(rank).result()
    print(f"{step}\n")
    print("  version  valid  size  members")
    for one in ex.psets.versions(APP):
        members = " ".join(map(named, one.members))
        print(f"  {one.version:7}  {'yes' if one.valid else 'no':5}  {one.size:4}  {members}")
    print(f"\n  process   {'  '.join(named(process) for process, _ in ranks)}")
    print(f"  MPI rank  {'  '.join(f'{number:3}' for _, number in ranks)}\n")


def after(ex: Executor, change: Callable[[], object]) -> None:
    """Change who is there, and wait until the set has a new version."""
    defined = threading.Event()
    with ex.psets.watch(lambda event: defined.set() if isinstance(event, Define) and event.set.name == APP else None):
        change()
        defined.wait()


def enrol_all(ex: Executor) -> None:
    """Have the workers that are no MPI ranks yet become some: those of one launch are a namespace."""
    ex.wait_ready()
    ex.options(ranks="all").submit(abs, 0).result()


def main() -> None:
    with Executor(8, launcher="local", log=lambda line: None) as ex:
        enrol_all(ex)
        ex.psets.define(APP, lambda worker: worker.namespace.startswith("mpi-"), living=True)
        show(ex, "Eight processes")
        sixth = next(worker for worker in ex.workers if worker.rank == 6)
        after(ex, lambda: os.kill(sixth.pid, signal.SIGKILL))
        show(ex, "Process 6 has left")
        after(ex, lambda: enrol_all(ex))  # the pool has started another worker meanwhile
        show(ex, "One has joined, in namespace b")


if __name__ == "__main__":
    main()
