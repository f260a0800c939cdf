"""Which files of a directory go into a tree: all of a package, and of others what can be imported."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

SUFFIXES = (".py", ".so")
Seen = frozenset[tuple[int, int]]  # the directories above, which a link may lead back to


class File(NamedTuple):
    """A file of the tree: where its content is now, its mode, time (s) and size (bytes)."""

    path: str
    mode: int
    mtime: int
    size: int


Tree = dict[str, File]  # by the name in the tree
Found = Iterator[tuple[str, File]]


def file_at(path: str) -> File:
    """Return what is at a path. Raises `OSError`."""
    found = os.stat(path)
    return File(path, stat.S_IMODE(found.st_mode), int(found.st_mtime), found.st_size)


def everything(directory: str, skip: frozenset[str] = frozenset(), seen: Seen = frozenset()) -> Found:
    """Yield `(name, file)` of all files below a directory.

    Left out: bytecode, what is named in `skip`, environments, and links that lead nowhere or upwards. Links are
    followed.
    """
    here = _identity(directory)
    if here in seen:
        return
    for entry in _entries(directory):
        if entry.name == "__pycache__" or entry.name in skip:
            continue
        if entry.is_dir():
            if not _is_environment(entry.path):
                yield from _below(entry.name, everything(entry.path, seen=seen | {here}))
        elif entry.is_file():
            yield entry.name, file_at(entry.path)


def importable(directory: str, seen: Seen = frozenset()) -> Found:
    """Yield `(name, file)` of what Python may import from a directory of its path, and of all that is in its packages.

    Directories whose names are no identifiers are left out, as hidden ones are.
    """
    here = _identity(directory)
    if here in seen:
        return
    for entry in _entries(directory):
        if entry.is_dir():
            if entry.name == "__pycache__" or not entry.name.isidentifier() or _is_environment(entry.path):
                continue
            is_package = os.path.exists(os.path.join(entry.path, "__init__.py"))
            walk = everything(entry.path) if is_package else importable(entry.path, seen | {here})
            yield from _below(entry.name, walk)
        elif entry.name.endswith(SUFFIXES) and entry.is_file():
            yield entry.name, file_at(entry.path)


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory, or in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _below(name: str, found: Found) -> Found:
    return ((f"{name}/{below}", file) for below, file in found)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _identity(directory: str) -> tuple[int, int]:
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def _is_environment(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, "pyvenv.cfg"))
