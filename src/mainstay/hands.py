"""Which busy workers have room in hand, and which have been silent for too long with several tasks in it. Pure.

A busy worker may hold tasks ahead, as many as are expected to last `AHEAD` seconds together, or one of up to `NEXT`
seconds, so that it does not wait for the network between two tasks. What a task is expected to last is the moving mean
of its function's run times; of a function that was never measured it is for ever, so such a task gets no company. When
a worker idles, what others hold ahead of more than `AHEAD` seconds is recalled and given to it. And when no result has
come from a worker with several tasks for `STALLED` seconds, or for `OVERDUE` if they are long, it is recalled too: one
of its tasks must be taking longer than expected, and those before it may have results that wait to be sent, and that
others wait for. A worker that is silent for so long gets no company until a result comes, and one that was recalled
until its hand is empty.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from mainstay.orders import Worker

AHEAD = 0.001  # seconds of work that a worker may hold ahead
NEXT = 0.05  # seconds that a task may last which waits behind one other
MOST_IN_HAND = 128
STALLED = 0.010  # seconds without a result after which a hand of several short tasks is recalled
OVERDUE = 5 * NEXT  # the same for a hand of long ones


class Hands:
    """The busy workers, by what is in their hands.

    `roomy`: those that may have more. `laden`, `heavy`: those with several tasks in hand that were not recalled, the
    longest stalled first: short ones, and those that are worth an errand.
    """

    def __init__(self) -> None:
        self.roomy: OrderedDict[int, Worker] = OrderedDict()
        self.laden: OrderedDict[int, Worker] = OrderedDict()
        self.heavy: OrderedDict[int, Worker] = OrderedDict()
        self._stalling = ((self.laden, STALLED), (self.heavy, OVERDUE))

    def next_stall(self) -> float:
        """Return when a hand will have stalled, if nothing comes; infinite if there is none that can."""
        return min(
            (next(iter(hands.values())).since + patience for hands, patience in self._stalling if hands), default=inf
        )

    def stalled(self, now: float) -> Worker | None:
        """Return a worker whose hand has stalled, if there is one."""
        for hands, patience in self._stalling:
            if hands and (worker := next(iter(hands.values()))).since + patience <= now:
                return worker
        return None

    def note(self, worker: Worker) -> None:
        """Its hand has changed. One that is at most half full has room; those with room take turns."""
        count, load = len(worker.hand), worker.load
        among = None if count < 2 or worker.recalled else self.heavy if load > AHEAD else self.laden
        if worker.among is not among:
            self._belongs(worker, among)
        self.roomy.pop(worker.id, None)
        has_room = (load <= AHEAD / 2 and count <= MOST_IN_HAND // 2) or (count == 1 and load <= NEXT)
        if has_room and not worker.closed and not worker.dying:
            self.roomy[worker.id] = worker

    def moved(self, worker: Worker) -> None:
        """Something came from it just now."""
        if worker.among is not None:
            worker.among.move_to_end(worker.id)

    def forget(self, worker: Worker) -> None:
        """It idles, or gets nothing more."""
        self.roomy.pop(worker.id, None)
        if worker.among is not None:
            self._belongs(worker, None)

    def _belongs(self, worker: Worker, among: OrderedDict[int, Worker] | None) -> None:
        if worker.among is not None:
            del worker.among[worker.id]
        if among is not None:
            among[worker.id] = worker
        worker.among = among
