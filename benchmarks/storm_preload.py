"""What `preload=` saves: memory of many workers against one, a worker after a death, the time until many stand.

    python benchmarks/storm_preload.py [memory] [death] [ready]       figures as JSON, one object a line

`memory`: PSS of all processes of a pool (agent, the process that the launcher knows, workers) after every worker has
used what it shares; beside it one worker that imports by itself. `death`: from a worker's SIGKILL until the client has
another that stands. `ready`: from the making of a pool until all its workers stand, NumPy being imported from a mount
where each metadata operation takes 0.5 ms; wants FUSE.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import mainstay

NAMES = ("scipy.optimize", "scipy.stats", "pandas", "xarray")
DELAY = 0.0005  # seconds that a metadata operation takes on the mount
MANY = {"memory": 16, "ready": 32}
ROUNDS = 5
DEATHS = 50


def pss(pid: int) -> float:
    """Return a process's proportional share of memory, in MB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1000


def use(rows: int) -> int:
    """Use what was imported, as a task would."""
    import numpy as np
    import pandas as pd
    import scipy.optimize
    import scipy.stats
    import xarray as xr

    frame = pd.DataFrame({"a": np.arange(rows), "b": np.arange(rows) % 7})
    xr.DataArray(frame.groupby("b").sum().to_numpy()).mean()
    scipy.optimize.brentq(lambda x: scipy.stats.norm.cdf(x) - 0.3, -3, 3)
    return os.getpid()


def memory(workers: int, preload: tuple[str, ...] = NAMES) -> float:
    """Return the MB of a pool each of whose workers has run a task."""
    with mainstay.Executor(workers, launcher="local", preload=preload) as executor:
        executor.wait_ready(timeout=300)
        while len(set(executor.map(use, [1000] * workers * 20, chunksize=1))) < workers:
            pass
        agent = executor.submit(os.getppid).result()
        family = [agent, *(worker.pid for worker in executor.workers)]
        return sum(map(pss, [*family, psutil.Process(agent).ppid()] if preload else family))


def after_death() -> float:
    """Return the seconds from a worker's end until another stands; the median of some."""
    with mainstay.Executor(1, launcher="local", preload=NAMES) as executor:
        executor.wait_ready(timeout=300)
        return statistics.median(_replaced(executor) for _ in range(DEATHS))


def _replaced(executor: mainstay.Executor) -> float:
    (old,) = executor.workers
    begun = time.perf_counter()
    os.kill(old.pid, signal.SIGKILL)
    while not any(worker.state == "idle" and worker.id != old.id for worker in executor.workers):
        time.sleep(0.0002)
    return time.perf_counter() - begun


def ready(workers: int) -> float:
    """Return the seconds until so many workers stand that have NumPy."""
    begun = time.perf_counter()
    with mainstay.Executor(workers, launcher="local", preload=["numpy"]) as executor:
        executor.wait_ready(timeout=300)
        return time.perf_counter() - begun


@contextmanager
def slow_numpy() -> Iterator[None]:
    """Put NumPy on a mount where each metadata operation takes its time, and that on the path."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from slowmount import Cache, SlowMount

    spec = importlib.util.find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    with tempfile.TemporaryDirectory() as folder, SlowMount(folder, delay=DELAY, cache=Cache.NONE) as mount:
        for tree in (package, package.with_name("numpy.libs")):
            if tree.exists():
                shutil.copytree(tree, mount.behind / tree.name)
        sys.path.insert(0, str(mount.path))
        try:
            yield
        finally:
            sys.path.remove(str(mount.path))


def figures_of_memory() -> dict[str, float]:
    one, many = memory(1), memory(MANY["memory"])
    alone = memory(1, ())
    sizes = {"MB": many, "MB of one": one, "MB of one without preload": alone}
    return {"workers": MANY["memory"], **sizes, "times": many / one}


def figures_of_death() -> dict[str, float]:
    return {"ms until another worker stands": after_death() * 1000}


def figures_of_ready() -> dict[str, float]:
    with slow_numpy():
        one = statistics.median(ready(1) for _ in range(ROUNDS))
        many = statistics.median(ready(MANY["ready"]) for _ in range(ROUNDS))
    return {"workers": MANY["ready"], "s": many, "s of one": one, "times": many / one}


FIGURES = {"memory": figures_of_memory, "death": figures_of_death, "ready": figures_of_ready}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        print(json.dumps({"what": name} | {key: round(value, 2) for key, value in FIGURES[name]().items()}), flush=True)
