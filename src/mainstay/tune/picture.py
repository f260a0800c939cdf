"""A table as a picture: the samples of each variant, host by host, and the best so far over time."""

from __future__ import annotations

import os
from bisect import insort
from statistics import median, quantiles
from typing import TYPE_CHECKING

from mainstay.tune.building import OK
from mainstay.tune.table import MEASURED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mainstay.tune.table import Row, Table

MOST = 24  # variants of one host that are drawn, the fastest
WIDE = 5.0  # ratio of the longest to the shortest sample above which their axis is logarithmic


def draw(table: Table, path: str | os.PathLike[str]) -> None:
    """Draw a table. Raises `ImportError` without matplotlib, `ValueError` where nothing was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    hosts = list(dict.fromkeys(row.host for row in table if row.visits))
    if not hosts:
        raise ValueError("there are no samples to draw; the rows' status and message say why")
    most = max(min(MOST, len(table.of(host))) for host in hosts)
    heights = [*[0.3 * most + 0.8 for _ in hosts], 2.5]
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, host in zip(axes, hosts, strict=False):
        _distributions(place, table, host)
    _progress(axes[-1], table, hosts)
    figure.savefig(path)


def _distributions(axes: Axes, table: Table, host: str) -> None:
    """Draw the samples; those far beyond all quartiles, which would press the others together, are only counted."""
    from matplotlib.ticker import LogLocator

    rows = [row for row in table.of(host) if row.visits][:MOST]
    samples = [[seconds * 1e3 for seconds in row.seconds] for row in rows]
    furthest = max(quantiles([min(times), *times], n=4, method="inclusive")[-1] for times in samples) * 1.3
    axes.boxplot(samples, orientation="horizontal", widths=0.6, sym=".")
    least = min(map(min, samples)) * 0.97
    if furthest > WIDE * least:
        axes.set_xscale("log", subs=())
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(least, furthest)
    axes.set_yticks(range(1, len(rows) + 1), [_name(row, furthest) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(plain(f"{host}: {rows[0].kind}") + (", noisy" if host in table.noisy else ""), fontsize=9)
    axes.set_xlabel("ms")


def _name(row: Row, furthest: float) -> str:
    beyond = sum(seconds * 1e3 > furthest for seconds in row.seconds)
    marks = [row.status] * (row.status != OK) + ["baseline"] * row.is_baseline + [f"+{beyond} beyond"] * (beyond > 0)
    return plain(" ".join([str(row.variant), *(f"({mark})" for mark in marks)]))


def plain(words: str) -> str:
    """Return words as they are to be drawn: between dollars, matplotlib would read mathematics."""
    return words.replace("$", r"\$")


def _progress(axes: Axes, table: Table, hosts: list[str]) -> None:
    for host in hosts:
        line = best_so_far([row for row in table if row.host == host and row.status in MEASURED])
        if not line:
            continue
        times, values = zip(*((at - table.began, seconds * 1e3) for at, seconds in line), strict=True)
        axes.step(times, values, where="post", label=host)
    axes.set_xlim(left=0)
    axes.set_xlabel("s since the sweep began")
    axes.set_ylabel("best so far (ms)")
    if axes.lines:
        axes.legend(fontsize=7)


def best_so_far(rows: list[Row]) -> list[tuple[float, float]]:
    """Return the least median (s) of all rows after each visit, with the time of that (s since 1970).

    It may rise: a median of few visits is known better after the next.
    """
    ends = [
        (visit.began + visit.lasted, place, median(visit.seconds))
        for place, row in enumerate(rows)
        for visit in row.visits.values()
    ]
    seen: dict[int, list[float]] = {}
    medians: dict[int, float] = {}
    line: list[tuple[float, float]] = []
    best: int | None = None
    for at, place, seconds in sorted(ends):
        insort(seen.setdefault(place, []), seconds)
        medians[place] = median(seen[place])
        if best == place:
            best = min(medians, key=medians.__getitem__)  # it may have become worse
        elif best is None or medians[place] < medians[best]:
            best = place
        line.append((at, medians[best]))
    return line
