"""What the Slurm allocation says: its nodes, the workers that each may have, step or batch, and when it ends. Pure.

Slurm describes nodes that come one after another in a compressed form: `n[1-3,7]` for names, `4,1(x2)` for numbers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")
MOST = 4  # nodes that an advice names
# What a program that runs inside of a step inherits, and what a `srun` of its own would take for options.
OPTIONS = (
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_DISTRIBUTION",
    "SLURM_EXACT",
    "SLURM_EXCLUSIVE",
    "SLURM_GTIDS",
    "SLURM_MEM_PER_",
    "SLURM_MPI_TYPE",
    "SLURM_NNODES",
    "SLURM_NPROCS",
    "SLURM_NTASKS",
    "SLURM_NODEID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_STEP",
    "SLURM_TASK",
    "SLURM_THREADS_PER_CORE",
    "SLURM_TRES_PER_TASK",
    "SLURM_WHOLE",
)

# What a rank has that was started by an mpiexec, be it in a step that this one began for itself.
OF_AN_MPIEXEC = ("SLURM_EXTERNAL_LAUNCHER", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_SIZE")


class Node(NamedTuple):
    """A node of the allocation: its name, and how many tasks and CPUs of it are ours."""

    name: str
    tasks: int
    cpus: int


class Allocation(NamedTuple):
    """A Slurm job, as a process in it sees it.

    has_tasks: whether the numbers of tasks are the job's own.  step: the id of the step that the process is in; None
    in a batch script, or in the shell of `salloc`.
    """

    job: str
    nodes: tuple[Node, ...]
    cpus_per_task: int
    has_tasks: bool
    step: str | None

    @property
    def workers(self) -> list[int]:
        """Workers for each node: its tasks, where the job was asked for tasks, else what its CPUs make room for."""
        if self.has_tasks:
            return [max(1, node.tasks) for node in self.nodes]
        return [max(1, node.cpus // self.cpus_per_task) for node in self.nodes]

    def without(self, lost: Collection[str]) -> Allocation:
        """Return what is left of it when these nodes are lost."""
        return self._replace(nodes=tuple(node for node in self.nodes if node.name not in lost))


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the allocation that an environment tells of; None outside of one.

    Raises `ValueError` for an environment that is not as Slurm writes it, and names the variable.
    """
    job = environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    names = _read(environ, "SLURM_JOB_NODELIST", hosts) or ["localhost"]
    cpus = _read(environ, "SLURM_JOB_CPUS_PER_NODE", counts) or [1] * len(names)
    tasks = _read(environ, "SLURM_TASKS_PER_NODE", counts)
    has_tasks = len(tasks) == len(names) and _are_the_jobs(environ)
    nodes = tuple(map(Node, names, tasks if has_tasks else [0] * len(names), cpus))
    return Allocation(job, nodes, int(environ.get("SLURM_CPUS_PER_TASK", 1)), has_tasks, environ.get("SLURM_STEP_ID"))


def environment(here: Allocation) -> dict[str, str]:
    """Return the variables of the batch script, or the shell, of a job that is as this allocation says."""
    names = ",".join(node.name for node in here.nodes)
    told = {
        "SLURM_JOB_NODELIST": names,
        "SLURM_NODELIST": names,
        "SLURM_JOB_NUM_NODES": str(len(here.nodes)),
        "SLURM_NNODES": str(len(here.nodes)),
        "SLURM_JOB_CPUS_PER_NODE": ",".join(str(node.cpus) for node in here.nodes),
    }
    if here.has_tasks:
        tasks = [node.tasks for node in here.nodes]
        told |= dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), str(sum(tasks)))
        told["SLURM_TASKS_PER_NODE"] = ",".join(map(str, tasks))
    return told


def _are_the_jobs(environ: Mapping[str, str]) -> bool:
    """Whether tasks were asked for, and the numbers are of these.

    A step's numbers take the place of the job's: those of an interactive shell, or of an `mpiexec` that starts one
    process per node to start its ranks, say nothing of what the job may run.
    """
    one_task = environ.get("SLURM_STEP_NUM_TASKS") == "1"
    if "SLURM_STEP_ID" in environ and (one_task or any(name in environ for name in OF_AN_MPIEXEC)):
        return False
    return "SLURM_NTASKS" in environ or "SLURM_NTASKS_PER_NODE" in environ


def advice(here: Allocation, launcher: str, hosts: Mapping[str, int]) -> list[str]:
    """Return what is odd about workers in an allocation, and what to do; `hosts` has their number on each host."""
    on = {host.partition(".")[0]: count for host, count in hosts.items()}
    if not any(node.name in on for node in here.nodes):
        return []  # the hosts go by other names than Slurm's nodes
    return [*_idle_nodes(here, on, launcher), *_idle_cpus(here, on), *_full_nodes(here, on)]


def _idle_nodes(here: Allocation, on: Mapping[str, int], launcher: str) -> Iterator[str]:
    idle, count = [node.name for node in here.nodes if node.name not in on], len(here.nodes)
    if idle:
        do = "give the pool more workers" if launcher == "srun" else "launcher='srun' reaches them, and 'auto' takes it"
        yield f"{count} nodes allocated, workers on {count - len(idle)}: {_few(idle)} idle; {do}"


def _idle_cpus(here: Allocation, on: Mapping[str, int]) -> Iterator[str]:
    spare = [node for node in here.nodes if 0 < 2 * on.get(node.name, 0) * here.cpus_per_task <= node.cpus]
    if spare:
        told = _few([f"{node.name} has {node.cpus} CPUs" for node in spare])
        yield f"half of the CPUs or more idle: {told}; add --ntasks-per-node to what the job asks for"


def _full_nodes(here: Allocation, on: Mapping[str, int]) -> Iterator[str]:
    full = {node.name: node.cpus for node in here.nodes if on.get(node.name, 0) * here.cpus_per_task > node.cpus}
    if full:
        yield f"{crowded(on, full)}; ask for fewer tasks, or for more CPUs"


def crowded(on: Mapping[str, int], cpus: Mapping[str, int]) -> str:
    """Return what is to be said of hosts that have more workers than CPUs."""
    return (
        f"more workers than CPUs: {_few([f'{on[host]} workers on the {cpus[host]} CPUs of {host}' for host in cpus])}"
    )


def _few(words: list[str]) -> str:
    return ", ".join(words[:MOST]) + (f" and {len(words) - MOST} more" if len(words) > MOST else "")


def _read(environ: Mapping[str, str], name: str, read: Callable[[str], list[T]]) -> list[T]:
    text = environ.get(name, "")
    try:
        return read(text) if text else []
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is not as Slurm writes it: {error}") from None


def counts(text: str) -> list[int]:
    """Return the numbers of a list such as `4,1(x2)`: 4, 1, 1."""
    numbers: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", word)
        if match is None:
            raise ValueError(f"{word!r} is neither a number nor one with its count, as 4(x2)")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers


def hosts(text: str) -> list[str]:
    """Return the names of a list such as `n[01-03,7],login`: n01, n02, n03, n7, login."""
    return [name for word in _words(text) for name in _expanded(word)]


def _words(text: str) -> Iterator[str]:
    """Split at the commas that are not in brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    if depth:
        raise ValueError("a bracket is not closed")
    yield text[start:]


def _expanded(word: str) -> Iterator[str]:
    parts = re.split(r"\[([^]]*)\]", word)  # text, ranges, text, …
    choices = [[part] if place % 2 == 0 else list(_range(part)) for place, part in enumerate(parts)]
    for combination in itertools.product(*choices):
        yield "".join(combination)


def _range(text: str) -> Iterator[str]:
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        if not (first.isdigit() and (last.isdigit() if dash else not last)):
            raise ValueError(f"{piece!r} is neither a number nor a range, as 01-12")
        for number in range(int(first), int(last or first) + 1):
            yield str(number).zfill(len(first))
