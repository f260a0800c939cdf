"""A worker's place in the pool's directory on its node (see `home`): its own part, and what its tasks ask for.

begin ─▶ inputs are there (fetched by one worker of the node, the others wait at a lock); the errand is noted
   task ─▶ of_worker, of_task, find
finish ─▶ results are brought, the task's directory removed
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from mainstay.node.home import Home, free, remove

if TYPE_CHECKING:
    from mainstay.errors import ScratchFull
    from mainstay.node.context import TaskInfo
    from mainstay.node.psets import Line
    from mainstay.node.standing import Standing
    from mainstay.wire.address import Address

FULL = (errno.ENOSPC, errno.EDQUOT)
LITTLE = 1 << 20  # bytes: a disk with less room than that, or than a hundredth, is taken for full


class Orders(NamedTuple):
    """What a call says of its files: the client's directory; staged trees by their path there, as (key, size);
    patterns and the directories, on the client, that what they match goes to."""

    directory: str
    inputs: dict[str, tuple[str, int]]
    outputs: dict[str, str]


class Place:
    """What one worker has of its node's `home`.

    Args:
        addresses, key: of the client, from which files come and to which they go.
    """

    def __init__(self, home: Home, number: int, addresses: list[Address], key: bytes) -> None:
        self.home, self.number = home, number
        self.client = (addresses, key)
        self.used = False  # by the task that runs: there is something to be done after it
        self.line: Line | None = None  # by which its tasks ask for process sets
        self.given_up = False  # a serial worker's thread that goes on after its task's time
        self._has_entered = False
        self._task = 0
        self._noted = False  # what is to be brought back
        self._orders = Orders("", {}, {})
        self._held: list[int] = []  # locks on the inputs of the task that runs

    # -- what a task asks for

    def of_worker(self) -> str:
        return self._made("worker")

    def of_task(self, task: int) -> str:
        self.used, self._task = True, task
        return self._made(f"task-{task}")

    def find(self, path: str) -> str:
        """Return where a staged path is on this node."""
        wanted = os.path.normpath(os.path.join(self._orders.directory, path))
        above, rest = wanted, ""
        while above not in self._orders.inputs:
            parent, name = os.path.split(above)
            if parent == above:
                from mainstay.errors import ScratchError

                known = ", ".join(map(repr, self._orders.inputs)) or "nothing"
                raise ScratchError(f"{path!r} is not staged for this task, which has: {known}; name it in stage_in=")
            above, rest = parent, os.path.join(name, rest) if rest else name
        key, _ = self._orders.inputs[above]
        return os.path.join(self.home.path, "inputs", key, os.path.basename(above), rest).rstrip("/")

    def inputs(self) -> dict[str, str]:
        """Return where the staged inputs of the task that runs are on this node, by their names."""
        return {os.path.basename(path): self.find(path) for path in self._orders.inputs}

    def _made(self, name: str) -> str:
        self._enter()
        path = os.path.join(self.home.of_worker(self.number), name)
        try:
            os.makedirs(path, 0o700, exist_ok=True)
        except OSError as error:
            raise self.explained(error) from error
        return path

    def _enter(self) -> None:
        if not self._has_entered:
            self.home.require()
            self.home.use()
            self._has_entered = True

    # -- before and after a task

    def begin(self, orders: Orders, task: TaskInfo) -> None:
        """See to it that the inputs are there, and note what is to be brought back."""
        self._orders, self._task, self.used = orders, task.id, True
        self._enter()
        try:
            if orders.inputs:
                from mainstay.node.inputs import hold

                hold(self.home, orders.inputs, self.client, self._held)
            if orders.outputs:
                from mainstay.node.porter import note

                note(self.home, self.number, orders, task)
                self._noted = True
        except OSError as error:
            raise self.explained(error) from error

    def finish(self, error: BaseException | None) -> None:
        """Bring back what the task left, however it ended, and remove its directory."""
        if error is not None:
            self._blame(error)
        while self._held:
            os.close(self._held.pop())
        used, noted, self.used, self._noted = self.used, self._noted, False, False
        self._orders = Orders("", {}, {})
        try:
            if noted and not self.given_up:
                self._bring(error)
        finally:
            if used:
                remove(os.path.join(self.home.of_worker(self.number), f"task-{self._task}"))

    def _bring(self, error: BaseException | None) -> None:
        from mainstay.node.porter import bring

        try:
            bring(self.home, self.number, self.client, "done" if error is None else "failed")
        except Exception as other:
            if error is None:
                raise
            error.__cause__ = error.__cause__ or other  # the task's own error matters more

    # -- errors

    def explained(self, error: OSError) -> OSError | ScratchFull:
        """Return what tells the user more, where a disk is full."""
        is_bare = type(error) is OSError and error.errno in FULL
        return self.home.full() if is_bare else error

    def _blame(self, error: BaseException) -> None:
        """A task failed: where that was for want of room on this disk, say so in the exception's cause."""
        if type(error) is OSError and error.errno in FULL:
            room, size = free(self.home.path)
            if error.__cause__ is None and (room < LITTLE or room < size / 100):
                error.__cause__ = self.home.full()


def take_place(setup: dict[str, Any], standing: Standing | None) -> None:
    """Make this process look like the client's: directory and module path, unless it stands in an environment of its
    own."""
    directory, path = (setup["directory"], setup["path"]) if standing is None else standing.prepare(setup)
    try:
        os.chdir(directory)
    except OSError:
        sys.stderr.write(f"mainstay: no {directory} on this node; workers run in {os.getcwd()}\n")
    sys.path[:] = path
    sys.argv[:] = setup["argv"]
    for name in setup["own"]:
        __import__(name)
