"""`mainstay.scratch()` and `mainstay.staged()`: what a task calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mainstay.node import context

if TYPE_CHECKING:
    from pathlib import Path

    from mainstay.node.place import Place


def scratch(per: str = "worker") -> Path:
    """Return a directory on the node's own disk, made when it is first asked for.

    Args:
        per: "worker": one that this worker keeps from task to task, until it ends; "task": one for this task alone,
            removed after it. What `stage_out` brings back is looked for in the task's.

    Raises `RuntimeError` where no task runs, `ScratchError` where the node has no place for it, `ScratchFull` where
    its disk is full, `ValueError` for another `per`.
    """
    if per not in ("worker", "task"):
        raise ValueError(f"per must be 'worker' or 'task'; given: {per!r}")
    from pathlib import Path

    task, place = _here("scratch")
    return Path(place.of_task(task) if per == "task" else place.of_worker())


def staged(path: str | os.PathLike[str]) -> Path:
    """Return where an input file or directory of this task is on the node's own disk; it is read-only.

    Args:
        path: as given to `stage_in`, or something below a directory that was given there.

    Raises `RuntimeError` where no task runs, `ScratchError` for what was not staged for this task.
    """
    from pathlib import Path

    _, place = _here("staged")
    return Path(place.find(os.fspath(path)))


def _here(name: str) -> tuple[int, Place]:
    """Return the task that runs, by its number, and its worker's place."""
    if context.current is None or context.place is None:
        raise RuntimeError(f"mainstay.{name}() was called where no task runs; it is for use inside a task")
    return context.current.id, context.place
