"""Calibrate HYMOD on a real catchment by DDS, in batches and asynchronously, with workers that are started once.

    python hymod_dds.py --batches 100 --workers 4

In batches, every worker waits for the slowest of its batch; asynchronously, the next candidate goes out as each
score comes back. Both forms use the same pool.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

import drawing
import mainstay
from dds import Point, Search
from hymod import LOWER, PARAMETERS, UPPER, catchment, kge, nse, simulate

CALIBRATION = (2013, 2014, 2015)  # 2012 fills the reservoirs
VALIDATION = (2016,)
EACH = 8  # candidates for each worker in a batch
console = Console()


class Run(NamedTuple):
    """What a calibration brought: the search, its seconds of wall clock, and the seconds in which workers worked."""

    name: str
    search: Search
    seconds: float
    worked: float


def score(parameters: Point) -> tuple[float, float]:
    """Return the NSE over the calibration's years, and how long the evaluation took (s). Runs on a worker."""
    began = time.perf_counter()
    days = catchment().year(*CALIBRATION)
    return nse(simulate(parameters)[days], catchment().discharge[days]), time.perf_counter() - began


Show = Callable[[Search], None]


def in_batches(executor: mainstay.Executor, search: Search, batches: int, size: int, show: Show) -> float:
    """Evaluate `batches` × `size` candidates; a batch is made when the one before it is known. Returns worked s."""
    worked = 0.0
    for _ in range(batches):
        candidates = [search.ask() for _ in range(size)]
        for candidate, (value, seconds) in zip(candidates, executor.map(score, candidates, chunksize=1), strict=True):
            search.tell(candidate, value)
            worked += seconds
            show(search)
    return worked


def asynchronously(executor: mainstay.Executor, search: Search, evaluations: int, ahead: int, show: Show) -> float:
    """Keep `ahead` candidates under way; each score that comes back makes room for the next. Returns worked s."""
    worked = 0.0
    under_way: dict[Future[tuple[float, float]], Point] = {
        executor.submit(score, point): point for point in (search.ask() for _ in range(ahead))
    }
    while under_way:
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            value, seconds = future.result()
            search.tell(under_way.pop(future), value)
            worked += seconds
            if search.asked < evaluations:
                candidate = search.ask()
                under_way[executor.submit(score, candidate)] = candidate
        show(search)
    return worked


def calibrate(given: argparse.Namespace, searches: list[Search]) -> list[Run]:
    """Run both forms on one pool, and print what came of them. `searches` takes each search as it starts."""
    runs: list[Run] = []
    with mainstay.Executor(given.workers, launcher=given.launcher) as executor:
        console.print(
            str(executor.wait_ready(timeout=120)), style="bold", highlight=False, markup=False, soft_wrap=True
        )
        workers = executor.size
        size, evaluations = EACH * workers, EACH * workers * given.batches
        forms: dict[str, Callable[[Search, Show], float]] = {
            "batches": lambda search, show: in_batches(executor, search, given.batches, size, show),
            "asynchronous": lambda search, show: asynchronously(executor, search, evaluations, 2 * workers, show),
        }
        for name, form in forms.items():
            search = Search(LOWER, UPPER, evaluations, given.seed)
            searches.append(search)
            with progress(name, executor, evaluations) as show:
                began = time.perf_counter()
                worked = form(search, show)
                runs.append(Run(name, search, time.perf_counter() - began, worked))
        console.print(summary(runs, workers, executor.describe().ever_started))
    return runs


@contextmanager
def progress(name: str, executor: mainstay.Executor, evaluations: int) -> Iterator[Show]:
    """Yield what shows the search as it goes: a live line on a terminal, a plain line at each quarter elsewhere."""
    began, shown, said = time.perf_counter(), 0.0, 0
    with Live(console=console, refresh_per_second=10) as live:

        def show(search: Search) -> None:
            nonlocal shown, said
            done, now = len(search.history), time.perf_counter()
            quarter = 4 * done // evaluations
            if quarter == said and (now - shown < 0.1 or not console.is_terminal):
                return
            line = (
                f"{name:>12}: {done:5d} of {evaluations} evaluations, best NSE {search.best_score:.4f}, "
                f"{done / (now - began):6.1f} evaluations/s"
            )
            shown, said = now, quarter
            if console.is_terminal:
                busy = sum(worker.state == "busy" for worker in executor.workers)
                live.update(f"{line}, {busy} of {executor.size} workers busy")
            else:
                print(line, flush=True)

        yield show


def summary(runs: list[Run], workers: int, ever_started: int) -> Table:
    """Return the table of what was found, and what it cost."""
    table = Table(title="HYMOD calibrated by DDS", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right")
    for i, (name, (low, high, meaning)) in enumerate(PARAMETERS.items()):
        table.add_row(f"{name} ({meaning}; {low:g} to {high:g})", *(f"{run.search.best[i]:.4g}" for run in runs))
    table.add_section()
    for title, years in (("calibration", CALIBRATION), ("validation", VALIDATION)):
        days = catchment().year(*years)
        for measure in (nse, kge):
            values = [measure(simulate(run.search.best)[days], catchment().discharge[days]) for run in runs]
            label = f"{measure.__name__.upper()}, {title} {years[0]}" + (f" to {years[-1]}" if len(years) > 1 else "")
            table.add_row(label, *(f"{value:.4f}" for value in values))
    table.add_section()
    table.add_row("evaluations", *(str(len(run.search.history)) for run in runs))
    table.add_row("evaluations/s", *(f"{len(run.search.history) / run.seconds:.1f}" for run in runs))
    table.add_row(
        "time in the model / (workers × wall)", *(f"{run.worked / run.seconds / workers:.0%}" for run in runs)
    )
    table.add_row("worker processes ever started", *[str(ever_started)] * len(runs))
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mainstay demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=100, help="how many batches (default: 100)")
    parser.add_argument("--workers", type=int, help="how many workers (default: one for each slot or core)")
    parser.add_argument("--launcher", default="auto", help="how they are started (default: auto)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("mainstay-demo"), help="folder of the pictures")
    given = parser.parse_args()
    for name in ("batches", "workers"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1; given: {value}")
    return given


def interrupted(searches: list[Search]) -> str:
    """Return the line that tells of a Ctrl-C: the best point of all searches so far, if one is known."""
    best = max(searches, key=lambda search: search.best_score, default=None)
    if best is None or not best.history:
        return "interrupted before the first score"
    point = ", ".join(f"{name} {value:.4g}" for name, value in zip(PARAMETERS, best.best, strict=True))
    return f"interrupted; best NSE so far {best.best_score:.4f}: {point}"


def draw(out: Path, runs: list[Run]) -> None:
    """Write both pictures; the discharge is that of the better run."""
    out.mkdir(parents=True, exist_ok=True)
    best = max((run.search for run in runs), key=lambda search: search.best_score)
    drawing.discharge(out / "hymod_discharge.png", catchment(), simulate(best.best), CALIBRATION, VALIDATION)
    drawing.convergence(out / "hymod_convergence.png", {run.name: np.array(run.search.history) for run in runs})


def main() -> None:
    given = arguments()
    began = time.perf_counter()
    searches: list[Search] = []
    try:
        catchment()  # what is missing is told here, not by a worker
        draw(given.out, calibrate(given, searches))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(interrupted(searches)) from None
    console.print(f"pictures in {given.out}/; {time.perf_counter() - began:.1f} s in all", highlight=False)


if __name__ == "__main__":
    main()
