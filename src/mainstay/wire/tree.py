"""Trees of files as one stream of frames, and back.

    FILE (name, mode, time, directory?) ─▶ PIECE ─▶ PIECE ─▶ FILE … ─▶ DONE

Small files travel many in one packet, and of large ones no more than a piece is in memory. Links are followed: what
arrives are files and directories. A file lasts to the next FILE, so one that grows while it is read harms nothing.
"""

from __future__ import annotations

import os
import pickle
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from mainstay.wire.frames import Bytes, Frame, FrameReader, Kind, encode

PIECE = 1 << 20  # bytes of a file that are read at once
BATCH = 1 << 18  # bytes that are sent at once
LARGEST = 1 << 24  # bytes of a frame that a reader takes
Locate = Callable[[str, bool], str]  # from a name, and whether it is a directory's, to a path


class Entry(NamedTuple):
    """A file or directory: its path, what it is called in the stream, mode, time (ns) and size (bytes).

    `version` also tells it from what has taken its place with the same time: device, inode, time of that change (ns).
    """

    path: str
    name: str
    mode: int
    mtime: int
    size: int
    is_directory: bool
    version: tuple[int, int, int] = (0, 0, 0)


class Changed(Exception):
    """A file is no longer what it was when it was looked at."""


def walk(path: str, name: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Entry]:
    """Yield what is at a path and all below it, in a fixed order; `ValueError` for what is no file or directory."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISREG(found.st_mode):
        version = found.st_dev, found.st_ino, found.st_ctime_ns
        yield Entry(path, name, mode, found.st_mtime_ns, found.st_size, False, version)
        return
    here = (found.st_dev, found.st_ino)
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{path} is neither a file nor a directory")
    if here in above:
        raise ValueError(f"{path} is a link to a directory that it lies in; take the link out")
    yield Entry(path, name, mode, 0, 0, True)
    for child in sorted(os.listdir(path)):
        yield from walk(os.path.join(path, child), f"{name}/{child}", (*above, here))


def summary(path: str) -> tuple[str, int]:
    """Return what a tree is known by, from its path and the names, sizes and times in it; and its bytes in all."""
    digest, size = blake2b(os.fsencode(path), digest_size=12), 0
    for entry in walk(path, ""):
        digest.update(repr((entry.name, entry.mode, entry.mtime, entry.size, entry.is_directory)).encode())
        size += entry.size
    return digest.hexdigest(), size


def pack(entries: Iterable[Entry], *, steady: bool = False) -> Iterator[list[Bytes]]:
    """Yield the pieces to send. Raises `Changed` where it must be `steady` and a file changes as it is read."""
    batch: list[Bytes] = []
    size = 0
    for entry in entries:
        for pieces in _frames(entry, steady):
            batch += pieces
            size += sum(len(piece) for piece in pieces)
            if size >= BATCH or len(batch) > 256:
                yield batch
                batch, size = [], 0
    yield batch


def _frames(entry: Entry, steady: bool) -> Iterator[list[Bytes]]:
    yield encode(Kind.FILE, pickle.dumps((entry.name, entry.mode, entry.mtime, entry.is_directory)))
    if entry.is_directory:
        return
    fd = os.open(entry.path, os.O_RDONLY)
    try:
        while data := os.read(fd, PIECE):
            yield encode(Kind.PIECE, data)
        now = os.fstat(fd)
    finally:
        os.close(fd)
    if steady and (now.st_size, now.st_mtime_ns) != (entry.size, entry.mtime):
        raise Changed(entry.path)


def frames_from(sock: socket.socket) -> Iterator[Frame]:
    """Yield the frames that come on a blocking socket; `EOFError` at its end."""
    reader = FrameReader(LARGEST)
    while count := sock.recv_into(reader.get_buffer()):
        yield from reader.received(count)
    raise EOFError("the connection ended in the middle of a stream of files")


class Writer:
    """Writes what a stream brings, to where `locate` says of each name; modes are cut down to `mask`."""

    def __init__(self, locate: Locate, mask: int = 0o777) -> None:
        self._locate, self._mask = locate, mask
        self._fd = -1
        self._mode = self._mtime = 0
        self._directories: list[tuple[str, int]] = []

    def take(self, frame: Frame) -> None:
        """Take a FILE or a PIECE."""
        if frame.kind == Kind.PIECE:
            self._write(memoryview(frame.body))
            return
        self._end_file()
        name, self._mode, self._mtime, is_directory = pickle.loads(frame.body)
        path = self._locate(name, is_directory)
        if is_directory:
            os.makedirs(path, exist_ok=True)
            self._directories.append((path, self._mode))
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def _end_file(self) -> None:
        if self._fd >= 0:
            os.fchmod(self._fd, self._mode & self._mask)
            os.utime(self._fd, ns=(self._mtime, self._mtime))
        self.close()

    def end(self, *, seal: bool = False) -> None:
        """All has come; with `seal`, directories get their modes too."""
        self._end_file()
        for path, mode in reversed(self._directories) if seal else ():
            os.chmod(path, mode & self._mask)

    def close(self) -> None:
        """Leave the file that is being written as it is."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
