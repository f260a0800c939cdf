"""How bytes are joined, so that different parts never give the same whole.

    pack(b"list", x, y)  =  list NUL |len x| x |len y| y       up to 96 bytes
                         =  # and the digest of that           beyond

The lengths make it injective; the digest keeps every encoding short, so that a value that is reached by many ways
costs the same at each.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mainstay.journal.reach import Reach

LONG = 96  # bytes; what is longer is replaced by its digest


def pack(tag: bytes, *parts: bytes) -> bytes:
    """Return the parts as one, told apart from the same parts under another tag (a plain word)."""
    pieces = [tag, b"\0"]
    for part in parts:
        pieces.append(len(part).to_bytes(8, "big"))
        pieces.append(part)
    whole = b"".join(pieces)
    return whole if len(whole) <= LONG else b"#" + digest(whole)


def digest(data: Any) -> bytes:
    """Return 32 bytes for any buffer."""
    return blake2b(data, digest_size=32).digest()


def text(words: str) -> bytes:
    """Return a str's bytes, lone surrogates included."""
    return words.encode("utf-8", "surrogatepass")


def texts(tag: bytes, words: Iterable[str]) -> bytes:
    """Return strings, in their order, as one."""
    return pack(tag, *map(text, words))


class Canon(Protocol):
    """What the rooms beside `canon` use of its encoder. `reach` notes what is read."""

    reach: Reach

    def value(self, obj: Any) -> bytes:
        """Return the canonical bytes of an object."""

    def at(self, step: str, obj: Any) -> bytes:
        """Return the same; an error will name the step."""

    def mapping(self, entries: dict[Any, Any]) -> bytes:
        """Return the canonical bytes of a dict's entries, whatever their order."""

    def named(self, entries: dict[str, Any], step: str) -> bytes:
        """Return the same for entries with names; `step` is a format for the name, for errors."""

    def reduced(self, obj: Any) -> bytes:
        """Return the canonical bytes of what pickle would write of an object."""
