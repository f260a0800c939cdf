"""What a function's code names outside of itself: globals, captured variables, and what it imports.

    np.linalg.norm(x)   ▶  name "np", chain ("linalg", "norm")
    print(np)           ▶  name "np", chain ()
    from m import f     ▶  import of "m", names ("f",)

Read from the bytecode, nested functions included. An attribute that is fetched otherwise (`getattr(m, name)`,
`globals()[name]`) is not seen.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import NamedTuple

from mainstay.journal.source import nested

GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
CAPTURED = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
BETWEEN = {"EXTENDED_ARG", "CACHE"}
# What asks functions for their names, docstrings and annotations: attributes, and functions of the standard library.
ASKS = {
    "__name__": ("__name__",),
    "__qualname__": ("__qualname__",),
    "__doc__": ("__doc__",),
    "getdoc": ("__doc__",),
    "__annotations__": ("__annotations__",),
    "get_type_hints": ("__annotations__",),
    "get_annotations": ("__annotations__",),
    "getfullargspec": ("__annotations__",),
    "signature": ("__annotations__",),
}
OPTIMIZED = 1  # the flag of functions, which class bodies do not have
MOST_KEPT = 4096

Chain = tuple[str, ...]


class Import(NamedTuple):
    """An import within a function."""

    level: int
    module: str
    names: tuple[str, ...]


class Uses(NamedTuple):
    """The names that code loads, each with the chains of attributes that follow it; its imports; which of the
    attributes by which functions tell of themselves it asks for, of whatever it be."""

    names: dict[str, set[Chain]]
    captured: dict[str, set[Chain]]
    imports: set[Import]
    asks: frozenset[str]


_uses: dict[int, tuple[CodeType, Uses]] = {}


def uses(code: CodeType) -> Uses:
    """Return what a function's code names."""
    known = _uses.get(id(code))
    if known is None:
        if len(_uses) >= MOST_KEPT:
            _uses.clear()
        known = _uses[id(code)] = code, _read(code)
    return known[1]


def _read(code: CodeType) -> Uses:
    words = {word for part in nested(code) for word in (*part.co_names, *part.co_consts) if isinstance(word, str)}
    asks = frozenset(name for word in words & ASKS.keys() for name in ASKS[word])
    found = Uses({}, {}, set(), asks)
    for part in nested(code):
        _read_one(part, found)
    return found


def _read_one(code: CodeType, found: Uses) -> None:
    steps = [step for step in dis.get_instructions(code) if step.opname not in BETWEEN]
    is_class_body = not code.co_flags & OPTIMIZED
    for i, step in enumerate(steps):
        if step.opname in GLOBALS and not (is_class_body and step.argval == "__name__"):
            found.names.setdefault(step.argval, set()).add(_chain(steps, i + 1))
        elif step.opname in CAPTURED:
            found.captured.setdefault(step.argval, set()).add(_chain(steps, i + 1))
        elif step.opname == "IMPORT_NAME":
            level, names = steps[i - 2].argval, steps[i - 1].argval
            found.imports.add(Import(level, step.argval, tuple(names or ())))


def _chain(steps: list[dis.Instruction], start: int) -> Chain:
    end = start
    while end < len(steps) and steps[end].opname in ATTRIBUTES:
        end += 1
    return tuple(step.argval for step in steps[start:end])
