"""Objects to bytes and back: plain pickle where it serves, cloudpickle where it must.

Plain pickle writes a function or class of the script (`__main__`) as a name, which a worker could not
look up. So whatever plain pickle cannot write, or writes with that name in it, is written again by
cloudpickle, by value. cloudpickle is imported when a payload first needs it, never before.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mainstay.wire.frames import Bytes

PROTOCOL = 5
_MAIN = b"__main__"


class Payload(NamedTuple):
    """A pickle and its out-of-band buffers (views of the caller's own arrays: not copied)."""

    body: bytes
    buffers: list[memoryview] | tuple[()]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.body) + sum(buffer.nbytes for buffer in self.buffers)


def dump(obj: object) -> Payload:
    """Return `obj` as a payload. Raises what pickle and cloudpickle raise for it."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        body = pickle.dumps(obj, PROTOCOL, buffer_callback=buffers.append)
    except Exception:
        return _dump_by_value(obj)
    if _MAIN in body or _registered():
        return _dump_by_value(obj)
    return Payload(body, [buffer.raw() for buffer in buffers] if buffers else ())


def load(body: Bytes, buffers: list[bytearray] | tuple[()] = ()) -> Any:
    """Return the object of a payload; arrays keep the given buffers as their memory."""
    return pickle.loads(body, buffers=buffers)


class _Gathered:
    """Stands for a list of objects that are payloads already; what is unpickled is the list itself."""

    def __init__(self, parts: list[tuple[Bytes, list[bytearray]]]) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        parts = [(bytes(body), [pickle.PickleBuffer(buffer) for buffer in buffers]) for body, buffers in self._parts]
        return load_all, (parts,)


def gather(parts: list[tuple[Bytes, list[bytearray]]]) -> tuple[bytes, list[bytearray]]:
    """Return several payloads as one, of the list of their objects; no array is copied."""
    body = pickle.dumps(_Gathered(parts), PROTOCOL, buffer_callback=lambda buffer: None)
    return body, [buffer for _, buffers in parts for buffer in buffers]


def load_all(parts: list[tuple[Bytes, list[bytearray]]]) -> list[Any]:
    """Return the objects of several payloads."""
    return [load(body, buffers) for body, buffers in parts]


def _dump_by_value(obj: object) -> Payload:
    import cloudpickle  # type: ignore[import-untyped]

    buffers: list[pickle.PickleBuffer] = []
    body = cloudpickle.dumps(obj, PROTOCOL, buffer_callback=buffers.append)
    return Payload(body, [buffer.raw() for buffer in buffers])


def is_by_name(module: str) -> bool:
    """Whether what a module has is written as a name, for workers to import it themselves."""
    parts = module.split(".")
    names = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return module != "__main__" and names.isdisjoint(_registered())


def _registered() -> set[str]:
    """Return the modules that the user asked cloudpickle to write by value.

    There are none as long as nobody has imported it, or another thread is in the midst of that.
    """
    names: set[str] = getattr(sys.modules.get("cloudpickle.cloudpickle"), "_PICKLE_BY_VALUE_MODULES", set())
    return names
