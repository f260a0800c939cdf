"""What the environment in a Slurm job says of it; the environments are as Slurm 22.05 wrote them."""

from __future__ import annotations

import pytest

from mainstay.launch.srun import srun_argv
from mainstay.node.__main__ import slots_of
from mainstay.slurm import Allocation, advice, allocation, counts, hosts
from mainstay.world import place


def job(**more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-3]",
        **{f"SLURM_{name}": value for name, value in more.items()},
    }


def workers(environ: dict[str, str]) -> list[int]:
    here = allocation(environ)
    assert here is not None
    return here.workers


def test_lists_of_hosts():
    assert hosts("n1") == ["n1"]
    assert hosts("n[1-3],login") == ["n1", "n2", "n3", "login"]
    assert hosts("rack[1-2]n[08-10,12]-ib") == [f"rack{r}n{n}-ib" for r in (1, 2) for n in ("08", "09", "10", "12")]


def test_lists_of_counts():
    assert counts("4,1(x2)") == [4, 1, 1]
    assert counts("2(x3)") == [2, 2, 2]


@pytest.mark.parametrize("text", ["4,x", "", "(x2)", "4(x)"])
def test_counts_that_slurm_does_not_write(text):
    with pytest.raises(ValueError, match="neither a number"):
        counts(text)


@pytest.mark.parametrize("text", ["n[1-3", "n[a-b]", "n[1-]"])
def test_hosts_that_slurm_does_not_write(text):
    with pytest.raises(ValueError, match=r"bracket|range"):
        hosts(text)


def test_outside_of_a_job():
    assert allocation({"SLURM_CONF": "/etc/slurm.conf"}) is None


def test_a_variable_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match="SLURM_JOB_CPUS_PER_NODE='many'"):
        allocation(job(JOB_CPUS_PER_NODE="many"))


def test_tasks_that_were_asked_for_count():
    environ = job(TASKS_PER_NODE="4,1(x2)", NTASKS="6", JOB_CPUS_PER_NODE="4,1(x2)")
    assert workers(environ) == [4, 1, 1]
    assert workers(environ | {"SLURM_JOB_CPUS_PER_NODE": "8,2(x2)", "SLURM_CPUS_PER_TASK": "2"}) == [4, 1, 1]


def test_without_tasks_the_cpus_count():
    assert workers(job(TASKS_PER_NODE="1(x3)", JOB_CPUS_PER_NODE="1(x3)")) == [1, 1, 1]
    assert workers(job(TASKS_PER_NODE="4(x3)", JOB_CPUS_PER_NODE="4(x3)", CPUS_PER_TASK="3")) == [1, 1, 1]
    assert workers(job(TASKS_PER_NODE="1(x3)", JOB_CPUS_PER_NODE="16(x3)")) == [16, 16, 16]


def test_a_shell_in_a_step_of_one_task_has_the_whole_job():
    environ = job(JOB_CPUS_PER_NODE="4,1(x2)", STEP_ID="0", STEP_NUM_TASKS="1", NTASKS="1", TASKS_PER_NODE="1")
    assert workers(environ) == [4, 1, 1]
    assert workers(environ | {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_CPUS_PER_NODE": "4"}) == [4]


def test_the_step_of_an_mpiexec_says_nothing():
    environ = job(JOB_CPUS_PER_NODE="4,1(x2)", STEP_ID="0", STEP_NUM_TASKS="3", NTASKS="3", TASKS_PER_NODE="1(x3)")
    assert workers(environ) == [1, 1, 1]
    for name in ("SLURM_EXTERNAL_LAUNCHER", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_SIZE"):  # old and new Slurm, Open MPI
        assert workers(environ | {name: "1"}) == [4, 1, 1]


def test_ranks_that_the_batch_script_has_by_itself_know_the_numbers_of_the_job():
    environ = job(JOB_CPUS_PER_NODE="4(x3)", NTASKS="6", TASKS_PER_NODE="2(x3)") | {"OMPI_COMM_WORLD_SIZE": "6"}
    assert workers(environ) == [2, 2, 2]


def test_a_step_is_a_world():
    step = job(STEP_ID="2", STEP_NUM_TASKS="6", STEP_TASKS_PER_NODE="4,1(x2)", PROCID="4", LOCALID="0", NODEID="1")
    here = place(step | {"PMI_RANK": "4", "PMI_SIZE": "6"})
    assert here is not None
    assert (here.rank, here.size, here.local_size, here.job) == (4, 6, 1, "slurm-7.2")
    assert not here.is_on_one_host
    assert place(step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert place(job(PROCID="0", NODEID="0")) is None  # a batch script


def test_srun_is_told_all_that_it_would_inherit():
    here = allocation(job(TASKS_PER_NODE="4,1(x2)", NTASKS="6", JOB_CPUS_PER_NODE="4,1(x2)"))
    assert isinstance(here, Allocation)
    argv = srun_argv("srun", here, (22, 5), ["agent"])
    assert {"--overlap", "--jobid=7", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1"} <= set(argv)
    assert "--overlap" not in srun_argv("srun", here, (20, 2), ["agent"])


def test_an_agent_finds_the_slots_of_its_host():
    assert slots_of("n1=4,n2=1", "n2") == 1
    assert slots_of("n1=4,n2=1", "n1.site.org") == 4
    assert slots_of("n1.site.org=4,n2.site.org=1", "n2") == 1
    assert slots_of("n1=4", "n7") is None
    assert slots_of("n1=4", "cloud-17", "n1") == 4  # Slurm may know a host by a name that is not the host's own
    assert (slots_of("3", "n1"), slots_of("", "n1")) == (3, None)


def said(environ: dict[str, str], hosts: dict[str, int], launcher: str = "srun") -> list[str]:
    here = allocation(environ)
    assert here is not None
    return advice(here, launcher, hosts)


def test_an_allocation_in_full_use_needs_no_advice():
    assert said(job(JOB_CPUS_PER_NODE="4,1(x2)"), {"n1": 4, "n2": 1, "n3.cluster": 1}) == []
    assert said(job(JOB_CPUS_PER_NODE="8(x3)", CPUS_PER_TASK="4"), {"n1": 2, "n2": 2, "n3": 2}) == []


def test_nodes_that_idle_are_named():
    (line,) = said(job(JOB_CPUS_PER_NODE="4(x3)"), {"n1": 4}, "local")
    assert line.startswith("3 nodes allocated, workers on 1: n2, n3 idle; launcher='srun' reaches them")
    (line,) = said(job(JOB_CPUS_PER_NODE="4(x3)"), {"n1": 4, "n2": 4})
    assert line == "3 nodes allocated, workers on 2: n3 idle; give the pool more workers"


def test_a_misread_flag_that_leaves_cpus_idle_is_told():
    (line,) = said(job(JOB_CPUS_PER_NODE="16(x3)", TASKS_PER_NODE="1(x3)", NTASKS="3"), {"n1": 1, "n2": 1, "n3": 1})
    assert line.startswith("half of the CPUs or more idle: n1 has 16 CPUs, n2 has")
    assert "--ntasks-per-node" in line


def test_more_workers_than_cpus_are_told():
    (line,) = said(job(JOB_CPUS_PER_NODE="2(x3)"), {"n1": 4, "n2": 2, "n3": 2})
    assert line.startswith("more workers than CPUs: 4 workers on the 2 CPUs of n1;")


def test_hosts_by_other_names_are_not_judged():
    assert said(job(JOB_CPUS_PER_NODE="2(x3)"), {"nid0001": 4}) == []
