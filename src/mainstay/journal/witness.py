"""Whether a worker computes with what the client's key tells of.

    client   things (`reach`) ─▶ a digest of each, as it is here ─▶ goes with the call
    worker   the same things, as it has imported them ────────────▶ equal, or the result is not kept

A process of its own reads each thing once, before the first call that names it: what its calls then do to their modules
is theirs. A worker in the client's process shares the client's modules, which may change at any time: it looks before
and after each call. Both sides run the same Python, so bytecode is compared, and no source is read.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterable
from functools import partial, singledispatch
from importlib import import_module
from typing import Any

from mainstay.errors import UnreliableKey
from mainstay.journal import modules
from mainstay.journal.canon import Encoder, telling
from mainstay.journal.packing import digest, pack
from mainstay.journal.reach import Attribute, Files, Reach, Thing, Whole

_HERE = os.urandom(8)  # tells this process from all others
_known: dict[Thing, tuple[bytes, Reach]] = {}
_judged: dict[bytes, tuple[str, ...]] = {}  # what `unlike` said of another process's things

Witness = tuple[
    bytes, bytes
]  # the client's mark, and its things with their digests: pickled once, as each call has them


def witness(things: Iterable[Thing], by_value: bool) -> Witness | None:
    """Return what to compare with, of things as they are here now; None where there are none.

    Raises `UnreliableKey`. For `by_value`, see `Reach.holds`.
    """
    found = sorted(things, key=lambda thing: (type(thing).__name__, thing))
    return (_HERE, pickle.dumps([(thing, _current(thing, by_value)) for thing in found])) if found else None


def unlike(given: Witness) -> tuple[str, ...]:
    """Return the names of the things that are otherwise here."""
    process, things = given
    if process == _HERE:
        return _unlike(things, is_own=True)
    if things not in _judged:
        _judged[things] = _unlike(things, is_own=False)
    return _judged[things]


def _unlike(things: bytes, is_own: bool) -> tuple[str, ...]:
    return tuple(str(thing) for thing, known in pickle.loads(things) if _seen(thing, is_own) != known)


def _seen(thing: Thing, is_own: bool) -> bytes:
    known = None if is_own else _known.get(thing)
    if known is not None:
        return known[0]
    try:
        return _current(thing, by_value=True)
    except UnreliableKey:
        return b""


def _current(thing: Thing, by_value: bool) -> bytes:
    known = _known.get(thing)
    if known is None or not known[1].holds(by_value):
        known = _known[thing] = _read(thing)
    return known[0]


def _read(thing: Thing) -> tuple[bytes, Reach]:
    reach = Reach(is_bare=True)
    with telling(str(thing)), reach.inside(None):
        return digest(reach.in_full(lambda: _encoded(thing, Encoder(reach))))[:16], reach


@singledispatch
def _encoded(thing: Any, encoder: Encoder) -> bytes:
    raise TypeError(f"a thing that workers compare is one of {Thing}; given: {thing!r}")


@_encoded.register
def _attribute(thing: Attribute, encoder: Encoder) -> bytes:
    first, *rest = thing.path.split(".")
    found = vars(import_module(thing.module)).get(first, modules.MISSING)
    encoder.reach.read(partial(_first, thing.module, first), found)
    for name in rest:
        found = vars(found).get(name, modules.MISSING)
        found = getattr(found, "__func__", found)
    return b"missing" if found is modules.MISSING else encoder.value(found)


def _first(module: str, name: str) -> object:
    return vars(sys.modules[module]).get(name, modules.MISSING)


@_encoded.register
def _whole(thing: Whole, encoder: Encoder) -> bytes:
    encoder.reach.mutable()
    return modules.whole(import_module(thing.module))


@_encoded.register
def _files(thing: Files, encoder: Encoder) -> bytes:
    encoder.reach.mutable()
    return pack(b"files", *modules.trees(list(thing.names)))
