"""One contestant, one round: prints its figures as a line of JSON. Started by `arena.py`, a process each.

call        microseconds of one no-op call, submit to result, calls following each other (median)
many        no-op calls per second, each with a future of its own
map         items per second of a map over cheap items, as the contestant does by default
chunked     the same with 250 items per message, where that can be said
array       MB/s of an 8 MB array that goes there and comes back (both directions counted)
first       seconds from making the pool to the first result, without importing the contestant; who runs in a world
            of `mpiexec` has workers that stood before, and that is not counted
batches     batches of 50 tasks that sleep for 10 ms each, for pools that are to be compared in it: the share of the
            ideal, which is that two workers do nothing but sleep for 10 ms (100 %)
asleep      the same batches: the share of their time in which the workers were asleep in a task, as these measured
            it (a sleep of 10 ms lasts longer, which is no pool's fault)
idle        percent of one core that client and workers burn together when nothing runs
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil

import contestants
from contestants import MODULES, WORKERS, Pool
from work import echo, increment, nap

NAP = 0.01  # seconds
BATCH = 50  # tasks
Figure = tuple[str, float]


def timed(call: Callable[[], Any]) -> float:
    """Return how many seconds the call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def one(submit: Callable[..., Any], value: Any = 0) -> Any:
    """Make one call and wait for it."""
    return result(submit(echo, value))


def result(future: Any) -> Any:
    """Wait for what the contestant calls a future."""
    return future.result() if hasattr(future, "result") else future.get()


def measure(pool: Pool, began: float, effort: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures that this pool can give."""
    if pool.submit is not None:
        one(pool.submit)
        yield "first", time.perf_counter() - began
        yield from futures(pool.submit, effort.patience)
    elif pool.map is not None:
        yield from without_futures(pool.map, began)
    if pool.map is not None:
        yield from maps(pool, effort.patience)
    if pool.map is not None and pool.batches:
        yield from batches(pool.map, effort.batches)
    yield "idle", idle(effort.idle, effort.root)


def futures(submit: Callable[..., Any], patience: float) -> Iterator[Figure]:
    """Yield what needs futures; a slow contestant gets fewer calls."""
    for _ in range(20):
        one(submit)
    call = statistics.median(timed(lambda: one(submit)) for _ in range(50))
    count = max(50, min(1000, int(patience / 3 / call)))
    yield "call", 1e6 * statistics.median(timed(lambda: one(submit)) for _ in range(count))
    pilot = many(submit, 200) / 200
    count = max(200, min(20_000, int(patience / pilot)))
    yield "many", count / many(submit, count)
    yield "array", megabytes(submit, patience)


def many(submit: Callable[..., Any], count: int) -> float:
    """Return the seconds for so many calls, all submitted before the first is waited for."""
    return timed(lambda: [result(future) for future in [submit(echo, i) for i in range(count)]])


def megabytes(submit: Callable[..., Any], patience: float) -> float:
    """Return MB/s of an 8 MB array, there and back."""
    array = np.zeros(1 << 20)
    count = max(3, min(15, int(patience / timed(lambda: one(submit, array)))))
    seconds = statistics.median(timed(lambda: one(submit, array)) for _ in range(count))
    return 2 * array.nbytes / 1e6 / seconds


def without_futures(map_: Callable[..., Any], began: float) -> Iterator[Figure]:
    """Yield single calls of a pool that has nothing but `map`."""
    list(map_(echo, [0]))
    yield "first", time.perf_counter() - began
    yield "call", 1e6 * statistics.median(timed(lambda: list(map_(echo, [0]))) for _ in range(200))


def maps(pool: Pool, patience: float) -> Iterator[Figure]:
    """Yield the rates of `map`, by default and in chunks."""
    yield "map", rate(pool.map, 200, patience)
    if pool.chunked is not None:
        yield "chunked", rate(pool.chunked, 10_000, patience)


def rate(map_: Callable[..., Any], pilot: int, patience: float) -> float:
    """Return items per second, over 100,000 items or as many as patience lasts."""
    seconds = timed(lambda: list(map_(increment, range(pilot)))) / pilot
    count = max(pilot, min(100_000, int(patience / seconds)))
    times = [timed(lambda: list(map_(increment, range(count))))]
    if times[0] < patience / 5:
        times += [timed(lambda: list(map_(increment, range(count)))) for _ in range(4)]
    return count / statistics.median(times)


def batches(map_: Callable[..., Any], count: int) -> Iterator[Figure]:
    """Yield how well the workers are kept at work through batch after batch."""
    began = time.perf_counter()
    asleep = sum(sum(map_(nap, [NAP] * BATCH)) for _ in range(count))
    lasted = time.perf_counter() - began
    yield "batches", 100 * count * BATCH * NAP / WORKERS / lasted
    yield "asleep", 100 * asleep / WORKERS / lasted


def idle(seconds: float, root: int | None) -> float:
    """Return the percentage of one core that all processes of this contestant burn.

    They are those below `root`, who adopts daemons too; without a root, those below this process.
    """
    time.sleep(1)
    before = spent(root)
    time.sleep(seconds)
    return 100 * sum(after - before.get(pid, 0.0) for pid, after in spent(root).items()) / seconds


def spent(root: int | None) -> dict[int, float]:
    """Return the CPU seconds of each process, by its id."""
    top = psutil.Process(root)
    found = {}
    for process in [*([] if root else [top]), *top.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = float(times.user + times.system)
    return found


def main() -> None:
    """Measure the contestant that is named, and print its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=sorted(contestants.RANKS))
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--patience", type=float, default=2.0, help="seconds that a figure may take")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of watching it do nothing")
    parser.add_argument("--root", type=int, help="id of the process that adopts the contestant's daemons")
    effort = parser.parse_args()
    importlib.import_module(MODULES[effort.name])
    began = time.perf_counter()
    for pool in getattr(contestants, effort.name)():
        print("FIGURES " + json.dumps(dict(measure(pool, began, effort))), flush=True)


if __name__ == "__main__":
    main()
