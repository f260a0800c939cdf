"""`mainstay doctor` finds on a real Slurm what makes jobs hang, idle and lose work: a test for each cause."""

from __future__ import annotations

import json
import sys

import pytest

from conftest import HAS_OPENMPI, OPENMPI

DOCTOR = f"{sys.executable} -c 'import sys; from mainstay.cli import main; sys.exit(main())' doctor"
POOL = """\
from mpi4py.futures import MPIPoolExecutor
if __name__ == "__main__":
    with MPIPoolExecutor(5) as pool:
        print(list(pool.map(abs, range(3))))
"""


@pytest.fixture
def found(cluster):
    """Runs a batch script, in which DOCTOR is the command, and returns the checks of each doctor that spoke."""

    def run(script, *flags):
        output = cluster.wait(cluster.submit(script.replace("DOCTOR", f"{DOCTOR} --json"), *flags)).output
        return list(spoken(output))

    return run


def spoken(output):
    """The checks of each doctor, by their names; what others wrote is left out."""
    decoder, at = json.JSONDecoder(), 0
    while (at := output.find("[\n  {", at)) >= 0:
        checks, at = decoder.raw_decode(output, at)
        yield {check["name"]: check for check in checks}


def told(check):
    return f"{check['state']}: {check['found']} -> {check['advice']}"


def test_an_allocation_in_which_all_is_well(cluster, found):
    (cluster.shared / "job.py").touch()
    (checks,) = found("DOCTOR job.py --journal calls.db", "-N3", "--ntasks-per-node=1")
    bad = {name: told(check) for name, check in checks.items() if check["state"] not in ("good", "none")}
    assert set(bad) <= {"Spawn", "Scratch"}, bad
    assert "3 nodes (n1, n2, n3)" in checks["Allocation"]["found"]
    assert "3 of 3 reached, n1, n2, n3" in checks["Nodes"]["found"]
    assert "from n1, n2, n3" in checks["Client reached"]["found"]
    assert "n1, n2 are one world by srun --mpi=pmi2" in checks["World by srun"]["found"]
    assert "the script" in checks["Seen by nodes"]["found"]
    assert "keeps all nodes out" in checks["Journal's lock"]["found"]
    assert not list(cluster.shared.glob(".mainstay-doctor*"))


def test_three_nodes_without_a_number_of_tasks(found):
    (checks,) = found("DOCTOR --quick", "-N3")
    assert "no number of tasks was asked for" in told(checks["Allocation"])
    assert "add -n 3" in told(checks["Allocation"])


def test_all_ranks_on_one_node(found):
    (checks,) = found("mpiexec -n 3 DOCTOR --quick", "-N3", "-n6")  # of which n1 has four
    assert told(checks["Ranks"]).startswith("bad: all 3 on one node of 3: 2 nodes idle")
    assert "mpiexec -ppn 1 -n 3" in told(checks["Ranks"])
    assert "only rank 0 speaks" in told(checks["Started as"])


def test_an_srun_inside_of_an_srun(cluster, found):
    (cluster.shared / "inner.sh").write_text(f"srun --overlap {DOCTOR} --json > inner-$SLURM_PROCID")
    found("srun bash inner.sh", "-N3", "-n3")
    doctors = [checks for path in cluster.shared.glob("inner-*") for checks in spoken(path.read_text())]
    assert len(doctors) == 3
    assert any(told(checks["Steps"]).startswith("bad: 3 steps run the same") for checks in doctors)


def test_a_batch_script_that_was_submitted_by_a_rank(cluster, found):
    (cluster.shared / "next.sh").write_text(f"#!/bin/bash\n{DOCTOR} --json --quick")
    submit = "[ $PMI_RANK = 0 ] || sbatch --parsable -N2 -n6 -o next.out next.sh"
    job = cluster.wait(cluster.submit(f"mpiexec -n 2 bash -c '{submit}'", "-N1", "-n2")).output
    (checks,) = spoken(cluster.wait(int(job)).output)
    assert told(checks["Started as"]).startswith("bad: the batch script: one process, but its environment tells of")
    assert "rank 1 of 2: PMI_RANK" in told(checks["Started as"])


def test_a_batch_script_of_six_tasks_is_no_world(found):
    (checks,) = found("DOCTOR --quick", "-N3", "-n6")
    assert "good: the batch script: one process, no world (SLURM_NTASKS=6" in told(checks["Started as"])


def test_a_launcher_that_asserts_at_a_spawn(cluster, found):
    (cluster.shared / "pool.py").write_text(POOL)
    script = f"timeout -k 1 10 mpiexec -n 1 {sys.executable} pool.py; DOCTOR"
    job = cluster.submit(script.replace("DOCTOR", f"{DOCTOR} --json"), "-N3", "-n6")
    output = cluster.wait(job).output
    (checks,) = spoken(output)
    assert "assert" in output.partition("[\n  {")[0]
    assert told(checks["Spawn"]).startswith("odd: MPICH")
    assert "MPIPoolExecutor" in told(checks["Spawn"])


def test_walltime_that_ends_soon(found):
    (checks,) = found("DOCTOR", "-N1", "--time=2")
    assert told(checks["Time left"]).startswith("odd: ")
    assert "then Slurm ends the job -> What is not done by then is lost" in told(checks["Time left"])


def test_results_that_were_left_on_the_nodes(found):
    leave = "srun bash -c 'echo 1 > /tmp/result; mkdir /tmp/mainstay-0-x-1-ab'"
    remove = "srun bash -c 'rm -r /tmp/result /tmp/mainstay-0-x-1-ab'"
    (checks,) = found(f"unset TMPDIR; {leave}; DOCTOR; {remove}", "-N2", "-n2")
    assert "n1:/tmp/result, n2:/tmp/result" in told(checks["Files on nodes"])
    assert "copy results to a shared directory" in told(checks["Files on nodes"])
    assert "n1:/tmp/mainstay-0-x-1-ab" in told(checks["Scratch"])


def test_an_mpiexec_in_a_terminal_step_would_hang(cluster):
    shell = f"srun --pty {DOCTOR} --json"
    output = cluster.run(["salloc", "-Q", "-n1", "script", "-qec", shell, "/dev/null"]).stdout
    (checks,) = spoken(output.replace("\r\n", "\n"))
    assert "export SLURM_OVERLAP=1" in told(checks["mpiexec here"])


@HAS_OPENMPI
def test_the_library_of_one_mpi_and_the_launcher_of_another(found):
    library = next(OPENMPI.glob("lib/libmpi.so.*"))
    (checks,) = found(f"export MPI4PY_LIBMPI={library}; DOCTOR", "-N2", "-n2")
    assert "bad: MPICH" in told(checks["mpiexec"])
    assert "but mpi4py loads Open MPI" in told(checks["mpiexec"])
    assert "two worlds of one rank each" in told(checks["World by srun"])


def test_files_of_one_node_only(found):
    (checks,) = found("cd /tmp; DOCTOR --journal calls.db", "-N2", "-n2")
    assert "the working directory: not on n2" in told(checks["Seen by nodes"])
    assert "not seen on n2" in told(checks["Journal's lock"])


def test_on_the_login_host(cluster):
    done = cluster.run(["sh", "-c", f"{DOCTOR} --json"])
    (checks,) = spoken(done.stdout)
    assert checks["Slurm"]["state"] == "good"
    assert checks["Allocation"]["state"] == "none"
    assert "this host only, login" in told(checks["Nodes"])
