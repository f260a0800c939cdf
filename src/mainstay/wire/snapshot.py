"""A result as it was when its function returned it, although it is sent later, together with others.

A function may return one and the same list or array each time, written anew. So what could still change is pickled at
once, with copies of its arrays. What cannot change is left as it is: plain values, and an array that nobody else holds.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from mainstay.wire.payload import dump, load

# Types whose objects cannot change; those of NumPy are added when they are met.
frozen: set[type] = {int, float, complex, bool, str, bytes, type(None)}


class Snapshot:
    """Is unpickled as the object that it was made of."""

    __slots__ = ("_body", "_buffers")

    def __init__(self, result: object) -> None:
        self._body, buffers = dump(result)
        self._buffers = copied(buffers)

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self._body, [pickle.PickleBuffer(buffer) for buffer in self._buffers])


def lasting(result: Any) -> Any:
    """Return a result, or a snapshot of it; the caller may hold it under one name only."""
    kind = type(result)
    if kind in frozen or (kind is tuple and frozen.issuperset(map(type, result))):
        return result
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic) and not issubclass(kind, (numpy.void, numpy.object_)):
        frozen.add(kind)
        return result
    return result if _references(result) == _ALONE and _owns_all(numpy, result) else Snapshot(result)


def copied(buffers: Any) -> list[memoryview]:
    """Return out-of-band buffers that nobody else writes into; what is unpickled from them can be written."""
    return [memoryview(bytearray(buffer)) for buffer in buffers]


def _owns_all(numpy: Any, result: Any) -> bool:
    """Whether a result is an array whose content is nowhere else."""
    return numpy is not None and type(result) is numpy.ndarray and result.flags.owndata and not result.dtype.hasobject


def _references(result: object) -> int:
    return sys.getrefcount(result)


def _alone() -> int:
    """Return how many references `lasting` counts to a result that nobody but its caller holds."""

    def count(result: object) -> int:
        return _references(result)

    held = object()
    return count(held)


_ALONE = _alone()
