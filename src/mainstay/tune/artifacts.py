"""Where the client keeps what builds made: artifacts, to be staged to the nodes that measure them, and what failed."""

from __future__ import annotations

import functools
import os
import tempfile
import time
import weakref
from pathlib import Path
from shutil import rmtree

from mainstay.cache import user_cache
from mainstay.tune.building import HERE, Built

KEPT = 30 * 24 * 3600.0  # seconds that what is left of a failed build stays in the user's cache


class Artifacts:
    """A directory of artifacts by their content.

    Args:
        directory: one that is kept, for failed builds too; None: one that goes with this program.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(directory or tempfile.mkdtemp(prefix="mainstay-tune-"))
        self.path.mkdir(parents=True, exist_ok=True)
        self._failed = None if directory is None else self.path
        if directory is None:
            weakref.finalize(self, rmtree, self.path, True)

    def place(self, built: Built) -> str:
        """Return the directory where the files of a build are; empty for one that has none."""
        return _put(built, self.path) if built.files else ""

    def command(self, built: Built) -> str:
        """Return what a shell repeats a failed build by; empty where no program failed."""
        return command_of(built, self._failed)


def command_of(built: Built, directory: Path | None = None) -> str:
    """Return what a shell repeats a failed build by, and put what it needs there; empty where no program failed.

    Args:
        directory: where that lies; None: the user's cache, for `KEPT` seconds.
    """
    if built.command is None:
        return ""
    try:
        command = built.command.moved(HERE, _put(built, directory or _cache()))
        if HERE in built.command.directory:
            os.makedirs(command.directory, exist_ok=True)  # it may have been empty
    except OSError:  # a home that is full, or not to be written: the sweep goes on
        return str(built.command)
    return str(command)


def _put(built: Built, root: Path) -> str:
    """Return the directory with the files of a build, by its content."""
    directory = root.absolute() / built.digest
    if not directory.exists():
        partial = Path(tempfile.mkdtemp(dir=root))
        for name, mode, content in built.files:
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
        try:
            partial.rename(directory)
        except OSError:  # another has put it there meanwhile
            rmtree(partial, ignore_errors=True)
    os.utime(directory)
    return str(directory)


@functools.cache
def _cache() -> Path:
    """Return the user's cache, without what is too old."""
    cache = Path(user_cache("tune"))
    cache.mkdir(parents=True, exist_ok=True)
    for path in cache.iterdir():
        if time.time() - path.lstat().st_mtime > KEPT:
            rmtree(path, ignore_errors=True)
    return cache
