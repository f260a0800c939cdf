"""What the environment in a PBS or LSF job says of it; the environments are as their manuals have them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from mainstay.launch import find, lsf, pbs
from mainstay.launch.hosted import reached_by
from mainstay.launch.mpiexec import AFRESH, emptied, hold, hydra_slots_argv, in_tree, openmpi_argv, openmpi_slots_argv
from mainstay.launch.passing import QUIET, remote_shell
from mainstay.launch.ranks import slots_argv
from mainstay.launch.slots import Lenders
from mainstay.node.slot import COMMAND
from mainstay.node.standing import Standing
from mainstay.slurm import allocation
from mainstay.world import job_of


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("n1.site.org\nn1.site.org\nn2.site.org\nn1.site.org\n")
    return str(path)


def test_hosts_of_a_pbs_job(file):
    assert pbs.slots({"PBS_JOBID": "7.server", "PBS_NODEFILE": file}) == {"n1.site.org": 3, "n2.site.org": 1}
    with pytest.raises(ValueError, match="PBS_NODEFILE is not set; start the program from the job's script"):
        pbs.slots({"PBS_JOBID": "7.server"})
    with pytest.raises(OSError, match="/nowhere"):
        pbs.slots({"PBS_NODEFILE": "/nowhere"})


def test_hosts_of_an_lsf_job(file):
    numbers = {"LSB_MCPU_HOSTS": "n1 4 n2 2"}
    assert lsf.slots(numbers) == {"n1": 4, "n2": 2}
    assert lsf.slots(numbers | {"LSB_DJOB_HOSTFILE": file}) == {"n1.site.org": 3, "n2.site.org": 1}


@pytest.mark.parametrize("text", ["", "n1", "n1 4 n2", "n1 n2"])
def test_hosts_that_lsf_does_not_write(text):
    with pytest.raises(ValueError, match=r"LSB_MCPU_HOSTS=.* is not as LSF writes it"):
        lsf.slots({"LSB_MCPU_HOSTS": text})


def test_a_file_without_hosts_is_named():
    with pytest.raises(ValueError, match="PBS_NODEFILE=/dev/null names no host"):
        pbs.slots({"PBS_NODEFILE": os.devnull})


@pytest.mark.parametrize(("name", "variable"), [("pbs", "PBS_JOBID"), ("lsf", "LSB_JOBID")])
def test_outside_of_a_job_they_do_not_serve(monkeypatch, name, variable):
    monkeypatch.delenv(variable, raising=False)
    assert find(name).why_not() == f"not in a {name.upper()} job ({variable} is not set)"
    assert find(name).most_workers is None


def test_a_job_has_a_name_on_all_its_hosts():
    assert job_of({"PBS_JOBID": "7.server"}) == "pbs-7.server-0"
    assert job_of({"LSB_JOBID": "7", "LSB_JOBINDEX": "3"}) == "lsf-7-3"
    assert job_of({"SLURM_JOB_ID": "7"}) == "slurm-7-0"
    assert job_of({}) == ""


def test_hosts_are_reached_through_the_batch_system():
    told = reached_by("/opt/pbs/bin/pbs_tmrsh")
    assert told["HYDRA_LAUNCHER_EXEC"] == told["PRTE_MCA_plm_ssh_agent"] == "/opt/pbs/bin/pbs_tmrsh"
    assert reached_by(None) == {}


def test_open_mpi_hands_on_what_agents_must_know():
    argv = openmpi_argv("mpiexec", ["n1", "n2"], ["MAINSTAY_SLOTS"], ["agent"])
    assert argv[4:9] == ["mpiexec", "--host", "n1,n2", "--map-by", "ppr:1:node"]
    assert argv[argv.index("-x") + 1] == "MAINSTAY_SLOTS"


def test_ranks_are_started_where_and_as_many_as_told():
    places, slot = {"n1": 2, "n2": 1}, ["slot", "door"]
    assert hydra_slots_argv("mpiexec", places, False, slot) == (
        ["mpiexec", "-disable-auto-cleanup", "-hosts", "n1:2,n2:1", "-n", "3", "slot", "door"]
    )
    assert "-hosts" not in hydra_slots_argv("mpiexec", {"n1": 2}, True, slot)
    assert openmpi_slots_argv("mpiexec", places, False, slot) == (
        [
            *AFRESH,
            "mpiexec",
            "--continuous",
            "--oversubscribe",
            "--bind-to",
            "none",
            "--host",
            "n1:2,n2:1",
            "-n",
            "3",
            "slot",
            "door",
        ]
    )


def test_ranks_of_a_slurm_job_are_placed_one_by_one():
    here = allocation({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "4,1"})
    argv = slots_argv(["srun", "--overlap"], here, {"n1.of.the.cluster": 2, "n2": 1}, ["slot", "door"])
    assert {"--jobid=7", "--nodes=2", "--ntasks=3", "--nodelist=n1,n1,n2", "--mpi=pmi2", "--overlap"} <= set(argv)
    assert argv[-2:] == ["slot", "door"]


def test_slots_run_as_their_agents_do():
    tree = ["/tmp/tree/bin/python3", "-I", "-S", "/tmp/tree/slot.py"]
    alike = Lenders("door", {"n1": tree, "n2": tree}, staged=True)
    assert alike.command() == [*tree, "door"]
    assert (alike.hidden, alike.directory) == (("LD_LIBRARY_PATH",), "/")
    shared = Lenders("door", {"n1": tree, "n2": COMMAND})
    assert shared.command()[:2] == ["/bin/sh", "-c"]
    assert (shared.hidden, shared.directory) == ((), None)


def test_where_copies_lie_in_different_places_a_host_takes_its_own():
    here = os.uname().nodename
    elsewhere = {f"not-{here}": ["false"], "n2": ["false"]}

    def said(hosts):
        return subprocess.run(Lenders("the door", hosts).command(), capture_output=True, text=True, check=True)

    assert said({**elsewhere, here: ["echo", "a tree's", "$HOME"]}).stdout == "a tree's $HOME the door\n"
    assert said({**elsewhere, "n3": ["true"]}).stderr == (
        f"a slot could not lend its rank: there is no agent of this pool on {here}\n"
    )


def test_launchers_keep_from_staged_slots_what_would_lead_them_to_a_shared_file_system():
    assert emptied(("LD_LIBRARY_PATH",)) == ["-genv", "LD_LIBRARY_PATH", ""]
    assert emptied(()) == []


def test_a_slot_enters_the_name_space_of_its_agents_image():
    agent = Standing(tree="/disk/image", enter="/usr/bin/nsenter")
    assert agent.told()["slot"] == ["/usr/bin/nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt", *COMMAND]
    assert Standing(tree="/tmp/tree").told()["slot"] == [*COMMAND]
    assert Standing(tree="/tmp/tree").told()["tree"] == "/tmp/tree"
    assert Standing(tree="/proc").told()["tree"] == ""  # which is mounted


@pytest.mark.parametrize(
    ("flavour", "environ", "expected"),
    [
        ("hydra", {}, ["ssh", *QUIET]),
        ("hydra", {"HYDRA_LAUNCHER": "rsh"}, ["rsh"]),
        ("hydra", {"HYDRA_LAUNCHER": "fork"}, []),
        ("hydra", {"HYDRA_BOOTSTRAP": "slurm"}, []),
        ("hydra", {"SLURM_JOB_ID": "7"}, []),
        ("hydra", {"SLURM_JOB_ID": "7", "HYDRA_BOOTSTRAP": "ssh"}, ["ssh", *QUIET]),
        ("hydra", {"HYDRA_LAUNCHER": "rsh", "HYDRA_LAUNCHER_EXEC": "/opt/tmrsh"}, ["/opt/tmrsh"]),
        ("hydra", {"HYDRA_LAUNCHER_EXEC": "/bin/ssh", "HYDRA_LAUNCHER_EXTRA_ARGS": "-4"}, ["/bin/ssh", "-4", *QUIET]),
        ("openmpi", {}, ["ssh", *QUIET]),
        ("openmpi", {"PRTE_MCA_plm": "slurm"}, []),
        ("openmpi", {"LSB_JOBID": "7"}, []),
        ("openmpi", {"PRTE_MCA_plm_ssh_agent": "absent -q : rsh -l me"}, ["rsh", "-l", "me"]),
        ("openmpi", {"PRTE_MCA_plm": "ssh", "PRTE_MCA_plm_ssh_agent": "/opt/tmrsh"}, ["/opt/tmrsh"]),
    ],
)  # fmt: skip
def test_the_shell_is_the_one_that_the_launcher_takes(monkeypatch, flavour, environ, expected):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "absent" else name)
    assert remote_shell(flavour, environ) == expected


def test_where_there_is_no_shell_nothing_is_passed_on(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert remote_shell("hydra", {}) == remote_shell("openmpi", {}) == []


def test_an_mpiexec_of_the_environment_is_taken_from_its_copy(tmp_path, monkeypatch):
    ours, tree = tmp_path / "env" / "bin", tmp_path / "tree"
    for place in (ours, tree / "bin"):
        place.mkdir(parents=True)
        (place / "mpiexec").write_text("#!/bin/sh\necho HYDRA\n")
        (place / "mpiexec").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ours / "python"))
    program, copy = str(ours / "mpiexec"), str(tree / "bin" / "mpiexec")
    assert in_tree(program, "") == program
    assert in_tree(program, str(tree)) == program  # it cannot be kept from being removed
    hold.cache_clear()
    (tmp_path / "tree.lock").touch()
    assert in_tree(program, str(tree)) == copy
    assert in_tree("/usr/bin/mpiexec", str(tree)) == "/usr/bin/mpiexec"
    with (tmp_path / "tree.lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.unlink(copy)
    assert in_tree(program, str(tree)) == program
    hold.cache_clear()
