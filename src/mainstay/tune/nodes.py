"""The nodes that take part: who was asked, who came, what each is and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from mainstay.tune.machine import Machine, calibrate, look

if TYPE_CHECKING:
    from mainstay.executor import Executor

REPEATS = 15  # of the calibration kernel


class Present(NamedTuple):
    """A node that takes part, and what the calibration kernel took on it (s): the median, and the spread by that."""

    machine: Machine
    seconds: float
    spread: float

    def __str__(self) -> str:
        it = self.machine
        how = f"calibration {self.seconds * 1e3:.2f} ms ± {self.spread:.1%}"
        return f"{it.host}: {it.cpu}, {it.cores} cores, governor {it.governor}, {how}"


class TooFewNodes(RuntimeError):
    """Fewer nodes took part than were asked for; the message says which, and why not the others."""


def speed() -> tuple[float, float]:
    """Return what the calibration kernel takes here (s, the median), and half its quartiles' distance by that."""
    calibrate()
    seconds = sorted(calibrate() for _ in range(REPEATS))
    middle, quarter = median(seconds), REPEATS // 4
    return middle, (seconds[-1 - quarter] - seconds[quarter]) / 2 / middle


def roll_call(executor: Executor, tools: Sequence[str], cores: int | None, wanted: int | None) -> list[Present]:
    """Have each node of a pool tell what it is; return that by name.

    Raises `TooFewNodes` where fewer than `wanted` take part.
    """
    told = executor.wait_ready()
    hosts = sorted(told.hosts)
    absent = "".join(f"; {host} did not take part: {why}" for host, why in sorted(told.absent.items()))
    if wanted is not None and len(hosts) < wanted:
        raise TooFewNodes(
            f"nodes={wanted} were asked for, and {len(hosts)} took part ({', '.join(hosts)}){absent}; "
            f"the pool: {told}. Allocate as many (sbatch -N {wanted}), or ask for fewer"
        )
    alone = executor.options(exclusive=True, journal=False, label="roll call")
    machines = [alone.options(nodes=host).submit(look, tuple(tools)) for host in hosts]
    speeds = [alone.options(nodes=host, cores=cores).submit(speed) for host in hosts]
    return [Present(machine.result(), *speed.result()) for machine, speed in zip(machines, speeds, strict=True)]


def lines(nodes: Sequence[Present], kinds: int, absent: dict[str, str]) -> list[str]:
    """Return what is to be said of the nodes, a line for each."""
    head = f"nodes: {len(nodes) + len(absent)} allocated, {len(nodes)} took part; kinds: {kinds}"
    return [head, *map(str, nodes), *(f"{host}: did not take part: {why}" for host, why in sorted(absent.items()))]
