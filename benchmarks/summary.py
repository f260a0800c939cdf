"""What all reports are made of: medians and spread in Markdown, what was to be reached, and on what machine."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Results = dict[str, list[dict[str, float]]]  # contestant: its figures in each round


def values(results: Results, name: str, figure: str) -> list[float]:
    """Return the contestant's figure from each round that has it."""
    return [figures[figure] for figures in results.get(name, []) if figure in figures]


def median(results: Results, name: str, figure: str) -> float:
    """Return the median of a figure; not a number where there is none."""
    found = values(results, name, figure)
    return statistics.median(found) if found else math.nan


def best(results: Results, names: Iterable[str], figure: str, choose: Callable[..., str] = min) -> str | None:
    """Return who of them has the least median (or, with `max`, the most); None if nobody has that figure."""
    having = [name for name in names if values(results, name, figure)]
    return choose(having, key=lambda name: median(results, name, figure)) if having else None


def table(results: Results, figures: Mapping[str, str], corner: str) -> str:
    """Return a Markdown table of those who have such figures: medians, the least and the most in brackets."""
    lines = [f"| {corner} | " + " | ".join(figures.values()) + " |", "| --- |" + " ---: |" * len(figures)]
    for name in results:
        cells = [cell(results, name, figure) for figure in figures]
        if any(cells):
            lines.append(f"| {spoken(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(results: Results, name: str, figure: str) -> str:
    """Return the median and the spread, with a mark where they were scaled from fewer calls."""
    found = values(results, name, figure)
    if not found:
        return ""
    mark = "~ " if any(values(results, name, f"{figure}_scaled")) else ""
    return f"{mark}{short(statistics.median(found))} ({short(min(found))}–{short(max(found))})"


def short(value: float) -> str:
    """Return a number without digits that mean nothing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spoken(name: str) -> str:
    """Return a contestant's name for readers."""
    return name.replace("_", " ")


class Aim(NamedTuple):
    """What is to be reached: at least the limit or, with `most`, at most."""

    what: str
    reached: float
    unit: str
    limit: float
    most: bool = False

    def __str__(self) -> str:
        kept = self.reached <= self.limit if self.most else self.reached >= self.limit
        wanted = f"at {'most' if self.most else 'least'} {short(self.limit)}{self.unit}"
        return f"- {self.what}: {short(self.reached)}{self.unit} ({wanted}: {'reached' if kept else 'missed'})"


def told(aims: Iterable[Aim]) -> str:
    """Return the aims as a list; what was not measured is left out."""
    return "\n".join(str(aim) for aim in aims if not math.isnan(aim.reached) and not math.isnan(aim.limit))


def head(rounds: int, packages: Sequence[str]) -> str:
    """Return what a report begins with."""
    found = ", ".join(f"{package} {version}" for package, version in versions(packages).items())
    return f"{machine()}; medians of {rounds} rounds (least–most)\n\n{found}"


def machine() -> str:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
