"""Programs and gangs over several hosts, and over a further Slurm job that has joined the pool."""

from __future__ import annotations

import sys

import psutil
import pytest

from conftest import OPENMPI

MARK = "of-a-program-over-hosts"
SUM = """
import os, sys, time
from mpi4py import MPI
comm = MPI.COMM_WORLD
total, hosts = comm.allreduce(comm.rank), comm.gather(os.uname().nodename)
if len(sys.argv) > 2:
    open(f"rank{comm.rank}", "w").close()
    time.sleep(600)
if comm.rank == 0:
    print(comm.size, total, sorted(hosts), flush=True)
"""
JOB = """
import collections, os, sys, time, mainstay
from mainstay.launch.mpiexec import MpiExec

program = [sys.executable, "sum.py", "MARK"]
if sys.argv[1] == "none":
    MpiExec._find = lambda self: None
elif sys.argv[1]:
    MpiExec._find = lambda self: sys.argv[1]

def hosts(executor):
    return dict(sorted(collections.Counter(worker.host for worker in executor.workers).items()))

def total(x):
    comm = mainstay.comm()
    return comm.size, comm.allreduce(x)

def run(executor, **options):
    try:
        # On a busy machine MPICH does not always start: UCX measures a bandwidth of 0, and gives up.
        done = executor.options(retries=5, **options).run(program).result(120)
        print(done.stdout.strip(), dict(sorted(done.hosts.items())), flush=True)
    except mainstay.GangError as error:
        print(error, flush=True)

with mainstay.Executor(4, log=lambda line: None) as executor:
    executor.wait_ready(timeout=60)
    run(executor, ranks="all")
    run(executor, ranks=3)
    future = executor.options(ranks="all", retries=5, worker_retries=0).run([*program, "sleep"])
    while len([name for name in os.listdir() if name.startswith("rank")]) < 4:
        assert not future.done(), future.result()
        time.sleep(0.05)
    first = min(worker.pid for worker in executor.workers if worker.host == "n1")
    os.kill(first, 9)
    print(type(future.exception(120)).__name__, flush=True)
    sys.stdin.readline()
    print(executor.options(ranks="all").submit(total, 1).result(120)[0])
    came = executor.grow(2, allocate=["--nodelist=n3", "--ntasks-per-node=2", "--time=5"]).result(60)
    print(hosts(executor))
    executor.psets.define("joined", came)
    for options in ({"ranks": 4}, {"on": "joined", "ranks": 2}, {"ranks": 6}, {"ranks": "all"}):
        try:
            print(executor.options(**options).submit(total, 1).result(120)[0], flush=True)
        except mainstay.GangError as error:
            print(error, flush=True)
    run(executor, ranks=4)
    run(executor, ranks=2, on="joined")
    run(executor, ranks=6)
"""
APART = "none has more than 4; ask for fewer, or have the pool grow within its job"
WAYS = {"mpich": "", "srun alone": "none", "openmpi": f"{OPENMPI}/bin/mpiexec"}


def programs(cluster):
    found = []
    for process in cluster.processes():
        try:
            found += [process.pid] if MARK in process.cmdline() else []
        except psutil.Error:
            pass
    return found


@pytest.mark.parametrize("way", WAYS)
def test_programs_and_gangs_on_several_hosts_and_of_two_jobs(cluster, way):
    if way == "openmpi" and not OPENMPI.exists():
        pytest.skip("no Open MPI: `make test` sets it up")
    folder = cluster.shared / way.replace(" ", "-")
    folder.mkdir()
    (folder / "job.py").write_text(JOB.replace("MARK", MARK))
    (folder / "sum.py").write_text(SUM)
    other = f"export MPI4PY_MPIABI=openmpi LD_LIBRARY_PATH={OPENMPI}/lib; " if way == "openmpi" else ""
    start = f"cd {folder}; mkfifo in; exec 3<>in; {other}exec {sys.executable} job.py '{WAYS[way]}' <&3"
    job = cluster.submit(start, "-N2", "--ntasks-per-node=2", "--time=10")
    out = cluster.shared / f"slurm-{job}.out"
    cluster.until(lambda: out.exists() and ("WorkerDied" in out.read_text() or "Error" in out.read_text()), 120, "died")
    cluster.until(lambda: not programs(cluster), 30, "nothing is left of the program on either host")
    (folder / "in").write_text("\n")
    ended = cluster.wait(job, 180)
    joins = way != "openmpi"
    told = "the gang cannot run: it wants 6 workers, ranks of "
    lines = [line for line in ended.output.splitlines() if not line.startswith("[n")]  # what a worker's MPI has to say
    assert lines == [
        "4 6 ['n1', 'n1', 'n2', 'n2'] {'n1': 2, 'n2': 2}",
        "3 3 ['n1', 'n1', 'n2'] {'n1': 2, 'n2': 1}",
        "WorkerDied",
        "(4, 4)",
        "{'n1': 2, 'n2': 2, 'n3': 2}",
        "(4, 4)",
        "(2, 2)",
        *(["(6, 6)"] * 2 if joins else [line for line in lines if "of this MPI" in line]),
        "4 6 ['n1', 'n1', 'n2', 'n2'] {'n1': 2, 'n2': 2}",
        "2 1 ['n3', 'n3'] {'n3': 2}",
        f"{told}a program must be in one Slurm job, and of those jobs in which the pool is, {APART}",
    ], ended.output
    assert ended.output.count(APART) == (1 if joins else 3)
