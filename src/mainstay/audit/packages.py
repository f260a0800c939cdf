"""To which package a path belongs, and which packages were imported for nothing."""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mainstay.audit.events import Module, Told
from mainstay.audit.shared import is_below

SITE = re.compile(r"/(?:site|dist)-packages(?:/([^/]+))?")
STANDARD = re.compile(r"/lib(?:64)?/python3\.?\d*(?:\.zip|/|$)")
AT_START = ("sitecustomize", "usercustomize")  # nobody calls them
LOOKING, STANDARD_LIBRARY, BINARIES = "(looking for modules)", "(standard library)", "(interpreter and libraries)"


def package_of(path: str, directory: str = "") -> str:
    """Return the name of the package that a path is of, or in brackets what else it is of."""
    found = SITE.search(path)
    if found:
        return _named(found[1]) if found[1] else LOOKING
    if STANDARD.search(path):
        return STANDARD_LIBRARY
    if re.search(r"/bin/|/lib(?:64)?(?:/|$)|\.so(?:$|\.)|pyvenv\.cfg$", path):
        return BINARIES
    return "(the script's directory)" if directory and is_below(path, [directory]) else f"(files in {_folder(path)})"


def _named(entry: str) -> str:
    """Return a package by what lies in site-packages: numpy, numpy.libs, numpy-2.0.dist-info, six.py, _x.abi3.so."""
    if entry == "__pycache__" or entry.endswith((".pth", ".egg-link")):
        return LOOKING
    if entry.endswith((".dist-info", ".egg-info")):
        entry = entry.partition("-")[0]
    return entry.partition(".")[0] or entry


def _folder(path: str) -> str:
    return "/".join(os.path.dirname(path).split("/")[:4]) or "/"


class Unused(NamedTuple):
    """A package that was imported and not used, by whom it was wanted first, and what it cost."""

    name: str
    importer: str
    operations: int


def unused(told: Told, paths: Counter[str], script: str = "") -> list[Unused]:
    """Return packages that were imported and not used after the imports, the dearest first.

    A package is used when a function of it was called, when a function that ran names a variable which holds it or
    something of it, or when the script (its text is given) names it. Of a package that is used, its parts
    (`scipy.stats`) are looked at in the same way, if others than itself import them. Only what lies in site-packages
    is looked at, and only what cost something.
    """
    if told.is_silent:
        return []
    branches = {_branch(module.name, depth) for module in told.modules for depth in (1, 2) if SITE.search(module.file)}
    used = _used(told, script)
    used |= {name.partition(".")[0] for name in used} | {*AT_START}
    idle = [name for name in branches if name not in used and not ("." in name and name.partition(".")[0] not in used)]
    costs = _costs(idle, told.modules, paths)
    firsts = {name: _importer(name, told.modules) for name in idle}
    found = [Unused(name, first, costs[name]) for name, first in firsts.items() if costs[name] and first is not None]
    return sorted(found, key=lambda one: (-one.operations, one.name))


def _branch(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _used(told: Told, script: str) -> set[str]:
    """Return what was used: packages and their parts."""
    names = {module.file: module.name for module in told.modules if module.file}
    return {_branch(name, 2) for name in (*(names.get(of, of) for of in told.used), *named(script))}


def named(script: str) -> set[str]:
    """Return the modules, and what was imported from them, that a script's text names besides in imports."""
    try:
        nodes = list(ast.walk(ast.parse(script)))
    except (SyntaxError, ValueError):
        return set()
    imported: dict[str, str] = {}  # by what they are called in the script
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    loaded = {node.id for node in nodes if isinstance(node, ast.Name)}
    return {module for name, module in imported.items() if name in loaded}


def _importer(name: str, modules: Iterable[Module]) -> str | None:
    """Return the package that wanted a package first; empty: the program itself; None: its own package only."""
    inside = (module for module in modules if _is_part(module.name, name))
    outer = (_branch(module.importer, 1) for module in inside if not _is_part(module.importer, _branch(name, 1)))
    return next(outer, None)


def _is_part(module: str, of: str) -> bool:
    return module == of or module.startswith(of + ".")


def _costs(names: Iterable[str], modules: Iterable[Module], paths: Counter[str]) -> Counter[str]:
    """Return the operations below the directory, or on the file, of each of these packages."""
    places = {}
    for module in modules:
        if module.file:
            is_package = os.path.basename(module.file).startswith("__init__.")
            places[module.name] = os.path.realpath(os.path.dirname(module.file) if is_package else module.file)
    owners = {places[name]: name for name in names if name in places}
    costs: Counter[str] = Counter()
    for path, count in paths.items():
        place = _source(path)
        while place not in owners and len(place) > 1:
            place = os.path.dirname(place)
        if place in owners:
            costs[owners[place]] += count
    return costs


def _source(path: str) -> str:
    """Return the module's file of a bytecode file."""
    folder, _, name = path.rpartition("/__pycache__/")
    return f"{folder}/{name.partition('.')[0]}.py" if folder else path
