"""What it takes to grow a pool by a worker: on a node that stands, and by a further launch.

    python benchmarks/grow.py here      on this machine, by a worker at a time
    python benchmarks/grow.py launch    on the cluster of the tests (wants root), by a Slurm job, beside a bare salloc

The times are from `grow` to its future's result, by when the new workers stand. Medians; in brackets, the extremes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mainstay

TIMES = 10
PATIENCE = 60.0  # seconds for anything here


def millis(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def told(what: str, values: list[float]) -> None:
    print(f"{what}: {statistics.median(values):.3g} ms ({min(values):.3g}–{max(values):.3g})", flush=True)


def here() -> None:
    with mainstay.Executor(1, launcher="mpiexec", log=lambda line: None) as executor:
        executor.wait_ready(timeout=PATIENCE)
        told(
            "a worker on a node that stands", [millis(lambda: executor.grow(1).result(PATIENCE)) for _ in range(TIMES)]
        )


def launch() -> None:
    """In a job of its own on the cluster, which is joined by another one."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from cluster.bed import Cluster
    from cluster.install import ensure_slurm

    ensure_slurm()
    with Cluster(nodes=2, cpus=2) as cluster:
        job = cluster.submit(f"exec {sys.executable} {__file__} job", "-N1", "-n1", "--exclusive", "--time=5")
        print(cluster.wait(job, 240).output, end="")


def job() -> None:
    flags = ["--nodes=1", "--ntasks=1", "--time=5"]
    grown, bare = [], []
    for _ in range(TIMES):
        with mainstay.Executor(1, log=lambda line: None) as executor:
            executor.wait_ready(timeout=PATIENCE)
            grown.append(millis(lambda pool=executor: pool.grow(1, allocate=flags).result(PATIENCE)))
            assert len(executor.describe().hosts) == 2
        command = ["salloc", *flags, "srun", "true"]
        bare.append(millis(lambda: subprocess.run(command, check=True, capture_output=True)))  # noqa: B023
    told("a node by a further Slurm job", grown)
    told("the same by salloc and srun alone", bare)


if __name__ == "__main__":
    {"here": here, "launch": launch, "job": job}[sys.argv[1]]()
