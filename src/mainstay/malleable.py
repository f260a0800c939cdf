"""When a malleable gang changes its size: it gives workers up that others wait for, and takes those that idle.

what waits, who idles, who is to leave ─▶ size ─▶ PAUSE ─▶ rank 0 ─▶ at its next point all ranks hand over
                                                                      └─▶ the gang waits again, for as many
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mainstay.orders import Ranks, Task
from mainstay.scheduler import Scheduler

LOOK = 0.05  # seconds between two looks, while a malleable gang runs
CALM = 0.25  # seconds that it runs at least before it changes again
IN_VAIN = 10.0  # seconds before it tries to grow again, after idle workers could not join it


def size(bounds: Ranks, now: int, waiting: int, idle: int, leaving: int) -> int:
    """Return how many ranks a gang is to have that has so many now; `leaving` of them are to leave.

    `waiting`: how many workers what waits could use.
    """
    if leaving or waiting > idle:
        return max(bounds.least, now - max(leaving, waiting - idle))
    return now if waiting else min(bounds.most, now + idle)


class Watch:
    """What is known of a malleable gang: since when it is as it is, how large it was to be, when it may grow again."""

    def __init__(self) -> None:
        self.attempt, self.since, self.wanted, self.not_before = -1, 0.0, 0, 0.0

    def look(self, attempt: int, count: int, now: float) -> None:
        """It is the gang's so-manieth beginning, with so many ranks."""
        if attempt != self.attempt:
            self.attempt, self.since = attempt, now
            self.not_before = now + IN_VAIN if count < self.wanted else now


class Malleability:
    """Has the malleable gangs of a pool pause. Wants the broker's lock held.

    Args:
        pause: tells a gang that its task is to pause.
    """

    def __init__(self, scheduler: Scheduler, pause: Callable[[Task], None]) -> None:
        self._scheduler, self._pause = scheduler, pause
        self._look_at = 0.0
        self._watches: dict[int, Watch] = {}  # by task

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return self._look_at if self._watches or self._scheduler.gangs.parts.malleable() else None

    def tick(self, time_now: float) -> None:
        """Look whether a gang is to change; one at a time, since each changes what the others can have."""
        if self._look_at > time_now:
            return
        running = self._scheduler.gangs.parts.malleable()
        self._watches = {task.id: self._watches.get(task.id) or Watch() for task, _ in running}
        self._look_at = time_now + LOOK
        for task, workers in running:
            if self._changes(task, workers, time_now):
                break

    def _changes(self, task: Task, workers: list[int], time_now: float) -> bool:
        watch, known, count = self._watches[task.id], self._scheduler.workers, len(workers)
        watch.look(task.attempt, count, time_now)
        if task.pausing or watch.since + CALM > time_now:
            return False
        idle = sum(worker.idle for worker in known.values())
        leaving = sum(known[number].leaving for number in workers if number in known)
        assert task.malleable is not None
        wanted = size(task.malleable, count, self._scheduler.demand, idle, leaving)
        if (wanted == count and not leaving) or (wanted > count and watch.not_before > time_now):
            return False
        watch.wanted, task.pausing = wanted, True
        task.gang = replace(task.malleable, most=wanted)
        self._pause(task)
        return True
