"""`mainstay tune FILE.py` measures the variants that a file tells of; `mainstay tune report FILE.db` shows them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mainstay.tune.table import Table

HELP = "measure the variants of a program that a Python file tells of, or report what a journal has of them"
EPILOG = """\
FILE.py names what `mainstay.tune.Tuner` takes:
  run = …                          and, as wanted, build, check, setup, ship, baseline
  variants = [Variant(tile=8), …]  to measure all of them; or
  space = {"tile": (8, 16, 32)}    to search, with strategy = "random" or "tpe", budget = 50, constraint = …
  options = {"rounds": (8, 30)}    what else is said to the Tuner
It is started again with the same command when it was killed: what was built and measured is in the journal.
The exit code is 0; 1 where no variant was measured without failure; 2 for a bad command line or file; 130 after
Ctrl-C."""
NAMES = ("run", "build", "check", "setup", "ship", "baseline")
NEEDED = ("rich",)
PRELOAD = ["mainstay.tune.visiting"]  # what each worker would import before its first build
INTERRUPTED = 130  # the exit code after Ctrl-C, as of a shell: 128 + SIGINT
WIDTH = 120  # characters of a line, where there is no terminal


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    command.usage = "mainstay tune FILE.py [options]\n       mainstay tune report FILE.db [options]"
    command.add_argument("words", nargs="+", metavar="FILE", help="a Python file; or `report` and a journal")
    command.add_argument("--journal", metavar="FILE", help="where results are kept (FILE.db beside FILE.py)")
    command.add_argument("--launcher", default="auto", help="as `Executor` takes it")
    command.add_argument("--workers", type=int, metavar="N", help="workers of the pool (one for each slot or core)")
    command.add_argument("--nodes", type=int, metavar="N", help="how many nodes must take part")
    command.add_argument("--csv", metavar="FILE", help="write a line for each variant and host")
    command.add_argument("--plot", metavar="FILE", help="draw the samples, and the best so far; wants matplotlib")
    command.add_argument("--json", action="store_true", help="for programs")


def run(given: argparse.Namespace) -> int:
    """Measure, or report; return the exit code."""
    from mainstay.errors import MainstayError

    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"mainstay tune needs {', '.join(missing)}: pip install 'mainstay[tune]'", file=sys.stderr)
        return 2
    journal = given.journal or str(Path(given.words[0]).with_suffix(".db"))
    try:
        check_files(given)
        table = report(given.words[1:]) if given.words[0] == "report" else measure(given, journal)
        tell(table, given)
    except KeyboardInterrupt:
        if given.words[0] != "report":
            told = f"what was measured is in {journal}: `mainstay tune report {journal}` shows it"
            print(f"mainstay tune: interrupted; {told}, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except (MainstayError, OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        print(f"mainstay tune: {error}", file=sys.stderr)
        return 2
    return 0 if table.best_by_kind else 1


def report(words: Sequence[str]) -> Table:
    """Return what the latest sweep or search measured, by a journal. Raises `ValueError` where it has none."""
    from mainstay.tune.report import tables

    if len(words) != 1:
        raise ValueError(f"report wants one journal, as in `mainstay tune report gemm.db`; given: {' '.join(words)!r}")
    found = tables(words[0])
    if not found:
        raise ValueError(f"{words[0]} has no measurements; make some with Executor(journal={words[0]!r}) and a Tuner")
    return found[-1]


def check_files(given: argparse.Namespace) -> None:
    """Raise `ValueError` or `ImportError` for files that could not be written when all is measured."""
    for option, path in (("--csv", given.csv), ("--plot", given.plot)):
        if path and Path(path).is_dir():
            raise ValueError(f"{option} {path}: that is a directory; name a file in it")
        if path and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"{option} {path}: there is no directory {Path(path).parent}; make it, or name another")
    if given.plot and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot wants matplotlib: pip install 'mainstay[tune]'")


def measure(given: argparse.Namespace, journal: str) -> Table:
    """Measure what the file tells of. Raises what a `Tuner` does, and `ValueError` for what the file lacks."""
    from rich.console import Console

    from mainstay.executor import Executor
    from mainstay.tune.shown import Shown
    from mainstay.tune.tuner import Tuner

    told = told_by(given.words)
    console = Console(stderr=True)
    parts = {name: told[name] for name in NAMES if name in told} | dict(told.get("options", {}))
    how: dict[str, Any] = {"journal": journal, "journal_sync": "each", "preload": PRELOAD}
    if given.nodes is not None:
        parts["nodes"] = given.nodes
    with Executor(given.workers, launcher=given.launcher, **how) as executor, Shown(console) as shown:
        tuner = Tuner(executor, **parts, log=console.out, progress=shown)
        if "variants" in told:
            return tuner.measure(told["variants"])
        words = {name: told[name] for name in ("strategy", "budget", "constraint") if name in told}
        return tuner.search(told["space"], **words)


def told_by(words: Sequence[str]) -> dict[str, Any]:
    """Return the names of a file that tells of variants. Raises `ValueError`."""
    if len(words) != 1 or not os.path.isfile(words[0]):
        raise ValueError(f"{' '.join(words)!r} is no Python file, nor `report` and a journal")
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    try:
        told = runpy.run_path(words[0], run_name="__tune__")
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_place_of(error, words[0])}: {type(error).__name__}: {error}") from error
    if "run" not in told or ("variants" in told) == ("space" in told):
        raise ValueError(
            f"{words[0]} is to say what `run` is, and either `variants` or `space`; see `mainstay tune --help`"
        )
    if not isinstance(told.get("options", {}), dict):
        raise TypeError(
            f'options is a dict of what a Tuner takes, as {{"rounds": (8, 30)}}; given: {told["options"]!r}'
        )
    return told


def _place_of(error: BaseException, file: str) -> str:
    """Return the line of a file that an exception came from."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def tell(table: Table, given: argparse.Namespace) -> None:
    """Write what was asked for, and print the table: also where it has nothing to draw, since it says why."""
    try:
        write(table, given)
    finally:
        show(table, given)


def write(table: Table, given: argparse.Namespace) -> None:
    if given.csv:
        table.to_csv(given.csv)
    if given.plot:
        table.plot(given.plot)


def show(table: Table, given: argparse.Namespace) -> None:
    if given.json:
        finite = [{name: None if is_nan(value) else value for name, value in row.items()} for row in table.as_dicts()]
        print(json.dumps(finite, indent=2))
    else:
        from rich.console import Console

        from mainstay.tune import shown

        shown.tell(table, Console(width=None if sys.stdout.isatty() else WIDTH))


def is_nan(value: object) -> bool:
    """Whether it is a number that JSON has no word for."""
    return isinstance(value, float) and not isfinite(value)
