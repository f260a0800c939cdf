"""Runs a program to its end, counts, and adds up."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mainstay.audit import counters, hook, hooked, strace
from mainstay.audit.counters import Counts
from mainstay.audit.events import Event, Seen, Told
from mainstay.audit.leaks import Facts, leaks
from mainstay.audit.packages import unused
from mainstay.audit.replay import Replay, play
from mainstay.audit.report import Report, sums
from mainstay.audit.shared import NOT_FILES, is_below, places, resolver, shared

BY_STRACE = (
    "strace: system calls on this host that go by a name or ask for attributes; not reading, writing and closing. "
    "A client that keeps no names asks for each directory on the way as well"
)


class AuditError(Exception):
    """The program cannot be audited so; says why and what to do."""


class Order(NamedTuple):
    """How to count. by: "auto", "strace" or "hooks". use: whether to look which modules are used."""

    shared: Sequence[str] = ()
    by: str = "auto"
    use: bool = True
    quiet: bool = False  # what the program prints goes to stderr


class Ran(NamedTuple):
    """What came of a run."""

    code: int
    seconds: float
    how: str
    events: list[Event]
    told: Told
    counters: Counts


def audit(command: Sequence[str], order: Order) -> Report:
    """Run a command and return what it cost. Raises `AuditError` and, where there is no such program, `OSError`."""
    with tempfile.TemporaryDirectory(prefix="mainstay-audit-") as place:
        why_not = "asked for" if order.by == "hooks" else strace.why_not(place)
        if order.by == "strace" and why_not:
            raise AuditError(f"{why_not}; install it, or give --by hooks")
        ran = _run(command, order, Path(place), why_not)
        return _report(command, order, ran, place)


def _run(command: Sequence[str], order: Order, place: Path, why_not: str) -> Ran:
    program = shutil.which(command[0])
    if program is None:
        raise AuditError(f"no program {command[0]!r}; give a command as it is typed, with its program on PATH")
    (place / "site").mkdir()
    shutil.copy(hook.__file__, place / "site" / "sitecustomize.py")
    argv = list(command) if why_not else strace.argv(command, str(place / "trace"))
    before, began = counters.snapshot(), time.monotonic()
    code = _wait(argv, _environment(order, place, bool(why_not)), order.quiet)
    seconds = time.monotonic() - began
    rows = hooked.rows(_lines(place / "log"))
    events = hooked.events(rows) if why_not else _traced(place)
    how = f"hooks in Python ({why_not}): {hooked.LEAST}" if why_not else BY_STRACE
    counted = counters.since(before, counters.snapshot())
    return Ran(code, seconds, how, list(events), hooked.told(rows), counted)


def _environment(order: Order, place: Path, counts: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(place / "site"), os.environ.get("PYTHONPATH")]))
    given = {"MAINSTAY_AUDIT": str(place), "PYTHONPATH": path}
    given |= {"MAINSTAY_AUDIT_USE": "1"} if order.use else {}
    given |= {"MAINSTAY_AUDIT_COUNTS": "1"} if counts else {}
    return os.environ | given


def _wait(argv: list[str], environ: dict[str, str], quiet: bool) -> int:
    """Run to the end, which Ctrl-C hastens: it reaches the program as well. Return its exit code as a shell does."""
    with subprocess.Popen(argv, env=environ, stdout=sys.stderr if quiet else None) as process:  # noqa: S603
        while True:
            try:
                code = process.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                continue


def _traced(place: Path) -> Iterator[Event]:
    for path in glob.glob(f"{place}/trace.*"):
        yield from strace.events(int(path.rpartition(".")[2]), _lines(Path(path)))


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: str | Path) -> str:
    return Path(path).read_text(errors="replace") if os.path.isfile(path) else ""


def _report(command: Sequence[str], order: Order, ran: Ran, place: str) -> Report:
    directory = os.getcwd()
    replay = play(ran.events, directory)
    replay = replay._replace(seen=list(_resolved(replay, place)))
    prefixes = [path for python in ran.told.interpreters for path in (python.prefix, python.base_prefix)]
    script = next((os.path.realpath(word) for word in command if word.endswith(".py")), "")
    home = os.path.dirname(script) or directory
    storage = shared(order.shared, places(os.environ, [*prefixes, home], directory))
    on_shared = [one for one in replay.seen if storage.has(one.path)]
    elsewhere = [one for one in replay.seen if not storage.has(one.path)]
    facts = Facts(storage, os.environ, directory, ran.told.interpreters)
    return Report(
        " ".join(command),
        ran.code,
        ran.seconds,
        ran.how,
        storage.why,
        sums(on_shared, replay, home),
        elsewhere=len(elsewhere),
        unused=tuple(unused(ran.told, Counter(one.path for one in on_shared), _text(script))),
        use_is_known=not ran.told.is_silent and bool(ran.told.interpreters),
        leaks=tuple(leaks(on_shared, elsewhere, facts)),
        counters=ran.counters,
    )


def _resolved(replay: Replay, place: str) -> Iterator[Seen]:
    """Yield operations on files by their real paths, without the audit's own."""
    real, own = resolver(), os.path.realpath(place)
    for one in replay.seen:
        path = real(one.path)
        if not is_below(path, (*NOT_FILES, own)):
            yield one._replace(path=path)
