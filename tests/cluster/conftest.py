"""The cluster of the tests: brought up when the first test wants it, and as before after each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.bed import Cluster
from cluster.install import Unavailable, ensure_slurm


@pytest.fixture(scope="session")
def bed() -> Iterator[Cluster]:
    """Three hosts of four CPUs, for the whole run."""
    try:
        ensure_slurm()
    except Unavailable as error:
        pytest.skip(f"no Slurm cluster: {error}")
    with Cluster(nodes=3, cpus=4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster(bed: Cluster) -> Iterator[Cluster]:
    """The cluster; after the module its jobs are cancelled, its hosts back, and nothing may be left on them."""
    yield bed
    bed.reset()
    bed.until(lambda: not bed.processes(), 15, "nothing is left on the hosts")
