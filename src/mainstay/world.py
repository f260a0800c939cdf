"""The MPI world that this program was started in, if any: who is rank 0, and how the other ranks wait for it.

    mpiexec -n 4 python job.py

    rank 0      ──▶ goes on as the client; its workers take all the slots of the world
    ranks 1…3   ──▶ sleep at rank 0's gate inside `Executor()`, and exit when rank 0's program ends

The gate is an abstract Unix socket whose name both sides can tell from what the process manager says of the job. On
the other hosts of a batch job, the pool's agent holds one for the ranks there.
MPI itself is not initialised for this, so it works with any MPI, with several, and without mpi4py.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mainstay.origin import Origin, origin
from mainstay.slurm import counts
from mainstay.wire.address import uid_of_peer

START_GAP = 5.0  # seconds by which the ranks of one host may be started apart
JOBS = {"SLURM_JOB_ID": "slurm", "PBS_JOBID": "pbs", "LSB_JOBID": "lsf"}  # whose number is where
MOST_GUESTS = 1024  # ranks of one host
LOOK_AGAIN = 0.2  # seconds between two looks for rank 0's gate


class Place(NamedTuple):
    """This process in its world: rank and size, the same within this host, and what names the job."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    job: str

    @property
    def is_on_one_host(self) -> bool:
        return self.local_size == self.size


def place(environ: Mapping[str, str] = os.environ, pid: int | None = None, above: Origin | None = None) -> Place | None:
    """Return the place of a process (None: this one) in its world; None outside of one, or alone.

    `above` is what started it (None: as the processes above it tell). Where that is seen, it decides which variables
    count: others were inherited from a world that the process is not in.
    """
    pid = os.getpid() if pid is None else pid
    above = origin(pid) if above is None else above
    if above.step and not above.manager:
        return _place_in_step(environ) if above.is_in_step_of(environ) else None
    return told(environ, pid)


def told(environ: Mapping[str, str], pid: int) -> Place | None:
    """Return the place that an environment tells of, be it inherited or not."""
    for names, job in (
        (("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
         environ.get("PMIX_NAMESPACE", "")),
        (("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"), ""),
    ):  # fmt: skip
        try:
            rank, size, local_rank, local_size = (int(environ[name]) for name in names)
        except (KeyError, ValueError):
            continue
        return Place(rank, size, local_rank, local_size, job or f"under-{proxy_above(pid)}") if size > 1 else None
    return _place_in_step(environ)


def _place_in_step(environ: Mapping[str, str]) -> Place | None:
    """Return the place in a step of Slurm's, whatever PMI `srun` gave it."""
    try:
        job = f"slurm-{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
        rank, size, local_rank, node = (int(environ[name]) for name in names)
        local_size = counts(environ["SLURM_STEP_TASKS_PER_NODE"])[node]
    except (KeyError, ValueError, IndexError):
        return None
    return Place(rank, size, local_rank, local_size, job) if size > 1 else None


def job_of(environ: Mapping[str, str] = os.environ) -> str:
    """Return the name that a batch job has on all its hosts; empty outside of one."""
    for name, system in JOBS.items():
        if environ.get(name):
            return f"{system}-{environ[name]}-{environ.get('LSB_JOBINDEX', 0)}"
    return ""


def proxy_above(pid: int) -> int:
    """Return the process manager's proxy on this host, above a rank and the scripts that it was started through.

    Hydra gives a job no name, but all its ranks on a host have one proxy. Without one: the rank's parent.
    """
    parent = above = _stat(pid)[1]
    while above > 1:
        name, next_above = _stat(above)
        if name.startswith("hydra"):
            return above
        above = next_above
    return parent


def _stat(pid: int) -> tuple[str, int]:
    """Return a process's name and its parent. Raises `OSError` when it has ended."""
    with open(f"/proc/{pid}/stat") as file:
        head, _, tail = file.read().rpartition(")")
    return head.partition("(")[2], int(tail.split()[1])


def local_ranks(here: Place) -> Iterator[tuple[int, int]]:
    """Yield `(rank, pid)` of this job's processes on this host, as their environments tell."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found = _place_of(int(entry))
            except (OSError, ValueError):
                continue  # ended meanwhile, or another user's
            if found is not None and found.job == here.job:
                yield found.rank, int(entry)


def _place_of(pid: int) -> Place | None:
    with open(f"/proc/{pid}/environ", "rb") as file:
        words = file.read().decode(errors="replace").split("\0")
    return place(dict(word.partition("=")[::2] for word in words), pid)


class Gate:
    """Where rank 0 keeps the other ranks of its host waiting: while it is open, they sleep."""

    def __init__(self, here: Place) -> None:
        self._listener = gate_of(here.job)
        self._guests: list[socket.socket] = []
        threading.Thread(target=self._welcome, name="mainstay-gate", daemon=True).start()
        os.register_at_fork(after_in_child=self.close)  # a child must not keep the guests waiting

    def _welcome(self) -> None:
        while True:
            try:
                guest, _ = self._listener.accept()
            except OSError:
                return
            self._guests.append(guest)

    def close(self) -> None:
        self._listener.close()
        for guest in self._guests:
            guest.close()


def gate_of(job: str) -> socket.socket:
    """Return the socket at which ranks of a job wait on this host, until it is closed. Raises `OSError`."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_gate_name(job))
        listener.listen(MOST_GUESTS)
    except BaseException:
        listener.close()
        raise
    return listener


_gate: Gate | None = None


def open_gate(here: Place) -> None:
    """On rank 0: let the other ranks of this host wait for the end of this program. Raises `OSError`."""
    global _gate
    if _gate is None:
        _gate = Gate(here)
        atexit.register(_gate.close)  # before MPI is finalized, in which all ranks take part


def attend(here: Place, limit: float) -> None:
    """On every other rank: sleep until rank 0's program has ended.

    `limit` is the time in seconds within which rank 0's process must have been seen; a rank 0 that ends
    without an executor ends the wait too.
    """
    limit = min(limit, START_GAP) if here.is_on_one_host else limit
    deadline = time.monotonic() + limit
    jobs = [here.job] if here.is_on_one_host else [here.job, *filter(None, [job_of()])]
    while not any(_wait_at_gate(job) for job in jobs):
        if any(rank == 0 for rank, _ in local_ranks(here)):
            deadline = time.monotonic() + limit
        elif time.monotonic() > deadline:
            return
        time.sleep(LOOK_AGAIN)


def _wait_at_gate(job: str) -> bool:
    """Sleep at the gate until it closes; False if there is none (yet), or if it is not ours."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(_gate_name(job))
        except OSError:
            return False
        if uid_of_peer(sock) != os.getuid():
            return False
        try:
            sock.recv(1)
        except OSError:
            pass  # rank 0 was killed
    return True


def serve(limit: float) -> None:
    """On the ranks of a world other than 0: wait for rank 0's program to end (see `attend`), and exit."""
    here = place()
    if here is not None and here.rank > 0:
        attend(here, limit)
        leave()


def leave() -> None:
    """End this rank without a word, since its part is done: exit code 0."""
    if threading.current_thread() is threading.main_thread():
        sys.exit(0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _gate_name(job: str) -> str:
    return f"\0mainstay-world-{os.getuid()}-{job}"
