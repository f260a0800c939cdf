"""Where an agent and its workers stand: in the environment of the client, or in one that was unpacked on this node.

Of the latter the shell that did so (`stage/node.sh`) tells by variables:

MAINSTAY_STAGE_TREE       where the environment is; the working directory is one of this pool, WORK/tasks
MAINSTAY_STAGE_TOOK       the seconds in which it was unpacked; 0: it was there
MAINSTAY_STAGE_SENT       whether it was unpacked from a copy that had been sent here: "yes" or empty
MAINSTAY_STAGE_HOME       the user's HOME, in place of which there is one of this node
MAINSTAY_STAGE_ENTER      the program that brings others into its name space of mounts; empty: it has none of its own
MAINSTAY_STAGE_LIBRARIES  LD_LIBRARY_PATH, in which this Python is not to look, but other programs may have to
MAINSTAY_STAGE_WHY        or else why this is not so, and the environment is the client's
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any, NamedTuple

from mainstay.node import slot
from mainstay.node.home import remove


class Standing(NamedTuple):
    """What the shell told, and the directory of this pool that it made."""

    tree: str = ""
    took: str = ""
    sent: str = ""
    home: str = ""
    enter: str = ""
    libraries: str = ""
    why: str = ""
    work: str = ""

    @classmethod
    def read(cls, environ: MutableMapping[str, str]) -> Standing:
        """Take what was told out of the environment."""
        told = {name: environ.pop(f"MAINSTAY_STAGE_{name.upper()}", "") for name in cls._fields[:-1]}
        return cls(**told, work=os.path.dirname(os.getcwd()) if told["tree"] else "")

    def told(self) -> dict[str, Any]:
        """Return what the client is to know."""
        return {
            "took": float(self.took or 0),
            "sent": bool(self.sent),
            "why": self.why,
            "imports": self._from_elsewhere(),
            "slot": self._slot(),
            "tree": "" if os.path.ismount(self.tree) else self.tree,  # an image ends with this process
        }

    def _slot(self) -> list[str]:
        """Return the command of a slot that is to run from where this process does."""
        entering = [self.enter, f"--mount=/proc/{os.getpid()}/ns/mnt"] if self.enter else []
        return [*entering, *slot.COMMAND]

    def _from_elsewhere(self) -> int:
        """Return how many modules this process has that are not from the tree."""
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        return sum(file is not None and not file.startswith(f"{self.tree}/") for file in files)

    def prepare(self, setup: dict[str, Any]) -> tuple[str, list[str]]:
        """Bring the user's modules here, and return the working directory and the module path to have."""
        if not self.tree:
            return setup["directory"], setup["path"]
        staged = setup["stage"]
        path = [*self._unpack(staged["modules"]), *staged["path"], *sys.path]
        if self.libraries:
            os.environ["LD_LIBRARY_PATH"] = self.libraries
        if staged["local"]:
            return os.getcwd(), path
        os.environ["HOME"] = self.home
        return setup["directory"], path

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
        """Remove what was made for this pool, but not what its tasks left.

        With a mounted image that is left to the next pool: it is mounted until this process has ended.
        """
        if self.work and not os.path.ismount(self.tree) and not os.listdir(os.path.join(self.work, "tasks")):
            remove(self.work)
