"""Gangs: how long one takes beside a single call, and how busy a mix of sizes keeps the workers.

    python benchmarks/gangs.py [--workers 4] [--launcher local] [--rounds 300] [--tasks 1000]

A no-op of N ranks is submitted and waited for; the communicator of its workers is kept, as between any two gangs of the
same ranks. The mix is of tasks with 1 to 4 ranks that sleep for 5 to 15 ms each; what it is held against is the sum of
their ranks' times, divided by the workers: no packing is shorter.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import mainstay


def median_us(call, rounds: int) -> float:
    times = []
    for _ in range(rounds + 10):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[10:]) * 1e6


def busy(executor: mainstay.Executor, workers: int, tasks: int) -> float:
    """Return the time of the best packing, in parts of the time that the mix took."""
    chance = random.Random(0)
    mix = [(chance.randint(1, workers), chance.uniform(0.005, 0.015)) for _ in range(tasks)]
    views = {ranks: executor if ranks == 1 else executor.options(ranks=ranks) for ranks in range(1, workers + 1)}
    started = time.perf_counter()
    futures = [views[ranks].submit(time.sleep, seconds) for ranks, seconds in mix]
    for future in futures:
        future.result()
    best = sum(ranks * seconds for ranks, seconds in mix) / workers
    return best / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--launcher", default="local")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=1000)
    given = parser.parse_args()
    with mainstay.Executor(given.workers, launcher=given.launcher) as executor:
        executor.wait_ready(timeout=60)
        started = time.perf_counter()
        executor.options(ranks=given.workers).submit(abs, -1).result()
        print(f"first gang, with MPI's start: {time.perf_counter() - started:.2f} s; {executor.describe().mpi}")
        print(f"single no-op: {median_us(lambda: executor.submit(abs, -1).result(), given.rounds):.0f} us")
        for ranks in sorted({1, 2, given.workers}):
            gang = executor.options(ranks=ranks)
            took = median_us(lambda gang=gang: gang.submit(abs, -1).result(), given.rounds)
            print(f"gang of {ranks} no-ops: {took:.0f} us")
        print(f"{given.tasks} mixed tasks: {busy(executor, given.workers, given.tasks):.1%} of the best packing")


if __name__ == "__main__":
    main()
