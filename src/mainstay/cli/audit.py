"""`mainstay audit job.py`: what does it cost the shared file system, and why?"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mainstay.audit.report import Report
    from mainstay.audit.runs import Order

HELP = "run a script, and count what it asks of the shared file system"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shared", action="append", default=[], metavar="PATH", help="what is shared, if not seen")
    command.add_argument("--by", choices=("auto", "strace", "hooks"), default="auto", help="how to count")
    command.add_argument("--no-use", action="store_true", help="do not look which modules are used")
    command.add_argument("--compare", action="store_true", help="each word that follows is a command, in quotes")
    command.add_argument("--picture", metavar="FILE", help="draw it, too; wants matplotlib")
    command.add_argument("--most", type=int, metavar="N", help="exit with 1 where there are more operations")
    command.add_argument("--json", action="store_true", help="for programs; what the script prints goes to stderr")
    command.add_argument("script", help="a Python file; with --compare a command")
    command.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments, or more commands")


def run(given: argparse.Namespace) -> int:
    """Run and tell; return the first exit code of a command that is not 0, 1 for too many operations, 2 for misuse."""
    from mainstay.audit.runs import AuditError, Order

    try:
        commands = commands_of(given)
        order = Order(given.shared, given.by, not given.no_use, given.json)
        reports = _audited(commands, order, given.picture)
    except (AuditError, ValueError, OSError, ImportError) as error:
        print(f"mainstay audit: {error}", file=sys.stderr)
        return 2
    _tell(reports, as_json=given.json, compare=given.compare)
    failed = next((report.code for report in reports if report.code), 0)
    return failed or int(given.most is not None and any(report.sums.total > given.most for report in reports))


def commands_of(given: argparse.Namespace) -> list[list[str]]:
    """Return the commands that are to be run. Raises `ValueError`."""
    words = [given.script, *given.arguments]
    if given.compare and len(words) < 2:
        raise ValueError('--compare wants two commands or more, in quotes: --compare "job.py" "mpiexec -n 4 job.py"')
    if not given.compare and not os.path.isfile(given.script):
        raise ValueError(f"no file {given.script!r}; give the path of a Python script, or commands after --compare")
    return [_command(shlex.split(word)) for word in words] if given.compare else [[sys.executable, *words]]


def _command(words: list[str]) -> list[str]:
    """Return a command; a script alone is for this Python."""
    if not words:
        raise ValueError("an empty command; give one as it is typed, in quotes")
    return [sys.executable, *words] if words[0].endswith(".py") else words


def _audited(commands: Sequence[list[str]], order: Order, picture: str | None) -> list[Report]:
    from mainstay.audit.runs import audit

    if picture is not None:
        import matplotlib  # noqa: F401  before all the work
    reports = [audit(command, order) for command in commands]
    if picture is not None:
        from mainstay.audit.picture import draw

        draw(reports, picture)
    return reports


def _tell(reports: Sequence[Report], *, as_json: bool, compare: bool) -> None:
    import json

    from mainstay.audit import table

    if as_json:
        found = [report.as_json() for report in reports]
        print(json.dumps(found if compare else found[0], indent=2))
    else:
        print("\n".join(table.compared(reports) if compare else table.lines(reports[0])))
