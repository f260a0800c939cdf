"""Reports as a picture: operations by phase, and when they came. Wants matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstay.audit.report import Report


def draw(reports: Sequence[Report], path: str) -> None:
    """Write a picture to a file, in the format that its name tells. Raises `ImportError`, `ValueError`, `OSError`."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # commands may have dollars in them
    import matplotlib.pyplot as plt

    picture, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    _phases(left, reports)
    _rates(right, reports)
    try:
        picture.savefig(path, dpi=150)
    finally:
        plt.close(picture)


def _phases(axis: Any, reports: Sequence[Report]) -> None:
    names = [_named(number, report) for number, report in enumerate(reports, 1)]
    lefts = [0] * len(reports)
    for phase in reports[0].sums.phases:
        counts = [report.sums.phases[phase] for report in reports]
        if any(counts):
            axis.barh(names, counts, left=lefts, label=phase)
            lefts = [left + count for left, count in zip(lefts, counts, strict=True)]
    axis.invert_yaxis()
    axis.set(title="metadata operations by phase  ← better")
    if any(lefts):
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4)  # under all bars


def _rates(axis: Any, reports: Sequence[Report]) -> None:
    for number, report in enumerate(reports, 1):
        axis.step(range(len(report.sums.rate) + 1), [*report.sums.rate, 0], where="post", label=_named(number, report))
    axis.set(title="metadata operations in each second", xlabel="seconds from the first")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _named(number: int, report: Report) -> str:
    command = report.command if len(report.command) < 40 else f"…{report.command[-38:]}"
    return f"{number}  {command}"
