"""Where files of the tree are made that are not as they were: rewritten, patched or compiled."""

from __future__ import annotations

import os
import shutil

from mainstay.stage.tree import File, file_at

TIME = 1_577_836_800  # 2020: of what is made here, so that the same environment gives the same file


class Workshop:
    """A directory for files of the tree.

    Args:
        directory: an empty one, that is there until the tree is written.
    """

    def __init__(self, directory: str) -> None:
        self._directory, self._count = directory, 0

    def place(self) -> str:
        """Return the path of a new file."""
        self._count += 1
        return os.path.join(self._directory, str(self._count))

    def text(self, text: str, mode: int = 0o644) -> File:
        """Return a file with this text."""
        path = self.place()
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return file_at(path)._replace(mode=mode, mtime=TIME)

    def copy(self, file: File) -> File:
        """Return a copy that may be changed; `renewed` tells its size then."""
        path = self.place()
        shutil.copyfile(file.path, path)
        return file._replace(path=path)


def renewed(file: File) -> File:
    """Return a file that was changed, with the size that it has now; its mode and time stay."""
    return file._replace(size=os.stat(file.path).st_size)
