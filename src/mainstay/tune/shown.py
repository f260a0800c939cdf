"""Tables and progress in a terminal, by rich. What a user gives is `Text`: in a str, "[i,k,j]" would be markup."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from mainstay.tune.session import Course
from mainstay.tune.statistics import FEWEST
from mainstay.tune.table import Row, Table
from mainstay.tune.tuner import Progress

MOST = 30  # rows of one host
MOST_TOLD = 5  # failures that are told in full
STYLES = {"ok": "green", "unstable": "yellow", "slower": "dim"}


def tell(table: Table, console: Console, *, most: int = MOST) -> None:
    """Print a table, host by host, the failures, and the fastest variant of each kind of node."""
    for kind, host in dict.fromkeys((row.kind, row.host) for row in table):
        rows = table.of(host)
        noise = table.noisy.get(host)
        title = Text(f"{host}: {kind}", style="table.title")
        if noise is not None:
            title.append(f", noisy: the calibration kernel moved by {noise:.0%}", style="yellow")
        console.print(_grid(table, rows[:most], title))
        if len(rows) > most:
            console.print(f"  … and {len(rows) - most} more", style="dim")
    _tell_failures([row for row in table if row.message or row.command], console)
    for kind, best in table.best_by_kind.items():
        console.print(Text.assemble(f"fastest on {kind}: ", (str(best), "bold green")))


def _tell_failures(rows: list[Row], console: Console) -> None:
    for row in rows[:MOST_TOLD]:
        said = f"{row.command}\n{row.message}".strip().splitlines()
        console.print(Text(f"[{row.variant}] on {row.host}: {row.status}", style="red"))
        console.print(Text("\n".join(f"    {line}" for line in said)))
    if len(rows) > MOST_TOLD:
        console.print(f"… and {len(rows) - MOST_TOLD} more failures; --csv or --json has all", style="dim")


def _grid(table: Table, rows: list[Row], title: Text) -> Grid:
    grid = Grid(title=title, title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in sorted(row.variant)))
    for name in names:
        grid.add_column(Text(name))
    for heading in ("median (ms)", "95 % interval", "least", "ratio", "samples"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("")
    for row in rows:
        grid.add_row(*(Text(str(row.variant.get(name, ""))) for name in names), *_cells(table, row))
    return grid


def _cells(table: Table, row: Row) -> list[str | Text]:
    status = Text(row.status, style=STYLES.get(row.status, "red"))
    if row.is_baseline:
        status.append(" (baseline)")
    if row.interval is None:
        return ["", "", "", "", "", status]
    middle, low, high = (f"{seconds * 1e3:.4g}" for seconds in row.interval)
    ratio = table.ratio(row)
    return [
        middle, f"{low} – {high}" if len(row.visits) >= FEWEST else "", f"{min(row.seconds) * 1e3:.4g}",
        "" if ratio is None else f"{ratio:.3f}", str(len(row.seconds)), status,
    ]  # fmt: skip


class Shown:
    """Progress on a terminal: while it is entered, one block of lines that changes."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._began = time.monotonic()
        self._last: dict[str, str] = {}

    def __enter__(self) -> Shown:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        seconds = time.monotonic() - self._began
        head = f"{seconds:.0f} s: {progress.built} of {progress.builds} built, {progress.visits} visits"
        if progress.course is not None:
            self._last[progress.host] = _course(progress.course)
        lines = [f"  {host}: {what}" for host, what in sorted(self._last.items())]
        self._live.update(Group(Text(head, style="bold"), *map(Text, lines)))


def _course(course: Course) -> str:
    if not course.visits:
        return f"[{course.variant}] {course.failures[-1].status if course.failures else ''}"
    return f"[{course.variant}] round {len(course.visits)}: {course.interval.median * 1e3:.4g} ms"
