"""Heat in a plate, by a solver that changes its number of ranks while it runs.

∂u/∂t = ∂²u/∂x² + ∂²u/∂y², explicit finite differences; the plate's rows are shared out over the ranks, which exchange
the rows at their borders in each step. Run `python heat2d.py`: the answer is that of one rank.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import mainstay

SIZE, STEPS, OFTEN = 200, 400, 10  # rows and columns, time steps, and steps between two points
RATE = 0.2  # time step over the square of the grid's distance; stable up to 1/4


def plate(size: int) -> np.ndarray:
    """Return the temperatures at the beginning: cold, with two hot spots and a warm edge."""
    u = np.zeros((size, size))
    u[size // 4 : size // 3, size // 4 : size // 2] = 100.0
    u[size // 2 :, -size // 5 :] = 60.0
    u[0, :] = 20.0
    return u


def step(comm, block: np.ndarray) -> np.ndarray:
    """Return a rank's rows one time step later; the plate's edge keeps its temperature."""
    from mpi4py import MPI  # in a rank, after MPI was initialised as that

    above = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    below = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    upper = comm.sendrecv(block[-1], dest=below, source=above)
    lower = comm.sendrecv(block[0], dest=above, source=below)
    u = np.vstack([rows for rows in (upper, block, lower) if rows is not None])
    new = u.copy()
    new[1:-1, 1:-1] += RATE * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
    first = 0 if upper is None else 1
    return new[first : first + len(block)]


def heat(world, size: int, steps: int, pause: float = 0.0):
    """A malleable program: its state is (steps done, this rank's rows), and each `yield` a point to change at."""
    done, block = world.state or (0, np.array_split(plate(size), world.size)[world.rank])
    while done < steps:
        for _ in range(min(OFTEN, steps - done)):
            block = step(world.comm, block)
            done += 1
        time.sleep(pause)
        done, block = yield done, block
    return block


def redistribute(states: list, size: int) -> list:
    """Share the rows out anew."""
    rows = np.vstack([block for _, block in states])
    return [(states[0][0], block) for block in np.array_split(rows, size)]


def main() -> None:
    with mainstay.Executor(4, launcher="local") as executor:
        fixed = executor.options(ranks=(1, 1), malleable=redistribute).submit(heat, SIZE, STEPS).result()[0]
        malleable = executor.options(ranks=(1, 4), malleable=redistribute, label="heat")
        future = malleable.submit(heat, SIZE, STEPS, 0.05)
        for _ in range(6):  # others want workers now and then, and it makes room for them
            print(sum(executor.map(lambda x: time.sleep(0.3) or x, range(3), chunksize=1)), "others were done")
        blocks = future.result()
        print(
            f"{len(blocks)} ranks at the end; {np.abs(np.vstack(blocks) - fixed).max():.1e} is the largest difference"
        )


if __name__ == "__main__":
    sys.exit(main())
