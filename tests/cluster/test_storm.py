"""Three hosts start from one packed environment: what they ask of the file system that they share is counted."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

import slowmount
import stagework
from mainstay.stage.pack import pack
from slowmount import Cache

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
KIND = "tar.zst" if shutil.which("zstd") else "tar.gz"
MOST = 12  # metadata operations of all hosts together, by the client without a cache
WORKERS = 12
RANKS = 5  # more than one host has workers
# The program runs on the login host, its environment on the shared file system. A line on stdin: the next batch, or a
# gang.
JOB = """\
import json, os, sys
import mainstay

def where(_):
    import mapped, socket, time
    time.sleep(0.02)
    return f"{socket.gethostname()} {os.getpid()}"

def library():
    with open("/proc/self/maps") as file:
        return [mainstay.comm().size, next(line.split()[-1] for line in file if "/libmpi" in line)]

def answer(line):
    if line == "gang\\n":
        return pool.options(ranks=RANKS).submit(library).result(100)
    return list(pool.map(where, range(48), chunksize=1))

with mainstay.Executor(launcher="srun", stage="env.KIND", preload=["mapped"]) as pool:
    pool.wait_ready(timeout=100)
    for line in sys.stdin:
        print(json.dumps([os.getpid(), answer(line)]), flush=True)
"""


def laid(mount) -> None:
    """Put an environment, its packed file and a job behind the mount."""
    stagework.install(stagework.environment(mount.behind / "env"), "mpi4py", "mpich")
    pack(mount.behind / "env", mount.behind / f"env.{KIND}")
    (mount.behind / "job.py").write_text(JOB.replace("KIND", KIND).replace("RANKS", str(RANKS)))


def by_nodes(mount, program: int) -> int:
    """Return how many operations others than the program have asked for."""
    login = [row.count for row in mount["login"].operations() if row.pid != program]
    return sum(login) + sum(counts.total() for host, counts in mount.counts().items() if host != "login")


def test_a_pool_on_three_hosts_asks_for_a_handful_and_then_for_nothing_gangs_included(cluster):
    with cluster.counted(cache=Cache.NONE) as mount:
        laid(mount)
        command = ["salloc", "--quiet", "-N3", "--ntasks-per-node=4", mount.path / "env" / "bin" / "python", "job.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with cluster.popen([*map(str, command)], cwd=mount.path, **pipes) as job:

            def ask(what: str) -> tuple[int, list]:
                job.stdin.write(f"{what}\n")
                job.stdin.flush()
                return tuple(json.loads(job.stdout.readline()))

            program, told = ask("batch")
            seen = {*told}
            while len(seen) < WORKERS:
                seen |= {*ask("batch")[1]}
            started = by_nodes(mount, program)
            asked = mount.counts()
            for _ in range(3):
                ask("batch")
            assert mount.counts() == asked  # nobody has asked for anything, the program included
            _, ranks = ask("gang")
            job.stdin.close()
            # The hosts' slots and workers have asked for nothing; the program has looked which mpiexec it has.
            hosts = [row for name in cluster.names if name != "login" for row in mount[name].operations()]
            assert {**mount.counts(), "login": asked["login"]} == asked, hosts
        assert job.returncode == 0
        assert {who.split()[0] for who in seen} == {"n1", "n2", "n3"}
        assert {size for size, _ in ranks} == {RANKS}
        assert all(path.startswith("/tmp/mainstay-stage-") for _, path in ranks), ranks
        assert started <= MOST, [row for name in cluster.names for row in mount[name].operations()]
