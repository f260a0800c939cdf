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

*Who can go together.* Ranks of one namespace (one launch of MPI ranks); where MPI can join namespaces, those of all.
A worker has no rank until a gang would first take it: all that idle then enrol together. A worker that has died leaves
its namespace smaller for good; the one in its place enrols in another. Where that cannot be joined, and no namespace
can hold the first gang, but all workers together could, those with ranks are replaced, each when it idles, and enrol
anew with the others.

*How it ends.* A gang has ended when all its parts have, and its workers are its own until then: so they are free at
once and go to a gang as wide, not one by one to single tasks. When one part has failed, by an exception or with its
worker, the others have `GRACE` seconds to fail or end too; those that have not are blocked in a message that will not
come, and their workers are replaced. What joined several namespaces is not to be trusted after that: then the others'
workers are replaced too. A gang that lost a worker waits again, up to its `worker_retries`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from mainstay.orders import Action, Assemble, Disband, Enrol, Ranks, Replace, Task, Worker

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
    is_joint: bool  # it is of several namespaces
    failed: int | None = None
    how: str = "returned"
    is_broken: bool = False  # a part was ended in its middle


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
        self.ceiling = 0  # workers up to which the pool grows by itself
        self.may_enrol = False  # not before the pool stands: a namespace does not grow
        self.joins = False  # whether MPI can join namespaces, as those that stand have told

    # -- waiting

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def demand(self) -> int:
        """How many workers what waits could use at least."""
        return sum(ranks.least * len(kind) for ranks, kind in self._waiting.items())

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
    ) -> Assemble | Enrol | Replace | Task | None:
        """Return what is to be done next with the workers that idle; `single` itself: let it have one of them.

        `single` is the first task that wants one worker; those before the first gang have gone already.
        """
        stale = next((worker.id for worker in idle.values() if worker.stale), None)
        if stale is not None:
            return Replace(stale)
        living = [worker for worker in workers.values() if not worker.dying]
        possible = [task for task in self.heads() if self._is_possible(task, living)]
        if not possible:
            return single
        head = min(possible, key=order)
        wanted = self._place(head, idle.values(), living) or []
        if not all(worker.namespace for worker in wanted) and self._may_enrol_now(living):
            return Enrol([worker.id for worker in idle.values() if not worker.namespace])
        ranked = [worker for worker in idle.values() if worker.namespace]
        members = self._place(head, ranked, living)
        if members:
            return self._begin(head, members, now)
        if not wanted and self._renew(head, living):
            return self.choose(idle, workers, single, mean, now)
        later = [task for task in possible if task is not head]
        return self._overtake(head, later, ranked, living, single, mean, now)

    def _may_enrol_now(self, living: list[Worker]) -> bool:
        """Whether those who idle may enrol; where namespaces cannot be joined, others may be about to join this one."""
        return self.may_enrol and (self.joins or not any(worker.enrolling for worker in living))

    def _begin(self, task: Task, members: list[Worker], now: float) -> Assemble:
        self.remove(task)
        ids = [worker.id for worker in members]
        deadline = inf if task.timeout is None else now + task.timeout
        is_joint = len({worker.namespace for worker in members}) > 1
        running = self._running[task.id] = Running(task, ids, set(ids), deadline, is_joint)
        if deadline < inf:
            self._timed[task.id] = running
        return Assemble(task, ids)

    def _overtake(
        self,
        head: Task,
        later: list[Task],
        ranked: list[Worker],
        living: list[Worker],
        single: Task | None,
        mean: Mean,
        now: float,
    ) -> Assemble | Task | None:
        """Return the widest of the later tasks that may have idle workers before the first gang gets them.

        Of the idle workers only those with ranks are given: for a later task nobody enrols.
        """
        placed = [(members, task) for task in later if (members := self._place(task, ranked, living))]
        placed.sort(key=lambda one: (-len(one[0]), order(one[1])))
        window: tuple[float, int] | None = None
        for members, task in [*placed, *([([], single)] if single else [])]:
            count = len(members) or 1
            if head.overtaken + count <= ROUNDS * len(living):
                head.overtaken += count
            else:
                window = window or self._window(head, living, mean)
                if not (now + (mean(task) or task.timeout or inf) <= window[0] or count <= window[1]):
                    continue
            return self._begin(task, members, now) if members else task
        return None

    # -- who can form a gang

    def _place(self, task: Task, idle: Iterable[Worker], living: list[Worker]) -> list[Worker] | None:
        """Return workers for a gang, in the order of its ranks, if enough of those that can go together idle."""
        assert task.gang is not None
        best: list[Worker] | None = None
        for group in self._groups(task.gang, idle):
            is_better = best is None or _fitness(group) > _fitness(best)
            if is_better and len(group) >= self._least(task.gang, group[0], living):
                best = group
        if best is None:
            return None
        most = len(best) if task.gang.scope != "pool" else task.gang.most
        return sorted(best, key=_closeness(best))[:most]

    def _least(self, gang: Ranks, one: Worker, living: list[Worker]) -> int:
        """Return how many workers a gang must have if this one is among them."""
        if gang.scope == "pool":
            return gang.least
        if gang.on is not None:
            alike = [worker for worker in living if gang.scope == "all" or worker.node == one.node]
            return sum(worker.id in gang.on for worker in alike)
        return sum(self.kept.values()) if gang.scope == "all" else self.kept.get(one.node, 1)

    def _is_possible(self, task: Task, living: list[Worker]) -> bool:
        """Whether the workers that stand or start could form this gang, were they all idle and of one namespace."""
        gang = task.gang
        assert gang is not None
        eligible = [worker for worker in living if _may_have(gang, worker)]
        starting = max(0, sum(self.kept.values()) - len(living)) if gang.on is None else 0
        return bool(eligible) and len(eligible) + starting >= self._least(gang, eligible[0], living)

    def _renew(self, task: Task, living: list[Worker]) -> bool:
        """Have the workers with ranks replaced, if no namespace can hold this gang; say whether one of them idles."""
        gang = task.gang
        assert gang is not None
        if self.joins or any(len(group) >= self._least(gang, group[0], living) for group in self._groups(gang, living)):
            return False
        old = [worker for worker in living if worker.namespace and _may_have(gang, worker)]
        for worker in old:
            worker.stale = True
        return any(worker.idle for worker in old)

    def _groups(self, gang: Ranks, workers: Iterable[Worker]) -> Iterable[list[Worker]]:
        """Return those of the workers that can form this gang, by who can go with whom."""
        groups: dict[tuple[str, str], list[Worker]] = {}
        for worker in workers:
            if _may_have(gang, worker) and not worker.stale:
                key = "" if self.joins else worker.namespace, worker.node if gang.scope == "node" else ""
                groups.setdefault(key, []).append(worker)
        return groups.values()

    # -- when

    def _window(self, head: Task, living: list[Worker], mean: Mean) -> tuple[float, int]:
        """Return when the first gang can begin, as far as is known, and how many idle workers it will not need then."""
        assert head.gang is not None
        begins, spare = inf, 0
        for group in self._groups(head.gang, living):
            least = self._least(head.gang, group[0], living)
            if len(group) >= least:
                free = sorted(_free_at(worker, mean) for worker in group)
                if free[least - 1] < begins:
                    begins = free[least - 1]
                    spare = bisect_right(free, begins) - least
        return begins, spare

    # -- running

    def part_ended(self, task: Task, worker: int, how: str, now: float) -> list[Action]:
        """A member's part has "returned", "raised", "died", or "left": its worker was taken away."""
        running = self._running.get(task.id)
        if running is None or worker not in running.busy:
            return []
        running.busy.discard(worker)
        running.is_broken |= how == "died"
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
        return min(running.deadline for running in self._timed.values()) if self._timed else inf

    def overdue(self, now: float) -> list[Action]:
        """Return what is to be done about gangs whose time is over: their blocked workers are replaced."""
        actions: list[Action] = []
        for running in [running for running in self._timed.values() if running.deadline <= now]:
            if running.failed is None:
                running.how = "overran"
            running.is_broken = True
            actions += self._disband(running)
        return actions

    def _disband(self, running: Running) -> list[Action]:
        task = running.task
        spoilt = running.workers if running.is_joint and running.is_broken else running.busy
        actions: list[Action] = [Replace(worker) for worker in running.workers if worker in spoilt]
        self.released += running.workers
        del self._running[task.id]
        self._timed.pop(task.id, None)
        if running.how in ("died", "left"):
            task.deaths += running.how == "died"
            if task.deaths <= task.worker_retries:
                task.attempt += 1
                self.add(task)
                return actions
        return [*actions, Disband(task, running.failed, running.how)]


def _fitness(group: list[Worker]) -> tuple[bool, int]:
    """Return how well a group serves for a gang: all have ranks, then the fewest, so that the others stay together."""
    return all(worker.namespace for worker in group), -len(group)


def _closeness(group: list[Worker]) -> Callable[[Worker], tuple[object, ...]]:
    """Return what the workers of a group are sorted by, so that the first are on few nodes and in few namespaces."""
    on_node = Counter(worker.node for worker in group)
    among = Counter(worker.namespace for worker in group)
    return lambda worker: (
        not worker.namespace,
        -on_node[worker.node],
        worker.node,
        -among[worker.namespace],
        worker.namespace,
        worker.id,
    )


def _may_have(gang: Ranks, worker: Worker) -> bool:
    return gang.on is None or worker.id in gang.on


def _free_at(worker: Worker, mean: Mean) -> float:
    """Return when a worker is expected to idle; that may be past, where it is late or nothing is known of its task.

    To expect anything later then would let tasks through that are shorter than it is late, and so for ever.
    """
    return -inf if worker.idle else worker.since + sum(mean(task) for task in worker.hand.values())
