"""Packs an environment: its tree as one compressed file, whose head says what it holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from mainstay.errors import StageError
from mainstay.stage import head
from mainstay.stage.environment import Environment, look
from mainstay.stage.fingerprint import edition, fingerprint
from mainstay.stage.head import Manifest
from mainstay.stage.plan import plan
from mainstay.stage.tree import Tree
from mainstay.stage.workshop import Workshop

BLOCK = 4096  # bytes of a disk, which a file has for itself
LEVEL = 3  # of compression: more takes long and gives little


class Packed(NamedTuple):
    """What `pack` made: the file, what it holds, its bytes, and what to tell of it."""

    path: Path
    manifest: Manifest
    bytes: int
    warnings: list[str]


def pack(
    environment: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    *,
    exclude: Iterable[str] = (),
    include: Iterable[str | os.PathLike[str]] = (),
) -> Packed:
    """Pack an environment into one file.

    Args:
        environment: its directory, its interpreter, or None for the one that runs this.
        output: the file, which ends in .tar.zst or .tar.gz; one that is there is replaced when all is written.
        exclude: patterns of names in the tree to leave out, as "*/tests/*".
        include: further directories whose modules are to be on the path.

    Raises `StageError`.
    """
    path = Path(output)
    kind = head.kind_of(path)
    here = look(environment)
    more = [os.path.abspath(place) for place in include]
    if missing := [place for place in more if not os.path.isdir(place)]:
        raise StageError(f"no directory {missing[0]!r}, which is to be included")
    try:
        with tempfile.TemporaryDirectory(prefix="mainstay-pack-") as directory:
            libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
            found = plan(here, Workshop(directory), list(exclude), more, libraries)
            manifest = _manifest(here, found.tree, found.sources)
            written = _write(path, kind, found.tree, manifest)
    except OSError as error:
        raise StageError(f"{here.prefix} could not be packed into {path}: {error}") from error
    return Packed(path, written, path.stat().st_size, found.warnings)


def _manifest(here: Environment, tree: Tree, sources: list[str]) -> Manifest:
    sizes = [file.size for name, file in tree.items() if not name.endswith(".pyc")]
    return Manifest(
        here.version, here.machine, edition(os.path.dirname(here.mainstay)), here.prefix, list(dict.fromkeys(sources)),
        fingerprint(sources), len(sizes), sum(sizes), sum(-(-file.size // BLOCK) * BLOCK for file in tree.values()),
    )  # fmt: skip


def _write(path: Path, kind: str, tree: Tree, manifest: Manifest) -> Manifest:
    """Write head and archive beside the file, and then put them in its place."""
    fd, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w+b") as file:
            manifest = manifest._replace(stamp=stamp(tree))
            start = file.write(head.encode(manifest, kind))
            file.flush()
            if kind == "squashfs":
                write_image(tree, beside, start, manifest.stamp)
            else:
                with compressed(kind, file) as stream:
                    write_tar(tree, stream)
            file.seek(start)
            manifest = manifest._replace(digest=_digest(file))
            file.seek(0)
            file.write(head.encode(manifest, kind))
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return manifest


def stamp(tree: Tree) -> str:
    """Return what a tree is known by: the names, modes, times and sizes of its files."""
    listing = [(name, *file[1:]) for name, file in sorted(tree.items())]
    return hashlib.sha256(repr(listing).encode(errors="surrogateescape")).hexdigest()


def write_tar(tree: Tree, stream: IO[bytes], stamped: str = "") -> None:
    """Write the files of a tree, in the order of their names: the same tree gives the same bytes.

    `stamped` is what the file `STAMP` is to say, if there is to be one.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar:
        if stamped:
            entry = tarfile.TarInfo(head.STAMP)
            entry.size = len(stamped) + 1
            tar.addfile(entry, io.BytesIO(f"{stamped}\n".encode()))
        for name, file in sorted(tree.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = file.size, file.mtime, (file.mode | 0o644) & 0o755
            with open(file.path, "rb") as content:
                tar.addfile(entry, content)


def write_image(tree: Tree, path: str, start: int, stamped: str) -> None:
    """Write a squashfs image into a file, after its first bytes. Raises `StageError` where there is no `sqfstar`."""
    program = shutil.which("sqfstar")
    if program is None:
        raise StageError("an image wants sqfstar, of squashfs-tools 4.5 or later; or give a name that ends in .tar.zst")
    options = ["-comp", "lz4", "-quiet", "-no-progress", "-all-root", "-force", "-offset", str(start)]
    command = [program, *options, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as image:  # noqa: S603
        assert image.stdin is not None
        with image.stdin:
            write_tar(tree, image.stdin, stamped)
    if image.returncode:
        raise StageError(f"sqfstar ended with exit code {image.returncode}; is the disk full?")


@contextmanager
def compressed(kind: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give a stream whose bytes go compressed into a file; the file is written when the block ends."""
    if kind == "gzip":
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=LEVEL, mtime=0) as stream:
            yield cast("IO[bytes]", stream)
    elif program := shutil.which("zstd"):
        yield from _by_program([program, f"-{LEVEL}", "-T0", "-q", "-c"], file)
    else:
        compressor = _zstandard().ZstdCompressor(LEVEL, threads=-1, write_checksum=True)
        with compressor.stream_writer(file, closefd=False) as stream:
            yield stream
    file.flush()


def _by_program(command: list[str], file: IO[bytes]) -> Iterator[IO[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as program:  # noqa: S603
        assert program.stdin is not None
        with program.stdin:
            yield program.stdin
    if program.returncode:
        raise StageError(f"{command[0]} ended with exit code {program.returncode}; is the disk full?")


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise StageError(
            "neither the program zstd nor the package zstandard is installed: `pip install 'mainstay[stage]'`, "
            "or give a name that ends in .tar.gz"
        ) from error
    return zstandard


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
