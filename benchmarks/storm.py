"""What ways of running batches ask of the shared file system: metadata operations on a mount that counts them.

    make bench-storm      or      python benchmarks/storm.py --workers 4 --parts ways --only persistent,mainstay_preload

The interpreter that runs this, with its standard library and all that is installed for it, is laid behind the mount as
one tree, and each way (`ways.py`) runs from there, its client included. The kernel keeps no names and no attributes
(`--cache NONE`), so that counts are the same each time, but for what hangs on which worker is first;
`tests/slowmount.py` tells what is counted.

at start      operations until all workers have run a task that needs NumPy, SciPy, pandas and xarray (one batch)
not program   of these, what others asked for than the process whose program uses the pool, which has imported all that
              as well: workers, agents, launchers
per batch     of the batches after that, the mean and the most; 0 is what workers that stay can reach
peak          the most operations within a second, but for the program's; it depends on the machine, since the mount
              serves no faster
ready         seconds until then, from when the program has imported what it needs; with `--delay`, each operation takes
              so much longer
processes     that asked for anything

Not told here: `spawn_per_batch` starts its workers in each batch; `copied` runs `cp -r` to the local disk first.
`--parts starts,whole,slow,hosts` is what Mainstay is to reach (`storm_aims.py`); `hosts` wants root and Slurm.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import arena
import mounted
import reports
import storm_aims
import summary
import ways
from mounted import Failed, Run
from slowmount import Cache, SlowMount, why_not
from storm_aims import Figure

WAYS = [*ways.WAYS, *ways.OURS]
PARTS = ("ways", "starts", "whole", "slow", "hosts")
PACKAGES = ["mainstay", "numpy", "scipy", "pandas", "xarray", "mpi4py", "mpich", "executorlib", "dask", "parsl"]
Figures = dict[str, float]


def figures(name: str, mount: SlowMount, effort: argparse.Namespace) -> Figures:
    """Return what one way costs. Raises `Failed`."""
    with mounted.running(name, mount, storm_aims.WHOLE, effort.workers, effort.size, effort.folder) as run:
        totals = [run.count().all, *batches(run, effort.batches)]
        each = [after - before for before, after in pairwise(totals)]
        start = run.start
        return {
            "start": start.before.all + start.pool.all,
            "others": start.before.others + start.pool.others,
            "batch": sum(each) / len(each),
            "most": max(each),
            "peak": start.peak,
            "seconds": start.seconds,
            "processes": len({row.pid for row in mount.operations()}),
        }


def batches(run: Run, count: int) -> Iterator[int]:
    """Run batches; yield what was asked for until the end of each."""
    for _ in range(count):
        run.led.ask("batch")
        yield run.count().all


class Findings:
    """What was measured, and why other things were not."""

    def __init__(self) -> None:
        self.ways: dict[str, Figures] = {}
        self.aims: list[Figure] = []
        self.troubles: dict[str, str] = {}

    def fail(self, what: str, failure: Failed) -> None:
        self.troubles[what] = str(failure)
        print(f"    {failure}", file=sys.stderr, flush=True)

    def take(self, what: str, aims: Iterator[Figure]) -> None:
        """Take figures as they come; the first that fails ends them."""
        print(what, file=sys.stderr, flush=True)
        try:
            for figure in aims:
                self.aims.append(figure)
                print(f"    {figure.row}", file=sys.stderr, flush=True)
        except Failed as failure:
            self.fail(what, failure)


def measure(effort: argparse.Namespace) -> Findings:
    """Lay what is needed, and measure."""
    found = Findings()
    with tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        lay(folder, effort.parts)
        with SlowMount(folder, effort.delay, cache=Cache[effort.cache]) as mount:
            for name in effort.names if "ways" in effort.parts else ():
                print(name, file=sys.stderr, flush=True)
                try:
                    found.ways[name] = figures(name, mount, effort)
                    print(f"    {found.ways[name]}", file=sys.stderr, flush=True)
                except Failed as failure:
                    found.fail(name, failure)
            aims = storm_aims.Aims(mount, effort.folder)
            for part in [part for part in effort.parts if part in ("starts", "whole", "slow")]:
                found.take(part, getattr(aims, part)())
        if "hosts" in effort.parts:
            found.take("hosts", storm_aims.passed_on(folder / "behind" / storm_aims.FEW))
    return found


def lay(folder: Path, parts: list[str]) -> None:
    """Lay and pack the environments that these parts need."""
    wanted: dict[str, int | None] = {storm_aims.WHOLE: None} if {"ways", "whole", "slow"} & {*parts} else {}
    if {"starts", "hosts"} & {*parts}:
        wanted |= storm_aims.SMALL
    for name, packages in wanted.items():
        print(f"environment: {name}", file=sys.stderr, flush=True)
        mounted.put(folder / "behind", folder / "mount", name, packages)
        mounted.pack(folder, name)


COLUMNS = {
    "start": "at start",
    "others": "… not program",
    "batch": "per batch",
    "most": "… the most",
    "peak": "peak (1/s)",
    "seconds": "ready (s)",
    "processes": "processes",
}


def table(found: dict[str, Figures], workers: int) -> str:
    """Return a Markdown table."""
    lines = [f"| {workers} workers | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, of in found.items():
        cells = (summary.short(of[column]) if column == "seconds" else f"{of[column]:,.0f}" for column in COLUMNS)
        lines.append(f"| {summary.spoken(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Figures], path: Path) -> None:
    """Draw operations at start and per batch as bars."""
    plt = reports.plt
    names = [summary.spoken(name) for name in found]
    pictured = ("others", "batch", "peak")
    picture, axes = plt.subplots(1, 3, figsize=(14, 0.4 * len(names) + 1.5), sharey=True, layout="constrained")
    titles = ("metadata operations at start, but for the program's", "… per batch", "… peak per second at start")
    colors = ["#d9822b" if "mainstay" in name else "#1f5fa8" for name in names]
    for axis, figure, title in zip(axes, pictured, titles, strict=True):
        bars = axis.barh(names, [of[figure] for of in found.values()], color=colors)
        axis.bar_label(bars, [f" {of[figure]:,.0f}" for of in found.values()], fontsize=8)
        axis.set_xscale("symlog")  # 0 is among them
        axis.set_xlim(0, 30 * max(1, *(of[figure] for of in found.values())))  # room for the numbers
        axis.set_title(f"{title}  ← better", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    picture.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, with commas between")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batches", type=int, default=5, help="after the first")
    parser.add_argument("--size", type=int, help="tasks of a batch (default: 10 a worker)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each operation takes longer")
    parser.add_argument("--cache", choices=[cache.name for cache in Cache], default="NONE")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, with commas between them")
    parser.add_argument("--folder", help="a local directory with 4 GB (default: that for temporary files)")
    parser.add_argument("--out", type=Path, default=arena.HERE / "results")
    given = parser.parse_args()
    given.names, given.parts = given.only.split(","), given.parts.split(",")
    given.size = given.size or 10 * given.workers
    for what, names, known in (("way", given.names, WAYS), ("part", given.parts, PARTS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            parser.error(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    if why_not():
        parser.error(f"no mount: {why_not()}")
    return given


def late(*_: object) -> None:
    raise TimeoutError


def report(effort: argparse.Namespace, found: Findings) -> str:
    """Return all that was found, in Markdown."""
    versions = ", ".join(f"{package} {version}" for package, version in summary.versions(PACKAGES).items())
    head = f"{summary.machine()}; {effort.batches} batches of {effort.size} tasks, cache {effort.cache}\n\n{versions}"
    trouble = "\n".join(f"- {summary.spoken(name)}: {said}" for name, said in found.troubles.items())
    ways = table(found.ways, effort.workers) if found.ways else ""
    aims = storm_aims.table(found.aims) if found.aims else ""
    return "\n\n".join(filter(None, [head, ways, aims, trouble])) + "\n"


def main() -> None:
    """Measure; print and write what came of it."""
    effort = arguments()
    arena.adopt_daemons()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`, which ends processes
    signal.signal(signal.SIGALRM, late)
    found = measure(effort)
    text = report(effort, found)
    print(text)
    effort.out.mkdir(parents=True, exist_ok=True)
    (effort.out / "storm.md").write_text(text)
    facts = {"machine": summary.machine(), "workers": effort.workers, "batches": effort.batches, "cache": effort.cache}
    figures = {"ways": found.ways, "aims": [figure._asdict() for figure in found.aims], "troubles": found.troubles}
    (effort.out / "storm.json").write_text(json.dumps(facts | figures, indent=1))
    if found.ways:
        draw(found.ways, effort.out / "storm.png")


if __name__ == "__main__":
    main()
