"""Executables as tasks: serial ones, and MPI programs in the places of several workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import mainstay
from conftest import BOTH_MPIS, HAS_OPENMPI, OPENMPI, mpiexec_of, wait_until

BESIDE = Path(sys.executable).parent
SUM = """
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int rank, size, sum;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) printf("%d ranks, sum %d\\n", size, sum);
    MPI_Finalize();
    return argc > 1 && rank == size - 1 ? 3 : 0;
}
"""
SUM_IN_PYTHON = """
import sys
from mpi4py import MPI
comm = MPI.COMM_WORLD
total = comm.allreduce(comm.rank)
if comm.rank == 0:
    print(f"{comm.size} ranks, sum {total}", flush=True)
comm.barrier()
MPI.Finalize()
sys.exit(3 if len(sys.argv) > 1 and comm.rank == comm.size - 1 else 0)
"""
SLEEP = "import sys, time; from mpi4py import MPI; open(sys.argv[1] + str(MPI.COMM_WORLD.rank), 'w'); time.sleep(600)"
MARK = "of-a-program-of-these-tests"


def mpi_program(directory: Path, environment: Path) -> list[str]:
    """Return the command line of an MPI executable: of C where there is a compiler and MPI's, else of mpi4py."""
    compiler = environment / "bin" / "mpicc"
    if compiler.exists() and shutil.which("gcc"):
        (directory / "sum.c").write_text(SUM)
        done = subprocess.run([compiler, "sum.c", "-o", "sum.exe"], cwd=directory, capture_output=True, check=False)
        if done.returncode == 0:
            return [str(directory / "sum.exe")]
    (directory / "sum.py").write_text(SUM_IN_PYTHON)
    return [sys.executable, str(directory / "sum.py")]


def strangers() -> list[psutil.Process]:
    """What the programs of these tests have started, and has not ended."""
    return [one for one in psutil.process_iter(["cmdline"]) if any(MARK in word for word in one.info["cmdline"] or ())]


@pytest.fixture(params=BOTH_MPIS)
def mpi(request, monkeypatch):
    """A launcher, and the environment where its MPI is."""
    return mpiexec_of(request.param, monkeypatch), BESIDE.parent if request.param == "mpich" else OPENMPI


def test_mpi_programs_run_in_the_places_of_workers(mpi, tmp_path):
    launcher, environment = mpi
    program = mpi_program(tmp_path, environment)
    with mainstay.Executor(3, launcher=launcher) as executor:
        three = executor.options(ranks=3).run(program)
        single = executor.submit(abs, -1)
        done = three.result(60)
        assert (done.returncode, done.stdout.strip(), done.hosts) == (0, "3 ranks, sum 3", {os.uname().nodename: 3})
        assert single.result(60) == 1
        assert executor.options(ranks=(2, 8)).run(program).result(60).stdout in ("2 ranks, sum 1\n", "3 ranks, sum 3\n")
        assert executor.options(ranks="all").run(program).result(60).stdout == "3 ranks, sum 3\n"
        assert executor.options(ranks=1).run(program).result(60).stdout == "1 ranks, sum 0\n"
        with pytest.raises(mainstay.ProgramFailed, match="ended with exit code"):
            executor.options(ranks=2).run([*program, "fail"]).result(60)
        assert executor.options(ranks=2).run([*program, "fail"], check=False).result(60).returncode != 0
        assert executor.options(ranks=2).submit(lambda: mainstay.comm().allreduce(1)).result(60) == [2, 2]
        assert executor.options(ranks=2).run(program).result(60).stdout == "2 ranks, sum 1\n"  # of workers with ranks
        assert executor.run(program).result(60).stdout == "1 ranks, sum 0\n"
        with pytest.raises(ValueError, match="wants 4 workers at least, and the pool has 3"):
            executor.options(ranks=4).run(program)


@HAS_OPENMPI
def test_what_a_killed_launcher_of_the_same_number_has_left_is_in_nobodys_way(tmp_path, monkeypatch):
    launcher = mpiexec_of("openmpi", monkeypatch)
    started = launcher.places({os.uname().nodename: 1})
    left = 'mkdir "$TMPDIR/ompi.$$" && touch "$TMPDIR/ompi.$$/pmix.vm.tool.$$" && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", left, "sh", *started.prefix, "echo", "well"],
        env={**os.environ, **started.environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_overruns_or_whose_worker_dies_leaves_nothing(mpi, tmp_path):
    program = [sys.executable, "-c", SLEEP, str(tmp_path / "rank"), MARK]
    before = set(Path("/dev/shm").glob("mpich_shm_*"))
    with mainstay.Executor(2, launcher=mpi[0], node_timeout=2) as executor:
        with pytest.raises(mainstay.TaskTimeout, match="'model' ran for more than its timeout"):
            executor.options(ranks=2, timeout=2, label="model").run(program).result(60)
        wait_until(lambda: not strangers())
        for path in set(Path("/dev/shm").glob("mpich_shm_*")) - before:
            os.utime(path, (0, 0))  # for the agents it is older than any launch that begins
        wait_until(lambda: set(Path("/dev/shm").glob("mpich_shm_*")) <= before)
        for path in tmp_path.iterdir():
            path.unlink()
        future = executor.options(ranks=2, worker_retries=0).run(program)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 60)
        busy = {worker.pid for worker in executor.workers}
        starter = next(one for pid in busy if (one := psutil.Process(pid)).children())
        starter.kill()
        with pytest.raises(mainstay.WorkerDied, match="killed by signal 9"):
            future.result(60)
        wait_until(lambda: not strangers())
        assert executor.run(["echo", "well"]).result(60).stdout == "well\n"


CLIENT = """
import sys, mainstay
with mainstay.Executor(3, launcher="local") as executor:
    futures = [executor.options(ranks=2).run(sys.argv[1:]), executor.run(sys.argv[1:])]
    futures[0].result()
"""


@pytest.mark.parametrize("victim", ["client", "agent"])
def test_a_client_or_an_agent_that_is_killed_leaves_no_program(victim, tmp_path):
    program = [sys.executable, "-c", SLEEP, str(tmp_path / "rank"), MARK]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *program])
    try:
        wait_until(lambda: {"rank0", "rank1"} <= {path.name for path in tmp_path.iterdir()}, 60)
        wait_until(lambda: len([one for one in strangers() if one.pid != client.pid]) >= 3)
        process = psutil.Process(client.pid)
        agent = next(one for one in process.children() if any("mainstay.node" in word for word in one.cmdline()))
        programs = [one for one in strangers() if one.pid != client.pid]
        os.kill(client.pid if victim == "client" else agent.pid, signal.SIGKILL)
        wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in programs))
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: not strangers())


def test_serial_programs_with_input_environment_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forcing.txt").write_text("1 2 3\n")
    (tmp_path / "model.sh").write_text("#!/bin/sh\ntr ' ' '+' < forcing.txt > out.txt; echo $NAME; cat; pwd >&2\n")
    (tmp_path / "model.sh").chmod(0o755)
    with mainstay.Executor(2, launcher="local") as executor:
        done = executor.run(["./model.sh"], input="read\n", env={"NAME": "named"}).result(60)
        assert (done.stdout, done.stderr) == ("named\nread\n", f"{tmp_path}\n")  # where this program is
        assert (tmp_path / "out.txt").read_text() == "1+2+3\n"
        (tmp_path / "out.txt").unlink()
        staged = executor.options(stage_in=["forcing.txt"], stage_out={"out.txt": "results/{label}"}, label="one")
        done = staged.run(["./model.sh"], text=False, input=b"\xff").result(60)
        assert done.stdout == b"\n\xff"
        assert done.stderr != f"{tmp_path}\n".encode()
        assert (tmp_path / "results" / "one" / "out.txt").read_text() == "1+2+3\n"
        assert not (tmp_path / "out.txt").exists()
        with pytest.raises(
            mainstay.ProgramFailed, match=r"`sh -c .*` was killed by signal 9 .* its last lines:\n  last"
        ):
            executor.run(["sh", "-c", "echo last >&2; kill -9 $$"]).result(60)
        with pytest.raises(mainstay.ProgramFailed) as failed:
            executor.options(retries=1).run(["sh", "-c", "echo x >> tries; exit 7"]).result(60)
        assert failed.value.completed.returncode == 7
        assert (tmp_path / "tries").read_text() == "x\nx\n"
        assert executor.run(["false"], check=False).result(60).returncode == 1
        with pytest.raises(FileNotFoundError, match=rf"has no such program at {tmp_path}/nothing: '\./nothing'"):
            executor.run(["./nothing"]).result(60)
        with pytest.raises(FileNotFoundError, match="has no such program on PATH: 'nothing-at-all'"):
            executor.run(["nothing-at-all"]).result(60)
        with pytest.raises(PermissionError, match="may not execute it"):
            executor.run(["./forcing.txt"]).result(60)
        with pytest.raises(TypeError, match="args must be a list of words"):
            executor.run("echo hi")


def test_the_journal_knows_a_program_by_its_command_line_and_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(model: str) -> None:
        Path("model.sh").write_text(f"#!/bin/sh\necho ran >> runs\necho {model} $1\n")
        Path("model.sh").chmod(0o755)

    def run(*words: str) -> str:
        with mainstay.Executor(1, launcher="local", journal="calls.db") as executor:
            return str(executor.run(["./model.sh", *words]).result(60).stdout)

    write("first")
    assert [run("a"), run("a"), run("b")] == ["first a\n", "first a\n", "first b\n"]
    assert Path("runs").read_text().count("ran") == 2
    write("second, which is longer")
    assert run("a") == "second, which is longer a\n"
    assert run("a") == "second, which is longer a\n"
    assert Path("runs").read_text().count("ran") == 3
