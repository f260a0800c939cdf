"""The journal: nothing that finished runs twice.

    call ──▶ keys ──▶ Journal ── find ──▶ its result, from this run or an earlier one
                         ▲
    finished call ───────┴─ append ──▶ a thread writes what came within 100 ms ──▶ a store, found by its name

`keys` tells what a call is known by; `journal` is what the pool talks to; each store (`sqlite`, `memory`) is one file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from mainstay.journal.lock import Holder
from mainstay.journal.record import Call, Choice, Kept, Record


class Store(Protocol):
    """Where finished calls are kept; for one writer."""

    path: str
    left_by: Holder | None

    def index(self) -> Iterator[tuple[bytes, int, bool, int]]: ...
    def calls(self, choice: Choice | None = None) -> Iterator[Call]: ...
    def load(self, call: int) -> Kept: ...
    def write(self, records: Sequence[Record], replaced: Iterable[int] = ()) -> list[int]: ...
    def remove(self, calls: Sequence[int]) -> None: ...
    def close(self) -> None: ...


def open_store(place: str | os.PathLike[str] | Store) -> Store:
    """Open a store for writing: "memory:", or the path of an SQLite file, which is made if it is not there."""
    if not isinstance(place, (str, os.PathLike)):
        return place
    path = os.fspath(place)
    scheme, colon, rest = path.partition(":")
    name = scheme if colon and not rest and scheme in names() else "sqlite"
    store: Store = importlib.import_module(f"{__name__}.{name}").Store(path)
    return store


def names() -> list[str]:
    """The stores that there are: each a module of this package that has a `Store`."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name in ("memory", "sqlite")]
