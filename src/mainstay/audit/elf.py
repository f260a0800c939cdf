"""Where a program or shared library looks for its libraries: RPATH and RUNPATH of an ELF file."""

from __future__ import annotations

import struct

DYNAMIC, LOAD = 2, 1  # of program headers
STRINGS, RPATH, RUNPATH = 5, 15, 29  # of dynamic entries


def search_path(path: str) -> list[str]:
    """Return the directories that an ELF file (64 bit, little-endian) names; none where it is no such file."""
    try:
        with open(path, "rb") as file:
            return _search_path(file.read())
    except (OSError, struct.error, ValueError):
        return []


def _search_path(data: bytes) -> list[str]:
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + size * number) for number in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length, *_ in headers if kind == LOAD]
    dynamic = next(((offset, length) for kind, _, offset, _, _, length, *_ in headers if kind == DYNAMIC), (0, 0))
    entries = dict(struct.iter_unpack("<QQ", data[dynamic[0] : dynamic[0] + dynamic[1] // 16 * 16]))
    at = entries.get(RUNPATH, entries.get(RPATH))
    if at is None:
        return []
    begin = _offset(entries[STRINGS], loads) + at
    return data[begin : data.index(b"\0", begin)].decode(errors="replace").split(":")


def _offset(address: int, loads: list[tuple[int, int, int]]) -> int:
    """Return where in the file an address lies."""
    for begin, offset, length in loads:
        if begin <= address < begin + length:
            return address - begin + offset
    raise ValueError("an address outside of the file")
