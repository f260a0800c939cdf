"""Preloading: what workers share, what is noticed, what ends with what, what is learnt, who waits for whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import mainstay
import slowmount
from conftest import agents, wait_until
from mainstay.launch.process import Process, staggered
from slowmount import SlowMount

BLOCKS = """
import os, pathlib, time
here = pathlib.Path(__file__).parent
with open(here / "log", "a") as file:
    file.write("begin\\n")
while not (here / "go").exists():
    time.sleep(0.005)
with open(here / "log", "a") as file:
    file.write("end\\n")
"""
HARMFUL = {
    "threads": (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(10000,), daemon=True, name='poller').start()\n",
        r"it starts threads \(poller\).*initializer=",
    ),
    "mpi": (
        "import mpi4py\nmpi4py.rc.initialize = True\nfrom mpi4py import MPI\nMPI.Is_initialized() or MPI.Init()\n",
        r"it initialises MPI.*call MPI.Init\(\) in the task",
    ),
    "crashes": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "was killed by signal 11"),
    "leaves": ("import os\nos._exit(3)\n", "exited with 3"),
    "leaves a process": (  # which holds what it has inherited
        "import os, time\nif os.fork():\n    os._exit(3)\nwhile os.getppid() != 1:\n    time.sleep(0.01)\n"
        "time.sleep(3)\nos._exit(0)\n",
        "exited with 3",
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path of this process, and of what it starts."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder


# -- what is noticed


@pytest.mark.parametrize("kind", HARMFUL)
def test_what_forks_would_inherit_broken_is_noticed(folder, kind):
    if kind == "mpi":
        pytest.importorskip("mpi4py")
    code, words = HARMFUL[kind]
    (folder / "harmful.py").write_text(code)
    with mainstay.Executor(1, launcher="local", preload=["harmful"]) as executor:
        with pytest.raises(mainstay.PreloadFailed, match="cannot preload 'harmful': .*" + words):
            executor.submit(abs, 1).result(60)


def test_mpi_is_imported_without_being_initialised_and_each_worker_may_initialise_it():
    pytest.importorskip("mpi4py")
    lines = []

    def size():
        from mpi4py import MPI

        before = MPI.Is_initialized()
        if not before:
            MPI.Init()
        return before, MPI.COMM_WORLD.size, os.environ.get("MPI4PY_RC_INITIALIZE")

    with mainstay.Executor(1, launcher="local", preload=["mpi4py.MPI"], log=lines.append) as executor:
        assert executor.submit(size).result(60) == (False, 1, None)
    assert any("mpi4py.MPI was imported, but MPI not initialised" in line for line in lines)


def test_blas_works_in_forks_of_a_process_that_has_loaded_it():
    def solve(size):
        import numpy as np

        a = np.eye(size) * 2
        return float((a @ a).sum()), float(np.linalg.svd(a)[1].sum())

    lines = []
    with mainstay.Executor(2, launcher="local", preload=["numpy"], log=lines.append) as executor:
        for size, result in zip([400] * 4, executor.map(solve, [400] * 4, chunksize=1), strict=True):
            assert result == (4.0 * size, 2.0 * size)
        executor.submit(os.kill, executor.workers[0].pid, signal.SIGKILL)
        assert executor.submit(solve, 300).result(60) == (1200.0, 600.0)
    assert not any("threads" in line for line in lines)


class Returning:
    """Starts two agents on this host, each as if it were on a node that comes back when it is lost."""

    name = "returning"
    most_workers = None

    def why_not(self):
        return None

    def start(self, invitation):
        return Several(2).start(invitation)

    def rejoin(self, invitation, host):
        return Several(1).start(invitation)


def test_a_node_that_comes_back_and_is_not_whole_does_not_break_the_pool(folder, monkeypatch):
    monkeypatch.setattr("mainstay.launches.REJOIN", 0.1)
    (folder / "fickle.py").write_text("import os\nif os.path.exists(__file__ + '-off'): raise OSError('not mounted')\n")
    lines = []
    with mainstay.Executor(4, launcher=Returning(), preload=["fickle"], log=lines.append) as executor:
        executor.wait_ready(timeout=60)
        (folder / "fickle.py-off").touch()
        os.kill(executor.submit(os.getppid).result(60), signal.SIGKILL)
        wait_until(lambda: any("cannot preload 'fickle': OSError: not mounted" in line for line in lines), 60)
        assert executor.submit(abs, -1).result(60) == 1
        (folder / "fickle.py-off").unlink()
        wait_until(lambda: executor.describe().workers == 4, 60)


# -- a worker that died


@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
def test_a_worker_after_a_death_asks_the_file_system_nothing(tmp_path, monkeypatch):
    with SlowMount(tmp_path) as mount:
        package = mount.path / "mymodel"
        package.mkdir()
        (package / "__init__.py").write_text("from mymodel.inner import answer\n")
        (package / "inner.py").write_text("def answer(x):\n    return x + 40\n")
        monkeypatch.syspath_prepend(mount.path)  # the first place in which any import looks

        def work(x):
            import mymodel

            return mymodel.answer(x), os.getpid()

        with mainstay.Executor(1, launcher="local", preload=["mymodel"]) as executor:
            value, pid = executor.submit(work, 2).result(60)
            before = mount.counts()
            assert before["open"] > 0
            os.kill(pid, signal.SIGKILL)
            results = list(executor.map(work, [2, 2]))
            assert [value for value, _ in results] == [value, value] == [42, 42]
            assert pid not in [pid for _, pid in results]
            assert mount.counts() - before == {}


# -- an import that takes its time


def log_of(folder):
    log = folder / "log"
    return log.read_text().split() if log.exists() else []


def test_a_node_that_imports_for_long_is_not_taken_for_lost(folder):
    (folder / "blocks.py").write_text(BLOCKS)
    with mainstay.Executor(1, launcher="local", preload=["blocks"], node_timeout=1) as executor:
        wait_until(lambda: log_of(folder) == ["begin"])
        agent = executor._broker.roster.agents[0]
        begun = agent.heard
        wait_until(lambda: agent.heard > begun + 2)  # heartbeats, for longer than a node may say nothing
        (folder / "go").touch()
        assert executor.submit(abs, -1).result(60) == 1
        assert executor.describe().ever_started == 1
    assert log_of(folder) == ["begin", "end"]


def test_a_start_that_is_late_says_what_was_imported(folder):
    (folder / "blocks.py").write_text(BLOCKS)
    with mainstay.Executor(1, launcher="local", preload=["json", "blocks"], node_timeout=1) as executor:
        broker = executor._broker
        wait_until(lambda: "'blocks'" in broker.roster.preloading.late())
        broker.launches.deadline = 0.0  # as if start_timeout had passed
        words = r"brought no worker within start_timeout=120 s: .* was importing 'blocks' for preload=; a longer start_"
        with pytest.raises(mainstay.LaunchError, match=words):
            executor.submit(os.getpid).result(60)


def test_a_pool_can_be_closed_while_a_node_imports(folder):
    (folder / "blocks.py").write_text(BLOCKS)
    before = {process.pid for process in agents()}
    executor = mainstay.Executor(1, launcher="local", preload=["blocks"])
    wait_until(lambda: log_of(folder) == ["begin"])
    executor.shutdown(cancel_futures=True)
    wait_until(lambda: {process.pid for process in agents()} <= before)


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_nothing_is_left_of_a_client_that_is_killed_while_a_node_imports(folder, launcher):
    (folder / "blocks.py").write_text(BLOCKS)
    before = {process.pid for process in agents()}
    code = f"import mainstay; mainstay.Executor(1, launcher={launcher!r}, preload=['blocks']).submit(abs, 1).result()"
    client = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: log_of(folder) == ["begin"])
    client.kill()
    client.wait()
    wait_until(lambda: {process.pid for process in agents()} <= before)


def test_the_end_of_either_process_of_an_agent_is_the_end_of_both():
    for which in (0, 1):
        with mainstay.Executor(1, launcher="local", preload=["json"]) as executor:
            agent = psutil.Process(executor.submit(os.getppid).result(60))
            assert agent.parent().cmdline() == agent.cmdline()
            [agent, agent.parent()][which].kill()
            wait_until(lambda: not agent.is_running())  # noqa: B023
            assert executor.submit(os.getppid).result(60) != agent.pid  # another launch serves


def test_scratch_files_are_removed_where_a_module_was_preloaded(tmp_path):
    with mainstay.Executor(1, launcher="local", preload=["json"], scratch=tmp_path) as executor:
        path = executor.submit(lambda: str(mainstay.scratch())).result(60)
        assert Path(path).is_relative_to(tmp_path)
    wait_until(lambda: not list(tmp_path.iterdir()))


# -- what is learnt

AUTO = """
import os, sys
import mainstay

def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece: the log is written by another thread

def work(x):
    import colours, threads, xml.dom
    return "threads" in sys.modules

with mainstay.Executor(2, preload="auto", log=say, **{"launcher": "local"} | eval(sys.argv[1])) as ex:
    names = ["colours", "threads", "xml.dom"]
    ex.wait_ready()  # the line at the start has been said
    known = ex.submit(lambda: [name for name in names if name in sys.modules]).result()
    say(f"knew {known}")
    assert all(ex.map(work, range(4)))
"""


@pytest.mark.parametrize("journal", [False, True])
def test_a_second_run_preloads_what_the_first_imported(folder, tmp_path, journal):
    (folder / "colours.py").write_text("import wave\n")
    (folder / "threads.py").write_text(HARMFUL["threads"][0])
    job = tmp_path / "job.py"
    job.write_text(AUTO)
    options = repr({"journal": str(tmp_path / "calls.db"), "retry_failed": True} if journal else {})
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run():
        if journal:
            (tmp_path / "calls.db").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(job), options],
            capture_output=True,
            text=True,
            timeout=100,
            env=environment,
            check=True,
        )
        return done.stdout

    assert "knew []" in run()
    second, third = run(), run()
    assert "knew ['colours', 'xml.dom']" in second
    assert "preload='auto' leaves threads out: it starts threads (poller)" in second
    assert "preloaded " in second
    assert "colours" in second.partition("once per node")[0]
    assert "knew ['colours', 'xml.dom']" in third
    assert "leaves" not in third  # known by now, and not tried again
    options = options.replace("{", "{'launcher': 'serial', ", 1)
    run()  # knows what the program itself has imported, and must not forget it for that
    options = options.replace("serial", "local")
    assert "knew ['colours', 'xml.dom']" in run()
    assert (tmp_path / "calls.db.preload").exists() == journal
    assert (tmp_path / "cache").exists() != journal


# -- stagger


class Several:
    """Starts several agents on this host, as if each were on a node of its own."""

    name = "several"
    most_workers = None

    def __init__(self, nodes):
        self._nodes = nodes

    def why_not(self):
        return None

    def start(self, invitation):
        each = f'for i in {" ".join(map(str, range(self._nodes)))}; do "$@" & done; wait'
        environment = invitation.environment() | {"MAINSTAY_SLOTS": "2"}
        command = ["/bin/sh", "-c", each, "several", *staggered(None)]
        return Process(command, environment, self._nodes)


def test_no_more_nodes_import_at_a_time_than_may(folder):
    (folder / "blocks.py").write_text(BLOCKS)
    with mainstay.Executor(8, launcher=Several(4), preload=["blocks"], stagger=1) as executor:
        wait_until(lambda: len(executor._broker.roster.agents) == 4, 60)
        wait_until(lambda: log_of(folder) == ["begin"])
        assert executor.describe().workers == 0
        (folder / "go").touch()
        assert executor.wait_ready(timeout=100).workers == 8
    assert log_of(folder) == ["begin", "end"] * 4


def test_a_node_begins_when_the_workers_of_the_one_before_stand(folder):
    """Also where nothing is preloaded: the initializer may import."""
    (folder / "blocks.py").write_text(BLOCKS)
    with mainstay.Executor(4, launcher=Several(2), initializer=__import__, initargs=("blocks",), stagger=1) as executor:
        wait_until(lambda: len(executor._broker.roster.agents) == 2, 60)
        wait_until(lambda: len(log_of(folder)) == 2)
        assert executor.describe().ever_started == 2
        (folder / "go").touch()
        assert executor.wait_ready(timeout=100).workers == 4
    assert sorted(log_of(folder)[:4]) == ["begin", "begin", "end", "end"]


def test_a_node_that_is_lost_in_its_turn_does_not_hold_the_others_back(folder):
    (folder / "blocks.py").write_text(BLOCKS)
    with mainstay.Executor(4, launcher=Several(2), preload=["blocks"], stagger=1) as executor:
        wait_until(lambda: len(executor._broker.roster.agents) == 2, 60)
        wait_until(lambda: log_of(folder) == ["begin"])
        (importer,) = (process for process in agents() if process.parent().cmdline() == process.cmdline())
        importer.parent().kill()
        wait_until(lambda: log_of(folder) == ["begin", "begin"])
        (folder / "go").touch()
        assert executor.submit(abs, -1).result(60) == 1


def test_ranks_start_in_waves_and_end_with_their_launcher(tmp_path):
    """By the shell's own waiting: rank 1 of one a second writes after rank 0; one whose parent is gone does not."""
    say = ["/bin/sh", "-c", f"echo $PMI_RANK >> {tmp_path}/said"]
    ranks = [subprocess.Popen(staggered(1, say), env=os.environ | {"PMI_RANK": rank}) for rank in "10"]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    assert (tmp_path / "said").read_text().split() == ["0", "1"]
    waiting = ["/bin/sh", "-c", '"$@" & echo $!; wait', "parent", *staggered(1, say)]
    parent = subprocess.Popen(waiting, env=os.environ | {"PMI_RANK": "1000"}, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    wait_until(lambda: bool(psutil.Process(pid).children()))  # it waits
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not psutil.pid_exists(pid))
