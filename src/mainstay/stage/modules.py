"""The user's own modules, which change too often to be packed: they travel with the pool, to each of its nodes."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from itertools import islice

from mainstay.stage.tree import importable, is_below

LARGEST = 32 << 20  # bytes of all modules
MOST = 5_000  # files of one directory

Modules = list[tuple[str, int, bytes]]  # of one directory: names, times (s) and contents


def own_directories(path: Iterable[str], packed: Iterable[str]) -> list[str]:
    """Return the directories of a module path that belong to the user: neither packed nor of this environment."""
    paths = sysconfig.get_paths()
    known = [*packed, sys.prefix, sys.base_prefix, sys.exec_prefix, paths["stdlib"], paths["purelib"], paths["platlib"]]
    absolute = dict.fromkeys(os.path.abspath(place) for place in path)
    return [place for place in absolute if not any(is_below(place, root) for root in known) and os.path.isdir(place)]


def collect(directories: list[str]) -> tuple[list[Modules], list[str]]:
    """Return the modules of each directory that can travel, and the directories that cannot: they hold too much."""
    taken: list[Modules] = []
    left: list[str] = []
    room = LARGEST
    for directory in directories:
        found = list(islice(importable(directory), MOST + 1))
        size = sum(file.size for _, file in found)
        if len(found) > MOST or size > room:
            left.append(directory)
            continue
        room -= size
        taken.append([(name, file.mtime, _content(file.path)) for name, file in found])
    return taken, left


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
