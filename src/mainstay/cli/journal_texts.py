"""How a journal is told on the terminal: a table of its calls, and one call with all that is known of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any

from mainstay.errors import JournalError
from mainstay.journal.export import row_of
from mainstay.journal.lock import Holder, look
from mainstay.journal.record import Call, Choice, Kept
from mainstay.journal.sqlite import Store
from mainstay.journal.telling import plain, shown, traceback_of, value_of

KEY, NAME, HOST = 10, 22, 11  # characters of a line, which has 100 in all
HEAD = (
    f"{'key':{KEY}}  state   {'function or label':{NAME}}  {'host':{HOST}}  {'started':19}  " + " seconds tries    size"
)
AMBIGUOUS = 10  # keys that are listed where a prefix fits more than one


def counted(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def size(bytes_: float) -> str:
    """Return a number of bytes in at most 7 characters."""
    if bytes_ < 1000:
        return f"{bytes_:.0f} B"
    for unit in ("kB", "MB", "GB"):
        bytes_ /= 1000
        if bytes_ < 999.5:
            return f"{bytes_:.3g} {unit}"
    return f"{bytes_ / 1000:.3g} TB"


def seconds(value: float) -> str:
    """Return a run time in at most 8 characters."""
    return f"{value:.3f}" if value < 1000 else f"{value:.0f}" if value < 1e8 else f"{value:.1e}"


@lru_cache(1000)
def when(at: float) -> str:
    """Return a point of time, by the clock on the wall."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


@lru_cache(1000)
def fitted(text: str, width: int) -> str:
    """Return a text in just so many characters, none of which moves the cursor."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "?" for char in text)
    return f"{text:{width}}" if len(text) <= width else f"{text[: width - 1]}…"


def line_of(call: Call) -> str:
    name, host = fitted(call.label or call.function, NAME), fitted(call.host, HOST)
    run = f"{seconds(call.seconds):>8} {call.attempts:>5} {size(call.size):>7}"
    return f"{call.key[:KEY]}  {call.state:6}  {name}  {host}  {when(int(call.started))}  {run}"


# -- the listing


class Totals:
    """What is told of all calls listed."""

    def __init__(self) -> None:
        self.calls = self.failed = 0
        self.seconds = 0.0
        self.first, self.last = float("inf"), float("-inf")

    def add(self, call: Call) -> Call:
        self.calls += 1
        self.failed += call.state == "failed"
        self.seconds += call.seconds
        self.first = min(self.first, call.started)
        self.last = max(self.last, call.started + call.seconds)
        return call


def listing(store: Store, choice: Choice, limit: int | None, *, as_json: bool) -> None:
    """Print the calls chosen, the newest last, and a summary; none of the results is read."""
    totals = Totals()
    calls: Iterable[Call] = map(totals.add, store.calls(choice))
    if limit is not None:
        calls = deque(calls, limit)
    if as_json:
        _as_json(store, calls, totals)
        return
    write = sys.stdout.write
    write(f"{HEAD}\n")
    lines = map(line_of, calls)
    while some := "\n".join(islice(lines, 1000)):
        write(f"{some}\n")
    write(summary(store, totals))


def _as_json(store: Store, calls: Iterable[Call], totals: Totals) -> None:
    write = sys.stdout.write
    write('{"calls": [')
    for number, call in enumerate(calls):
        write(f"{',' if number else ''}\n{json.dumps(row_of(call))}")
    holder = look(store.path)[1]
    rest = {
        "count": totals.calls,
        "failed": totals.failed,
        "seconds": totals.seconds,
        "file_size": os.path.getsize(store.path),
        "open_by": holder and holder._asdict(),
    }
    write(f"\n], {json.dumps(rest)[1:]}\n")


def summary(store: Store, totals: Totals) -> str:
    """Return the last lines of a listing: how many, how long, from when to when, and who writes the journal."""
    text = f"{counted(totals.calls)}: {totals.calls - totals.failed} done, {totals.failed} failed"
    if totals.calls:
        text += f"; {duration(totals.seconds)} of run time"
    text += f"; file {size(os.path.getsize(store.path))}\n"
    if totals.calls:
        text += f"from {when(totals.first)} to {when(totals.last)}\n"
    return f"{text}{open_by(look(store.path)[1])}"


def open_by(holder: Holder | None) -> str:
    return f"open for writing by {holder}\n" if holder else ""


def duration(value: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * length:
            return f"{value / length:.1f} {unit}"
    return f"{value:.1f} s"


# -- one call


def find(store: Store, prefix: str) -> Call:
    """Return the one call whose key begins so. Raises `JournalError` where there is none, or more than one."""
    try:
        found = list(islice(store.calls(Choice(key=prefix)), AMBIGUOUS + 1))
    except ValueError as error:
        raise JournalError(str(error)) from None
    if not found:
        raise JournalError(
            f"no call in {store.path!r} has a key that begins with {prefix!r}; list them to see the keys"
        )
    if len({call.key for call in found}) > 1:
        keys = ", ".join(call.key for call in found[:AMBIGUOUS])
        more = ", …" if len(found) > AMBIGUOUS else ""
        raise JournalError(f"the key {prefix!r} is ambiguous: {keys}{more}; give more digits of the one that is meant")
    return found[-1]


def one(store: Store, prefix: str, *, with_result: bool, as_json: bool) -> None:
    """Print what is known of a call."""
    call = find(store, prefix)
    kept = store.load(call.id) if with_result else None
    told = _told(store, call)
    if as_json:
        rest = {} if kept is None else {"traceback": traceback_of(kept)} if kept.failed else {"result": plain(kept)}
        print(json.dumps({**told, **rest}, indent=2))
        return
    run = told.pop("run")
    told.pop("id")
    _fields({**told, "started": when(call.started), "size": size(call.size)})
    if isinstance(run, dict):
        print("run")
        _fields({**run, "started": when(run["started"]), "argv": " ".join(run["argv"])}, "  ")
    if kept is not None:
        print(f"\n{_text(kept)}")


def _told(store: Store, call: Call) -> dict[str, Any]:
    run = store.run(call.run)
    return {**row_of(call), "run": call.run if run is None else run._asdict()}


def _fields(fields: dict[str, Any], indent: str = "") -> None:
    for name, value in fields.items():
        if name not in ("id", "started_s"):
            print(f"{indent}{name:10}{value}")


def _text(kept: Kept) -> str:
    if kept.failed:
        return traceback_of(kept).rstrip()
    try:
        return shown(value_of(kept))
    except Exception as error:
        return (
            f"The result cannot be loaded here: {type(error).__name__}: {error}. "
            f"Run this where what it is made of can be imported, or use --no-result."
        )
