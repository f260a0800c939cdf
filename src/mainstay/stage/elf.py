"""Where a program or shared library looks for its libraries, and which it needs: the dynamic section of an ELF file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

DYNAMIC, LOAD = 2, 1  # of program headers
NULL, NEEDED, STRINGS, RPATH, RUNPATH = 0, 1, 5, 15, 29  # of dynamic entries
TOLD = (NEEDED, RPATH, RUNPATH)
Load = tuple[int, int, int]  # address, offset in the file, length


class Linked(NamedTuple):
    """The directories that a file names, RUNPATH or else RPATH, and the names of the libraries that it wants there."""

    search: list[str]
    needed: list[str]


def linked(path: str) -> Linked:
    """Return what an ELF file (64 bit, little-endian) says of its libraries; nothing where it is no such file."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _linked(data)
    except (OSError, struct.error, ValueError):
        return Linked([], [])


def _linked(data: mmap.mmap) -> Linked:
    if data[:6] != b"\x7fELF\x02\x01":
        return Linked([], [])
    entries, loads = _sections(data)
    strings = next((_offset(at, loads) for tag, at in entries if tag == STRINGS), 0)
    needed, old, new = ([_string(data, strings + at) for tag, at in entries if tag == one] for one in TOLD)
    return Linked([place for place in ":".join(new or old).split(":") if place], needed)


def _sections(data: mmap.mmap) -> tuple[list[tuple[int, int]], list[Load]]:
    """Return the dynamic entries, and what of the file lies where in memory."""
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + size * number) for number in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length, *_ in headers if kind == LOAD]
    dynamic = next(((offset, length) for kind, _, offset, _, _, length, *_ in headers if kind == DYNAMIC), (0, 0))
    pairs: Iterator[tuple[int, int]] = struct.iter_unpack("<QQ", data[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16])
    return list(takewhile(lambda pair: pair[0] != NULL, pairs)), loads


def _string(data: mmap.mmap, at: int) -> str:
    end = data.find(b"\0", at)
    if end < 0:
        raise ValueError("a string without an end")
    return data[at:end].decode(errors="replace")


def _offset(address: int, loads: list[Load]) -> int:
    """Return where in the file an address lies."""
    for begin, offset, length in loads:
        if begin <= address < begin + length:
            return address - begin + offset
    raise ValueError("an address outside of the file")
