"""Which functions the workers already have: each is sent to a worker once and called by its number.

A function of the script travels by value, with the globals and closure values that it names. If one of
those changes between two submits, the second call must see the new value, so a cached payload may only be
used again while everything that it captured is known to be the same: immutable, and the same object.
What captures anything that could have changed in place is pickled anew; the same bytes get the same number.
"""

from __future__ import annotations

import hashlib
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from mainstay.wire.payload import Payload, dump, is_by_name

_ATOMS = (int, float, complex, str, bytes, bool, type(None), types.ModuleType, types.BuiltinFunctionType)


class Function(NamedTuple):
    """A function as the workers know it."""

    number: int
    name: str
    payload: Payload


class FunctionTable:
    """Numbers functions; `lookup` is called for every submit and so has a fast path."""

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Function] = {}
        self._known: weakref.WeakKeyDictionary[Callable[..., Any], tuple[Function, tuple[object, ...]]]
        self._known = weakref.WeakKeyDictionary()
        self.by_number: dict[int, Function] = {}

    def lookup(self, fn: Callable[..., Any]) -> Function:
        """Return the function under which workers know `fn` now; raises what pickling it raises."""
        try:
            function, captured = self._known[fn]
            is_known = not captured or _same(captured, _captured(fn))
        except (KeyError, TypeError):  # not seen, or not hashable or not weakly referable
            is_known = False
        return function if is_known else self._add(fn)

    def _add(self, fn: Callable[..., Any]) -> Function:
        payload = dump(fn)
        function = self._numbered(fn, payload)
        captured = _captured(fn)
        if captured is not None:
            self._known[fn] = (function, captured)
        return function

    def _numbered(self, fn: Callable[..., Any], payload: Payload) -> Function:
        digest = hashlib.blake2b(payload.body, digest_size=16)
        for buffer in payload.buffers:
            digest.update(buffer)
        known = self._by_digest.get(digest.digest())
        if known is not None:
            return known
        function = Function(len(self.by_number) + 1, name_of(fn), payload)
        self._by_digest[digest.digest()] = self.by_number[function.number] = function
        return function


def name_of(fn: Callable[..., Any]) -> str:
    """Return what a person calls `fn`: for a partial or an instance, what it calls."""
    inner = getattr(fn, "func", fn)
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)


def _same(one: tuple[object, ...], other: tuple[object, ...] | None) -> bool:
    return other is not None and len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _captured(fn: object) -> tuple[object, ...] | None:
    """Return all that the by-value pickle of `fn` depends on; None where that cannot be told by identity.

    A function that is pickled by name depends on nothing: the empty tuple.
    """
    if isinstance(fn, types.BuiltinFunctionType):
        return () if isinstance(fn.__self__, types.ModuleType) or fn.__self__ is None else None
    if not isinstance(fn, types.FunctionType):
        return None
    if (
        fn.__module__
        and is_by_name(fn.__module__)
        and "<locals>" not in fn.__qualname__
        and "<lambda>" not in fn.__qualname__
    ):
        return ()
    found: list[object] = []
    return tuple(found) if _collect(fn, found, set()) else None


def _collect(value: object, found: list[object], seen: set[int]) -> bool:
    """Add what `value` depends on to `found`; say whether identity is enough to notice a change."""
    if isinstance(value, _ATOMS):
        found.append(value)
        return True
    if isinstance(value, tuple):
        found.append(value)
        return all(_collect(item, found, seen) for item in value)
    if not isinstance(value, types.FunctionType):
        return False
    if id(value) in seen:
        return True
    seen.add(id(value))
    found.append(value.__code__)
    if value.__dict__:
        return False
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    named = [value.__globals__[name] for name in _global_names(value.__code__) if name in value.__globals__]
    return all(_collect(item, found, seen) for item in [*cells, *defaults, *named])


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  reading it is the test
    except ValueError:
        return False
    return True


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names
