"""What the environment of a rank says of its world."""

from __future__ import annotations

import os

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
