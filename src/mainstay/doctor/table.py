"""The checks as a table of plain text, 100 columns wide, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from mainstay.doctor.check import Check, State

WIDTH = 100
NAME = 15
COLOURS = {State.GOOD: "32", State.ODD: "33", State.BAD: "31", State.NONE: "2"}
INDENT = " " * (NAME + 6)


def lines(checks: Sequence[Check], *, colour: bool = False) -> Iterator[str]:
    """Yield the lines of the table, and a summary."""
    for check in checks:
        yield from _rows(check, colour)
    yield ""
    yield summary(checks)


def _rows(check: Check, colour: bool) -> Iterator[str]:
    first, *others = _wrapped(check.found, "") or [""]
    word = f"{check.state.value:4}"
    state = f"\033[{COLOURS[check.state]}m{word}\033[0m" if colour else word
    yield f"{check.name:{NAME}} {state} {first}".rstrip()
    yield from (f"{INDENT}{line}" for line in others)
    if check.advice:
        yield from (f"{INDENT}{line}" for line in _wrapped(f"-> {check.advice}", "   "))


def _wrapped(text: str, indent: str) -> list[str]:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(plain, WIDTH - len(INDENT), subsequent_indent=indent, break_on_hyphens=False)


def summary(checks: Sequence[Check]) -> str:
    counts = Counter(check.state for check in checks)
    told = f"{counts[State.GOOD]} good, {counts[State.ODD]} odd, {counts[State.BAD]} bad"
    return f"{told}, {counts[State.NONE]} cannot be told here" if counts[State.NONE] else told


def as_json(checks: Sequence[Check]) -> str:
    return json.dumps([check._asdict() | {"state": check.state.value} for check in checks], indent=2)
