"""Whose a module is: installed, and known by its name and version; or the user's, and known by what is in it.

    built in, frozen, or under the standard library or site-packages   installed
    scripts, notebooks, editable installs, what PYTHONPATH shows       the user's

The standard library's version does not count, so that Python 3.10 and 3.13 agree on a key. Neither does Mainstay's:
it carries a call and does not compute.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from types import ModuleType
from typing import Any

from mainstay.journal.packing import digest, pack, text

SITES = ("site-packages", "dist-packages")
EXTENSIONS = (".so", ".pyd", ".dylib")


def is_installed(name: str) -> bool:
    """Whether the module of this name is installed; one that is not loaded is looked for, and not imported."""
    top = name.partition(".")[0]
    if top in ("", "__main__"):
        return False
    if top in sys.builtin_module_names or top == "mainstay":
        return True
    origin = place_of(name)
    return origin is not None and is_installed_path(origin)


def place_of(name: str) -> str | None:
    """Return the file of a module, loaded or not, or the like; None where there is none."""
    module = sys.modules.get(name)
    return origin_of(module) if module is not None else find(name) if name else None


def top_of(cls: type) -> str:
    """Return the top name of a class's module; empty where it has none, as in some compiled code."""
    return cls.__module__.partition(".")[0] if isinstance(cls.__module__, str) else ""


def origin_of(module: ModuleType) -> str | None:
    """Return the file of a loaded module, or "built-in" or "frozen"; a package without a file: its folder."""
    known = vars(module)  # and not its attributes, which it may make up
    origin = getattr(known.get("__spec__"), "origin", None)
    if origin in ("built-in", "frozen"):
        return str(origin)
    file = known.get("__file__") or origin
    folders = list(known.get("__path__") or ())
    return file if isinstance(file, str) else folders[0] if folders else None


@functools.lru_cache(maxsize=4096)
def is_installed_path(path: str) -> bool:
    """Whether a file belongs to the standard library or to an installed distribution."""
    if path in ("built-in", "frozen") or path.startswith("<frozen "):
        return True
    path = os.path.abspath(path)
    if any(part in SITES for part in path.split(os.sep)):
        return True
    return any(one.startswith(folder) for folder in _folders() for one in (path, os.path.realpath(path)))


@functools.lru_cache(maxsize=1)
def _folders() -> tuple[str, ...]:
    import site

    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_paths()[name] for name in names} | {site.getusersitepackages(), os.path.dirname(os.__file__)}
    found |= {os.path.realpath(folder) for folder in found}
    return tuple(folder + os.sep for folder in found)


def find(name: str) -> str | None:
    """Return the file of a module that is not loaded, without importing it or its packages."""
    from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

    if BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name):
        return "built-in"
    path: Any = None
    origin: str | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        try:
            spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        origin, path = spec.origin, spec.submodule_search_locations or []
    return origin or next(iter(path), None)


def stamp(name: str) -> bytes:
    """Return what an installed module, or the user's extension module, is known by: its top name and its version."""
    top = name.partition(".")[0]
    return pack(b"stamp", text(top), _version(name, top))


def version(name: str) -> str:
    """Return the version of the package that a module is from; empty for a script and for the standard library."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "__main__":
        return ""
    told = getattr(sys.modules.get(top), "__version__", None)
    return told if isinstance(told, str) else _distribution(top) or ""


@functools.lru_cache(maxsize=4096)
def _version(name: str, top: str) -> bytes:
    if top in sys.stdlib_module_names or top == "mainstay":
        return b""
    version = getattr(sys.modules.get(top), "__version__", None) if is_installed(name) else None
    if isinstance(version, str):
        return text(version)
    return text(_distribution(top) or "") or file_digest(name)


def _distribution(top: str) -> str | None:
    if not is_installed(top):
        return None
    from importlib import metadata

    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:  # it goes by another name, as Pillow does; slow, and so the last resort
        names = metadata.packages_distributions().get(top)
        return metadata.version(names[0]) if names else None


def file_digest(name: str) -> bytes:
    """Return the digest of a module's file; of nothing where there is none."""
    try:
        with open(place_of(name) or "", "rb") as file:
            return digest(file.read())
    except OSError:
        return b"no file"


def is_extension(name: str) -> bool:
    """Whether a module is compiled code in a file of its own."""
    return (place_of(name) or "").endswith(EXTENSIONS)
