"""Gangs: tasks that want several workers at once. Which goes when, and onto which workers. Pure.

    add ─▶ waiting ─▶ choose ─▶ parts that run (see `parts`), or one that keeps others quiet (see `holds`)
                        │
                        └─▶ Enrol: the workers that it would take have no MPI ranks yet

An essay in two rules; of how a gang ends, `parts` tells.

*Who goes first.* Gangs and single tasks have one order: the higher priority, then the earlier submit. Single tasks that
stand before the first gang go as if there were none. When the first gang does not find its workers idle, later tasks
that do may overtake it, the widest first, or the pool would stand still for each gang: that is bounded by `ROUNDS`
turns of each worker. From then on the gang has a reservation (backfill, as batch systems do it): an idle
worker is kept for it, and a later task gets it only if it is expected to end before the gang could begin, or takes a
worker that the gang will not need. So neither starves: a gang waits for some `ROUNDS` tasks' time and for what was
running, and a single task waits for the gangs before it. A gang that the pool's workers cannot form holds nobody up.
Neither does one for workers that a task does not take: of several gangs, each for a node of its own, each is the first
on its node.

*Who can go together.* Ranks of one namespace (one launch of MPI ranks); where MPI can join namespaces, those of all.
A worker has no rank until a gang would first take it: all that idle then enrol together. A worker that has died leaves
its namespace smaller for good; the one in its place enrols in another. Where that cannot be joined, and no namespace
can hold the first gang, but all workers together could, those with ranks are replaced, each when it idles, and enrol
anew with the others (see `renewal`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from operator import attrgetter

from mainstay.holds import Holds
from mainstay.orders import Assemble, Enrol, Hold, Ranks, Replace, Task, Worker, order
from mainstay.parts import Parts
from mainstay.renewal import Renewal, may_renew, scattered
from mainstay.waiting import Waiting

ROUNDS = 8  # turns of each worker of the pool that may go to later tasks while the first gang waits
Mean = Callable[[Task], float]  # the mean run time of a task's function (s), 0 if it was never measured


@dataclass(eq=False, slots=True)
class Reservation:
    """A gang that waits, the workers that it could have, and when (see `Gangs._window`)."""

    task: Task
    workers: set[int]
    window: tuple[float, int] | None = None

    def is_delayed_by(self, task: Task, members: list[Worker]) -> bool:
        return order(self.task) < order(task) and any(worker.id in self.workers for worker in members)


class Gangs:
    """The gangs: those that wait in `waiting`, those that run in `parts` and `holds`.

    Knows no more of workers than it is given.
    """

    def __init__(self) -> None:
        self.waiting = Waiting()
        self._last: tuple[Ranks, list[Worker]] | None = None  # the kind of the gang that began last, and its workers
        self._last_is_close = False  # these are of one node and one namespace
        self.kept: dict[str, int] = {}  # workers that the pool keeps on each node, those that are starting too
        self.ceiling = 0  # workers up to which the pool grows by itself
        self.is_full = False  # there was no room for more when it last wanted to grow
        self.is_stuck = False  # what was to bring more has failed since it last grew; it is tried again
        self.may_enrol = False  # not before the pool stands: a namespace does not grow
        self.berths: dict[tuple[str, int], int] = {}  # the same of each node and site: a node may be of two jobs
        self.joins: bool | None = None  # whether MPI can join namespaces, as those that stand have told
        self.parts, self.holds, self.renewal = Parts(self.waiting.add), Holds(), Renewal()

    def next_deadline(self) -> float:
        return min(self.parts.next_deadline(), self.renewal.deadline)

    @property
    def may_grow(self) -> bool:
        """Whether more workers will come where gangs want them."""
        return not self.is_full and sum(self.kept.values()) < self.ceiling

    def choose(
        self, idle: dict[int, Worker], workers: dict[int, Worker], single: Task | None, mean: Mean, now: float
    ) -> Assemble | Enrol | Replace | Hold | Worker | None:
        """Return what is to be done next with the workers that idle; one of these: let `single` have it.

        `single` is the first task that wants one worker; those before the first gang have gone already.
        """
        stale = next((worker.id for worker in idle.values() if worker.stale), None)
        if stale is not None:
            return Replace(stale)
        if (again := self._again(len(idle))) is not None:
            return self._begin(*again, now)
        living = [worker for worker in workers.values() if not worker.dying]
        self.holds.ending = {worker.node for worker in workers.values() if worker.dying}
        self.renewal.look(living, now)
        possible = sorted((task for task in self.waiting.heads() if self._is_possible(task, living)), key=order)
        if not possible:
            return next(_takers(single, idle), None) if single else None
        head = possible[0]
        wanted = members = self._place(head, idle.values(), living)
        if wanted and not _is_alone(head) and not all(worker.namespace for worker in wanted):
            if self._may_enrol_now(wanted[0].site, living, now):
                return Enrol([worker.id for worker in idle.values() if not worker.namespace])
            members = self._place(head, _usable(head, idle), living)
        if members:
            return self._begin(head, members, now)
        if not wanted and head is not self.renewal.task and self._renew(head, living):
            return self.choose(idle, workers, single, mean, now)
        return self._overtake(possible, idle, living, single, mean, now)

    def _again(self, idle: int) -> tuple[Task, list[Worker]] | None:
        """Return the first gang with the workers of the last, if it is like that, they idle, and none are better."""
        first, last = self.waiting.first, self._last
        if first is None or last is None or first.gang != last[0] or not all(map(attrgetter("idle"), last[1])):
            return None
        return (first, last[1]) if idle == len(last[1]) or self._last_is_close else None

    def may_join(self, gang: Ranks, member: Worker, worker: Worker, *, renewed: bool = False) -> bool:
        """Whether a worker could be in a gang of that kind that has this member: with the ranks that they have or, if
        these may be `renewed`, with others."""
        if self.joins is False and worker.namespace != member.namespace and not renewed:
            return False
        return _may_have(gang, worker) and (self.joins is not False or worker.site == member.site)

    def renew(self, task: Task, members: list[int], workers: dict[int, Worker], now: float) -> None:
        """A malleable gang of these members has paused, perhaps to be given new ranks; nobody else may wait."""
        there = [workers[member] for member in members if member in workers]
        if task.renews and task.gang is not None and there and not self.waiting:
            idle = [worker for worker in workers.values() if worker.idle]
            apt = [one for one in idle if self.may_join(task.gang, there[0], one, renewed=True)]
            self.renewal.begin(task, members, apt, now)
        task.renews = False

    def _may_enrol_now(self, site: int, living: list[Worker], now: float) -> bool:
        """Whether those who idle may enrol; where namespaces cannot be joined, others may be about to join this one."""
        if self.joins or not self.may_enrol:
            return self.may_enrol
        if any(worker.enrolling for worker in living):
            return False
        starting = self.sites[site] - sum(worker.site == site for worker in living)
        return self.joins is None or not self.renewal.waits(starting, now)

    def _begin(self, task: Task, members: list[Worker], now: float) -> Assemble | Hold:
        self.waiting.remove(task)
        self.renewal.begun(task)
        if _is_alone(task):
            return self.holds.begin(task, members)
        assert task.gang is not None
        is_plain = task.gang.scope == "pool" and task.gang.least == task.gang.most and task.gang.on is None
        self._last = (task.gang, members) if is_plain else None
        self._last_is_close = bool(self.joins) and len({(one.node, one.namespace) for one in members}) == 1
        return self.parts.begin(task, members, now)

    def _overtake(
        self,
        waiting: list[Task],
        idle: dict[int, Worker],
        living: list[Worker],
        single: Task | None,
        mean: Mean,
        now: float,
    ) -> Assemble | Hold | Worker | None:
        """Have the widest of the later tasks begin that may have idle workers before the gangs that want these.

        Of the idle workers only those with ranks are given to gangs: for a later task nobody enrols.
        """
        reservations = [Reservation(task, {worker.id for worker in self._eligible(task, living)}) for task in waiting]

        def may_have(task: Task, members: list[Worker]) -> bool:
            first = next((one for one in reservations if one.is_delayed_by(task, members)), None)
            return first is None or self._lets_pass(first, task, len(members), living, mean, now)

        placed = [
            (members, task) for task in waiting[1:] if (members := self._place(task, _usable(task, idle), living))
        ]
        for members, task in sorted(placed, key=lambda one: (-len(one[0]), order(one[1]))):
            if may_have(task, members):
                return self._begin(task, members, now)
        if single is None:
            return None
        return next((worker for worker in _takers(single, idle) if may_have(single, [worker])), None)

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
        """Return workers for a gang, if enough of those that can go together idle."""
        assert task.gang is not None
        best: list[Worker] | None = None
        for group in self._groups(task.gang, idle):
            if not self.holds.has_room(task.gang, group[0].node):
                continue
            least = task.gang.most if task is self.renewal.task else self._least(task.gang, group[0], living)
            if len(group) >= least and (best is None or _fitness(group, task.gang) > _fitness(best, task.gang)):
                best = group
        if best is None:
            return None
        most = len(best) if task.gang.scope in ("node", "all") else task.gang.most
        if task.gang.scope == "cores":
            most = self._least(task.gang, best[0], living)
        return _closest(best)[:most]

    def _least(self, gang: Ranks, one: Worker, living: list[Worker]) -> int:
        """Return how many workers a gang must have if this one is among them."""
        if gang.scope == "pool":
            return gang.least
        if gang.holds_others:
            return self.holds.least(gang, one.node, self._kept_beside(gang, one))
        if gang.on is not None:
            alike = [worker for worker in living if gang.scope == "all" or worker.node == one.node]
            return sum(worker.id in gang.on for worker in alike)
        return sum(self.kept.values()) if gang.scope == "all" else self._kept_beside(gang, one)

    def _kept_beside(self, gang: Ranks, one: Worker) -> int:
        """Return how many workers the pool keeps on this one's node, of those that may be in a gang with it."""
        if self._is_of_one_site(gang):
            return self.berths.get((one.node, one.site)) or self.kept.get(one.node, 1)
        return self.kept.get(one.node, 1)

    def _is_possible(self, task: Task, living: list[Worker]) -> bool:
        """Whether the workers that stand or start could form this gang, were they all idle and of one namespace."""
        gang = task.gang
        assert gang is not None
        eligible = self._eligible(task, living)
        if gang.holds_others:
            return bool(eligible)
        starting = max(0, sum(self.kept.values()) - len(living)) if gang.on is None else 0
        return bool(eligible) and len(eligible) + starting >= self._least(gang, eligible[0], living)

    def _eligible(self, task: Task, living: list[Worker]) -> list[Worker]:
        """Return the workers that this gang could have, sooner or later."""
        gang = task.gang
        assert gang is not None
        is_free = gang.on is None and gang.nodes is None
        mine = living if is_free else [worker for worker in living if _may_have(gang, worker)]
        if gang.holds_others:
            return [one for one in mine if self._least(gang, one, living) <= self._kept_beside(gang, one)]
        if self._is_of_one_site(gang) and len(self.sites) > 1:
            there = self.sites if gang.on is None else Counter(worker.site for worker in mine)
            return [one for one in mine if self._least(gang, one, living) <= there[one.site]]
        return mine

    @property
    def sites(self) -> Counter[int]:
        """How many workers the pool keeps at each site."""
        there: Counter[int] = Counter()
        for (_, site), count in self.berths.items():
            there[site] += count
        return there

    def _is_of_one_site(self, gang: Ranks) -> bool:
        """Whether all workers of a gang must be: one launch has its ranks, and reaches no other job."""
        return gang.is_program or (self.joins is False and not gang.alone)

    def _renew(self, task: Task, living: list[Worker]) -> bool:
        """Have the workers with ranks replaced, if no namespace can hold this gang; say whether one of them idles."""
        gang = task.gang
        assert gang is not None
        if gang.alone or self.joins or not may_renew(gang) or self._fits_a_launch(gang, living):
            return False
        old = [worker for worker in self._eligible(task, living) if worker.namespace]
        for worker in old:
            worker.stale = True
        return any(worker.idle for worker in old)

    def _fits_a_launch(self, gang: Ranks, living: list[Worker]) -> bool:
        return any(len(group) >= self._least(gang, group[0], living) for group in self._groups(gang, living))

    def _groups(self, gang: Ranks, workers: Iterable[Worker]) -> Iterable[list[Worker]]:
        """Return those of the workers that can form this gang, by who can go with whom."""
        groups: dict[tuple[str, str, int], list[Worker]] = {}
        for worker in workers:
            if _may_have(gang, worker) and not worker.stale:
                namespace = "" if self.joins or gang.alone else worker.namespace
                node = worker.node if gang.is_of_one_node else ""
                site = worker.site if self._is_of_one_site(gang) else 0
                groups.setdefault((namespace, node, site), []).append(worker)
        return groups.values()

    def shortage(self, gang: Ranks) -> str:
        """Return why the pool as it is kept now can never run this gang; empty: it can."""
        if gang.holds_others:
            return self.holds.shortage(gang, self.kept)
        grows = not (self.is_full or self.is_stuck)
        least, most = gang.least, max(sum(self.kept.values()), self.ceiling if grows else 0)
        if least > most:
            told = f"it wants {least} workers at least; the pool has {most} now, and no more have come"
            return f"the gang cannot run: {told}; ex.grow({least - most}) would bring them, or ask for fewer"
        return self._division(gang, self.sites, 0) if gang.on is None and self._is_of_one_site(gang) else ""

    def division(self, gang: Ranks, workers: Iterable[Worker]) -> str:
        """Return why a gang that cannot be of several sites, or launches, can never run, though these workers together
        are enough for it; empty: it can, or it could if the pool grew within the right site."""
        if not self._is_of_one_site(gang):
            return ""
        there = self.sites
        if gang.on is None:
            return self._division(gang, there, max(0, self.ceiling - sum(there.values())))
        members = [worker for worker in list(workers) if worker.id in gang.on]  # another thread may add some
        if len(there) > 1:
            there = Counter(dict.fromkeys(there, 0))
            there.update(worker.site for worker in members)
        return self._division(gang, there, 0) or self._scattering(gang, members)

    def _scattering(self, gang: Ranks, members: list[Worker]) -> str:
        """Return why the members of a listed set cannot form this gang, though they are enough for it."""
        if gang.is_program or may_renew(gang) or len(members) < gang.least or self._fits_a_launch(gang, members):
            return ""
        return "" if any(worker.stale for worker in members) else scattered(gang)  # who is, is being replaced

    def _division(self, gang: Ranks, there: Counter[int], room: int) -> str:
        """Return why no site is enough for a gang, of those that have so many workers, if one gets `room` more."""
        if len(there) < 2:
            return ""
        least = sum(there.values()) if gang.scope == "all" else gang.least
        widest = max(there.values(), default=0) + room
        if least <= widest:
            return ""
        whose = "of a program" if gang.is_program else "of this MPI, which cannot join several launches,"
        return (
            f"the gang cannot run: it wants {least} workers, ranks {whose} must be in one Slurm job, and of those jobs "
            f"in which the pool is, none has more than {widest}; ask for fewer, or have the pool grow within its job"
        )

    # -- when

    def _window(self, head: Task, living: list[Worker], mean: Mean) -> tuple[float, int]:
        """Return when the first gang can begin, as far as is known, and how many idle workers it will not need then."""
        assert head.gang is not None
        begins, spare = inf, 0
        for group in self._groups(head.gang, living):
            least = self._least(head.gang, group[0], living)
            if len(group) >= least and self.holds.has_room(head.gang, group[0].node):
                free = sorted(_free_at(worker, mean) for worker in group)
                if free[least - 1] < begins:
                    begins = free[least - 1]
                    spare = bisect_right(free, begins) - least
        return begins, spare


def _fitness(group: list[Worker], gang: Ranks) -> tuple[bool, int, int]:
    """Return how well a group serves for a gang: all have ranks; then as many as it may have, and few beyond that."""
    return all(worker.namespace for worker in group), min(len(group), gang.most), -len(group)


def _closest(group: list[Worker]) -> list[Worker]:
    """Return the workers of a group in such an order that the first have ranks, on few nodes and in few namespaces."""
    group.sort(key=attrgetter("id"))
    on_node = Counter(map(attrgetter("node"), group))
    among = Counter(map(attrgetter("namespace"), group))
    if len(on_node) > 1 or len(among) > 1:
        group.sort(
            key=lambda worker: (
                not worker.namespace,
                -on_node[worker.node],
                worker.node,
                -among[worker.namespace],
                worker.namespace,
            )
        )
    return group


def _may_have(gang: Ranks, worker: Worker) -> bool:
    return (gang.on is None or worker.id in gang.on) and (gang.nodes is None or worker.node in gang.nodes)


def _is_alone(task: Task) -> bool:
    return task.gang is not None and task.gang.alone


def _takers(single: Task, idle: dict[int, Worker]) -> Iterator[Worker]:
    """Return the idle workers that a task for one worker may have, first the one that was busy last."""
    return (worker for worker in reversed(idle.values()) if single.on is None or worker.id in single.on)


def _usable(task: Task, idle: dict[int, Worker]) -> list[Worker]:
    """Return the idle workers that a task can have as they are: the parts of a gang want MPI ranks."""
    return [worker for worker in idle.values() if worker.namespace or _is_alone(task)]


def _free_at(worker: Worker, mean: Mean) -> float:
    """Return when a worker is expected to idle; that may be past, where it is late or nothing is known of its task.

    To expect anything later then would let tasks through that are shorter than it is late, and so for ever.
    """
    return -inf if worker.idle else worker.since + sum(mean(task) for task in worker.hand.values())
