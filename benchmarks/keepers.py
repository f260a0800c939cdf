"""One keeper of results, one run: prints how long it took as a line of JSON. Started by `journal.py`, a process each.

A keeper does calls and leaves their results below a folder; the same run once more has to find them there. Each is a
generator of one `Run`, and used as its users would: those that have a pool of their own with `WORKERS` workers, the
others by plain calls, which cost less than a pool does as long as a call does nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import work

WORKERS = 2
WARM, PILOT = 20, 50  # calls before the clock runs
Call = Callable[[int], Any]
Run = Callable[[Call, Iterable[int]], Sequence[Any]]


def submitted(submit: Callable[..., Any]) -> Run:
    """Return what submits all calls before it waits for the first."""
    return lambda fn, items: [future.result() for future in [submit(fn, item) for item in items]]


def mainstay_journal(folder: str) -> Iterator[Run]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="local", journal=f"{folder}/calls.db") as executor:
        yield submitted(executor.submit)


def mainstay_journal_map(folder: str) -> Iterator[Run]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="local", journal=f"{folder}/calls.db") as executor:
        yield lambda fn, items: list(executor.map(fn, items))


def mainstay_without(folder: str) -> Iterator[Run]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="local") as executor:
        yield submitted(executor.submit)


def mainstay_without_map(folder: str) -> Iterator[Run]:
    import mainstay

    with mainstay.Executor(WORKERS, launcher="local") as executor:
        yield lambda fn, items: list(executor.map(fn, items))


def joblib_memory(folder: str) -> Iterator[Run]:
    from joblib import Memory

    memory = Memory(folder, verbose=0)
    yield lambda fn, items: [*map(memory.cache(fn), items)]


def joblib_memory_parallel(folder: str) -> Iterator[Run]:
    from joblib import Memory, Parallel, delayed

    memory = Memory(folder, verbose=0)
    yield lambda fn, items: Parallel(n_jobs=WORKERS)(map(delayed(memory.cache(fn)), items))


def executorlib_cache(folder: str) -> Iterator[Run]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True, cache_directory=folder) as executor:
        yield submitted(executor.submit)


def diskcache_memoize(folder: str) -> Iterator[Run]:
    from diskcache import Cache

    with Cache(folder) as cache:
        yield lambda fn, items: [*map(cache.memoize()(fn), items)]


def in_a_file(folder: str, fn: Call, item: int) -> Any:
    """Return the result in the call's file, which is written, all or nothing, where it is not there."""
    path = f"{folder}/{item}.pickle"
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except FileNotFoundError:
        result = fn(item)
    handle, beside = tempfile.mkstemp(dir=folder)
    with open(handle, "wb") as file:
        pickle.dump(result, file, protocol=5)
    os.rename(beside, path)
    return result


def pickle_files(folder: str) -> Iterator[Run]:
    yield lambda fn, items: [in_a_file(folder, fn, item) for item in items]


def pickle_files_pool(folder: str) -> Iterator[Run]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        submit = submitted(lambda fn, item: executor.submit(in_a_file, folder, fn, item))
        yield submit


# name: what is imported before the clock starts
MODULES = {
    "mainstay_journal": "mainstay.executor",
    "mainstay_journal_map": "mainstay.executor",
    "mainstay_without": "mainstay.executor",
    "mainstay_without_map": "mainstay.executor",
    "joblib_memory": "joblib",
    "joblib_memory_parallel": "joblib",
    "executorlib_cache": "executorlib",
    "diskcache_memoize": "diskcache",
    "pickle_files": "pickle",
    "pickle_files_pool": "concurrent.futures.process",
}
KEEPS_NOTHING = ("mainstay_without", "mainstay_without_map")


def enough(run: Run, fn: Call, most: int, patience: float) -> int:
    """Return how many calls take about so many seconds; warms up by the way."""
    run(fn, range(-WARM, 0))
    began = time.perf_counter()
    run(fn, range(-WARM - PILOT, -WARM))
    each = (time.perf_counter() - began) / PILOT
    return max(PILOT, min(most, int(patience / each)))


def measured(name: str, fn: Call, effort: argparse.Namespace) -> dict[str, float]:
    """Do the calls; return how many there were, the seconds until all results were there, and until it had closed.

    When they are done again, the first includes opening what was kept.
    """
    began = time.perf_counter()
    for run in globals()[name](effort.folder):
        count = effort.most if effort.again else enough(run, fn, effort.most, effort.patience)
        if not effort.again:
            began = time.perf_counter()
        results = run(fn, range(count))
        there = time.perf_counter()
        right = sum(float(getattr(result, "flat", [result])[0]) == item for item, result in enumerate(results))
        if right < count:
            raise AssertionError(f"{count - right} of {count} results are wrong")
        checked = time.perf_counter()
    closing = time.perf_counter() - checked
    return {"count": count, "seconds": there - began, "closing": closing, "kept": count + WARM + PILOT}


def main() -> None:
    """Measure the keeper that is named, and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=sorted(MODULES))
    parser.add_argument("work", choices=["kept", "kept_array"])
    parser.add_argument("folder")
    parser.add_argument("--most", type=int, required=True, help="calls; with --again exactly so many")
    parser.add_argument("--patience", type=float, default=1e9, help="seconds that the calls may take")
    parser.add_argument("--again", action="store_true", help="none of the calls may run")
    effort = parser.parse_args()
    if effort.again:
        os.environ["AGAIN"] = "1"
    importlib.import_module(MODULES[effort.name])
    print("FIGURES " + json.dumps(measured(effort.name, getattr(work, effort.work), effort)), flush=True)


if __name__ == "__main__":
    main()
