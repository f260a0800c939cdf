"""The ways in which people start a program, and what they find or do not find on their machines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import mainstay
from conftest import HAS_OPENMPI, OPENMPI, wait_until
from mainstay.launch.mpiexec import MpiExec, allow_root

BESIDE = Path(sys.executable).parent
JOB = """
import os, time
import mainstay

def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece: the ranks share the terminal

rank = os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
say(f"began {rank}")
for _ in range(2):
    with mainstay.Executor() as executor:
        pids = set(executor.map(lambda x: time.sleep(0.02) or os.getpid(), range(60), chunksize=1))
        say(f"workers {len(pids)} {executor.describe().launcher}")
say(f"ended {rank}")
"""


LAUNCHERS = [
    pytest.param([str(BESIDE / "mpiexec")], id="mpich"),
    pytest.param([str(OPENMPI / "bin" / "mpiexec"), "--oversubscribe"], id="openmpi", marks=HAS_OPENMPI),
]


def run(command, seconds=60, **keywords):
    environment = os.environ | allow_root() | keywords.pop("environment", {})
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=environment, check=False, **keywords
    )


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def test_a_plain_script(job):
    done = run([sys.executable, str(job)])
    assert done.returncode == 0, done.stderr
    assert "ended None" in done.stdout


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_all_ranks_run_the_script_and_rank_0_goes_on(mpiexec, job):
    done = run([*mpiexec, "-n", "4", sys.executable, str(job)])
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "began" in line) == [f"began {i}" for i in range(4)]
    assert done.stdout.count("workers 4 world") == 2
    assert [line for line in done.stdout.splitlines() if "ended" in line] == ["ended 0"]


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_ranks_that_are_started_through_a_shell_find_each_other(mpiexec, job):
    done = run([*mpiexec, "-n", "3", "sh", "-c", f"{sys.executable} {job} && echo shell over"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("workers 3 world") == 2
    assert done.stdout.count("shell over") == 3


@pytest.mark.parametrize("mpiexec", LAUNCHERS)
def test_mainstay_run_runs_the_script_on_rank_0_only(mpiexec, job):
    done = run([*mpiexec, "-n", "4", str(BESIDE / "mainstay"), "run", str(job)])
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "began" in line] == ["began 0"]
    assert done.stdout.count("workers 4 world") == 2


def test_a_rank_0_without_a_pool_lets_the_others_go(tmp_path):
    job = tmp_path / "job.py"
    job.write_text("import os, mainstay\nif os.environ['PMI_RANK'] != '0':\n    mainstay.Executor()\n")
    done = run([str(BESIDE / "mpiexec"), "-n", "3", sys.executable, str(job)])
    assert done.returncode == 0, done.stderr


def test_a_world_whose_ranks_have_initialised_mpi_ends_cleanly(tmp_path):
    job = tmp_path / "job.py"
    job.write_text("from mpi4py import MPI\n" + JOB)
    done = run([str(BESIDE / "mpiexec"), "-n", "3", sys.executable, str(job)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("workers 3 world") == 2


def test_executors_one_after_another_and_two_at_once():
    for _ in range(2):
        with mainstay.Executor(1, launcher="local") as executor:
            assert executor.submit(abs, -1).result(30) == 1
    with mainstay.Executor(1, launcher="local") as one, mainstay.Executor(1, launcher="local") as other:
        assert one.submit(os.getpid).result(30) != other.submit(os.getpid).result(30)


def test_an_executor_in_a_thread():
    results = []

    def work():
        with mainstay.Executor(1, launcher="local") as executor:
            results.append(executor.submit(abs, -1).result(30))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert results == [1]


def test_describe_says_what_stands_and_why_not_others():
    lines = []
    with mainstay.Executor(2, launcher=["world", "srun", "local"], log=lines.append) as executor:
        description = executor.wait_ready(timeout=30)
        assert (description.launcher, description.workers, description.ever_started) == ("local", 2, 2)
        assert [name for name, _ in description.not_used] == ["world", "srun"]
        assert {worker.state for worker in executor.workers} == {"idle"}
    assert len([line for line in lines if line.startswith("launcher local; workers: 2 on ")]) == 1


def test_a_world_of_more_ranks_than_cores_is_told():
    program = """
import os, mainstay
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with mainstay.Executor(log=print) as executor:
    executor.wait_ready(timeout=30)
"""
    ranks = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
    said = run([sys.executable, "-c", program], environment=ranks)
    assert re.search(r"more workers than CPUs: 2 workers on the 1 CPUs of \S+; start fewer ranks", said.stdout), said


def test_waiting_for_workers_that_will_not_come_ends():
    with mainstay.Executor(4, launcher="serial") as executor:
        with pytest.raises(TimeoutError, match="1 of 4 workers stand and no more will come"):
            executor.wait_ready(4)
        with pytest.raises(ValueError, match="n must be from 1 to max_workers=4"):
            executor.wait_ready(5)


def test_without_mpiexec_the_next_launcher_serves(tmp_path):
    python = tmp_path / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    chain = MpiExec(program="no-such-mpiexec")
    with mainstay.Executor(1, launcher=[chain, "local"]) as executor:
        assert executor.submit(abs, -1).result(30) == 1
        assert "no mpiexec" in executor.describe().not_used[0][1]


SLEEPERS = [["sleep", "997"], ["sleep", "998"], ["sleep", "999"]]


def program(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo something else entirely", "is of no known kind"),
        ('[ "$1" = --version ] && echo HYDRA && exit; echo no such host >&2; exit 3', "exit code 3.*no such host"),
        ('[ "$1" = --version ] && echo HYDRA && exit; yes nonsense | head -c 100000', "exit code 0.*nonsense"),
        ('[ "$1" = --version ] && echo HYDRA && exit; sleep 998 & sleep 999', "no worker within start_timeout=1 s"),
        ('[ "$1" = --version ] && echo HYDRA && exit; setsid sleep 997', "no worker within start_timeout=1 s"),
    ],
)
def test_a_launcher_that_fails_is_ended_and_the_next_is_tried(tmp_path, text, reason):
    chain = [MpiExec(program=program(tmp_path, "mpiexec", text)), "local"]
    with mainstay.Executor(1, launcher=chain, start_timeout=1) as executor:
        assert executor.submit(abs, -1).result(30) == 1
        ((name, told),) = executor.describe().not_used
        assert name == "mpiexec"
        assert re.search(reason, told, re.DOTALL)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] in SLEEPERS]


def test_when_no_launcher_works_every_future_says_why():
    chain = [MpiExec(program="no-such-mpiexec")]
    with mainstay.Executor(1, launcher=chain) as executor:
        with pytest.raises(mainstay.LaunchError, match="mpiexec: no mpiexec"):
            executor.submit(abs, 1).result(30)


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_file_in_the_working_directory_is_not_taken_for_python_s_own(tmp_path, launcher):
    for name in ("socket", "pickle", "mainstay"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = tmp_path / "scripts" / "job.py"
    script.parent.mkdir()
    script.write_text(
        f"import mainstay\nwith mainstay.Executor(1, launcher={launcher!r}) as e: print(e.submit(abs, -1).result(30))"
    )
    done = run([sys.executable, str(script)], cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_temporary_directory_that_cannot_be_used_does_not_matter(tmp_path, launcher):
    script = "import mainstay\nwith mainstay.Executor(1, launcher=%r) as e: print(e.submit(abs, -1).result(30))"
    long = tmp_path / ("x" * 120)
    long.mkdir()
    for directory in ("/nowhere", str(long)):
        done = run([sys.executable, "-c", script % launcher], environment={"TMPDIR": directory})
        assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


def interrupted(client):
    """Press Ctrl-C; again if need be: CPython does not see an interrupt that comes just before a thread blocks."""
    for _ in range(3):
        client.send_signal(signal.SIGINT)
        try:
            return client.communicate(timeout=15)[1]
        except subprocess.TimeoutExpired:
            continue
    client.kill()
    raise AssertionError("the client did not end")


@pytest.mark.parametrize("how", ["result", "submit", "map"])
def test_ctrl_c_ends_the_pool_with_one_traceback(how):
    script = f"""
import signal, time, mainstay
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with SIGINT ignored
with mainstay.Executor(2, launcher="local") as executor:
    executor.submit(abs, 1).result(30)
    futures = [executor.submit(time.sleep, 60) for _ in range(2)]
    print("running", flush=True)
    if {how!r} == "result": futures[0].result()
    while {how!r} == "submit": executor.submit(abs, 1)
    if {how!r} == "map": list(executor.map(time.sleep, [60] * 10))
"""
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "running\n"
    said = interrupted(client)
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.timeout(60)
def test_ctrl_c_in_the_middle_of_a_long_map_starts_nothing_more():
    def interrupted_map():
        with mainstay.Executor(2, launcher="local") as executor:
            executor.wait_ready(timeout=30)
            executor.map(time.sleep, [600] * 1000)  # the rest of it would follow what was cancelled
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_map()


def test_a_forked_child_has_no_part_in_the_pool():
    with mainstay.Executor(1, launcher="local") as executor:
        assert executor.submit(abs, -1).result(30) == 1
        child = os.fork()
        if child == 0:
            try:
                executor.submit(abs, 1)
            except RuntimeError:
                os._exit(17)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        assert executor.submit(abs, -2).result(30) == 2


def test_a_killed_mpiexec_is_started_anew():
    with mainstay.Executor(2, launcher="mpiexec") as executor:
        executor.wait_ready(timeout=30)
        futures = [executor.submit(lambda i: time.sleep(0.01) or i, i) for i in range(200)]
        wait_until(lambda: sum(future.done() for future in futures) > 20)
        launched = executor._broker.launches.current._launched
        os.kill(launched._process.pid, signal.SIGKILL)
        assert [future.result(60) for future in futures] == list(range(200))


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_client_that_is_killed_while_it_starts_leaves_nothing(launcher):
    script = (
        f"import mainstay, time\nex = mainstay.Executor(2, launcher={launcher!r})\nprint(1, flush=True)\ntime.sleep(60)"
    )
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert client.stdout is not None
    client.stdout.readline()
    wait_until(lambda: bool(psutil.Process(client.pid).children()))
    begun = psutil.Process(client.pid).children(recursive=True)
    client.kill()
    client.wait()
    wait_until(lambda: not any(process.is_running() for process in begun), 5)


def test_a_worker_that_comes_while_the_pool_closes_is_sent_home():
    for _ in range(5):
        with mainstay.Executor(4, launcher="local") as executor:
            executor.submit(abs, -1).result(30)
        workers = executor._broker.roster.workers.values()
        assert all(worker.connection is None or worker.connection.closed for worker in workers)
    mainstay.Executor(2, launcher="local").shutdown()


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_host_name_that_does_not_resolve_does_not_matter(launcher):
    named = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    if os.geteuid() != 0 or run([*named, "true"]).returncode != 0:
        pytest.skip("giving this host another name needs root and unshare")
    script = (
        f"import mainstay\nwith mainstay.Executor(1, launcher={launcher!r}) as e: print(e.submit(abs, -1).result(30))"
    )
    done = run([*named, sys.executable, "-c", script])
    assert (done.stdout.strip(), done.returncode) == ("1", 0), done.stderr


def test_a_journal_that_cannot_be_opened_leaves_nothing_open(tmp_path):
    with pytest.raises(mainstay.JournalError):
        mainstay.Executor(1, launcher="serial", journal=tmp_path)  # imports what it needs
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(mainstay.JournalError):
        mainstay.Executor(1, launcher="serial", journal=tmp_path)
    assert set(os.listdir("/proc/self/fd")) <= before
