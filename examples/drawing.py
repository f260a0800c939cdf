"""The demo's two pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from hymod import Catchment, Series, nse

mpl.use("Agg")

import matplotlib.pyplot as plt

BLUE, GREY, ORANGE = "#1f5fa8", "#555555", "#d9822b"


def discharge(
    path: Path, data: Catchment, simulated: Series, calibration: tuple[int, ...], validation: tuple[int, ...]
) -> None:
    """Draw observed against simulated discharge, with the rain hanging from the top."""
    shown = np.array([day.year in (*calibration, *validation) for day in data.days])
    days = [day for day, is_shown in zip(data.days, shown, strict=True) if is_shown]
    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    axes.plot(days, data.discharge[shown], color=GREY, linewidth=1.2, label="observed")
    axes.plot(days, simulated[shown], color=ORANGE, linewidth=1.0, label="simulated")
    top = float(np.nanmax(data.discharge[shown]))
    axes.set(ylabel="discharge (l/s)", ylim=(0, 1.6 * top), xlim=(days[0], days[-1]))
    for years, name in ((calibration, "calibration"), (validation, "validation")):
        mask = data.year(*years)
        first = next(day for day in days if day.year == years[0])
        axes.axvline(first, color="black", linewidth=0.6, linestyle=":")
        text = f" {name}, NSE {nse(simulated[mask], data.discharge[mask]):.2f}"
        axes.text(first, 1.12 * top, text, fontsize=9, va="bottom")
    rain = axes.twinx()
    rain.bar(days, np.array(data.rain)[shown], width=1.0, color=BLUE, alpha=0.6)
    rain.set_ylim(3.2 * max(data.rain), 0)
    rain.set_ylabel("rain (mm/day)", color=BLUE)
    rain.tick_params(axis="y", colors=BLUE)
    axes.legend(loc="upper center", bbox_to_anchor=(0.38, 0.72), frameon=False)
    axes.set_title("HYMOD, 1.783 km² catchment: observed and simulated discharge", loc="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def convergence(path: Path, histories: dict[str, Series]) -> None:
    """Draw the best score after each evaluation."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, history), color in zip(histories.items(), (BLUE, ORANGE), strict=False):
        axes.plot(
            np.arange(1, history.size + 1),
            history,
            color=color,
            drawstyle="steps-post",
            label=f"{name}: {history[-1]:.4f}",
        )
    best = max(history[-1] for history in histories.values())
    axes.set(xlabel="evaluations", ylabel="best NSE so far", ylim=(best - 0.5, best + 0.03), xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("DDS: convergence in batches and asynchronously", loc="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
