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
# The program runs on the login host, its environment on the shared file system. A line on stdin: the next batch.
JOB = """\
import json, os, sys
import mainstay

def where(_):
    import mapped, socket, time
    time.sleep(0.02)
    return f"{socket.gethostname()} {os.getpid()}"

with mainstay.Executor(launcher="srun", stage="env.KIND", preload=["mapped"]) as pool:
    pool.wait_ready(timeout=100)
    for _ in sys.stdin:
        print(json.dumps([os.getpid(), list(pool.map(where, range(48), chunksize=1))]), flush=True)
"""


def laid(mount) -> None:
    """Put an environment, its packed file and a job behind the mount."""
    stagework.environment(mount.behind / "env")
    pack(mount.behind / "env", mount.behind / f"env.{KIND}")
    (mount.behind / "job.py").write_text(JOB.replace("KIND", KIND))


def by_nodes(mount, program: int) -> int:
    """Return how many operations others than the program have asked for."""
    login = [row.count for row in mount["login"].operations() if row.pid != program]
    return sum(login) + sum(counts.total() for host, counts in mount.counts().items() if host != "login")


def test_a_pool_on_three_hosts_asks_for_a_handful_and_then_for_nothing(cluster):
    with cluster.counted(cache=Cache.NONE) as mount:
        laid(mount)
        command = ["salloc", "--quiet", "-N3", "--ntasks-per-node=4", mount.path / "env" / "bin" / "python", "job.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with cluster.popen([*map(str, command)], cwd=mount.path, **pipes) as job:

            def batch() -> tuple[int, set[str]]:
                job.stdin.write("\n")
                job.stdin.flush()
                program, seen = json.loads(job.stdout.readline())
                return program, set(seen)

            program, seen = batch()
            while len(seen) < WORKERS:
                seen |= batch()[1]
            started = by_nodes(mount, program)
            asked = mount.counts()
            for _ in range(3):
                batch()
            job.stdin.close()
            assert mount.counts() == asked  # nobody has asked for anything, the program included
        assert job.returncode == 0
        assert {who.split()[0] for who in seen} == {"n1", "n2", "n3"}
        assert started <= MOST, [row for name in cluster.names for row in mount[name].operations()]
