"""What staged inputs hold, by digest: a call that reads files is another call when one of them has changed.

Times do not tell: a file may be written anew with what it held before, and a copy has a time of its own. So files are
read, each once as long as it stays as it is.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from hashlib import blake2b

from mainstay.staging import Inputs, look
from mainstay.wire import tree

RECENT = 2.0  # seconds after a change in which another might leave the same time
PIECE = 1 << 20  # bytes that are read at once
SIZE = 16  # bytes of a key, and of a digest
Version = tuple[int, ...]


class Contents:
    """Digests of input files and directories."""

    def __init__(self) -> None:
        self._known: dict[Version, bytes] = {}
        self._last: tuple[Inputs, bytes] = Inputs(), b""  # all items of a `map` have the same inputs

    def joined(self, key: bytes, stage_in: object) -> bytes:
        """Return the key of a call that has these inputs. Raises what `staging.look` does, and `OSError`."""
        inputs = look(stage_in)
        last, digest = self._last
        if inputs is not last:
            digest = self._of(inputs)
            self._last = inputs, digest
        return blake2b(key + digest, digest_size=SIZE, person=b"inputs").digest()

    def _of(self, inputs: Inputs) -> bytes:
        digest = blake2b(digest_size=SIZE)
        for one in inputs:
            for entry in tree.walk(one.path, called(one.path)):
                content = b"" if entry.is_directory else self._file(entry)
                digest.update(repr((entry.name, entry.is_directory, bool(entry.mode & 0o100), content)).encode())
        return digest.digest()

    def _file(self, entry: tree.Entry) -> bytes:
        version = (*entry.version, entry.size, entry.mtime)
        known = self._known.get(version)
        if known is None:
            known = _read(entry.path)
            if time.time() - max(entry.version[-1], entry.mtime) / 1e9 > RECENT:
                self._known[version] = known
        return known


def called(path: str) -> str:
    """Return the name by which an input counts: what lies below the working directory may move with it."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below


def executable(name: str) -> str:
    """Return what a program is known by: the digest of what it holds, as far as it is found here (else empty)."""
    path = shutil.which(name)
    if path is None:
        return ""
    told = os.stat(path)
    return _executable(os.path.abspath(path), told.st_size, told.st_mtime_ns, told.st_ino)


@functools.lru_cache(1024)
def _executable(path: str, *version: int) -> str:
    return _read(path).hex()


def _read(path: str) -> bytes:
    digest = blake2b(digest_size=SIZE)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(PIECE):
            digest.update(data)
    return digest.digest()
