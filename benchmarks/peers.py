"""Mainstay and its peers, in one go on the same work, 2 workers each.

    make bench        or        python benchmarks/peers.py --rounds 3 --only mainstay_local,loky

Each round runs every contestant once, each in a process of its own, so that a noisy minute hits all alike; every
other round goes backwards. The table gives medians and, in brackets, the least and the most; what a figure means is
told in `contest.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import arena
import reports
from contestants import RANKS

Troubles = dict[str, dict[str, int]]  # contestant: what went wrong: in how many rounds


def contest(names: list[str], effort: argparse.Namespace) -> tuple[reports.Results, Troubles]:
    """Run all rounds; return the figures and the troubles of each contestant."""
    results: reports.Results = {name: [] for name in names}
    troubles: Troubles = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in range(effort.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                outcome = announced(name, number, effort, folder)
                if outcome.figures:
                    results[name].append(outcome.figures)
                if outcome.trouble:
                    counts = troubles.setdefault(name, {})
                    counts[outcome.trouble] = counts.get(outcome.trouble, 0) + 1
    return results, troubles


def announced(name: str, number: int, effort: argparse.Namespace, folder: str) -> arena.Round:
    """Run one contestant, with a line of progress."""
    print(f"round {number + 1} of {effort.rounds}: {name}", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    outcome = arena.run(name, effort, folder)
    print(f" ({time.monotonic() - began:.0f} s) {outcome.trouble}", file=sys.stderr, flush=True)
    return outcome


def report(results: reports.Results, troubles: Troubles, effort: argparse.Namespace) -> str:
    """Return all that is to be read, as Markdown."""
    found = ", ".join(f"{package} {version}" for package, version in reports.versions().items())
    head = f"{reports.machine()}; medians of {effort.rounds} rounds (least–most)\n\n{found}"
    lines = [
        f"- {reports.spoken(name)}: {trouble} ({count} of {effort.rounds} rounds)"
        for name, counts in troubles.items()
        for trouble, count in counts.items()
    ]
    parts = [head, reports.table(results), "\n".join(lines), reports.ratios(results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def write(out: Path, text: str, raw: dict[str, object], results: reports.Results) -> None:
    """Leave the report, the raw numbers and the picture in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.md").write_text(text)
    (out / "peers.json").write_text(json.dumps(raw, indent=1))
    if any(results.values()):
        reports.draw(results, out / "peers.png")


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 when quick")
    parser.add_argument("--batches", type=int, help="of 50 tasks of 10 ms (default: 20, or 2 when quick)")
    parser.add_argument("--quick", action="store_true", help="few calls, to see whether all run; not to be quoted")
    parser.add_argument("--only", default=",".join(RANKS), help="contestants, with commas between them")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.names = given.only.split(",")
    unknown = [name for name in given.names if name not in RANKS]
    if unknown:
        parser.error(f"unknown contestant {unknown[0]!r}; known: {', '.join(RANKS)}")
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.batches = given.batches or (2 if given.quick else 20)
    given.patience, given.idle = (0.4, 1.0) if given.quick else (2.0, 5.0)
    return given


def main() -> None:
    """Run the contest; print and write what came of it."""
    effort = arguments()
    arena.adopt_daemons()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`, which ends processes
    load = [os.getloadavg()[0]]
    results, troubles = contest(effort.names, effort)
    load.append(os.getloadavg()[0])
    text = report(results, troubles, effort)
    print(text)
    facts = {"machine": reports.machine(), "versions": reports.versions(), "load_before_and_after": load}
    write(effort.out, text, {**facts, "results": results, "troubles": troubles}, results)


if __name__ == "__main__":
    main()
