"""Where MPI cannot join launches: whom one waits for, and who gives up its ranks so that another may have all. Pure.

Only ranks of one launch can be in a gang there. So nobody becomes a rank while others start, who would be left out; and
when a gang is to be wider than any launch, workers with ranks are replaced, each when it idles, and all become ranks of
a new one. For a gang of a set that was listed nobody is: its members are those very processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from mainstay.orders import Ranks, Task, Worker

PATIENCE = 2.0  # seconds that those who idle wait for those who start, before they become ranks without them


class Renewal:
    """When workers may be given new ranks. `is_hopeful`: ranks could be started when that was last tried."""

    def __init__(self) -> None:
        self.is_hopeful = True
        self.deadline = inf  # when those who idle wait no longer

    def waits(self, starting: int, now: float) -> bool:
        """Whether those who idle are to wait, so many others being about to start."""
        if starting > 0 and now < self.deadline:
            self.deadline = min(self.deadline, now + PATIENCE)
            return True
        self.deadline = inf
        return False

    def serves(self, gang: Ranks) -> bool:
        """Whether a gang that does well as it is could become wider by new ranks."""
        return self.is_hopeful and may_renew(gang)

    def begin(self, task: Task, members: list[int], idle: Iterable[Worker]) -> None:
        """A malleable gang of these members has paused to become wider: have as many as it wants give up their ranks.

        `idle` are the workers that could be in it. Those of them that have no ranks are taken first.
        """
        assert task.gang is not None
        chosen = sorted(idle, key=lambda one: (one.id not in members, bool(one.namespace), one.id))[: task.gang.most]
        if any(one.id not in members for one in chosen):
            for worker in chosen:
                worker.stale = bool(worker.namespace)


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
