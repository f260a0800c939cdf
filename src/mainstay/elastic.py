"""How large a pool is to be, where new workers go, and who leaves. Pure: no clock, process or socket.

    what waits, who idles, and since when ─▶ Elastic ─▶ so many more, or these leave

*By load.* A pool grows when tasks have waited for `PATIENCE` seconds and nobody idled meanwhile: by as many workers as
they could use, those that are starting counted, up to the most that it may have. Short waits do not count, since to
start a worker takes about as long. A worker that has idled for `idle_timeout` seconds leaves, down to the least: idle
workers form a stack in the scheduler, so those that are not needed idle for long, and the others are not asked.

*Where new workers go*: to cores that have none yet, where there are most of them; then, where one may have as many as
one likes, to all nodes alike.

*Who leaves*: whole nodes first, because a node that is empty can be given back, and then from the node that has the
fewest; those that idle before those that are busy, the latest launch before those before it, and the client's own
node, which cannot be given back, last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mainstay.launch import spread

PATIENCE = 0.25  # seconds that tasks wait, with nobody idle, before the pool grows
RETRY = 30.0  # seconds before it is tried again after it could not grow


class Place(NamedTuple):
    """A node: its workers, its cores, and how many workers it may have (None: as many as one likes)."""

    workers: int
    cores: int
    room: int | None


def idle_cores(places: Sequence[Place]) -> list[int]:
    """Return how many more workers each node has room for, without two of them on one core."""
    return [max(0, (place.cores if place.room is None else place.room) - place.workers) for place in places]


def placed(count: int, places: Sequence[Place]) -> list[int]:
    """Return how many more workers each node gets, of so many; fewer in all where there is no room for them."""
    more = spread(idle_cores(places), count)
    crowded = [index for index, place in enumerate(places) if place.room is None]
    each, left = divmod(count - sum(more), max(1, len(crowded)))
    for rank, index in enumerate(crowded):
        more[index] += each + (rank < left)
    return more


class Candidate(NamedTuple):
    """A worker that may leave: its number, its node and that one's launch, and what it does."""

    worker: int
    node: int
    launch: int
    busy: bool
    at_home: bool  # on the client's own node


def leavers(count: int, candidates: Collection[Candidate], workers: dict[int, int]) -> list[int]:
    """Return which of the candidates leave; `workers` says how many each node has, candidates or not."""
    nodes: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda one: (one.busy, -one.worker)):
        nodes[candidate.node].append(candidate)

    def cost(node: int) -> tuple[bool, int, int, int]:
        mine = nodes[node]
        return mine[0].at_home, sum(one.busy for one in mine), -mine[0].launch, workers[node]

    leaving: list[int] = []
    for node in sorted(nodes, key=cost):
        if len(nodes[node]) == workers[node] <= count - len(leaving):
            leaving += [one.worker for one in nodes.pop(node)]
    rest = [one for node in nodes for one in nodes[node]]
    rest.sort(key=lambda one: (one.at_home, one.busy, workers[one.node], -one.launch, one.node, -one.worker))
    return leaving + [one.worker for one in rest[: count - len(leaving)]]


class Load(NamedTuple):
    """What a pool has to do: workers that stand or start, those that start, how many more the waiting tasks could use,
    and since when each worker that idles has done so (s)."""

    workers: int
    starting: int
    waiting: int
    idle_since: dict[int, float]


class Change(NamedTuple):
    """So many workers more are to come; of these, so many are to leave."""

    more: int = 0
    fewer: int = 0
    idlers: tuple[int, ...] = ()


class Elastic:
    """Decides for a pool that is to have from `least` to `most` workers."""

    def __init__(self, least: int, most: int, idle_timeout: float) -> None:
        self.least, self.most, self.idle_timeout = least, most, idle_timeout
        self._waits_since: float | None = None
        self._not_before = 0.0  # since it could not grow

    def look(self, load: Load, now: float) -> Change:
        """Return what is to change. Look again when `next_look` says so."""
        wanted = min(load.waiting - load.starting - len(load.idle_since), self.most - load.workers)
        if wanted <= 0:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        elif self._waits_since + PATIENCE <= now and self._not_before <= now:
            self._waits_since = now
            return Change(wanted)
        spare = load.workers - self.least
        if spare <= 0 or load.waiting:
            return Change()
        idlers = tuple(worker for worker, since in load.idle_since.items() if since + self.idle_timeout <= now)
        return Change(0, min(spare, len(idlers)), idlers)

    def next_look(self, load: Load, now: float) -> float | None:
        """Return when time alone changes something; None: it does not."""
        if self._waits_since is not None:
            return max(self._waits_since + PATIENCE, self._not_before)
        if load.waiting:
            return now + PATIENCE  # also at the most: some may leave, or not come
        if load.workers <= self.least:
            return None
        return max(now, min(load.idle_since.values(), default=now) + self.idle_timeout)

    def could_not_grow(self, now: float) -> None:
        """There is no room, or what was to bring workers has failed."""
        self._not_before = now + RETRY
