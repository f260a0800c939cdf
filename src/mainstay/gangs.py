"""Gangs: tasks that want several workers at once. Which goes when, onto which workers, and how it ends. Pure.

    add ─▶ waiting ─▶ choose ─▶ running ─▶ Disband, or waiting again
                        │
                        └─▶ Enrol: the workers that it would take have no MPI ranks yet

An essay in three rules.

*Who goes first.* Gangs and single tasks have one order: the higher priority, then the earlier submit. Single tasks that
stand before the first gang go as if there were none. When the first gang does not find its workers idle, later tasks
that do may overtake it, the widest first, or the pool would stand still for each gang: that is bounded by `ROUNDS`
turns of each worker. From then on the gang has a reservation (backfill, as batch systems do it): an idle
worker is kept for it, and a later task gets it only if it is expected to end before the gang could begin, or takes a
worker that the gang will not need. So neither starves: a gang waits for some `ROUNDS` tasks' time and for what was
running, and a single task waits for the gangs before it. A gang that the pool's workers cannot form holds nobody up.
Neither does one for workers that a task does not take: of several gangs, each for a node of its own, each is the first
on its node.

*Who can go together.* Ranks of one MPI world can form a gang; such a set of workers is a circle. Workers get their
ranks, in circle 0, when a gang would first take them: all that idle then enrol together. A worker that has died leaves
its circle smaller for good. When no circle can hold the first gang, but all workers together could, those with ranks
are replaced, each when it idles, and enrol anew with the others.

*How it ends.* A gang has ended when all its parts have, and its workers are its own until then: so they are free at
once and go to a gang as wide, not one by one to single tasks. When one part has failed, by an exception or with its
worker, the others have `GRACE` seconds to fail or end too; those that have not are blocked in a message that will not
come, and their workers are replaced. A gang that lost a worker waits again, up to its `worker_retries`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from mainstay.holds import Holds
from mainstay.orders import Action, Assemble, Disband, Enrol, Hold, Ranks, Replace, Task, Worker

ROUNDS = 8  # turns of each worker of the pool that may go to later tasks while the first gang waits
GRACE = 0.5  # seconds in which the other parts of a gang that has failed may end by themselves
Mean = Callable[[Task], float]  # the mean run time of a task's function (s), 0 if it was never measured


@dataclass(eq=False, slots=True)
class Running:
    """A gang under way: its workers in the order of its ranks, and those whose parts have not ended."""

    task: Task
    workers: list[int]
    busy: set[int]
    deadline: float
    failed: int | None = None
    how: str = "returned"


@dataclass(eq=False, slots=True)
class Reservation:
    """A gang that waits, the workers that it could have, and when (see `Gangs._window`)."""

    task: Task
    workers: set[int]
    window: tuple[float, int] | None = None

    def is_delayed_by(self, task: Task, members: list[Worker]) -> bool:
        return order(self.task) < order(task) and any(worker.id in self.workers for worker in members)


def order(task: Task) -> tuple[int, int]:
    """Return what tasks are sorted by: the highest priority first, then the earliest submit."""
    return -task.priority, task.id


class Gangs:
    """The gangs that wait and those that run. Knows no clock, and no more of workers than it is given."""

    def __init__(self) -> None:
        self._waiting: dict[Ranks, list[Task]] = {}  # those of a kind in their order; kinds fit or do not fit as one
        self._first: Task | None = None
        self._running: dict[int, Running] = {}
        self._timed: dict[int, Running] = {}  # those that have a deadline
        self.released: list[int] = []  # workers of gangs that have ended; whoever takes them empties this
        self.kept: dict[str, int] = {}  # workers that the pool keeps on each node, those that are starting too
        self.may_enrol = False  # not before the pool stands: a circle does not grow
        self.holds = Holds()

    # -- waiting

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, task: Task) -> None:
        assert task.gang is not None
        insort(self._waiting.setdefault(task.gang, []), task, key=order)
        self._first = min(self.heads(), key=order)

    def remove(self, task: Task) -> None:
        assert task.gang is not None
        kind = self._waiting[task.gang]
        kind.remove(task)
        if not kind:
            del self._waiting[task.gang]
        self._first = min(self.heads(), key=order, default=None)

    def heads(self) -> list[Task]:
        """Return the first gang of each kind."""
        return [kind[0] for kind in self._waiting.values()]

    def comes_before(self, single: Task) -> bool:
        """Whether a gang stands before this single task."""
        return self._first is not None and order(self._first) < order(single)

    def drain(self) -> list[Task]:
        tasks = sorted((task for kind in self._waiting.values() for task in kind), key=order)
        self._waiting.clear()
        self._first = None
        return tasks

    def choose(
        self, idle: dict[int, Worker], workers: dict[int, Worker], single: Task | None, mean: Mean, now: float
    ) -> Assemble | Enrol | Replace | Hold | Worker | None:
        """Return what is to be done next with the workers that idle; one of these: let `single` have it.

        `single` is the first task that wants one worker; those before the first gang have gone already.
        """
        stale = next((worker.id for worker in idle.values() if worker.stale), None)
        if stale is not None:
            return Replace(stale)
        living = [worker for worker in workers.values() if not worker.dying]
        possible = sorted((task for task in self.heads() if self._is_possible(task, living)), key=order)
        if not possible:
            return next(reversed(idle.values())) if single else None
        head = possible[0]
        members = self._place(head, idle.values(), living)
        if members:
            chosen = self._begin(head, members, idle, living, now)
            if chosen is not None:
                return chosen
        elif self._renew(head, living):
            return self.choose(idle, workers, single, mean, now)
        return self._overtake(possible, idle, living, single, mean, now)

    def _begin(
        self, task: Task, members: list[Worker], idle: dict[int, Worker], living: list[Worker], now: float
    ) -> Assemble | Enrol | Hold | None:
        assert task.gang is not None
        if task.gang.alone:
            self.remove(task)
            return self.holds.begin(task, members)
        if members[0].circle == 0:
            if not self.may_enrol or any(worker.enrolling for worker in living):
                return None
            return Enrol([worker.id for worker in idle.values() if worker.circle == 0])
        self.remove(task)
        ids = [worker.id for worker in members]
        deadline = inf if task.timeout is None else now + task.timeout
        running = self._running[task.id] = Running(task, ids, set(ids), deadline)
        if deadline < inf:
            self._timed[task.id] = running
        return Assemble(task, ids)

    def _overtake(
        self,
        waiting: list[Task],
        idle: dict[int, Worker],
        living: list[Worker],
        single: Task | None,
        mean: Mean,
        now: float,
    ) -> Assemble | Enrol | Hold | Worker | None:
        """Have the widest of the later tasks begin that may have idle workers before the gangs that want these."""
        reservations = [Reservation(task, {worker.id for worker in self._eligible(task, living)}) for task in waiting]

        def may_have(task: Task, members: list[Worker]) -> bool:
            first = next((one for one in reservations if one.is_delayed_by(task, members)), None)
            return first is None or self._lets_pass(first, task, len(members), living, mean, now)

        placed = [(members, task) for task in waiting[1:] if (members := self._place(task, idle.values(), living))]
        for members, task in sorted(placed, key=lambda one: (-len(one[0]), order(one[1]))):
            assert task.gang is not None
            if (members[0].circle or task.gang.alone) and may_have(task, members):
                return self._begin(task, members, idle, living, now)
        if single is None:
            return None
        return next((worker for worker in reversed(idle.values()) if may_have(single, [worker])), None)

    def _lets_pass(
        self, first: Reservation, task: Task, count: int, living: list[Worker], mean: Mean, now: float
    ) -> bool:
        """Whether a later task may go before this gang, and take so many workers that it could have."""
        gang = first.task
        if gang.overtaken + count <= ROUNDS * len(first.workers):
            gang.overtaken += count
            return True
        first.window = first.window or self._window(gang, living, mean)
        return now + (mean(task) or task.timeout or inf) <= first.window[0] or count <= first.window[1]

    # -- who can form a gang

    def _place(self, task: Task, idle: Iterable[Worker], living: list[Worker]) -> list[Worker] | None:
        """Return workers for a gang, in the order of its ranks, if enough of those that can go together idle."""
        assert task.gang is not None
        best: list[Worker] | None = None
        for group in _groups(task.gang, idle):
            is_better = best is None or (group[0].circle > 0, -len(group)) > (best[0].circle > 0, -len(best))
            if is_better and len(group) >= self._least(task.gang, group[0], living):
                best = group
        if best is None:
            return None
        most = len(best) if task.gang.scope in ("node", "all") else task.gang.most
        if task.gang.scope == "cores":
            most = self._least(task.gang, best[0], living)
        on_node = Counter(worker.node for worker in best)
        return sorted(best, key=lambda worker: (-on_node[worker.node], worker.node, worker.id))[:most]

    def _least(self, gang: Ranks, one: Worker, living: list[Worker]) -> int:
        """Return how many workers a gang must have if this one is among them."""
        if gang.scope == "pool":
            return gang.least
        if gang.alone:
            return self.holds.least(gang, one.node, self.kept.get(one.node, 1))
        if gang.on is not None:
            alike = [worker for worker in living if gang.scope == "all" or worker.node == one.node]
            return sum(worker.id in gang.on for worker in alike)
        return sum(self.kept.values()) if gang.scope == "all" else self.kept.get(one.node, 1)

    def _is_possible(self, task: Task, living: list[Worker]) -> bool:
        """Whether the workers that stand or start could form this gang, were they all idle and ranks of one world."""
        gang = task.gang
        assert gang is not None
        eligible = self._eligible(task, living)
        if gang.alone:
            return bool(eligible)
        starting = max(0, sum(self.kept.values()) - len(living)) if gang.on is None else 0
        return bool(eligible) and len(eligible) + starting >= self._least(gang, eligible[0], living)

    def _eligible(self, task: Task, living: list[Worker]) -> list[Worker]:
        """Return the workers that this gang could have, sooner or later."""
        gang = task.gang
        assert gang is not None
        mine = [worker for worker in living if _may_have(gang, worker)]
        if gang.alone:
            return [one for one in mine if self._least(gang, one, living) <= self.kept.get(one.node, 1)]
        return mine

    def _renew(self, task: Task, living: list[Worker]) -> bool:
        """Have the workers with ranks replaced, if no circle can hold this gang; say whether one of them idles."""
        gang = task.gang
        assert gang is not None
        if gang.alone:
            return False
        if any(len(group) >= self._least(gang, group[0], living) for group in _groups(gang, living)):
            return False
        old = [worker for worker in living if worker.circle and _may_have(gang, worker)]
        for worker in old:
            worker.stale = True
        return any(worker.idle for worker in old)

    def shortage(self, task: Task) -> str:
        """Return why the pool as it is kept now can never run this gang; empty: it can."""
        assert task.gang is not None
        if task.gang.alone:
            return self.holds.shortage(task.gang, self.kept)
        least, most = task.gang.least, sum(self.kept.values())
        told = f"it wants {least} workers at least; the pool has lost some, and has {most} now"
        return f"the gang cannot run: {told}" if least > most else ""

    # -- when

    def _window(self, head: Task, living: list[Worker], mean: Mean) -> tuple[float, int]:
        """Return when the first gang can begin, as far as is known, and how many idle workers it will not need then."""
        assert head.gang is not None
        begins, spare = inf, 0
        for group in _groups(head.gang, living):
            least = self._least(head.gang, group[0], living)
            if len(group) >= least:
                free = sorted(_free_at(worker, mean) for worker in group)
                if free[least - 1] < begins:
                    begins = free[least - 1]
                    spare = bisect_right(free, begins) - least
        return begins, spare

    # -- running

    def part_ended(self, task: Task, worker: int, how: str, now: float) -> list[Action]:
        """A member's part has "returned", "raised" or "died"."""
        running = self._running.get(task.id)
        if running is None or worker not in running.busy:
            return []
        running.busy.discard(worker)
        if how != "returned" and running.failed is None:
            running.failed, running.how = worker, how
            running.deadline = min(running.deadline, now + GRACE)
            self._timed[task.id] = running
        return [] if running.busy else self._disband(running)

    def unassembled(self, task: Task) -> None:
        """A gang had been cancelled and was not sent."""
        self._timed.pop(task.id, None)
        self.released += self._running.pop(task.id).workers

    def next_deadline(self) -> float:
        return min((running.deadline for running in self._timed.values()), default=inf)

    def overdue(self, now: float) -> list[Action]:
        """Return what is to be done about gangs whose time is over: their blocked workers are replaced."""
        actions: list[Action] = []
        for running in [running for running in self._timed.values() if running.deadline <= now]:
            if running.failed is None:
                running.how = "overran"
            actions += [Replace(worker) for worker in running.workers if worker in running.busy]
            actions += self._disband(running)
        return actions

    def _disband(self, running: Running) -> list[Action]:
        task = running.task
        self.released += running.workers
        del self._running[task.id]
        self._timed.pop(task.id, None)
        if running.how == "died":
            task.deaths += 1
            if task.deaths <= task.worker_retries:
                task.attempt += 1
                self.add(task)
                return []
        return [Disband(task, running.failed, running.how)]


def _groups(gang: Ranks, workers: Iterable[Worker]) -> Iterable[list[Worker]]:
    """Return those of the workers that can form this gang, by who can go with whom."""
    groups: dict[tuple[int, str], list[Worker]] = {}
    of_one_node = gang.scope in ("node", "cores")
    for worker in workers:
        if _may_have(gang, worker) and not worker.stale:
            kind = 0 if gang.alone else worker.circle, worker.node if of_one_node else ""
            groups.setdefault(kind, []).append(worker)
    return groups.values()


def _may_have(gang: Ranks, worker: Worker) -> bool:
    return (gang.on is None or worker.id in gang.on) and (gang.nodes is None or worker.node in gang.nodes)


def _free_at(worker: Worker, mean: Mean) -> float:
    """Return when a worker is expected to idle; that may be past, where it is late or nothing is known of its task.

    To expect anything later then would let tasks through that are shorter than it is late, and so for ever.
    """
    return -inf if worker.idle else worker.since + sum(mean(task) for task in worker.hand.values())
