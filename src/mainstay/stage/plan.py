"""Which file of an environment goes where in the flat tree.

bin/python3                 the base interpreter
lib/python3.11/…            its standard library
lib/python3.11/site-packages/…   the packages of all directories that are on its path, the first first
lib/python3.11/editable-0/… what a `.pth` file points to
bin, lib, share, …          what packages installed there; of a conda environment, everything
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from mainstay.stage.bytecode import add_bytecode
from mainstay.stage.editable import Editables
from mainstay.stage.environment import Environment
from mainstay.stage.relocate import Libraries, make_scripts_movable
from mainstay.stage.tree import File, Tree, everything, file_at, importable
from mainstay.stage.workshop import Workshop

PYTHON = "bin/python3"
NOT_OF_STDLIB = ("site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip")
NOT_OF_CONDA = frozenset(("conda-meta", "pkgs", "envs", "include", "man", "compiler_compat"))


class Plan(NamedTuple):
    """The files of a tree; the directories they are from; and what could not be packed, to be told."""

    tree: Tree
    sources: list[str]
    warnings: list[str]


def plan(here: Environment, workshop: Workshop, exclude: list[str], include: list[str], libraries: list[str]) -> Plan:
    """Return which files make the environment's tree.

    Args:
        exclude: patterns of names in the tree that are left out, as "*/tests/*".
        include: further directories whose modules are to be on the path.
        libraries: directories in which libraries are looked for besides, as LD_LIBRARY_PATH names them.

    Raises `StageError`.
    """
    site = f"{here.library}/site-packages"
    tree: Tree = {PYTHON: file_at(here.executable)}
    tree.update(_standard_library(here))
    editables = Editables(tree, site, workshop)
    for directory in reversed(here.sites):  # what comes first on the path is written last
        tree.update((f"{site}/{name}", file) for name, file in everything(directory))
        tree.update(_installed_elsewhere(here, directory))
        editables.take(directory)
    if here.kind == "conda":
        tree.update((name, file) for name, file in _of_conda(here) if name not in tree)
    for at, directory in enumerate(include):
        tree.update((f"{here.library}/included-{at}/{name}", file) for name, file in importable(directory))
    if include:
        lines = "".join(f"../included-{at}\n" for at in range(len(include)))
        tree[f"{site}/mainstay-included.pth"] = workshop.text(lines)
    for name in [name for name in tree if any(fnmatch(name, pattern) for pattern in exclude)]:
        del tree[name]
    make_scripts_movable(tree, workshop)
    roots = {here.prefix: "", here.base: "", here.stdlib: here.library, **dict.fromkeys(here.sites, site)}
    Libraries(tree, roots, libraries, workshop).make_movable()
    add_bytecode(tree, here.executable, here.tag, workshop)
    warnings = [f"an editable install of an unknown kind is left out: {line}" for line in editables.unknown]
    return Plan(tree, [here.prefix, here.stdlib, *here.sites, *editables.sources, *include], warnings)


def _standard_library(here: Environment) -> Iterator[tuple[str, File]]:
    configs = [name for name in os.listdir(here.stdlib) if name.startswith("config-")]  # for linking
    for name, file in everything(here.stdlib, frozenset((*NOT_OF_STDLIB, *configs))):
        yield f"{here.library}/{name}", file
    for name, file in everything(here.extensions):
        yield f"{here.library}/lib-dynload/{name}", file
    if here.libpython and os.path.isfile(here.libpython):
        yield f"lib/{os.path.basename(here.libpython)}", file_at(here.libpython)


def _installed_elsewhere(here: Environment, site: str) -> Iterator[tuple[str, File]]:
    """Yield what packages have put outside of their directory, as programs, libraries and data, by their records."""
    prefix = here.prefix_of(site)
    for record in Path(site).glob("*.dist-info/RECORD"):
        with record.open(newline="", errors="replace") as file:
            rows = [row[0] for row in csv.reader(file) if row and row[0].startswith("..")]
        for row in rows:
            path = os.path.normpath(os.path.join(site, row))
            name = os.path.relpath(path, prefix)
            if not name.startswith("..") and "__pycache__" not in name and os.path.isfile(path):
                yield name, file_at(path)


def _of_conda(here: Environment) -> Iterator[tuple[str, File]]:
    library = f"{here.library}/"
    for name, file in everything(here.prefix, NOT_OF_CONDA):
        if not name.startswith((library, "bin/python", "share/man/", "share/doc/")) and not name.endswith(".a"):
            yield name, file
