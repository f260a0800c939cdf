"""A function's source, as a normalised tree: the same whatever the layout, the comments, and the version of Python.

    code object ── its file, parsed and compiled once ── the code in it that equals this one ── its node in the tree
                                                          none does: the file was edited, or there is none: bytecode

A file may have been edited since it was imported, so the source alone is no witness of what runs. It is believed only
where compiling it gives this very code again: instructions, names and constants, everything but positions. That also
tells the lambdas of one line apart. Otherwise the bytecode stands for the function, under the version of Python that
made it: stable from run to run, and never wrong.

Normalised: no positions, docstrings, annotations or empty fields (newer versions have more of them). The outermost
function's name, decorators and defaults are left out too: they are not its code, and its defaults count by their
values. A decorator or a class may read annotations, though, so a decorated function keeps them, and so does a class.
"""

from __future__ import annotations

import ast
import linecache
import sys
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

from mainstay.journal.packing import pack, text

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTIONS, ast.ClassDef, ast.Module)
LEFT_OUT = {"ctx", "kind", "type_comment", "type_ignores"}
APART = 1_000_000  # lines between the lambdas of one line, so that their code can be told apart
MOST_KEPT = 4096


class Candidate(NamedTuple):
    """A function in a file, and what compiling it gives."""

    line: int
    node: ast.AST
    shapes: list[bytes]


class Source(NamedTuple):
    """A file as it was read: the functions in it, by name."""

    lines: list[str]
    functions: dict[str, list[Candidate]]


_sources: dict[str, Source] = {}
_identities: dict[int, tuple[CodeType, bytes]] = {}


def identity(code: CodeType, namespace: dict[str, Any]) -> bytes:
    """Return what a function's code is known by; `namespace` are its globals."""
    known = _identities.get(id(code))
    if known is None:
        node = _node_of(code, namespace)
        found = by_bytecode(code) if node is None else pack(b"tree", b"%d" % sys.flags.optimize, node, _mangled(code))
        if len(_identities) >= MOST_KEPT:
            _identities.clear()
        known = _identities[id(code)] = code, found
    return known[1]


def by_bytecode(code: CodeType) -> bytes:
    """Return what code without a source is known by."""
    return pack(b"bytecode", b"%d.%d" % sys.version_info[:2], shape(code))


def _mangled(code: CodeType) -> bytes:
    """Private names hold the class's name, which the tree of a method does not show."""
    names = {name for part in nested(code) for name in part.co_names if name.startswith("_") and "__" in name[1:]}
    return pack(b"mangled", *map(text, sorted(name for name in names if not name.endswith("__"))))


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and all those in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


# -- the code's node


def _node_of(code: CodeType, namespace: dict[str, Any]) -> bytes | None:
    """Return the normalised tree of a function, if its source can be believed."""
    name = code.co_filename
    found = _match(code, _source(name, linecache.getlines(name, namespace)))
    if found is None:
        linecache.checkcache(name)  # it may have been read before it was edited and imported anew
        found = _match(code, _source(name, linecache.getlines(name, namespace)))
    return found


def _match(code: CodeType, source: Source) -> bytes | None:
    """Return the tree of the functions that compile to this code; None where they are none, or differ."""
    wanted = shape(code)
    fitting = [one for one in source.functions.get(code.co_name, ()) if wanted in one.shapes]
    trees = {tree(one.node, is_outermost=True) for one in fitting}
    if len(trees) > 1:
        trees = {tree(one.node, is_outermost=True) for one in fitting if one.line == code.co_firstlineno}
    return trees.pop() if len(trees) == 1 else None


def _source(name: str, lines: list[str]) -> Source:
    known = _sources.get(name)
    if known is None or (known.lines is not lines and known.lines != lines):
        known = _sources[name] = Source(lines, _functions("".join(lines), name) if lines else {})
    return known


def _functions(words: str, name: str) -> dict[str, list[Candidate]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were given when the file was imported
            parsed = ast.parse(words)
            nodes = list(_numbered(parsed))
            compiled = compile(parsed, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    shapes: dict[tuple[str, int], list[bytes]] = {}
    for code in nested(compiled):
        shapes.setdefault((code.co_name, code.co_firstlineno), []).append(shape(code))
    found: dict[str, list[Candidate]] = {}
    for called, line, number, node in nodes:
        found.setdefault(called, []).append(Candidate(line, node, shapes.get((called, number), [])))
    return found


def _numbered(parsed: ast.AST) -> Iterator[tuple[str, int, int, ast.AST]]:
    """Yield the functions' names, lines, and the line that their code will say; only one lambda keeps its line."""
    taken: set[int] = set()
    for node in ast.walk(parsed):
        if isinstance(node, FUNCTIONS):
            line = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            yield node.name, line, line, node
        elif isinstance(node, ast.Lambda):
            line = node.lineno
            while node.lineno in taken:
                node.lineno += APART
                node.end_lineno = (node.end_lineno or 0) + APART
            taken.add(node.lineno)
            yield "<lambda>", line, node.lineno, node


# -- shapes of code


def shape(code: CodeType) -> bytes:
    """Return everything of a code object but positions, its file and its name."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    handlers: bytes = getattr(code, "co_exceptiontable", b"")
    constants = [_constant(constant) for constant in code.co_consts]
    head = text(repr((counts, names)))
    return pack(b"code", head, code.co_code, handlers, *constants)


def _constant(constant: Any) -> bytes:
    if isinstance(constant, CodeType):
        return pack(b"nested", text(constant.co_name), shape(constant))
    if isinstance(constant, (tuple, frozenset)):
        parts = [_constant(one) for one in constant]
        return pack(text(type(constant).__name__), *(parts if isinstance(constant, tuple) else sorted(parts)))
    return pack(b"constant", text(type(constant).__name__), _literal(constant))


def _literal(constant: Any) -> bytes:
    if type(constant) is int:
        return b"%x" % constant
    return text(constant) if type(constant) is str else text(repr(constant))


# -- normalised trees


def tree(node: ast.AST, is_outermost: bool = False) -> bytes:
    """Return a tree's normalised bytes: of a function (the outermost), or of a whole file."""
    return b"".join(_dump(node, is_outermost, not is_outermost))


def _dump(node: Any, is_outermost: bool = False, is_annotated: bool = False) -> Iterator[bytes]:
    if isinstance(node, ast.Constant):
        yield pack(b"Constant", _constant(node.value))
    elif isinstance(node, ast.AST):
        is_annotated = is_annotated or isinstance(node, ast.ClassDef) or bool(getattr(node, "decorator_list", ()))
        if isinstance(node, ast.AnnAssign) and node.value and node.simple and not is_annotated:
            node = ast.Assign([node.target], node.value)
        yield b"(" + text(type(node).__name__)
        for field in node._fields:
            value = _field(node, field, is_outermost, is_annotated)
            if value is not None and value != []:
                yield b" " + text(field) + b"="
                yield from _dump(value, is_outermost and field == "args", is_annotated)
        yield b")"
    elif isinstance(node, list):
        yield b"["
        for item in node:
            yield from _dump(item, False, is_annotated)
        yield b"]"
    else:
        yield pack(b"", _literal(node))


def _field(node: ast.AST, field: str, is_outermost: bool, is_annotated: bool) -> Any:
    """Return a field of a node, or None where it does not count."""
    if field in LEFT_OUT or (field in ("annotation", "returns") and not is_annotated):
        return None
    if is_outermost and field in ("name", "decorator_list", "defaults", "kw_defaults", "type_params"):
        return None
    value = getattr(node, field, None)
    if field == "body" and isinstance(node, DOCUMENTED):
        return value[_has_docstring(value) :] if value else value
    return _joined(value) if isinstance(node, ast.JoinedStr) and field == "values" else value


def _has_docstring(body: list[ast.stmt]) -> bool:
    first = body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _joined(values: Any) -> list[Any]:
    """Join the constant pieces of an f-string: Pythons split them differently."""
    found: list[Any] = []
    for value in values:
        if not isinstance(value, ast.Constant):
            found.append(value)
        elif found and isinstance(found[-1], ast.Constant):
            found[-1] = ast.Constant(str(found[-1].value) + str(value.value))
        elif value.value:
            found.append(value)
    return found
