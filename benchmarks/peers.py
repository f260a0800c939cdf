"""Mainstay and its peers, in one go on the same work, 2 workers each.

    make bench        or        python benchmarks/peers.py --rounds 3 --only mainstay_local,loky

Each round runs every contestant once, each in a process of its own, so that a noisy minute hits all alike; every
other round goes backwards. The table gives medians and, in brackets, the least and the most; what a figure means is
told in `contest.py`.
"""

from __future__ import annotations

import argparse
import functools
import tempfile

import arena
import reports
import rounds
import summary
from contestants import RANKS


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = rounds.parser(__doc__, RANKS)
    parser.add_argument("--batches", type=int, help="of 50 tasks of 10 ms (default: 20, or 2 when quick)")
    given = rounds.read(parser, RANKS)
    given.batches = given.batches or (2 if given.quick else 20)
    given.patience, given.idle = (0.4, 1.0) if given.quick else (2.0, 5.0)
    return given


def main() -> None:
    """Run the contest; print and write what came of it."""
    effort = arguments()
    arena.adopt_daemons()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        contest = rounds.hold(effort.names, effort.rounds, functools.partial(arena.run, effort=effort, folder=folder))
    parts = [
        summary.head(effort.rounds, reports.PACKAGES),
        summary.table(contest.results, reports.FIGURES, "2 workers"),
        rounds.told(contest.troubles, effort.rounds),
        reports.ratios(contest.results),
    ]
    rounds.leave(contest, effort.out, "peers", parts, reports.PACKAGES)
    if any(contest.results.values()):
        reports.draw(contest.results, effort.out / "peers.png")


if __name__ == "__main__":
    main()
