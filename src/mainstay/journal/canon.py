"""Canonical bytes of values: equal values give equal bytes in every run, other values give other bytes.

    value ─┬─ atom: int, str, None, …           its type and its content
           ├─ plain container                   its items; dicts and sets sorted by their encodings
           ├─ array, frame                      `arrays`: dtype, shape and content
           ├─ function, class, module           `code`: by what it computes
           └─ anything else                     what pickle would write of it: `__reduce_ex__`, taken apart as values

**Identity.** Two equal strings or tuples are as good as one string or tuple twice. But a list (or whatever else can be
changed in place) that occurs twice is not the same as two equal lists: who changes the one sees it in the other. So
each of these gets a number when it is first met, and is told by that number from then on, which also ends cycles.
Numbers follow the order of the walk, and the walk follows the values, never addresses or hashes. What stands in a set
is first encoded by itself, to find its place, and then at that place.

**Numbers** keep their types: 1, 1.0 and True differ, and so do 0.0 and -0.0. NaN equals itself.
"""

from __future__ import annotations

import array
import collections
import contextlib
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import pickle
import re
import struct
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mainstay.errors import UnreliableKey
from mainstay.journal import arrays, code, installed
from mainstay.journal.packing import pack, text
from mainstay.journal.reach import Reach

Handler = Callable[["Encoder", Any], bytes]
_NUMBERS = {int, float, bool, type(None)}
_REDUCE = 5  # the protocol


def _int(number: int) -> bytes:
    return pack(b"int", b"%x" % number)  # in hexadecimal, which has no limit of digits


def _float(number: float) -> bytes:
    return pack(b"float", b"nan" if number != number else struct.pack(">d", number))


def _complex(number: complex) -> bytes:
    return pack(b"complex", _float(number.real), _float(number.imag))


def _same(tag: bytes) -> Callable[[Any], bytes]:
    return lambda obj: pack(tag)


ATOMS: dict[type, Callable[[Any], bytes]] = {
    int: _int,
    float: _float,
    complex: _complex,
    bool: lambda obj: pack(b"bool", b"%d" % obj),
    str: lambda obj: pack(b"str", text(obj)),
    bytes: lambda obj: pack(b"bytes", obj),
    type(None): _same(b"None"),
    type(...): _same(b"Ellipsis"),
    type(NotImplemented): _same(b"NotImplemented"),
    decimal.Decimal: lambda obj: pack(b"Decimal", text(str(obj))),
    fractions.Fraction: lambda obj: pack(b"Fraction", _int(obj.numerator), _int(obj.denominator)),
    uuid.UUID: lambda obj: pack(b"UUID", obj.bytes),
    range: lambda obj: pack(b"range", _int(obj.start), _int(obj.stop), _int(obj.step)),
    datetime.date: lambda obj: pack(b"date", text(obj.isoformat())),
    datetime.timedelta: lambda obj: pack(b"timedelta", _int(obj.days), _int(obj.seconds), _int(obj.microseconds)),
}


class Encoder:
    """Encodes the values of one key; `value` for each, in an order that the caller chooses."""

    def __init__(self, reach: Reach | None = None, sorting: set[int] | None = None) -> None:
        self.reach = Reach() if reach is None else reach
        self._known: dict[int, tuple[object, bytes]] = {}  # keeps what it knows, so that no id is used again
        self._sorting: set[int] = set() if sorting is None else sorting
        self._numbers = 0
        self.touched = 0  # counts what was numbered or told by its number: what never moved it is told by itself

    def value(self, obj: Any) -> bytes:
        """Return the canonical bytes of an object. Raises `UnreliableKey`."""
        atom = ATOMS.get(type(obj))
        if atom is not None:
            return atom(obj)
        known = self._known.get(id(obj))
        if known is not None:
            self.touched += known[1].startswith(b"ref\0")
            return known[1]
        if type(obj) in (tuple, frozenset):
            return self._immutable(obj)
        handler = HANDLERS.get(type(obj)) or _handler(obj)
        if handler not in _LEAVES:
            self.number(obj)
            if handler not in code.FIXED:
                self.reach.mutable()
        return handler(self, obj)

    def _immutable(self, obj: Any) -> bytes:
        touched = self.touched
        encoded = HANDLERS[type(obj)](self, obj)
        if self.touched == touched:
            self._known[id(obj)] = obj, encoded
        else:
            self.number(obj)
        return encoded

    def number(self, obj: Any) -> None:
        """From now on, tell this object by a number."""
        self._known[id(obj)] = obj, pack(b"ref", b"%d" % self._numbers)
        self._numbers += 1
        self.touched += 1

    def at(self, step: str, obj: Any) -> bytes:
        """Return the canonical bytes of an object that is reached by a step, which an error will name."""
        try:
            return self.value(obj)
        except UnreliableKey as error:
            raise error.inside(step) from error.__cause__

    def items(self, tag: bytes, objects: Iterable[Any]) -> bytes:
        """Return the canonical bytes of a sequence."""
        return pack(tag, *[self.at(f"[{i}]", item) for i, item in enumerate(objects)])

    def mapping(self, entries: dict[Any, Any]) -> bytes:
        """Return the canonical bytes of a dict's entries, whatever their order."""
        parts = []
        for key, encoded in self._sorted(entries):
            parts += [self.at("a key", key) if encoded is None else encoded, self.at(_step(key), entries[key])]
        return pack(b"mapping", *parts)

    def reduced(self, obj: Any) -> bytes:
        """Return the canonical bytes of what pickle would write."""
        return _reduced(self, obj)

    def named(self, entries: dict[str, Any], step: str) -> bytes:
        """Return the canonical bytes of entries that have names, whatever their order."""
        parts = []
        for name in sorted(entries):
            parts += [text(name), self.at(step.format(name), entries[name])]
        return pack(b"named", *parts)

    def members(self, tag: bytes, objects: Any) -> bytes:
        """Return the canonical bytes of a set."""
        parts = [self.at("an element", obj) if encoded is None else encoded for obj, encoded in self._sorted(objects)]
        return pack(tag, *parts)

    def _sorted(self, objects: Any) -> list[tuple[Any, bytes | None]]:
        """Return what is in a set or dict in the order of its encodings; None for those that hold numbers."""
        if id(objects) in self._sorting:
            raise UnreliableKey("set or dict", "it contains itself by way of its keys")
        self._sorting.add(id(objects))
        found = sorted(((*self._alone(obj), obj) for obj in objects), key=lambda one: one[0])
        self._sorting.discard(id(objects))
        return [(obj, encoded if is_told else None) for encoded, is_told, obj in found]

    def _alone(self, obj: Any) -> tuple[bytes, bool]:
        atom = ATOMS.get(type(obj))
        if atom is not None:
            return atom(obj), True
        other = Encoder(self.reach, self._sorting)
        return other.at("an element", obj), other.touched == 0


def _step(key: object) -> str:
    words = repr(key) if type(key) in (str, int, float, tuple) else type(key).__name__
    return f"[{words[:60]}]"


@contextlib.contextmanager
def telling(kind: str) -> Iterator[None]:
    """Turn what goes wrong in the middle of foreign code into an `UnreliableKey`."""
    try:
        yield
    except UnreliableKey:
        raise
    except RecursionError:
        raise UnreliableKey(kind, "it is nested too deeply") from None
    except Exception as error:
        raise UnreliableKey(kind, f"reading it failed ({type(error).__name__}: {error})") from error


def encode(obj: Any, reach: Reach | None = None) -> bytes:
    """Return the canonical bytes of one value; `reach` notes what is read. Raises `UnreliableKey`."""
    reach = Reach() if reach is None else reach
    with telling(type(obj).__name__):
        return reach.in_full(lambda: Encoder(reach).value(obj))


def _sequence(tag: bytes) -> Handler:
    def handler(encoder: Encoder, obj: Any) -> bytes:
        kinds = set(map(type, obj))
        if kinds == {float}:
            return pack(tag + b" of floats", struct.pack(f">{len(obj)}d", *obj))
        if kinds == {str}:
            return pack(tag + b" of texts", *map(text, obj))
        if kinds <= _NUMBERS:
            try:
                return pack(tag + b" of numbers", repr(obj).encode())
            except ValueError:  # an int of more than 4300 digits
                pass
        return encoder.items(tag, obj)

    return handler


def _datetime(encoder: Encoder, obj: datetime.datetime) -> bytes:
    naive = obj.replace(tzinfo=None)
    return pack(b"datetime", text(naive.isoformat()), b"%d" % obj.fold, encoder.at(".tzinfo", obj.tzinfo))


def _time(encoder: Encoder, obj: datetime.time) -> bytes:
    naive = obj.replace(tzinfo=None)
    return pack(b"time", text(naive.isoformat()), b"%d" % obj.fold, encoder.at(".tzinfo", obj.tzinfo))


def _timezone(encoder: Encoder, obj: datetime.timezone) -> bytes:
    return pack(b"timezone", encoder.value(obj.utcoffset(None)), text(obj.tzname(None)))


def _zone(encoder: Encoder, obj: zoneinfo.ZoneInfo) -> bytes:
    if obj.key is None:
        raise UnreliableKey("ZoneInfo", "a time zone that was read from a file has no name")
    return pack(b"ZoneInfo", text(obj.key))


def _path(encoder: Encoder, obj: pathlib.PurePath) -> bytes:
    """A path is its words: not resolved. (Its class has moved between the Pythons, so its name stands for it.)"""
    cls, words = type(obj), text(obj.as_posix())
    if installed.top_of(cls) == "pathlib":
        return pack(b"path", text(cls.__name__), words)
    return pack(b"path of class", encoder.value(cls), words, encoder.named(_state(obj), ".{}"))


def _state(obj: object) -> dict[str, Any]:
    return getattr(obj, "__dict__", {})


def _enum(encoder: Encoder, obj: enum.Enum) -> bytes:
    name = "" if isinstance(obj, enum.Flag) else obj._name_  # Pythons name a combination differently
    return pack(b"enum", encoder.value(type(obj)), text(name), encoder.at(".value", obj._value_))


def _slice(encoder: Encoder, obj: slice) -> bytes:
    return encoder.items(b"slice", (obj.start, obj.stop, obj.step))


def _partial(encoder: Encoder, obj: functools.partial[Any]) -> bytes:
    given = encoder.at(".args", obj.args), encoder.named(obj.keywords, "keyword {!r}")
    return pack(b"partial", encoder.at(".func", obj.func), *given, encoder.named(_state(obj), ".{}"))


def _memoryview(encoder: Encoder, obj: memoryview) -> bytes:
    return pack(b"memoryview", text(obj.format), text(repr(obj.shape)), obj.tobytes())


def _buffer(encoder: Encoder, obj: pickle.PickleBuffer) -> bytes:
    return pack(b"buffer", encoder.value(memoryview(obj)))


def _array(encoder: Encoder, obj: array.array[Any]) -> bytes:
    return pack(b"array", text(obj.typecode), obj.tobytes())


def _ordered(encoder: Encoder, obj: collections.OrderedDict[Any, Any]) -> bytes:
    return pack(b"OrderedDict", *map(encoder.value, obj.items()), encoder.named(_state(obj), ".{}"))


def _reduced(encoder: Encoder, obj: Any) -> bytes:
    """Encode what pickle would write, after the class: two classes may be pickled by the same function."""
    cls = type(obj)
    _refuse(obj)
    try:
        pickled = copyreg.dispatch_table[cls](obj) if cls in copyreg.dispatch_table else obj.__reduce_ex__(_REDUCE)
    except Exception as error:
        raise UnreliableKey(_name(cls), f"it cannot be taken apart as pickle does ({error})") from error
    if isinstance(pickled, str):
        return code.named(encoder, obj, pickled)
    function, args, state, listed, mapped, setter = (*pickled, None, None, None, None)[:6]
    parts = [encoder.value(cls), encoder.at("__reduce__", function), encoder.items(b"args", args)]
    parts.append(_state_of(encoder, state))
    parts.append(encoder.items(b"items", listed or ()))
    entries = list(mapped or ())
    is_ordered = isinstance(obj, collections.OrderedDict)
    parts.append(encoder.items(b"entries", entries) if is_ordered else encoder.mapping(dict(entries)))
    return pack(b"object", *parts, *([encoder.value(setter)] if setter else []))


def _state_of(encoder: Encoder, state: Any) -> bytes:
    """Encode a state, which pickle gives as a dict of attributes, or as a pair of these for attributes and slots."""
    if type(state) is dict and all(type(name) is str for name in state):
        return encoder.named(state, ".{}")
    if type(state) is tuple and len(state) == 2 and all(isinstance(half, (dict, type(None))) for half in state):
        return pack(b"states", *[_state_of(encoder, half) for half in state])
    return encoder.at("its state", state)


_REFUSED = {
    types.GeneratorType: "a generator is used up by who reads it",
    types.CoroutineType: "a coroutine can only run once",
    types.AsyncGeneratorType: "a generator is used up by who reads it",
    types.FrameType: "a frame is part of a run",
    types.TracebackType: "a traceback is part of a run",
    weakref.ProxyType: "a weak reference may lose its object",
    weakref.CallableProxyType: "a weak reference may lose its object",
}


def _refuse(obj: Any) -> None:
    """Raise for what can be pickled, or looks like it, but does not tell all of itself."""
    cls = type(obj)
    why = _REFUSED.get(cls)
    if why is None and any(base.__module__ in ("_ctypes", "ctypes") for base in cls.__mro__):
        why = "a ctypes object stands for memory elsewhere"
    if why is None and hasattr(cls, "__next__") and installed.top_of(cls) in ("builtins", "itertools", "_collections"):
        why = "an iterator is used up by who reads it; a list is not"
    if why is not None:
        raise UnreliableKey(_name(cls), why)


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _code_object(encoder: Encoder, obj: types.CodeType) -> bytes:
    return code.bare(obj)


HANDLERS: dict[type, Handler] = {
    tuple: _sequence(b"tuple"),
    list: _sequence(b"list"),
    dict: lambda encoder, obj: encoder.mapping(obj),
    set: lambda encoder, obj: encoder.members(b"set", obj),
    frozenset: lambda encoder, obj: encoder.members(b"frozenset", obj),
    bytearray: lambda encoder, obj: pack(b"bytearray", obj),
    memoryview: _memoryview,
    array.array: _array,
    pickle.PickleBuffer: _buffer,
    types.MappingProxyType: lambda encoder, obj: pack(b"proxy", encoder.mapping(dict(obj))),
    collections.OrderedDict: _ordered,
    slice: _slice,
    re.Pattern: lambda encoder, obj: pack(b"pattern", encoder.value(obj.pattern), _int(obj.flags)),
    datetime.datetime: _datetime,
    datetime.time: _time,
    datetime.timezone: _timezone,
    zoneinfo.ZoneInfo: _zone,
    functools.partial: _partial,
    types.CodeType: _code_object,
    **code.HANDLERS,
}
_LEAVES = {
    _slice,
    _datetime,
    _time,
    _timezone,
    _zone,
    _path,
    _enum,
    _code_object,
    HANDLERS[re.Pattern],
    code.builtin,
    *arrays.LEAVES,
}


def _handler(obj: Any) -> Handler:
    """Return how an object of a type is encoded that the table does not have.

    By `type`, which tells the truth where `__class__` may not: a proxy is not what it stands for.
    """
    cls = type(obj)
    if cls in _REFUSED:
        return _reduced
    for base, handler in _BASES:
        if issubclass(cls, base):
            return handler
    return arrays.handler(obj) or code.handler(obj) or _reduced


_BASES: list[tuple[type, Handler]] = [
    (type, code.class_),
    (types.ModuleType, code.module),
    (enum.Enum, _enum),
    (pathlib.PurePath, _path),
]
