"""One contestant, one round: prints its figures as a line of JSON. Started by `peers.py`, a process each.

call        microseconds of one no-op call, submit to result, calls following each other (median)
many        no-op calls per second, each with a future of its own
map         items per second of a map over cheap items, as the contestant does by default
chunked     the same with 250 items per message, where that can be said
array       MB/s of an 8 MB array that goes there and comes back (both directions counted)
first       seconds from making the pool to the first result
batches     batches of 50 tasks that sleep for 10 ms each: the share of their time that the workers were asleep in
            a task, as these measured it (ideal: 100 %)
idle        percent of one core that client and workers burn together when nothing runs
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil

import contestants
from contestants import WORKERS, Pool
from work import echo, increment, nap

PATIENCE = 3.0  # seconds that a figure may take; what is slower gets fewer calls
Figures = dict[str, float]


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def one(submit: Callable[..., Any], value: Any = 0) -> Any:
    return result(submit(echo, value))


def result(future: Any) -> Any:
    return future.result() if hasattr(future, "result") else future.get()


def measure(pool: Pool, began: float, batches: int) -> Iterator[tuple[str, float]]:
    """Yield the figures that this pool can give."""
    if pool.submit is not None:
        one(pool.submit)
        yield "first", time.perf_counter() - began
        yield from futures(pool.submit)
    if pool.map is not None:
        list(pool.map(increment, range(10)))
        if pool.submit is None:
            yield "first", time.perf_counter() - began
            yield "call", 1e6 * statistics.median(timed(lambda: list(pool.map(echo, [0]))) for _ in range(200))
        yield "map", rate(pool.map, 1000)
        if pool.chunked is not None:
            yield "chunked", rate(pool.chunked, 10_000)
        began = time.perf_counter()
        worked = sum(sum(pool.map(nap, [0.01] * 50)) for _ in range(batches))
        yield "batches", 100 * worked / WORKERS / (time.perf_counter() - began)
    yield "idle", idle()


def futures(submit: Callable[..., Any]) -> Iterator[tuple[str, float]]:
    for _ in range(20):
        one(submit)
    call = statistics.median(timed(lambda: one(submit)) for _ in range(100))
    count = max(50, min(1000, int(PATIENCE / 3 / call)))
    yield "call", 1e6 * statistics.median(timed(lambda: one(submit)) for _ in range(count))
    pilot = timed(lambda: [result(f) for f in [submit(echo, 0) for _ in range(200)]]) / 200
    count = max(200, min(20_000, int(PATIENCE / pilot)))
    yield "many", count / timed(lambda: [result(f) for f in [submit(echo, i) for i in range(count)]])
    array = np.zeros(1 << 20)
    one(submit, array)
    seconds = statistics.median(timed(lambda: one(submit, array)) for _ in range(15))
    yield "array", 2 * array.nbytes / 1e6 / seconds


def rate(map_: Callable[..., Any], pilot: int) -> float:
    """Return items per second, over 100,000 items or as many as patience lasts."""
    seconds = timed(lambda: list(map_(increment, range(pilot)))) / pilot
    count = max(pilot, min(100_000, int(PATIENCE / seconds)))
    times = [timed(lambda: list(map_(increment, range(count))))]
    if times[0] < PATIENCE / 5:
        times += [timed(lambda: list(map_(increment, range(count)))) for _ in range(4)]
    return count / statistics.median(times)


def idle(seconds: float = 3.0) -> float:
    """Return the percentage of one core that this process and all it started burn."""
    time.sleep(1)
    me = psutil.Process()
    siblings = me.parent().children() if me.parent() is not None and "mpiexec" not in me.name() else []
    tree = {process.pid: process for root in [me, *siblings] for process in [root, *root.children(recursive=True)]}
    before = {pid: spent(process) for pid, process in tree.items()}
    time.sleep(seconds)
    return 100 * sum(max(0.0, spent(process) - before[pid]) for pid, process in tree.items()) / seconds


def spent(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def main(name: str, batches: int) -> None:
    began = time.perf_counter()
    figures: Figures = {}
    for pool in getattr(contestants, name)():
        figures.update(measure(pool, began, batches))
        print("FIGURES " + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
