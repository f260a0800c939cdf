"""Care of a journal's file: `prune` removes calls and gives their room back, `copy` copies it while it is in use."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeVar

from mainstay.errors import JournalError, JournalInUse
from mainstay.journal.lock import look
from mainstay.journal.record import Choice
from mainstay.journal.sqlite import Store

Path = str | os.PathLike[str]
T = TypeVar("T")

GROUP = 10_000  # calls that are removed in one transaction
UNUSED = (
    "DELETE FROM functions WHERE id NOT IN (SELECT function FROM calls)",
    "DELETE FROM hosts WHERE id NOT IN (SELECT host FROM calls)",
    "DELETE FROM runs WHERE id NOT IN (SELECT run FROM calls)",
)


class Pruned(NamedTuple):
    """How many calls were removed, and by how many bytes the file has shrunk."""

    calls: int
    bytes: int


def prune(path: Path, choice: Choice | None = None, *, everything: bool = False) -> Pruned:
    """Remove the calls chosen, and give the room back.

    Raises `ValueError` where nothing is chosen, unless `everything` says that this is meant; `JournalInUse` while
    another has the journal open for writing.
    """
    if not everything and choice in (None, Choice()):
        raise ValueError("prune needs to know which calls: give a choice, or say that all are meant (--all)")
    store = Store(path, create=False)
    try:
        before = os.path.getsize(path)
        count = 0
        for group in groups((call.id for call in store.calls(choice)), GROUP):
            store.remove(group)
            count += len(group)
        with store.transaction() as db:
            for statement in UNUSED:
                db.execute(statement)
        _give_back(store, count)
    finally:
        store.close()
    return Pruned(count, before - os.path.getsize(path))


def _give_back(store: Store, count: int) -> None:
    try:
        store.vacuum()
    except JournalError as error:
        raise JournalError(
            f"{count} calls were removed, and new ones will take their room, but it could not be given back: {error}. "
            f"That takes as much room again in SQLITE_TMPDIR (or /var/tmp) as the journal has; prune again with it"
        ) from error


def groups(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Yield lists of up to `most` items."""
    rest = iter(items)
    while group := list(islice(rest, most)):
        yield group


def copy(path: Path, to: Path, *, force: bool = False) -> int:
    """Copy a journal, which may be in use, as it is at one instant; return the copy's size in bytes.

    Raises `JournalError` if there is a file `to` already, unless `force` says to replace it.
    """
    to = os.fsdecode(to)
    _check_target(os.fsdecode(path), to, force)
    source = Store(path, write=False)
    try:
        with replacing(to) as temporary:
            target = sqlite3.connect(temporary)
            try:
                source.db.backup(target)
            finally:
                target.close()
            if os.path.exists(f"{to}-journal"):
                os.unlink(f"{to}-journal")  # of an older file: SQLite would undo in the copy what was half done in it
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"the journal {source.path!r} could not be copied to {to!r}: {error}") from error
    finally:
        source.close()
    return os.path.getsize(to)


def _check_target(path: str, to: str, force: bool) -> None:
    if not os.path.exists(to):
        return
    if os.path.exists(path) and os.path.samefile(path, to):
        raise JournalError(f"{to!r} is the journal itself; give the path of another file")
    if not force:
        raise JournalError(f"there is a file {to!r} already; give another path, or --force to replace it")
    holder = look(to)[1]
    if holder is not None:
        raise JournalInUse(f"{to!r} is in use as a journal by {holder}; give another path", holder)


@contextmanager
def replacing(to: str) -> Iterator[str]:
    """Lend a path beside `to`, whose file takes the place of `to` at the end; where something raises, it goes."""
    temporary = f"{to}.{os.getpid()}.part"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, to)
        _sync(os.path.dirname(to) or ".")
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
