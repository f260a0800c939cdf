"""When a malleable gang changes its size: it gives workers up that others wait for, and takes those that idle.

what waits, who idles, who is to leave ─▶ size ─▶ PAUSE ─▶ rank 0 ─▶ at its next point all ranks hand over
                                                                      └─▶ the gang waits again, for as many
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mainstay.orders import Members, Ranks, Task, Worker
from mainstay.scheduler import Scheduler

LOOK = 0.05  # seconds between two looks, while a malleable gang runs
CALM = 0.25  # seconds that it runs at least before it changes again
RENEWAL = 10.0  # the same, before it grows by new ranks for all: new processes, and a second
IN_VAIN = 10.0  # seconds before it tries to grow again, after idle workers could not join it


def size(bounds: Ranks, now: int, lacking: int, spare: int, leaving: int) -> int:
    """Return how many ranks a gang is to have that has so many now; `leaving` of them are to leave.

    `lacking`: how many of its workers others wait for; `spare`: how many workers it could have for which nobody does.
    """
    if leaving or lacking:
        return max(bounds.least, now - max(leaving, lacking))
    return min(bounds.most, now + spare)


class Watch:
    """What is known of a malleable gang: since when it is as it is, how large it was to be, when it may grow again.

    `enrols` says that some of those who idled had no MPI rank: when they have, it can be larger than it became.
    """

    def __init__(self) -> None:
        self.attempt, self.since, self.wanted, self.not_before, self.enrols = -1, 0.0, 0, 0.0, False
        self._tried: set[int] = set()  # workers that had no rank then

    def look(self, attempt: int, count: int, now: float) -> None:
        """It is the gang's so-manieth beginning, with so many ranks."""
        if attempt != self.attempt:
            self.attempt, self.since = attempt, now
            self.not_before = now + IN_VAIN if count < self.wanted and not self.enrols else now

    def tries(self, wanted: int, idlers: list[Worker]) -> None:
        """It is to have so many ranks, for which these workers idle."""
        without = {worker.id for worker in idlers if not worker.namespace}
        self.wanted, self.enrols = wanted, not without <= self._tried
        self._tried |= without


class Malleability:
    """Has the malleable gangs of a pool pause. Wants the broker's lock held.

    Args:
        pause: tells a gang that its task is to pause.
    """

    def __init__(self, scheduler: Scheduler, pause: Callable[[Task], None]) -> None:
        self._scheduler, self._pause = scheduler, pause
        self._look_at = 0.0
        self._watches: dict[Task, Watch] = {}

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return self._look_at if self._watches or self._scheduler.gangs.parts.malleable() else None

    def tick(self, time_now: float) -> None:
        """Look whether a gang is to change; one at a time, since each changes what the others can have."""
        if self._look_at > time_now:
            return
        running, waiting = self._scheduler.gangs.parts.malleable(), self._scheduler.gangs.waiting
        paused = {task: watch for task, watch in self._watches.items() if task in waiting}
        self._watches = paused | {task: self._watches.get(task) or Watch() for task, _ in running}
        self._look_at = time_now + LOOK
        for task, workers in running:
            if self._changes(task, workers, time_now):
                break

    def _changes(self, task: Task, workers: list[int], time_now: float) -> bool:
        watch, known, count = self._watches[task], self._scheduler.workers, len(workers)
        watch.look(task.attempt, count, time_now)
        if task.pausing or watch.since + CALM > time_now:
            return False
        members = [known[number] for number in workers if number in known]
        leaving = sum(member.leaving for member in members)
        assert task.malleable is not None
        kin = self._idlers(task.malleable, members)
        idlers = kin
        if watch.since + RENEWAL <= time_now and self._scheduler.gangs.renewal.serves(task.malleable):
            idlers = self._idlers(task.malleable, members, renewed=True)
        lacking, spare = self._lacking(workers, idlers)
        wanted = size(task.malleable, count, lacking, spare, leaving)
        if (wanted == count and not leaving) or (wanted > count and watch.not_before > time_now):
            return False
        if not self._scheduler.fits(task, time_now):
            return False  # it would not begin again before the allocation ends
        watch.tries(wanted, idlers)
        task.pausing, task.renews = True, wanted > count + len(kin)
        task.gang = replace(task.malleable, most=wanted)
        self._pause(task)
        return True

    def _idlers(self, bounds: Ranks, members: list[Worker], *, renewed: bool = False) -> list[Worker]:
        """Return the workers that idle and could be in a gang with these."""
        gangs, idle = self._scheduler.gangs, [one for one in self._scheduler.workers.values() if one.idle]
        return [one for one in idle if members and gangs.may_join(bounds, members[0], one, renewed=renewed)]

    def _lacking(self, workers: list[int], idlers: list[Worker]) -> tuple[int, int]:
        """Return how many of these workers others wait for, since too few idle, and how many idle for this gang."""
        queues = self._scheduler.queues
        wants: Counter[Members | None] = Counter({None: queues.unbound})
        singles = [(on, len(tasks)) for on, tasks in queues.bound.items()]
        for on, count in [*singles, *self._scheduler.gangs.waiting.wants()]:
            wants[on] += count
        idle = [worker.id for worker in self._scheduler.workers.values() if worker.idle]
        mine = {*workers, *(idler.id for idler in idlers)}
        waited = {on: count for on, count in wants.items() if count and (on is None or on.meets(mine))}
        lacking = 0
        for on, count in waited.items():
            if on is None or on.meets(workers):
                lacking += max(0, count - sum(on is None or number in on for number in idle))
        return lacking, 0 if waited else len(idlers)
