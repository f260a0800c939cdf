"""`mainstay doctor` on this machine: as it is, without MPI, without any command, in a world, and beside leftovers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import wait_until

FOREIGN = ("SLURM_", "PMI", "OMPI_", "MPI_LOCAL")
COMMAND = [sys.executable, "-c", "import sys; from mainstay.cli import main; sys.exit(main())", "doctor"]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The environment of a user on a machine without Slurm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"PATH": f"{Path(sys.executable).parent}:/nowhere", "TMPDIR": str(tmp_path_factory.mktemp("scratch"))}


def doctor(environ, *words, before=()):
    return subprocess.run([*before, *COMMAND, *words], env=environ, capture_output=True, text=True, timeout=60)


def checks(environ, *words):
    done = doctor(environ, "--json", *words)
    assert done.returncode in (0, 1), done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)}


def test_all_is_well_here(outside, tmp_path):
    script = tmp_path / "job.py"
    script.touch()
    done = doctor(outside, str(script), "--journal", str(tmp_path / "calls.db"))
    assert done.returncode == 0, done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    for name in ("Python", "Mainstay", "Nodes", "Their Mainstay", "Client reached", "Clocks", "Script", "Journal"):
        assert any(line.startswith(f"{name:15} good") for line in done.stdout.splitlines()), name
    assert " 0 bad" in done.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [script]


def test_the_same_for_programs(outside):
    found = checks(outside)
    assert all(set(check) == {"name", "state", "found", "advice"} for check in found.values())
    assert found["Slurm"]["state"] == found["Allocation"]["state"] == "none"
    assert found["Nodes"]["found"].startswith(f"this host only, {socket.gethostname()}")


def test_quick_starts_no_process(outside):
    found = checks(outside, "--quick")
    assert found["Nodes"] == {"name": "Nodes", "state": "none", "found": "left out by --quick", "advice": ""}
    assert found["Python"]["state"] == "good"


def test_something_bad_is_told_by_the_exit_code(outside):
    done = doctor(outside, "--quick", "--journal", "/no/such/calls.db")
    assert done.returncode == 1
    assert "mkdir -p /no/such" in done.stdout


@pytest.mark.parametrize("words", [["no-such.py"], ["--no-such"], ["a", "b"]])
def test_bad_usage(outside, words):
    done = doctor(outside, *words)
    assert done.returncode == 2
    assert "mainstay" in done.stderr


def test_without_mpi4py(outside, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ModuleNotFoundError(\"No module named 'mpi4py'\")")
    found = checks(outside | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert found["mpi4py"]["state"] == "none"
    assert "not installed" in found["mpi4py"]["found"]


def test_an_mpi_that_kills_its_process(outside, tmp_path):
    (tmp_path / "mpi4py.py").write_text("import os; os.abort()")
    found = checks(outside | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    assert found["mpi4py"]["state"] == "bad"
    assert "signal 6" in found["mpi4py"]["found"]


def test_a_slurm_without_a_cluster(outside, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho 'srun: fatal: no configuration' >&2; exit 1\n")
    srun.chmod(0o755)
    path = f"{tmp_path}:{outside['PATH']}:/bin"
    assert checks(outside | {"PATH": path})["Slurm"]["state"] == "none"
    job = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_CPUS_PER_NODE": "2"}
    found = checks(outside | job)
    assert found["Slurm"]["state"] == found["Nodes"]["state"] == "bad"
    assert "no configuration" in found["Slurm"]["found"]
    assert found["Time left"]["state"] == "none"


def test_in_a_world_only_rank_0_speaks(outside):
    done = doctor(outside, "--json", before=["mpiexec", "-n", "3"])
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["Started as"]["state"] == "odd"
    assert "3 doctors were started, only rank 0 speaks" in found["Started as"]["found"]


def test_the_agent_of_a_client_that_has_gone(outside):
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"127.0.0.1|{server.getsockname()[1]}"
    stray = [sys.executable, "-c", "import signal; signal.pause()  # mainstay.node"]
    with subprocess.Popen(stray, env=outside | {"MAINSTAY_ADDRESS": gone}) as process:
        try:
            wait_until(lambda: "mainstay.node" in Path(f"/proc/{process.pid}/cmdline").read_text())
            found = checks(outside)
        finally:
            process.kill()
    assert found["Leftovers"]["state"] == "odd"
    assert "agent" in found["Leftovers"]["found"]


def test_the_scratch_of_a_pool_that_has_gone(outside):
    directory = Path(outside["TMPDIR"]) / f"mainstay-{os.getuid()}-here-1-ab"
    directory.mkdir()
    try:
        assert str(directory) in checks(outside)["Scratch"]["found"]
        fd = os.open(directory, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert checks(outside)["Scratch"]["state"] == "good"  # its pool lives
        os.close(fd)
    finally:
        directory.rmdir()
