"""What the hooks in a program's interpreters have written, as events and as what they told."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from mainstay.audit.events import UNKNOWN, Event, Fork, Interpreter, Mark, Module, Operation, Program, Told

LEAST = "opens, listings and changes only, since Python tells of no look at attributes: the least that it can be"


def rows(lines: Iterable[str]) -> list[tuple[Any, ...]]:
    """Return the lines of the log as tuples; one that was cut off is left out."""
    found = []
    for line in lines:
        try:
            found.append(ast.literal_eval(line))
        except (SyntaxError, ValueError):
            continue
    return found


def told(found: Iterable[tuple[Any, ...]]) -> Told:
    """Return what the interpreters said of themselves, their modules and their calls."""
    interpreters: dict[Interpreter, None] = {}
    modules: dict[str, Module] = {}
    used, is_silent = set(), False
    for kind, _, *words in found:
        if kind == "interpreter":
            prefix, base_prefix, directory, path = words
            interpreters[Interpreter(prefix, base_prefix, directory, path)] = None
        elif kind == "module":
            modules.setdefault(words[0], Module(*words))
        elif kind == "used":
            used.add(words[0])
        elif kind == "silent":
            is_silent = True
    return Told(tuple(interpreters), tuple(modules.values()), frozenset(used), is_silent)


def events(found: Iterable[tuple[Any, ...]]) -> Iterator[Event]:
    """Yield what was done, where nothing else counts."""
    threads: set[int] = set()
    for kind, pid, *words in found:
        if kind in ("operation", "mark"):
            at, thread, name, *path = words
            if thread != pid and thread not in threads:
                yield Fork(at, pid, thread, is_thread=True)
            threads.add(thread)
            yield Operation(at, thread, name, path[0], error=UNKNOWN) if path else Mark(at, thread, name)
        elif kind in ("program", "fork"):
            at, parent = words[:2]
            yield Fork(at, parent, pid, is_thread=False)
            if kind == "program":
                yield Program(at, pid, words[2])
