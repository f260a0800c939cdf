"""One way of running batches, in a process of its own, which `storm.py` starts and leads by lines:

    begin                                 the program and what its tasks need are imported; now it makes its pool
    ready {"pid": …, "stood": …, "stage": …}   each worker has run a task; seconds until all stood, and in which nodes
                                          came to the environment
    batch   on stdin  ▶  done {}          a batch was run
    replace on stdin  ▶  done {"s": …}    a worker was killed; seconds until another stood
    memory  on stdin  ▶  done {"MB": …}   what all processes of the pool have (PSS)

A way is a generator of one pool, as in `contestants.py`, whose pools are here, too; ours are told by `OURS`.
"""

from __future__ import annotations

import json
import os
import signal
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


WAYS: dict[str, Callable[[], Iterator[Pool]]] = {
    "spawn_per_batch": spawn_per_batch,
    "persistent": persistent,
    "copied": persistent,  # storm.py copies the environment to the local disk first
    "mpi4py_world": contestants.mpi4py_world,
    "mpi4py_spawn": contestants.mpi4py_spawn,
    "executorlib": contestants.executorlib,
    "dask": contestants.dask,
    "parsl": contestants.parsl,
}
PRELOAD = {"preload": "all that a task needs"}
ARCHIVE, IMAGE = {"stage": "env.tar.zst"}, {"stage": "env.sqfs"}  # which lie beside this file
OURS: dict[str, dict[str, Any]] = {
    "mainstay_local": {},
    "mainstay_preload": PRELOAD,
    "mainstay_staged": ARCHIVE,
    "mainstay_staged_preload": ARCHIVE | PRELOAD,
    "mainstay_staged_image": IMAGE,
    "mainstay_staged_image_preload": IMAGE | PRELOAD,
}


class Ours:
    """A pool of Mainstay, which can be asked more.

    Args:
        options: of the executor, as `OURS` says them.
    """

    def __init__(self, options: dict[str, Any], launcher: str) -> None:
        import mainstay
        import models

        given = {"preload": [*models.PACKAGES, "models"]} if "preload" in options else {}
        if "stage" in options:
            given["stage"] = os.path.abspath(options["stage"])
        begun = time.perf_counter()
        self.executor = mainstay.Executor(
            contestants.WORKERS, launcher=launcher, start_timeout=PATIENCE, log=self._note, **given
        )
        self.executor.wait_ready(contestants.WORKERS)
        self._stood = time.perf_counter() - begun
        self.pool = of(self.executor)

    def _note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def told(self) -> dict[str, Any]:
        """Return what is known of its start."""
        staged = self.executor.describe().staged
        return {"stood": self._stood, "stage": None if staged is None else staged.seconds}

    def replace(self) -> dict[str, float]:
        """Kill a worker; return the seconds until the client has another that stands."""
        old = self.executor.workers[0]
        ids = {worker.id for worker in self.executor.workers}
        begun = time.perf_counter()
        os.kill(old.pid, signal.SIGKILL)
        while not any(worker.state == "idle" and worker.id not in ids for worker in self.executor.workers):
            time.sleep(0.0002)
        return {"s": time.perf_counter() - begun}

    def memory(self) -> dict[str, float]:
        """Return the proportional share of memory of all processes below this one."""
        import psutil

        return {"MB": sum(pss(process.pid) for process in psutil.Process().children(recursive=True))}


def pss(pid: int) -> float:
    """Return a process's proportional share of memory, in MB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1000


def batch(pool: Pool, size: int) -> set[str]:
    """Run so many tasks; return the ids of the processes that took part, each with its host."""
    import models

    if pool.map is not None:
        return {who for who, _ in pool.map(models.run, range(size))}
    assert pool.submit is not None
    return {future.result()[0] for future in [pool.submit(models.run, number) for number in range(size)]}


def take_part(pool: Pool, size: int) -> None:
    """Run batches until each worker has run a task."""
    seen: set[str] = set()
    end = time.monotonic() + PATIENCE
    while len(seen := seen | batch(pool, size)) < contestants.WORKERS:
        if time.monotonic() > end:
            raise TimeoutError(f"after {PATIENCE:g} s only {len(seen)} of {contestants.WORKERS} workers took part")


def say(word: str, told: dict[str, Any]) -> None:
    print(word, json.dumps(told), flush=True)


def serve(pool: Pool, size: int, ours: Ours | None) -> None:
    """Do what is asked for, until nobody asks."""
    take_part(pool, size)
    say("ready", {"pid": os.getpid()} | ({} if ours is None else ours.told()))
    for line in sys.stdin:
        word, told = line.strip(), {}
        if word == "batch":
            batch(pool, size)
        else:
            told = getattr(ours, word)()
        say("done", told)


def main() -> None:
    """Serve one way."""
    name, workers, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    launcher = (*sys.argv[4:], "local")[0]
    contestants.WORKERS = workers
    import models  # noqa: F401  the program's own part

    if name in OURS:
        import mainstay.executor  # noqa: F401  likewise

        say("begin", {})
        ours = Ours(OURS[name], launcher)
        with ours.executor:
            serve(ours.pool, size, ours)
        return
    say("begin", {})
    for pool in WAYS[name]():
        serve(pool, size, None)


if __name__ == "__main__":
    main()
