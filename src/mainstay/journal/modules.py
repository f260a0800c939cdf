"""What a module is known by: an installed one by its version, the user's by what is reached of it, or as a whole.

    model.sub.run       the function that is reached               (`chain`)
    f(model)            the whole module: its tree, and those of the user's modules that it imports, transitively
    import model        in a function: the names that it imports, or the whole

A whole module that is loaded may be older than its file. So the code and the plain constants that are in it now count
besides the file's tree: what was edited after the import has neither the old key nor the new one.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import sys
import tokenize
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

from mainstay.errors import UnreliableKey
from mainstay.journal import installed, source
from mainstay.journal.packing import Canon, pack, text
from mainstay.journal.reach import Attribute, Files, Whole
from mainstay.journal.uses import Chain, Import

PLAIN = (int, float, complex, str, bytes, bool, type(None))


def by_chains(canon: Canon, name: str, module: types.ModuleType, chains: set[Chain]) -> bytes:
    """Return a module by what code reaches in it."""
    parts = [pack(b"chain", text(".".join(one)), chain(canon, name, module, one)) for one in sorted(chains)]
    return pack(b"module", *parts)


def chain(canon: Canon, name: str, module: types.ModuleType, attributes: Chain) -> bytes:
    """Return what is reached from a module by a chain of attributes."""
    if is_known_by_name(module):
        return installed.stamp(module.__name__)
    if not attributes:
        return _whole(canon, module)
    step, found = f"{name}.{attributes[0]}", _member(module, attributes[0])
    is_module = isinstance(found, types.ModuleType)
    with canon.reach.inside(None if is_module else Attribute(module.__name__, attributes[0])):
        canon.reach.read(partial(_member, module, attributes[0]), found)
        if is_module:
            return chain(canon, step, found, attributes[1:])
        if found is MISSING:
            return _whole(canon, module) if "__getattr__" in vars(module) else b"missing"
        return canon.at(f"global {step!r}", found)


MISSING = object()


def _member(module: types.ModuleType, name: str) -> Any:
    """Return a module's attribute without asking the module, which might import or compute it."""
    submodule = sys.modules.get(f"{module.__name__}.{name}", MISSING)
    return vars(module).get(name, submodule)


def is_known_by_name(module: types.ModuleType) -> bool:
    """Whether a module's name and version, or the digest of its compiled file, tell what is in it."""
    return installed.is_installed(module.__name__) or installed.is_extension(module.__name__)


def imported(canon: Canon, one: Import, namespace: dict[str, Any]) -> bytes:
    """Return what an import in a function gets."""
    name = _resolved(one.module, one.level, namespace.get("__package__") or namespace.get("__name__") or "")
    module = sys.modules.get(name)
    if installed.is_installed(name):  # loaded or not
        return pack(b"import", text(name), installed.stamp(name))
    if canon.reach.is_bare:
        return pack(b"import", text(name))
    with canon.reach.apart():  # a worker may have loaded it or not
        if module is None:
            return _not_loaded(canon, name, one.names)
        parts = [chain(canon, name, module, (part,)) for part in one.names] or [chain(canon, name, module, ())]
        return pack(b"import", text(name), *parts)


def _not_loaded(canon: Canon, name: str, parts: tuple[str, ...]) -> bytes:
    names = name, *(f"{name}.{part}" for part in parts)
    with canon.reach.inside(Files(names)):
        canon.reach.read(partial(sys.modules.get, name), None)
        return pack(b"import", text(name), *trees(list(names)))


def _resolved(name: str, level: int, package: str) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return name


def _whole(canon: Canon, module: types.ModuleType) -> bytes:
    with canon.reach.inside(Whole(module.__name__)):
        canon.reach.mutable()
        return whole(module)


def whole(module: types.ModuleType) -> bytes:
    """Return all of a module of the user's. Raises `UnreliableKey` where it has no source."""
    files = trees([module.__name__])
    if b"unknown" in files[0]:
        raise UnreliableKey("module", f"module {module.__name__!r} has no source, and is not installed")
    return pack(b"whole", *files, *_loaded(module))


def _loaded(module: types.ModuleType) -> Iterator[bytes]:
    """Yield the code and the plain constants of a module as they are now, by name."""
    for name, value in sorted(vars(module).items()):
        if type(value) in PLAIN and not name.startswith("__"):
            yield pack(b"constant", text(name), text(type(value).__name__), text(repr(value)))
        elif getattr(value, "__module__", None) == module.__name__:
            codes = [text(where) + source.identity(fn.__code__, fn.__globals__) for where, fn in _functions(value)]
            yield pack(b"code", text(name), *codes)


def _functions(value: Any) -> Iterator[tuple[str, types.FunctionType]]:
    """Yield a function, or those in a class, each with its name."""
    inner = sorted(vars(value).items()) if isinstance(value, type) else [("", value)]
    for name, one in inner:
        for found in (one, *(getattr(one, part, None) for part in ("__func__", "__wrapped__", "fget", "fset", "func"))):
            if isinstance(found, types.FunctionType):
                yield name, found


# -- trees of files


def trees(names: list[str]) -> list[bytes]:
    """Return what modules and all that they import are known by; the first is that of the first name."""
    found: dict[str, bytes] = {}
    waiting = list(reversed(names))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], more = _of_file(name)
            waiting += more
    return [found.pop(names[0]), *(found[name] for name in sorted(found))]


def _of_file(name: str) -> tuple[bytes, list[str]]:
    """Return what the file of a module says, and the names of what it imports (which may not be modules)."""
    if installed.is_installed(name) or installed.is_extension(name):
        return pack(b"installed", installed.stamp(name)), []
    path = installed.place_of(name)
    if path is None or not os.path.isfile(path):
        return pack(b"unknown", text(name)), []
    status = os.stat(path)
    found = _parsed(path, status.st_mtime_ns, status.st_size)
    if found is None:
        return pack(b"file", text(name), installed.file_digest(name)), []
    package = name if os.path.basename(path) == "__init__.py" else name.rpartition(".")[0]
    shown = "" if name == "__main__" else name
    return pack(b"file", text(shown), found[0]), [_resolved(one, level, package) for level, one in found[1]]


@functools.lru_cache(maxsize=1024)
def _parsed(path: str, modified: int, size: int) -> tuple[bytes, list[tuple[int, str]]] | None:
    """Return a file's tree and what it imports; a file that was edited is read anew."""
    try:
        with tokenize.open(path) as file:
            parsed = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return source.tree(parsed), list(_imports(parsed))


def _imports(parsed: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the level and name of each import; a name that is imported from a package may be a module too."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield node.level, base
            yield from ((node.level, f"{base}.{alias.name}" if base else alias.name) for alias in node.names)
