"""Gangs: what one costs beside a single call, within a namespace and over two; how busy a mix keeps the workers; what
is left after many; and what becomes of them while workers are killed.

    python benchmarks/gangs.py [--only cost,join,mix,many,kills,executorlib] [--mpiexec PATH] [--gangs 10000] …

Each figure is measured `--rounds` times, in turns where figures are held against each other; the table gives medians
and, in brackets, the least and the most. The mix is of 1,000 tasks with 1 to 4 ranks that sleep for some time around
`--ms` each; what it is held against is the sum of their ranks' times, divided by the workers: no packing is shorter.
With Open MPI (`--mpiexec`, and `MPI4PY_MPIABI=openmpi LD_LIBRARY_PATH=…` before), namespaces cannot be joined.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import Future
from typing import Any

import mainstay
from mainstay.launch.mpiexec import MpiExec

PATIENCE = 120.0  # seconds for anything here


def nothing() -> None:
    """Be a no-op."""


def total(x: int) -> tuple[int, int, int]:
    """Return what shows that a gang of these ranks has run: rank, size, and a sum that all took part in."""
    comm = mainstay.comm()
    return comm.rank, comm.size, comm.allreduce(x)


def holdings() -> tuple[int, int]:
    """Return what this process holds: memory (KiB) and descriptors."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024, len(os.listdir("/proc/self/fd"))


def micros(call: Callable[[], Any], times: int) -> float:
    """Return the median time of a call (µs)."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e6


def told(values: Iterable[float], unit: str) -> str:
    """Return values as the table has them: the median, and the least and the most."""
    some = sorted(values)
    return f"{statistics.median(some):.3g} {unit} ({some[0]:.3g}–{some[-1]:.3g})"


def row(what: str, *figures: str) -> None:
    """Print a line of the table."""
    print(f"| {what} | {' | '.join(figures)} |", flush=True)


def pool(given: argparse.Namespace, workers: int, **options: Any) -> mainstay.Executor:
    """Return a pool that stands."""
    launcher = given.launcher if given.mpiexec is None else MpiExec(program=given.mpiexec)
    executor = mainstay.Executor(workers, launcher=launcher, **options)
    executor.wait_ready(timeout=PATIENCE)
    return executor


def cost(given: argparse.Namespace) -> None:
    """Measure gangs of no-ops beside a single one, inside one namespace."""
    with pool(given, given.workers) as executor:
        started = time.perf_counter()
        executor.options(ranks=given.workers).submit(nothing).result(PATIENCE)
        row("first gang, with MPI's start", f"{time.perf_counter() - started:.2f} s", executor.describe().mpi)
        sizes = sorted({1, 2, given.workers})
        calls = {0: executor, **{ranks: executor.options(ranks=ranks) for ranks in sizes}}
        took: dict[int, list[float]] = {ranks: [] for ranks in calls}
        for _ in range(given.rounds):
            for ranks, view in calls.items():
                took[ranks].append(micros(lambda view=view: view.submit(nothing).result(PATIENCE), 100))
        row("single no-op", told(took[0], "µs"), "")
        for ranks in sizes:
            bound = [(gang - 100) / single for gang, single in zip(took[ranks], took[0], strict=True)]
            row(f"gang of {ranks} no-ops", told(took[ranks], "µs"), f"less 100 µs: {told(bound, '× the single')}")


def join(given: argparse.Namespace) -> None:
    """Measure gangs of two workers that are of two namespaces: the first of these two, and further ones."""
    first, again, inside = [], [], []
    with pool(given, 2) as executor:
        gang, either = executor.options(ranks=2), executor.options(ranks=(1, 2))
        gang.submit(nothing).result(PATIENCE)
        for _ in range(given.rounds):
            inside.append(micros(lambda: gang.submit(nothing).result(PATIENCE), 100))
            dead = kill(executor, random.Random(0))
            until(lambda dead=dead: all(worker.state == "idle" and worker.pid != dead for worker in executor.workers))
            either.submit(nothing).result(PATIENCE)  # the new worker enrols meanwhile, for the next
            until(lambda: all(worker.namespace.startswith("mpi-") for worker in executor.workers))
            until(lambda: all(worker.state == "idle" for worker in executor.workers))
            first.append(micros(lambda: gang.submit(nothing).result(PATIENCE), 1) / 1000)
            again.append(micros(lambda: gang.submit(nothing).result(PATIENCE), 100))
    row("gang of 2 over two namespaces, the first", told(first, "ms"), "")
    row("gang of 2 over two namespaces, again", told(again, "µs"), f"two ranks before: {told(inside, 'µs')}")


def mix(given: argparse.Namespace) -> None:
    """Measure how busy a mix of sizes keeps the workers."""
    busy = []
    with pool(given, given.workers, mpi=True) as executor:
        executor.options(ranks=given.workers).submit(nothing).result(PATIENCE)
        for seed in range(given.rounds):
            chance = random.Random(seed)
            length = given.ms / 1000
            mixed = [(chance.randint(1, given.workers), chance.uniform(0.5, 1.5) * length) for _ in range(given.tasks)]
            busy.append(100 * share(executor, given.workers, mixed))
    what = f"{given.tasks} mixed tasks of some {given.ms:g} ms on {given.workers} workers"
    row(what, told(busy, "% of the best packing"), "")


def share(executor: mainstay.Executor, workers: int, drawn: list[tuple[int, float]]) -> float:
    """Return the time of the best packing, in parts of the time that tasks of so many ranks and seconds took."""
    views = {ranks: executor if ranks == 1 else executor.options(ranks=ranks) for ranks in range(1, workers + 1)}
    started = time.perf_counter()
    futures = [views[ranks].submit(time.sleep, seconds) for ranks, seconds in drawn]
    for future in futures:
        future.result(PATIENCE)
    best = sum(ranks * seconds for ranks, seconds in drawn) / workers
    return best / (time.perf_counter() - started)


def many(given: argparse.Namespace) -> None:
    """Run many gangs of all sizes on workers of two namespaces, and look at what the workers and the client hold."""
    chance = random.Random(0)
    with pool(given, given.workers) as executor:
        everyone = executor.options(ranks="all")
        everyone.submit(nothing).result(PATIENCE)
        kill(executor, chance)
        views = [executor.options(ranks=ranks) for ranks in range(1, given.workers + 1)]
        held = []
        for count in (given.gangs // 10, given.gangs // 2, given.gangs):
            done = 0 if not held else given.gangs // 2 if len(held) == 2 else given.gangs // 10
            for _ in range(count - done):
                size = chance.randrange(given.workers)
                check([views[size].submit(total, 3)], [(size + 1, 3)])
            held.append((count, everyone.submit(holdings).result(PATIENCE), holdings()))
        for count, workers, client in held:
            largest = max(kib for kib, _ in workers), max(fds for _, fds in workers)
            held_by = (
                f"{who} {kib / 1024:.1f} MiB, {fds} descriptors"
                for who, (kib, fds) in (("a worker", largest), ("the client", client))
            )
            row(f"held after {count} gangs", *held_by)


def kills(given: argparse.Namespace) -> None:
    """Kill a random worker again and again while gangs of random sizes run; each result must be right."""
    chance = random.Random(0)
    started, killed, longest = time.perf_counter(), 0, 0.0
    with pool(given, given.workers, worker_retries=1000) as executor:
        executor.options(ranks="all").submit(nothing).result(PATIENCE)
        for number in range(0, given.storm, 10):
            sizes = [chance.randint(1, given.workers) for _ in range(10)]
            futures = [executor.options(ranks=size).submit(total, number) for size in sizes]
            until(lambda futures=futures: sum(future.done() for future in futures) >= chance.randrange(8))
            killed += kill(executor, chance) > 0
            check(futures, [(size, number) for size in sizes])
            begun = time.perf_counter()
            check([executor.options(ranks=given.workers).submit(total, 1)], [(given.workers, 1)])
            longest = max(longest, time.perf_counter() - begun)
        stands = executor.describe().mpi
    took = time.perf_counter() - started
    row(
        f"{given.storm} gangs, {killed} kills", f"all right, in {took:.0f} s", f"whole again in {longest:.1f} s at most"
    )
    row("in the end", stands, "")


def check(futures: list[Future[Any]], expected: list[tuple[int, int]]) -> None:
    """Fail unless each gang's result is what its size and number make it."""
    for future, (size, number) in zip(futures, expected, strict=True):
        found = future.result(PATIENCE)
        if found != [(rank, size, size * number) for rank in range(size)]:
            raise SystemExit(f"a gang of {size} came to {found}")


def kill(executor: mainstay.Executor, chance: random.Random) -> int:
    """Kill a random worker that stands; return its process id, 0 if there was none."""
    pid = chance.choice([worker.pid for worker in executor.workers if worker.pid] or [0])
    if pid:
        os.kill(pid, signal.SIGKILL)
    return pid


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; end the program when it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the condition did not come true")
        time.sleep(0.001)


def executorlib(given: argparse.Namespace) -> None:
    """Measure the same with executorlib: a block of as many ranks stays, and each call goes to all of them."""
    import executorlib as peer

    def timed(executor: AnyExecutor) -> list[float]:
        executor.submit(nothing).result(PATIENCE)
        return [micros(lambda: executor.submit(nothing).result(PATIENCE), 100) for _ in range(given.rounds)]

    for cores in (1, given.workers):
        with peer.SingleNodeExecutor(max_workers=1, block_allocation=True, resource_dict={"cores": cores}) as executor:
            row(f"executorlib {peer.__version__}, cores={cores}, no-op", told(timed(executor), "µs"), "")


PARTS = {part.__name__: part for part in (cost, join, mix, many, kills, executorlib)}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--launcher", default="local")
    parser.add_argument("--mpiexec", help="the launcher of another MPI than the one that is found")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1000, help="of the mix")
    parser.add_argument("--ms", type=float, default=10.0, help="that these last on average")
    parser.add_argument("--gangs", type=int, default=10_000, help="that are to leave nothing")
    parser.add_argument("--storm", type=int, default=500, help="gangs under which workers are killed, one for each ten")
    given = parser.parse_args()
    for name in given.only.split(","):
        PARTS[name](given)


if __name__ == "__main__":
    main()
