"""Where MPI cannot join launches: whom one waits for, and who gives up its ranks so that another may have all. Pure.

Only ranks of one launch can be in a gang there. So nobody becomes a rank while others start, who would be left out; and
when a gang is to be wider than any launch, workers with ranks are replaced, each when it idles, and all become ranks of
a new one. For a gang of a set that was listed nobody is: its members are those very processes. A malleable program that
has paused for this begins with as many ranks as it is to have; with fewer only where these do not come.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from mainstay.orders import Ranks, Task, Worker

PATIENCE = 2.0  # seconds that one waits for workers that start, before those who idle become ranks, or begin, without


class Renewal:
    """When workers may be given new ranks. `is_hopeful`: ranks could be started when that was last tried."""

    def __init__(self) -> None:
        self.is_hopeful = True
        self.task: Task | None = None  # the program whose workers are being given new ranks
        self._since = 0.0  # when it paused
        self._until = inf  # when it begins with fewer, unless some are becoming ranks then
        self._starters_until = inf  # when those who idle wait no longer

    @property
    def deadline(self) -> float:
        """When somebody wants to be looked at again."""
        return min(self._until, self._starters_until)

    def passed(self, now: float) -> None:
        """They have been looked at."""
        self._until, self._starters_until = (inf if at <= now else at for at in (self._until, self._starters_until))

    def waits(self, starting: int, now: float) -> bool:
        """Whether those who idle are to wait, so many others being about to start."""
        if starting > 0 and now < self._starters_until:
            self._starters_until = min(self._starters_until, now + PATIENCE)
            return True
        self._starters_until = inf
        return False

    def serves(self, gang: Ranks) -> bool:
        """Whether a gang that does well as it is could become wider by new ranks."""
        return self.is_hopeful and may_renew(gang)

    def begin(self, task: Task, members: list[int], idle: Iterable[Worker], now: float) -> None:
        """A malleable gang of these members has paused to become wider: have as many as it wants give up their ranks.

        `idle` are the workers that could be in it. Those of them that have no ranks are taken first.
        """
        assert task.gang is not None
        chosen = sorted(idle, key=lambda one: (one.id not in members, bool(one.namespace), one.id))[: task.gang.most]
        if any(one.id not in members for one in chosen):
            for worker in chosen:
                worker.stale = bool(worker.namespace)
            self.task, self._since, self._until = task, now, now + PATIENCE

    def look(self, living: Iterable[Worker], now: float) -> None:
        """Let the program begin with fewer where its new ranks do not come."""
        if self.task is not None and self._since + PATIENCE <= now and not any(one.enrolling for one in living):
            self.task = None

    def begun(self, task: Task) -> None:
        """A gang has its workers."""
        if task is self.task:
            self.task, self._until = None, inf


def may_renew(gang: Ranks) -> bool:
    """Whether workers that are replaced can be followed by others, among those of whom a gang is to be."""
    return gang.on is None or gang.on.refills


def scattered(gang: Ranks) -> str:
    """Return why the members of a listed set cannot form a gang."""
    assert gang.on is not None
    return (
        f"the gang cannot run: the members of {gang.on.name!r} are ranks of several launches, none of which has enough "
        "of them, and this MPI cannot join launches; define the set by a function, so that it follows workers that are "
        "given new ranks"
    )
