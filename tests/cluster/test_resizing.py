"""Pools that grow and shrink in Slurm jobs: steps on further nodes, nodes given back, and jobs that join."""

from __future__ import annotations

import sys

GIVES_BACK = """
import collections, mainstay

def hosts(executor):
    return dict(sorted(collections.Counter(worker.host for worker in executor.workers).items()))

with mainstay.Executor(6, log=lambda line: None) as executor:
    executor.wait_ready(timeout=60)
    print(hosts(executor))
    print(len(executor.grow(3).result(60)), hosts(executor))
    leave = [worker for worker in executor.workers if worker.host == "n2"]
    shrunk = executor.shrink(leave).result(60)
    print(shrunk.nodes, shrunk.kept, hosts(executor), flush=True)
    input()
    print(sum(executor.map(abs, range(100))))
    try:
        executor.grow(9)
    except ValueError as error:
        print(error)
    print(len(executor.grow(2).result(60)), hosts(executor))
"""

JOINS = """
import collections, mainstay

def hosts(executor):
    return dict(sorted(collections.Counter(worker.host for worker in executor.workers).items()))

with mainstay.Executor(4, log=lambda line: print(line)) as executor:
    executor.wait_ready(timeout=60)
    came = executor.grow(6, allocate=["--nodes=2", "--ntasks-per-node=4", "--time=5"]).result(60)
    print(len(came), {worker.namespace for worker in came}, hosts(executor))
    print(sum(executor.map(abs, range(100))))
    try:
        executor.grow(3, allocate=["--nodes=1", "--exclusive", "--time=5"], timeout=2).result(60)
    except mainstay.GrowError as error:
        print(error)
    shrunk = executor.shrink([worker for worker in executor.workers if worker.host == "n2"]).result(60)
    print(len(shrunk.workers), shrunk.nodes, shrunk.kept, hosts(executor), flush=True)
    input()
    shrunk = executor.shrink([worker for worker in executor.workers if worker.host == "n3"]).result(60)
    print(shrunk.nodes, shrunk.kept, hosts(executor), executor.submit(abs, -1).result(60), flush=True)
    input()
    executor.grow(2, allocate=["--nodes=1", "--ntasks-per-node=2", "--time=5"]).result(60)
    print(hosts(executor), flush=True)
    input()
"""


def started(cluster, name, text, *flags):
    """Start a program in a job, which goes on with each line that it is sent."""
    (cluster.shared / name).write_text(text)
    job = cluster.submit(f"mkfifo {name}.in; exec 3<>{name}.in; exec {sys.executable} {name} <&3", *flags, "--time=5")
    return job, cluster.shared / f"slurm-{job}.out"


def go_on(cluster, name):
    cluster.run(["sh", "-c", f"echo > {name}.in"])


def jobs(cluster):
    """The names of the jobs that there are, and their nodes."""
    said = cluster.run(["squeue", "-h", "-o", "%j %T %N"]).stdout
    return sorted(line.split()[0] + " " + line.split()[-1] for line in said.splitlines() if "RUNNING" in line)


def text_of(path):
    return path.read_text() if path.exists() else ""


def test_nodes_are_given_back(cluster):
    job, out = started(cluster, "gives.py", GIVES_BACK, "-N3", "--ntasks-per-node=4")
    cluster.until(lambda: text_of(out).count("\n") >= 3 or "Error" in text_of(out), 60, "n2 is given back")
    lines = text_of(out).splitlines()
    assert lines == [
        "{'n1': 2, 'n2': 2, 'n3': 2}",
        "3 {'n1': 3, 'n2': 3, 'n3': 3}",
        "['n2'] {} {'n1': 3, 'n3': 3}",
    ], text_of(out)
    assert cluster.job(job)[0]["NodeList"] == "n[1,3]"
    cluster.until(lambda: cluster.states()["n2"] == "idle", 30, "others may have n2")
    go_on(cluster, "gives.py")
    ended = cluster.wait(job)
    assert ended.state == "COMPLETED"
    assert ended.output.splitlines()[3:] == [
        "4950",
        "grow(9): the pool has 6 workers, and there is room for 2 more where it runs; for a further Slurm job say how "
        "to ask for it, as in ex.grow(8, allocate=['--nodes=2', '--time=1:00:00'])",
        "2 {'n1': 4, 'n3': 4}",
    ]
    assert not list(cluster.shared.glob("slurm_job_*_resize*"))


def test_a_further_job_joins_and_ends(cluster):
    job, out = started(cluster, "joins.py", JOINS, "-N1", "-n4")
    cluster.until(lambda: "{'n1': 4, 'n3': 4}" in text_of(out) or "Error" in text_of(out), 90, "those of n2 have left")
    told = text_of(out)
    assert "6 {'salloc-3'} {'n1': 4, 'n2': 3, 'n3': 3}\n4950\n" in told, told
    assert "2 of 3 new workers stand: after 2 s; Slurm job" in told, told
    assert "is PENDING (Resources)" in told, told
    assert "4 ['n2'] {} {'n1': 4, 'n3': 4}" in told, told
    assert jobs(cluster) == ["mainstay-pool n3", "sbatch n1"]
    go_on(cluster, "joins.py")
    cluster.until(lambda: "['n3'] {} {'n1': 4} 1" in text_of(out), 60, "all have left")
    cluster.until(lambda: len(jobs(cluster)) == 1, 15, "the further job is over")
    go_on(cluster, "joins.py")
    cluster.until(lambda: "{'n1': 4, 'n2': 2}" in text_of(out), 60, "another has joined")
    assert len(jobs(cluster)) == 2
    cluster.run(["scancel", "--signal=KILL", "--batch", str(job)])  # the client is killed
    cluster.until(lambda: not jobs(cluster), 30, "both jobs are over")
    cluster.until(lambda: not cluster.processes(), 15, "nothing is left")
