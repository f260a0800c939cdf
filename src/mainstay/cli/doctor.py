"""`mainstay doctor`: is all here as a pool wants it, and if not, what to do?"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mainstay.doctor.check import Case

HELP = "look at Python, MPI, Slurm, the nodes and the file systems, and say what is wrong and what to do"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("script", nargs="?", help="the program that is to run")
    command.add_argument("--journal", metavar="FILE", help="the journal that it is to use")
    command.add_argument("--quick", action="store_true", help="start no process")
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")


def run(given: argparse.Namespace) -> int:
    """Print the checks; return 1 if something is bad."""
    if given.script is not None and not os.path.isfile(given.script):
        print(f"mainstay doctor: no file {given.script!r}; give the path of a Python script", file=sys.stderr)
        return 2
    from mainstay import world
    from mainstay.doctor.check import Case

    place = world.place()
    if place is not None and place.rank > 0:
        return 0  # rank 0 speaks, and says that there were several
    try:
        return _told(Case(os.environ, given.script, given.journal, given.quick), as_json=given.json)
    except KeyboardInterrupt:
        return 130


def _told(case: Case, *, as_json: bool) -> int:
    from mainstay.doctor import table
    from mainstay.doctor.check import State
    from mainstay.doctor.rounds import rounds

    checks = rounds(case)
    print(table.as_json(checks) if as_json else "\n".join(table.lines(checks, colour=_has_colours())))
    return int(any(check.state is State.BAD for check in checks))


def _has_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
