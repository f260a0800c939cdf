"""How each contestant starts a pool of `WORKERS` workers. Each is a generator of one `Pool`.

Every import stands in its function: a contestant that is not installed is told so, and costs the others nothing.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

WORKERS = 2
Map = Callable[..., Any]


class Pool(NamedTuple):
    """What a pool can do: `submit` a call and get a future (None: it has no futures), and `map`."""

    submit: Callable[..., Any] | None
    map: Map | None
    chunked: Map | None = None  # map with a well-chosen number of items per message
    batches: bool = False  # whether its batches are compared with the ideal, which takes a while


def of(executor: Any, *, chunks: bool = False, batches: bool = False) -> Pool:
    """Return what an executor of the standard interface can do."""
    chunked = functools.partial(executor.map, chunksize=250) if chunks else None
    return Pool(executor.submit, executor.map, chunked, batches)


def mainstay_local() -> Iterator[Pool]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="local") as executor:
        yield of(executor, chunks=True, batches=True)


def mainstay_mpiexec() -> Iterator[Pool]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="mpiexec") as executor:
        yield of(executor, chunks=True, batches=True)


def process_pool() -> Iterator[Pool]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield of(executor, chunks=True, batches=True)


def loky() -> Iterator[Pool]:
    from loky import get_reusable_executor

    with get_reusable_executor(WORKERS) as executor:
        yield of(executor, chunks=True, batches=True)


def mpi4py_spawn() -> Iterator[Pool]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor(WORKERS) as executor:
        yield of(executor, chunks=True)


mpi4py_spawn_under_mpiexec = mpi4py_spawn


def mpi4py_world() -> Iterator[Pool]:
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    with MPICommExecutor(MPI.COMM_WORLD, root=0) as executor:
        if executor is not None:
            yield of(executor, chunks=True)


def schwimmbad() -> Iterator[Pool]:
    from schwimmbad import MPIPool

    with MPIPool() as pool:
        if not pool.is_master():
            pool.wait()
            sys.exit(0)
        yield Pool(None, pool.map)


def executorlib() -> Iterator[Pool]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True) as executor:
        yield of(executor)


def dask() -> Iterator[Pool]:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        submit = functools.partial(client.submit, pure=False)
        yield Pool(submit, lambda fn, items: client.gather(client.map(fn, items, pure=False)))


def parsl() -> Iterator[Pool]:
    import parsl as parsl_package
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    provider = LocalProvider(init_blocks=1, max_blocks=1)
    share = len(os.sched_getaffinity(0)) / WORKERS  # or it has no more workers than there are cores
    executor = HighThroughputExecutor(
        max_workers_per_node=WORKERS, cores_per_worker=share, provider=provider, address="127.0.0.1"
    )
    with parsl_package.load(Config(executors=[executor], run_dir="parsl-runs")):
        yield Pool(lambda fn, *args: parsl_package.python_app(fn)(*args), None)


def ipyparallel() -> Iterator[Pool]:
    import ipyparallel as parallel

    with parallel.Cluster(n=WORKERS, log_level=40) as clients:
        view = clients.load_balanced_view()
        yield Pool(view.apply_async, view.map_sync)


class RayFuture:
    """A Ray object reference with the `result` that the others have."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Any:
        import ray as ray_package

        return ray_package.get(self._reference)


def ray() -> Iterator[Pool]:
    import ray as ray_package

    ray_package.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    remotes = functools.cache(ray_package.remote)
    try:
        yield Pool(lambda fn, *args: RayFuture(remotes(fn).remote(*args)), None)
    finally:  # also when a figure fails: its daemons would stay
        ray_package.shutdown()


# name: how its process is started (None: plainly; else under mpiexec with that many ranks)
RANKS: dict[str, int | None] = {
    "mainstay_local": None,
    "mainstay_mpiexec": None,
    "process_pool": None,
    "loky": None,
    "mpi4py_spawn": None,
    "mpi4py_spawn_under_mpiexec": 1,
    "mpi4py_world": 1 + WORKERS,
    "schwimmbad": 1 + WORKERS,
    "executorlib": None,
    "dask": None,
    "parsl": None,
    "ipyparallel": None,
    "ray": None,
}

# name: what is imported before the clock starts
MODULES = {
    "mainstay_local": "mainstay.executor",
    "mainstay_mpiexec": "mainstay.executor",
    "process_pool": "concurrent.futures.process",
    "loky": "loky",
    "mpi4py_spawn": "mpi4py.futures",
    "mpi4py_spawn_under_mpiexec": "mpi4py.futures",
    "mpi4py_world": "mpi4py.futures",
    "schwimmbad": "schwimmbad",
    "executorlib": "executorlib",
    "dask": "dask.distributed",
    "parsl": "parsl",
    "ipyparallel": "ipyparallel",
    "ray": "ray",
}
