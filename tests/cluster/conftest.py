"""The cluster of the tests: brought up when the first test wants it, and as before after each module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.bed import Cluster
from cluster.install import Unavailable, ensure_slurm
from cluster.namespaces import BedError


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


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """After a test that failed, with hosts off perhaps, the next one finds the cluster whole."""
    bed = getattr(item, "funcargs", {}).get("cluster")
    if call.when == "call" and call.excinfo is not None and bed is not None:
        with contextlib.suppress(BedError):
            bed.reset()
