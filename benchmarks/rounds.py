"""Rounds in which every contestant runs once, the command line of a contest, and what it leaves behind."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import mainstay
import summary

Troubles = dict[str, Counter[str]]  # contestant: what went wrong, and in how many rounds


class Round(NamedTuple):
    """What came of a contestant in one round: figures, or trouble, or both."""

    figures: dict[str, float]
    trouble: str = ""


class Contest(NamedTuple):
    """What came of all rounds, and the load of the machine before and after."""

    results: summary.Results
    troubles: Troubles
    load: list[float]


def parser(doc: str | None, names: Collection[str]) -> argparse.ArgumentParser:
    """Return what reads the options that every contest has."""
    common = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    common.add_argument("--rounds", type=int, help="default: 3, or 1 when quick")
    common.add_argument("--quick", action="store_true", help="few calls, to see whether all run; not to be quoted")
    common.add_argument("--only", default=",".join(names), help="contestants, with commas between them")
    common.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return common


def read(options: argparse.ArgumentParser, known: Collection[str]) -> argparse.Namespace:
    """Return what the command line says; `names` are those that take part."""
    given = options.parse_args()
    given.names = given.only.split(",")
    unknown = [name for name in given.names if name not in known]
    if unknown:
        options.error(f"unknown contestant {unknown[0]!r}; known: {', '.join(known)}")
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def hold(names: list[str], count: int, run: Callable[[str], Round]) -> Contest:
    """Run all rounds; every other one goes backwards, so that a noisy minute hits all alike."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`, which ends processes
    compile_own()
    contest = Contest({name: [] for name in names}, {}, [os.getloadavg()[0]])
    for number in range(count):
        for name in names[:: -1 if number % 2 else 1]:
            print(f"round {number + 1} of {count}: {name}", end="", file=sys.stderr, flush=True)
            began = time.monotonic()
            outcome = run(name)
            print(f" ({time.monotonic() - began:.0f} s) {outcome.trouble}", file=sys.stderr, flush=True)
            note(contest, name, outcome)
    contest.load.append(os.getloadavg()[0])
    return contest


def compile_own() -> None:
    """Leave bytecode, as pip does of what it installs (so of the peers); else each start might compile anew."""
    for folder in (*mainstay.__path__, Path(__file__).parent):
        compileall.compile_dir(folder, quiet=1)


def note(contest: Contest, name: str, outcome: Round) -> None:
    """Put down what came of a contestant in one round."""
    if outcome.figures:
        contest.results[name].append(outcome.figures)
    if outcome.trouble:
        contest.troubles.setdefault(name, Counter())[outcome.trouble] += 1


def told(troubles: Troubles, rounds: int) -> str:
    """Return a list of what went wrong."""
    return "\n".join(
        f"- {summary.spoken(name)}: {trouble} ({count} of {rounds} rounds)"
        for name, counts in troubles.items()
        for trouble, count in counts.items()
    )


def leave(contest: Contest, out: Path, name: str, parts: Sequence[str], packages: Sequence[str]) -> None:
    """Print the report; write it and the raw numbers into a folder."""
    text = "\n\n".join(filter(None, parts)) + "\n"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "machine": summary.machine(),
        "versions": summary.versions(packages),
        "load_before_and_after": contest.load,
        "results": contest.results,
        "troubles": contest.troubles,
    }
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1))
