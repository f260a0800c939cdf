"""The journal and its peers, in one go on the same work: calls that do nothing, each with an argument of its own.

    make bench-journal      or      python benchmarks/journal.py --rounds 3 --only mainstay_journal,joblib_memory

Each round lets every keeper of results do its calls, do them again in a new process, and do both once more on a mount
whose metadata operations take 0.5 ms each (`tests/slowmount.py` tells which are counted); every other round goes
backwards. The peers do as many calls as `--patience` lasts; what is told of 10,000 or 100,000 calls is then scaled from
those (marked with a ~). The table gives medians and, in brackets, the least and the most:

new calls       per second, all results there; the workers stand, and the keeper is open
again           seconds until all of 100,000 finished calls are delivered, opening included, imports not
operations      for metadata in 10,000 calls, opening and closing included, `chown` not; again, when all are there
on the mount    new calls per second there
bytes           in files per result (their sizes; what they take on disk is more)
files           after how many calls
arrays          MB/s of results of 8 MB that are kept, closing included, and restored
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import arena
import rounds
import summary
from keepers import KEEPS_NOTHING, MODULES
from rounds import Round
from summary import Aim, Results, median, spoken

sys.path.append(str(arena.HERE.parent / "tests"))
import slowmount

FIGURES = {
    "rate": "new calls (1/s)",
    "again": "100,000 again (s)",
    "operations": "operations, 10,000 calls",
    "operations_again": "operations, again",
    "slow_rate": "on the mount (1/s)",
    "bytes": "bytes a result",
    "files": "files",
    "calls": "… after calls",
    "kept_array": "arrays kept (MB/s)",
    "found_array": "arrays restored (MB/s)",
}
PACKAGES = ["mainstay", "joblib", "executorlib", "h5py", "diskcache", "numpy"]
DELAY = 0.0005  # seconds for a metadata operation
SLOW_CALLS, FINISHED = 10_000, 100_000
ARRAYS, ARRAY = 10, 8 << 20  # how many, bytes of each
Figure = tuple[str, float]


class Failed(Exception):
    """A keeper did not do its calls."""


def run(name: str, what: str, folder: Path, most: float, *given: object, spared: int = 0) -> dict[str, float]:
    """Let a keeper do its work in a process of its own; return what it printed."""
    command = [sys.executable, arena.HERE / "keepers.py", name, what, folder, "--most", int(most), *given]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as around:
        outcome = arena.outcome(command, around, [spared])
    if outcome.trouble:
        raise Failed(f"{what} {' '.join(map(str, given))}: {outcome.trouble}")
    return outcome.figures


def figures(name: str, effort: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    """Yield what one keeper reaches in one round."""
    done = run(name, "kept", folder / "calls", effort.calls, *patience(name, effort.patience))
    yield "rate", done["count"] / done["seconds"]
    if name not in KEEPS_NOTHING:
        yield from left_behind(folder / "calls", done["kept"])
        yield from again(name, folder / "again", effort)
        yield from arrays(name, folder / "arrays")
    if not slowmount.why_not():
        yield from on_the_mount(name, folder / "slow", effort)


def patience(name: str, seconds: float) -> tuple[object, ...]:
    """Return what keeps a slow keeper from doing all calls; the pool's own is not to be scaled."""
    return () if name.startswith("mainstay") else ("--patience", seconds)


def left_behind(folder: Path, calls: float) -> Iterator[Figure]:
    """Yield what the files of so many calls come to."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    yield "bytes", sum(path.stat().st_size for path in files) / calls
    yield "files", len(files)
    yield "calls", calls


def again(name: str, folder: Path, effort: argparse.Namespace) -> Iterator[Figure]:
    """Yield how long finished calls take in a new process."""
    done = run(name, "kept", folder, effort.finished, *patience(name, 4 * effort.patience))
    found = run(name, "kept", folder, done["count"], "--again")
    yield "again", found["seconds"] * FINISHED / found["count"]
    yield "again_scaled", found["count"] != FINISHED


def on_the_mount(name: str, folder: Path, effort: argparse.Namespace) -> Iterator[Figure]:
    """Yield what it asks for metadata, and how fast it is then."""
    with slowmount.SlowMount(folder, DELAY) as mount:
        given = patience(name, effort.patience)
        done = run(name, "kept", mount.path, effort.slow_calls, *given, spared=mount.pid)
        yield "slow_rate", done["count"] / done["seconds"]
        first = mount.counts()
        yield from operations("operations", first, done["kept"])
        if name not in KEEPS_NOTHING:
            run(name, "kept", mount.path, done["count"], "--again", spared=mount.pid)
            yield from operations("operations_again", mount.counts() - first, done["count"])


def operations(figure: str, counts: Counter[str], calls: float) -> Iterator[Figure]:
    """Yield how many operations 10,000 calls take, and what was counted.

    That SQLite gives its journal the owner of the database, when root runs it, is not part of the sum.
    """
    scaled = calls < SLOW_CALLS
    yield figure, (counts.total() - counts["chown"]) * (SLOW_CALLS / calls if scaled else 1)
    yield f"{figure}_scaled", scaled
    for operation, count in counts.items():
        yield f"{figure}: {operation}", count


def arrays(name: str, folder: Path) -> Iterator[Figure]:
    """Yield how fast arrays are kept and restored."""
    done = run(name, "kept_array", folder, ARRAYS)
    found = run(name, "kept_array", folder, done["count"], "--again")
    yield "kept_array", done["count"] * ARRAY / 1e6 / (done["seconds"] + done["closing"])
    yield "found_array", done["count"] * ARRAY / 1e6 / found["seconds"]


def one_round(name: str, effort: argparse.Namespace) -> Round:
    """Return what one keeper reaches in one round; what there is before a failure stays."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as folder:
        for part in ("calls", "again", "arrays"):
            (Path(folder) / part).mkdir()
        try:
            found.update(figures(name, effort, Path(folder)))
        except Failed as failure:
            return Round(found, str(failure))
    return Round(found)


def aims(results: Results) -> Iterator[Aim]:
    """Yield what the journal is to reach; what was not measured is not a number."""
    for name, without in (("mainstay_journal", "mainstay_without"), ("mainstay_journal_map", "mainstay_without_map")):
        said = spoken(name)
        share = 100 * quotient(results, "rate", name, without)
        yield Aim(f"{said}, {FIGURES['rate']}, against the same without", share, " %", 50)
        for figure in ("rate", "slow_rate"):
            for peer in (peer for peer in results if "mainstay" not in peer):
                least = 10 if peer.startswith(("pickle", "joblib")) else 1
                what = f"{said}, {FIGURES[figure]}, against {spoken(peer)}"
                yield Aim(what, quotient(results, figure, name, peer), " ×", least)
        yield Aim(f"{said}, {FIGURES['again']}", median(results, name, "again"), "", 5, most=True)
        for figure in ("operations", "operations_again"):
            yield Aim(f"{said}, {FIGURES[figure]}", median(results, name, figure), "", 20, most=True)
        yield Aim(f"{said}, {FIGURES['bytes']}", median(results, name, "bytes"), "", 300, most=True)


def quotient(results: Results, figure: str, one: str, other: str) -> float:
    """Return how many times one keeper's figure is another's."""
    return median(results, one, figure) / median(results, other, figure)


def counted(results: Results) -> Iterator[str]:
    """Yield a line on what each keeper's operations were, in the last round."""
    last = {name: found[-1] for name, found in results.items() if found}
    for name, figures in last.items():
        for figure in ("operations", "operations_again"):
            start = f"{figure}: "
            of = {key.removeprefix(start): count for key, count in figures.items() if key.startswith(start)}
            if of:
                said = ", ".join(f"{count:,} {operation}" for operation, count in sorted(of.items()))
                yield f"- {spoken(name)}, {FIGURES[figure]}: {said}"


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = rounds.parser(__doc__, MODULES)
    parser.add_argument("--patience", type=float, help="seconds for new calls (default: 3, or 0.3 when quick)")
    parser.add_argument("--folder", help="where files are kept while it runs (default: that for temporary files)")
    given = rounds.read(parser, MODULES)
    given.patience = given.patience or (0.3 if given.quick else 3.0)
    counts = (2000, 1000, 5000) if given.quick else (50_000, SLOW_CALLS, FINISHED)
    given.calls, given.slow_calls, given.finished = counts
    return given


def main() -> None:
    """Run the contest; print and write what came of it."""
    effort = arguments()
    arena.adopt_daemons()
    contest = rounds.hold(effort.names, effort.rounds, functools.partial(one_round, effort=effort))
    parts = [
        summary.head(effort.rounds, PACKAGES),
        f"No mount: {slowmount.why_not()}" if slowmount.why_not() else "",
        summary.table(contest.results, FIGURES, "2 workers"),
        rounds.told(contest.troubles, effort.rounds),
        summary.told(aims(contest.results)),
        "\n".join(counted(contest.results)),
    ]
    rounds.leave(contest, effort.out, "journal", parts, PACKAGES)


if __name__ == "__main__":
    main()
