"""Gangs over three hosts: ranks by srun and by mpiexec, of both MPIs, while workers are killed and a host is lost."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import psutil
import pytest

from cluster.bed import Cluster
from conftest import OPENMPI

ROUNDS = int(os.environ.get("MAINSTAY_GANGS", "40")) // 10  # of ten gangs each, and a killed worker in each
JOB = """
import json, logging, os, random, sys, mainstay
from mainstay.launch.mpiexec import MpiExec

logging.basicConfig(level=logging.INFO)
options = json.loads(sys.argv[1])
program, rounds = options.pop("program", None), options.pop("rounds")
if program is not None:  # there is another beside the interpreter
    MpiExec._find = lambda self: program
if options["launcher"] == "mpiexec":
    options |= {"launcher": MpiExec(["n1", "n2", "n3"]), "max_workers": 6}
chance = random.Random(1)

def total(x):
    comm = mainstay.comm()
    return comm.rank, comm.size, comm.allreduce(x)

def right(future, size, number):
    assert future.result(120) == [(rank, size, size * number) for rank in range(size)], future.result()

def look(executor):
    found = executor.options(ranks="all").submit(total, 1).result(120)
    assert found == [(rank, len(found), len(found)) for rank in range(len(found))], found
    print(len(found), "ranks:", executor.describe().mpi, flush=True)
    for name in sorted({(worker.host, worker.namespace) for worker in executor.workers}):
        print("namespace", *name, flush=True)

with mainstay.Executor(worker_retries=1000, node_timeout=3, **options) as executor:
    executor.wait_ready(timeout=60)
    look(executor)
    for number in range(1, rounds + 1):
        if os.path.exists("enough"):
            break
        with open("progress", "a") as file:
            file.write(f"{number}\\n")
        sizes = [chance.randint(1, 4) for _ in range(10)]
        futures = [executor.options(ranks=size).submit(total, number) for size in sizes]
        for size, future in zip(sizes, futures):
            right(future, size, number)
    look(executor)
print("all right", flush=True)
"""


def script(cluster: Cluster, folder: Path, **options: object) -> str:
    """Return a batch script whose program runs gangs."""
    folder.mkdir()
    (folder / "job.py").write_text(JOB)
    other = ""
    if "program" in options:
        other = f"export MPI4PY_MPIABI=openmpi LD_LIBRARY_PATH={OPENMPI}/lib\n"
    return f"{other}cd {folder}\nexec {sys.executable} job.py '{json.dumps(options)}'"


def begun(folder: Path) -> int:
    """Return how many rounds have begun."""
    path = folder / "progress"
    return path.read_text().count("\n") if path.exists() else 0


def kill_a_worker(cluster: Cluster, chance: random.Random) -> None:
    workers = [process for process in cluster.processes() if is_worker(process)]
    if workers:
        psutil.Process(chance.choice(workers).pid).kill()


def is_worker(process: psutil.Process) -> bool:
    """Whether a process was forked by an agent."""
    try:
        parent = process.parent()
        mine = any("mainstay.node" in word for word in process.cmdline())
        return mine and parent is not None and any("mainstay.node" in word for word in parent.cmdline())
    except psutil.Error:
        return False


WAYS = {
    "mpich by srun": {"launcher": "srun"},
    "mpich by mpiexec": {"launcher": "mpiexec"},
    "openmpi by mpiexec": {"launcher": "mpiexec", "program": f"{OPENMPI}/bin/mpiexec"},
    "openmpi by mpiexec of srun's agents": {"launcher": "srun", "program": f"{OPENMPI}/bin/mpiexec"},
}


@pytest.mark.parametrize("way", WAYS)
def test_workers_on_three_hosts_are_killed_and_every_gang_is_right(cluster, way):
    if "program" in WAYS[way] and not OPENMPI.exists():
        pytest.skip("no Open MPI: `make test` sets it up")
    folder = cluster.shared / way.replace(" ", "-").replace("'", "")
    rounds = min(ROUNDS, 2) if "program" in WAYS[way] and "MAINSTAY_GANGS" not in os.environ else ROUNDS
    text = script(cluster, folder, rounds=rounds, **WAYS[way])
    job = cluster.submit(text, "-N3", "--ntasks-per-node=2", "--time=10")
    chance = random.Random(2)
    for number in range(1, rounds + 1):
        cluster.until(lambda number=number: begun(folder) >= number, 120, f"round {number} has begun")
        kill_a_worker(cluster, chance)
    ended = cluster.wait(job, 120)
    assert ended.output.endswith("all right\n"), ended.output
    names = [tuple(line.split()[1:]) for line in ended.output.splitlines() if line.startswith("namespace")]
    assert {host for host, _ in names} == {"n1", "n2", "n3"}
    if "program" in WAYS[way]:
        assert len({name for _, name in names[:3]}) == 1
    else:
        assert len({name for _, name in names}) == len(set(names)), "one namespace is of one host"
        assert "namespaces, joined by gangs that want it" in ended.output


def test_a_host_is_lost_under_gangs_and_every_gang_is_right(cluster):
    folder = cluster.shared / "host"
    text = script(cluster, folder, launcher="srun", rounds=10**6)
    job = cluster.submit(text, "-N3", "--ntasks-per-node=2", "--no-kill", "--time=10")
    output = cluster.shared / f"slurm-{job}.out"
    cluster.until(lambda: begun(folder) >= 3, 60, "gangs run")
    cluster.stop("n3")
    cluster.until(lambda: "the agent on n3 has said nothing" in output.read_text(), 60, "n3 is missed")
    missed = begun(folder)
    cluster.until(lambda: begun(folder) > missed + 3, 60, "gangs run without it")
    (folder / "enough").touch()
    ended = cluster.wait(job, 120)
    cluster.start("n3")
    assert ended.output.endswith("all right\n"), ended.output
    names = [tuple(line.split()[1:]) for line in ended.output.splitlines() if line.startswith("namespace")]
    assert {host for host, _ in names[:3]} == {"n1", "n2", "n3"}
    assert {host for host, _ in names[3:]} == {"n1", "n2"}
