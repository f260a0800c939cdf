"""Where an agent and its workers stand: in the environment of the client, or in one that was unpacked on this node.

Of the latter the shell that did so (`stage/node.sh`) tells by variables:

MAINSTAY_STAGE_TREE       where the environment is; the working directory is one of this pool, WORK/tasks
MAINSTAY_STAGE_TOOK       the seconds in which it was unpacked; 0: it was there
MAINSTAY_STAGE_HOME       the user's HOME, in place of which there is one of this node
MAINSTAY_STAGE_LIBRARIES  LD_LIBRARY_PATH, in which this Python is not to look, but other programs may have to
MAINSTAY_STAGE_WHY        or else why this is not so, and the environment is the client's
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any, NamedTuple

from mainstay.node.home import remove


class Standing(NamedTuple):
    """What the shell told; all empty where nothing is staged."""

    tree: str = ""
    took: str = ""
    home: str = ""
    libraries: str = ""
    why: str = ""
    work: str = ""

    @classmethod
    def read(cls, environ: MutableMapping[str, str]) -> Standing:
        """Take what was told out of the environment."""
        told = {name: environ.pop(f"MAINSTAY_STAGE_{name.upper()}", "") for name in cls._fields[:-1]}
        return cls(**told, work=os.path.dirname(os.getcwd()) if told["tree"] else "")

    def told(self) -> dict[str, Any] | None:
        """Return what the client is to know; None where nothing is staged."""
        if not self.tree and not self.why:
            return None
        return {"took": float(self.took or 0), "why": self.why, "imports": self._from_elsewhere()}

    def _from_elsewhere(self) -> int:
        """Return how many modules this process has that are not from the tree."""
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        return sum(file is not None and not file.startswith(f"{self.tree}/") for file in files)

    def prepare(self, setup: dict[str, Any]) -> None:
        """Make this process look like the client's, as far as it is to: directory and module path."""
        sys.argv[:] = setup["argv"]
        if not self.tree:
            _enter(setup["directory"])
            sys.path[:] = setup["path"]
            return
        staged = setup["stage"]
        sys.path[:0] = [*self._unpack(staged["modules"]), *staged["path"]]
        if self.libraries:
            os.environ["LD_LIBRARY_PATH"] = self.libraries
        if not staged["local"]:
            os.environ["HOME"] = self.home
            _enter(setup["directory"])

    def _unpack(self, directories: list[list[tuple[str, int, bytes]]]) -> list[str]:
        """Write the user's modules, and return where."""
        places = []
        for number, modules in enumerate(directories):
            place = os.path.join(self.work, "modules", str(number))
            for name, mtime, content in modules:
                path = os.path.join(place, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content)
                os.utime(path, (mtime, mtime))
            places.append(place)
        return places

    def left(self) -> str:
        """Return what to tell of files that tasks have left in their working directory; empty if there are none."""
        tasks = os.path.join(self.work, "tasks")
        names = sorted(os.listdir(tasks)) if self.work else []
        if not names:
            return ""
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return (
            f"mainstay: tasks left {', '.join(names[:3])}{more} in {tasks} on this node, where they will be removed. "
            "stage_out= brings files back; stage=Stage(…, local=False) has tasks run where the program was started"
        )

    def leave(self) -> None:
        """Remove what was made for this pool, but not what its tasks left."""
        if self.work and not os.listdir(os.path.join(self.work, "tasks")):
            remove(self.work)


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError:
        sys.stderr.write(f"mainstay: no {directory} on this node; workers run in {os.getcwd()}\n")
