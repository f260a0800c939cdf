"""Where finished calls are kept: what every store can do, and how one is found."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from mainstay.journal.lock import Holder
from mainstay.journal.record import Call, Choice, Kept, Record

STORES = ("memory", "sqlite")  # each a module of this package with a `Store`


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
    name = scheme if colon and not rest and scheme in STORES else "sqlite"
    store: Store = importlib.import_module(f"mainstay.journal.{name}").Store(path)
    return store
