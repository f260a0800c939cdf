"""What the environment of a rank says of its world."""

from __future__ import annotations

import os

from mainstay.origin import Origin, present
from mainstay.world import place

HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-1@1",
}


def test_hydra_and_open_mpi_are_understood():
    here = place(HYDRA)
    assert here is not None
    assert (here.rank, here.size, here.local_rank, here.is_on_one_host) == (2, 4, 0, False)
    assert here.job == f"under-{os.getppid()}"
    there = place(OPENMPI)
    assert there is not None
    assert (there.rank, there.size, there.is_on_one_host, there.job) == (1, 2, True, "prterun-1@1")


def test_no_world_and_a_world_of_one_are_none():
    assert place({}) is None
    assert place(HYDRA | {"PMI_SIZE": "1"}) is None
    assert place(HYDRA | {"PMI_RANK": "nonsense"}) is None


STEP = {
    "SLURM_JOB_ID": "8",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}


def test_what_a_job_inherits_from_the_rank_that_submitted_it_is_no_world():
    for above in (Origin("8.batch"), Origin("8.1"), Origin("9.0"), Origin("9.interactive")):
        assert place(HYDRA | STEP, above=above) is None
    of_its_step = place(HYDRA | OPENMPI | STEP, above=Origin("8.0"))
    assert of_its_step is not None
    assert (of_its_step.rank, of_its_step.size, of_its_step.job) == (1, 4, "slurm-8.0")


def test_components_of_a_heterogeneous_job_are_not_judged_by_their_numbers():
    assert place(STEP | {"SLURM_HET_SIZE": "2"}, above=Origin("9.0")) is not None


def test_ranks_of_an_mpiexec_are_its_own_wherever_it_runs():
    for above in (Origin("8.batch", "mpiexec"), Origin("8.0", "mpiexec"), Origin()):  # in a container, none is seen
        here = place(HYDRA | STEP, above=above)
        assert here is not None
        assert (here.rank, here.size) == (2, 4)


def test_an_environment_is_kept_but_for_what_is_of_another_step():
    assert present(STEP, Origin("8.0")) == present(STEP, Origin()) == STEP
    rest = present(STEP | {"HOME": "/h"}, Origin("8.batch"))
    assert rest == {"SLURM_JOB_ID": "8", "SLURM_TASKS_PER_NODE": "1(x2)", "HOME": "/h"}  # four tasks are not this job's
    assert present(STEP | {"SLURM_NTASKS": "2"}, Origin("8.batch"))["SLURM_NTASKS"] == "2"
    batch = {"SLURM_JOB_ID": "8", "SLURM_NTASKS": "2"}
    assert present(batch, Origin("8.batch")) == batch
