"""One way of running batches, in a process of its own, which `storm.py` starts and leads by lines:

    "ready" is printed when all workers have run a task; then for each line on stdin a batch is run, and "done" printed

A way is a generator of one pool, as in `contestants.py`, whose pools are here, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import contestants
from contestants import Pool, of

PATIENCE = 600.0  # seconds for all workers to take part


def spawn_per_batch() -> Iterator[Pool]:
    """New interpreters for each batch, as frameworks do that start a parallel program for each."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    def map_(fn: Callable[..., Any], items: Any) -> list[Any]:
        with ProcessPoolExecutor(contestants.WORKERS, get_context("spawn")) as executor:
            return list(executor.map(fn, items))

    yield Pool(None, map_)


def persistent() -> Iterator[Pool]:
    """Interpreters that stay, each of which has imported all by itself."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(contestants.WORKERS, get_context("spawn")) as executor:
        yield of(executor)


copied = persistent  # storm.py copies the environment to the local disk first


def mainstay_preload() -> Iterator[Pool]:
    import mainstay
    import models

    names = [*models.PACKAGES, "models"]
    with mainstay.Executor(contestants.WORKERS, launcher="local", preload=names, start_timeout=PATIENCE) as executor:
        yield of(executor)


WAYS: dict[str, Callable[[], Iterator[Pool]]] = {
    "spawn_per_batch": spawn_per_batch,
    "persistent": persistent,
    "copied": copied,
    "mpi4py_world": contestants.mpi4py_world,
    "mpi4py_spawn": contestants.mpi4py_spawn,
    "executorlib": contestants.executorlib,
    "dask": contestants.dask,
    "parsl": contestants.parsl,
    "mainstay_local": contestants.mainstay_local,
    "mainstay_preload": mainstay_preload,
}


def batch(pool: Pool, size: int) -> set[int]:
    """Run so many tasks; return the ids of the processes that took part."""
    import models

    if pool.map is not None:
        return {pid for pid, _ in pool.map(models.run, range(size))}
    assert pool.submit is not None
    return {future.result()[0] for future in [pool.submit(models.run, number) for number in range(size)]}


def take_part(pool: Pool, size: int) -> None:
    """Run batches until each worker has run a task."""
    seen: set[int] = set()
    end = time.monotonic() + PATIENCE
    while len(seen := seen | batch(pool, size)) < contestants.WORKERS:
        if time.monotonic() > end:
            raise TimeoutError(f"after {PATIENCE:g} s only {len(seen)} of {contestants.WORKERS} workers took part")


def main() -> None:
    """Serve one way."""
    name, workers, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    contestants.WORKERS = workers
    for pool in WAYS[name]():
        take_part(pool, size)
        print("ready", flush=True)
        for _ in sys.stdin:
            batch(pool, size)
            print("done", flush=True)


if __name__ == "__main__":
    main()
