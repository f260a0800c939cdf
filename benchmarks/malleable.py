"""What a change of a malleable program's size costs: from the last point before it to the first step after it.

    python benchmarks/malleable.py --rows 1000 --changes 20

The state is a plate of rows × rows numbers of 8 bytes, shared out over the ranks. Of the time of a change, the data's
own is that of keeping the states with the client and of sharing them out anew; `--rows 10` shows what is left without.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import mainstay


def program(world, rows: int, directory: Path):
    """Rank 0 notes when each of its runs begins, and when it comes to a point."""
    block = world.state if world.state is not None else np.array_split(np.zeros((rows, rows)), world.size)[world.rank]
    world.comm.barrier()
    if world.rank == 0:
        with open(directory / "runs", "a") as file:
            file.write(f"{world.size} {time.monotonic()}\n")
    while not world.comm.bcast((directory / "stop").exists() if world.rank == 0 else None):
        time.sleep(0.01)
        if world.rank == 0:
            (directory / "point").write_text(f"{time.monotonic()}\n")
            (directory / "point").rename(directory / f"point-{world.size}")
        block = yield block
    return None


def redistribute(states: list, size: int) -> list:
    return np.array_split(np.vstack(states), size)


def wait_for(condition) -> None:
    while not condition():
        time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        mainstay.Executor(given.workers, launcher="local", mpi=True) as executor,
    ):
        directory, most = Path(name), given.workers
        executor.wait_ready()

        def runs() -> list[list[str]]:
            path = directory / "runs"
            return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

        view = executor.options(ranks=(1, most), malleable=redistribute)
        future = view.submit(program, given.rows, directory)
        wait_for(lambda: runs() and int(runs()[-1][0]) == most)
        costs = []
        while len(costs) < given.changes:
            before = int(runs()[-1][0])
            waiting = executor.submit(wait_for, (directory / f"go-{len(costs)}").exists)
            wait_for(lambda before=before: int(runs()[-1][0]) < before)
            costs.append(cost(directory, before, runs()[-1]))
            smaller = int(runs()[-1][0])
            (directory / f"go-{len(costs) - 1}").touch()
            waiting.result()
            wait_for(lambda: int(runs()[-1][0]) == most)
            costs.append(cost(directory, smaller, runs()[-1]))
        (directory / "stop").touch()
        future.result()
    size = given.rows**2 * 8 / 1e6
    times = [f"{1000 * seconds:.0f}" for seconds in (statistics.median(costs), min(costs), max(costs))]
    print(f"{len(costs)} changes, {size:.3g} MB of state: {times[0]} ms ({times[1]} to {times[2]}) each")


def cost(directory: Path, before: int, run: list[str]) -> float:
    """Return the seconds from the last point of so many ranks to the beginning of a run."""
    return float(run[1]) - float((directory / f"point-{before}").read_text())


if __name__ == "__main__":
    main()
