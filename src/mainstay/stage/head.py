"""The head of a packed environment says what is in it. Programs that unpack do not see it, so `tar` reads the file.

.tar.zst   a skippable frame                      (RFC 8878, 3.1.2), then the archive
.tar.gz    an empty member with an extra field    (RFC 1952, 2.3.1.1), then the archive
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mainstay.errors import StageError

SKIPPABLE = 0x184D2A50
GZIP = b"\x1f\x8b\x08\x04" + bytes(6)  # deflate, with an extra field; no time, no system
EMPTY = b"\x03\x00" + bytes(8)  # deflated, its checksum and its size
LARGEST = 0xFFFF - 4  # bytes of an extra field, less its own head
IMAGE = b"mainstay stage\n"
BLOCK = 4096  # bytes; where an image begins must be a multiple
STAMP = ".mainstay-stamp"  # a file in an image
KINDS = {".tar.zst": "zstd", ".tar.gz": "gzip", ".sqfs": "squashfs"}


class Manifest(NamedTuple):
    """What a packed environment holds.

    `files` and `size` (bytes) are those of all files but bytecode, `room` (bytes) is what all take on a disk; `digest`
    is the SHA-256 of what follows the head; `sources` are the directories that were packed, and `fingerprint` says in
    which state they were. `stamp` is known from an image's own `STAMP` as well, where that is mounted.
    """

    python: str
    machine: str
    mainstay: str
    prefix: str
    sources: list[str]
    fingerprint: str
    files: int
    size: int
    room: int
    digest: str = "0" * 64
    stamp: str = ""


def kind_of(path: Path) -> str:
    """Return "zstd", "gzip" or "squashfs", by the file's name. Raises `StageError`."""
    for ending, kind in KINDS.items():
        if path.name.endswith(ending):
            return kind
    raise StageError(f"{str(path)!r} must end in {' or '.join(KINDS)}")


def encode(manifest: Manifest, kind: str) -> bytes:
    """Return the head; its length does not depend on the digest. Raises `StageError` where it is too long."""
    body = json.dumps(manifest._asdict()).encode()
    if len(body) > LARGEST:
        raise StageError(f"the environment has too many sources: {len(manifest.sources)} directories")
    if kind == "zstd":
        return struct.pack("<II", SKIPPABLE, len(body)) + body
    if kind == "squashfs":
        return (IMAGE + struct.pack("<I", len(body)) + body).ljust(_whole_blocks(len(body)), b"\0")
    return GZIP + struct.pack("<H2sH", len(body) + 4, b"MS", len(body)) + body + EMPTY


def read(path: Path) -> tuple[Manifest, int, int]:
    """Return what a file holds, the bytes of its head and all its bytes. Raises `StageError` for another file."""
    kind = kind_of(path)
    try:
        with path.open("rb") as file:
            body, start = _body(file, kind)
            size = file.seek(0, os.SEEK_END)
        return Manifest(**json.loads(body)), start, size
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; `mainstay stage -o {path}` makes one") from error
    except (ValueError, TypeError, struct.error) as error:
        raise StageError(f"{path} is no environment packed by this mainstay ({error}); pack it anew") from error


def _body(file: BinaryIO, kind: str) -> tuple[bytes, int]:
    if kind == "zstd":
        magic, length = struct.unpack("<II", file.read(8))
        if magic != SKIPPABLE:
            raise ValueError("it has no head")
        return file.read(length), 8 + length
    if kind == "squashfs":
        if file.read(len(IMAGE)) != IMAGE:
            raise ValueError("it has no head")
        (length,) = struct.unpack("<I", file.read(4))
        return file.read(length), _whole_blocks(length)
    if file.read(len(GZIP)) != GZIP:
        raise ValueError("it has no head")
    _, name, length = struct.unpack("<H2sH", file.read(6))
    if name != b"MS":
        raise ValueError("its head is another program's")
    return file.read(length), len(GZIP) + 6 + length + len(EMPTY)


def _whole_blocks(length: int) -> int:
    """Return the bytes of an image's head, given those of what it says."""
    return -(-(len(IMAGE) + 4 + length) // BLOCK) * BLOCK
