"""One contestant in a Slurm allocation: prints its figures as lines of JSON. Started by `cluster.py`, a job each.

first    seconds from the start of the command line in the job's script until the first result is there; to start
         Python, to import and to place all ranks is part of it
all      the same, until each of the workers has given a result
echo     no-op calls per second, each with a future of its own, all submitted before the first is waited for
nap_1    the same with calls that sleep for 1 ms
nap_10   the same with calls that sleep for 10 ms

Each contestant is a generator of one `Pool`, and used as its manual says for a job that has its nodes already.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from work import echo, nap, whereabouts

WORKERS = 12
LOOK = 0.01  # seconds that a task lasts by which workers are counted
PILOT = 20 * WORKERS  # calls by which is found how many last as long as wanted
MOST = 50_000
SHORT: dict[str, tuple[Callable[..., Any], float]] = {"echo": (echo, 0), "nap_1": (nap, 0.001), "nap_10": (nap, 0.01)}
Figure = tuple[str, float]


def results(futures: list[Any]) -> list[Any]:
    """Wait for all results."""
    return [future.result() for future in futures]


class Pool(NamedTuple):
    """How calls get in, and how all their results are waited for best."""

    submit: Callable[..., Any]
    gather: Callable[[list[Any]], list[Any]] = results


def mainstay() -> Iterator[Pool]:
    import mainstay as package

    with package.Executor() as executor:
        yield Pool(executor.submit)


def mpi4py_by_srun() -> Iterator[Pool]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield Pool(executor.submit)


mpi4py_by_mpiexec = mpi4py_by_srun


def mpi4py_communicator() -> Iterator[Pool]:
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is not None:
            yield Pool(executor.submit)


def executorlib() -> Iterator[Pool]:
    from executorlib import SlurmJobExecutor

    own_cpus = {"exclusive": True}  # srun --exact; without it, the first worker's step takes all CPUs of its node
    with SlurmJobExecutor(max_workers=WORKERS, block_allocation=True, resource_dict=own_cpus) as executor:
        yield Pool(executor.submit)


def parsl() -> Iterator[Pool]:
    import parsl as package
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SrunLauncher
    from parsl.providers import LocalProvider

    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    one_each = SrunLauncher(overrides="--ntasks-per-node=1 --overlap")
    provider = LocalProvider(nodes_per_block=nodes, launcher=one_each, init_blocks=1, max_blocks=1)
    executor = HighThroughputExecutor(
        max_workers_per_node=WORKERS // nodes,
        cores_per_worker=0.1,  # a host of the cluster claims to have more cores than it finds
        provider=provider,
        address=socket.gethostbyname(socket.gethostname()),
    )
    with package.load(Config(executors=[executor], run_dir="parsl-runs")):
        apps = functools.cache(package.python_app)
        yield Pool(lambda fn, *args: apps(fn)(*args))


def dask_by_srun() -> Iterator[Pool]:
    from dask.distributed import Client, LocalCluster

    host = socket.gethostbyname(socket.gethostname())
    with LocalCluster(n_workers=0, host=host, dashboard_address=None) as scheduler, Client(scheduler) as client:
        worker = ["dask", "worker", scheduler.scheduler_address, "--nthreads=1", "--no-nanny", "--no-dashboard"]
        step = subprocess.Popen(["srun", "--overlap", f"--ntasks={WORKERS}", *worker], stderr=subprocess.DEVNULL)
        try:
            yield of(client)
        finally:
            step.terminate()
            step.wait()


def dask_mpi() -> Iterator[Pool]:
    from mpi4py import MPI

    ranks = MPI.COMM_WORLD  # begun before dask's imports: after them, MPICH 5.0.2 sends rubbish to Slurm's PMI-2
    from dask.distributed import Client
    from dask_mpi import initialize

    initialize(comm=ranks, dashboard=False)
    with Client() as client:
        yield of(client)


def of(client: Any) -> Pool:
    """Return what a client of dask can do."""
    return Pool(functools.partial(client.submit, pure=False), client.gather)


SRUN = "srun --mpi=pmi2 --overcommit --ntasks={ranks} {python}"
# name: the line in the job's script, before the name of this file
LINES = {
    "mainstay": "{python}",
    "mpi4py_by_srun": f"{SRUN} -m mpi4py.futures",
    "mpi4py_by_mpiexec": "mpiexec -n {ranks} {python} -m mpi4py.futures",
    "mpi4py_communicator": SRUN,
    "executorlib": "{python}",
    "parsl": "{python}",
    "dask_by_srun": "{python}",
    "dask_mpi": SRUN,
}
RANKS = {"dask_mpi": WORKERS + 2}  # a scheduler and a client; else there is a client
MODULES = {"parsl": "parsl", "executorlib": "executorlib", "dask_by_srun": "distributed", "dask_mpi": "dask_mpi"}


def line(name: str) -> str:
    """Return what the job's script says to start a contestant."""
    return LINES[name].format(ranks=RANKS.get(name, WORKERS + 1), python=sys.executable)


def coming(submit: Callable[..., Any], began: float) -> Iterator[Figure]:
    """Yield when the first result came, and when each worker had given one.

    Two short tasks for each worker are under way, until all workers have been met.
    """
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    futures = []  # dask gives up what nobody holds
    met: list[tuple[str, int]] = []

    def look() -> None:
        ahead = 2 * WORKERS - (len(futures) - len(met) - done.qsize())  # some results may not have been looked at yet
        for _ in range(ahead if not met else min(ahead, WORKERS)):
            futures.append(submit(whereabouts, LOOK))
            futures[-1].add_done_callback(done.put)

    while len(set(met)) < WORKERS:
        look()
        met.append(done.get().result())
        if len(met) == 1:
            yield "first", time.time() - began
    yield "all", time.time() - began
    results(futures)


def rate(pool: Pool, fn: Callable[..., Any], value: float, patience: float) -> float:
    """Return calls per second, over as many as last about so many seconds."""
    pilot = lasted(pool, fn, value, PILOT) / PILOT
    count = max(PILOT, min(MOST, int(patience / pilot)))
    return count / lasted(pool, fn, value, count)


def lasted(pool: Pool, fn: Callable[..., Any], value: float, count: int) -> float:
    """Return the seconds that so many calls take."""
    began = time.perf_counter()
    pool.gather([pool.submit(fn, value) for _ in range(count)])
    return time.perf_counter() - began


def measured(pool: Pool, began: float, patience: float) -> Iterator[Figure]:
    """Yield what this pool reaches."""
    yield from coming(pool.submit, began)
    for figure, (fn, value) in SHORT.items():
        yield figure, rate(pool, fn, value, patience)


def main() -> None:
    """Measure the contestant that is named; print its figures, each time with those before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=LINES)
    parser.add_argument("--began", type=float, required=True, help="when the line began, seconds since 1970")
    parser.add_argument("--patience", type=float, default=2.0, help="seconds that a figure may take")
    effort = parser.parse_args()
    found: dict[str, float] = {}
    with contextlib.closing(globals()[effort.name]()) as pools:
        for pool in pools:
            for figure, value in measured(pool, effort.began, effort.patience):
                found[figure] = value
                print("FIGURES " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
