"""Where the client keeps the files of artifacts, from which they are staged to the nodes that measure them."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from shutil import rmtree

from mainstay.tune.building import Built


class Artifacts:
    """A directory of artifacts by their content.

    Args:
        directory: one that is kept; None: one that goes with this program.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(directory or tempfile.mkdtemp(prefix="mainstay-tune-"))
        self.path.mkdir(parents=True, exist_ok=True)
        if directory is None:
            weakref.finalize(self, rmtree, self.path, True)

    def place(self, built: Built) -> str:
        """Return the directory where the files of a build are; empty for one that has none."""
        if not built.files:
            return ""
        directory = self.path / built.digest
        if not directory.exists():
            partial = Path(tempfile.mkdtemp(dir=self.path))
            for name, mode, content in built.files:
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                path.chmod(mode)
            try:
                partial.rename(directory)
            except OSError:  # another has put it there meanwhile
                rmtree(partial, ignore_errors=True)
        return str(directory)
