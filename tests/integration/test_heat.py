"""Malleable programs on real workers: a solver whose number of ranks changes while it runs."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

import heat2d
import mainstay
from conftest import BOTH_MPIS, mpiexec_of, wait_until
from mainstay import malleable

SIZE = 60


def solver(world, directory):
    """Heat until it is told to stop; each beginning is noted."""
    done, block = world.state or (0, np.array_split(heat2d.plate(SIZE), world.size)[world.rank])
    if world.rank == 0:
        with open(directory / "sizes", "a") as file:
            file.write(f"{world.size}\n")
    while not world.comm.bcast((directory / "stop").exists() if world.rank == 0 else None):
        block = heat2d.step(world.comm, block)
        done, block = yield done + 1, block
    return done, block


def alone(steps):
    """The same without ranks."""
    u = heat2d.plate(SIZE)
    for _ in range(steps):
        new = u.copy()
        new[1:-1, 1:-1] += heat2d.RATE * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
        u = new
    return u


def wait_for(path):
    while not (path.exists() or path.with_name("stop").exists()):
        time.sleep(0.005)


@contextmanager
def heated(launcher, directory):
    """A pool of four workers, and what comes of the solver, which runs until the end of the block."""
    with mainstay.Executor(4, launcher=launcher, mpi=True) as executor:
        executor.wait_ready(timeout=60)
        try:
            yield executor, executor.options(ranks=(1, 4), malleable=heat2d.redistribute).submit(solver, directory)
        finally:
            (directory / "stop").touch()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(malleable, "CALM", 0.02)
    monkeypatch.setattr(malleable, "RENEWAL", 0.02)
    monkeypatch.setattr(malleable, "LOOK", 0.01)


@pytest.fixture(params=BOTH_MPIS)
def launcher(request, monkeypatch):
    """The machine's own workers with MPICH, and Open MPI's launcher, whose ranks are renewed together."""
    return "local" if request.param == "mpich" else mpiexec_of("openmpi", monkeypatch)


def test_a_solver_goes_through_twenty_changes_and_a_death_to_the_same_answer(quick, launcher, tmp_path):
    chance = random.Random(20)

    def sizes():
        path = tmp_path / "sizes"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    with heated(launcher, tmp_path) as (executor, future):
        wait_until(lambda: sizes()[-1:] == [4], 60)
        for change in range(10):
            others = chance.randint(1, 3)
            waiting = [executor.submit(wait_for, tmp_path / f"go-{change}") for _ in range(others)]
            wait_until(lambda others=others: sizes()[-1] <= 4 - others, 60)  # it makes room
            (tmp_path / f"go-{change}").touch()
            assert [one.result(60) for one in waiting] == [None] * others
            wait_until(lambda: sizes()[-1] == 4, 60)  # and takes who idles
            if change == 5:
                before = len(sizes())
                os.kill(executor.workers[2].pid, signal.SIGKILL)
                wait_until(lambda before=before: len(sizes()) > before, 60)
                wait_until(lambda: sizes()[-1] == 4, 60)
        assert len(sizes()) > 20
        leaving = executor.shrink(2)
        wait_until(lambda: sizes()[-1] == 2, 60)  # the pool's own changes reach it
        assert len(leaving.result(60).workers) == 2
        executor.grow(1).result(60)
        wait_until(lambda: sizes()[-1] == 3, 60)
        (tmp_path / "stop").touch()
        results = future.result(60)
        assert len({done for done, _ in results}) == 1
        steps = results[0][0]
        assert steps > 20
        np.testing.assert_allclose(np.vstack([block for _, block in results]), alone(steps), rtol=0, atol=1e-9)
        assert executor.submit(abs, -1).result(60) == 1


def test_programs_without_a_state_of_their_own_and_wrong_ones(tmp_path):
    def counts(world, most):
        done = world.state or 0
        while done < most:
            done = yield done + 1
        return done, world.size

    def wrong(world):
        yield world.rank
        raise LookupError(f"of rank {world.rank}")

    def uneven(world):
        number = 0
        while number < 3 - world.rank:
            number = yield number + 1
        return world.rank

    def returns(world):
        return world.size

    with mainstay.Executor(2, launcher="local") as executor:
        assert executor.options(ranks=(1, 2), malleable=True).submit(counts, 30).result(60) == [(30, 2)] * 2
        both = executor.options(ranks=(2, 2), malleable=True)
        with pytest.raises(LookupError, match="of rank"):
            both.submit(wrong).result(60)
        with pytest.raises(RuntimeError, match=r"rank 1 has returned where others have yielded; all 2 ranks must"):
            both.submit(uneven).result(60)
        with pytest.raises(TypeError, match=r"wants a generator function, such as .*returns at .* returned 2"):
            both.submit(returns).result(60)
        with pytest.raises(ValueError, match=r"malleable= is for generator functions.*ranks=\(2, 2\)"):
            both.run(["true"])
        assert both.submit(counts, 3).result(60) == [(3, 2)] * 2
