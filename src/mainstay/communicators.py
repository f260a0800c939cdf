"""Which communicators the workers keep, and how a new one is built. Pure but for the lists that it appends to.

    members ─▶ kept for them? ── yes ─▶ its number
                    │ no
                    ├─ all are in one that is kept ──▶ one leaf: a subset of that
                    └─ else ──▶ a leaf of each namespace, joined (see `node.gang`)

All members of a communicator have it, or none; otherwise one would go on with what another is still to build.
MPICH loses some 50 kB with each two that it joins, and takes a millisecond or more for it; a subset costs some 30 µs
and nothing for good. So what was joined once is taken for whatever lies within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mainstay.node.gang import WORLD, Leaf
from mainstay.peers import WorkerState

MOST_KEPT = 256  # communicators; MPICH has room for some 2,000 in a process
MOST_SPOILT = 1000  # of a worker: those that are never freed take of that room, and with its process end
Members = tuple[WorkerState, ...]


class Communicators:
    """The communicators that are kept, by their members in the order of their ranks."""

    def __init__(self) -> None:
        self._numbers: dict[Members, int] = {}  # the one that was used last stands last
        self._count = WORLD

    def plan(self, members: Sequence[WorkerState]) -> tuple[int, tuple[Leaf, ...]]:
        """Return the number of these members' communicator, and what it is to be built from: nothing if it is kept."""
        key = tuple(members)
        leaves: tuple[Leaf, ...] = ()
        number = self._numbers.pop(key, None)
        if number is None:
            leaves = self._leaves(key)
            self._count += 1
            number = self._count
        self._numbers[key] = number
        if len(self._numbers) > MOST_KEPT:
            self._free(next(iter(self._numbers)))
        return number, leaves

    def _leaves(self, members: Members) -> tuple[Leaf, ...]:
        runs = [list(run) for _, run in groupby(members, key=lambda worker: worker.namespace)]
        if len(runs) > 1 and (whole := self._around(members)) is not None:
            return (Leaf(self._use(whole), tuple(map(whole.index, members)), ""),)
        return tuple(Leaf(WORLD, tuple(worker.rank for worker in run), run[0].port) for run in runs)

    def _around(self, members: Members) -> Members | None:
        """Return the members of a communicator that has all of these in it."""
        return next((key for key in reversed(self._numbers) if set(members) <= set(key)), None)

    def _use(self, key: Members) -> int:
        number = self._numbers[key] = self._numbers.pop(key)
        return number

    def spoil(self, members: Sequence[WorkerState]) -> list[WorkerState]:
        """These members' communicator is not to be used again; return those that have too many of this kind."""
        if self._numbers.pop(tuple(members), None) is None:
            return []
        for worker in members:
            worker.spoilt += 1
        return [worker for worker in members if worker.spoilt >= MOST_SPOILT]

    def forget(self, worker: WorkerState) -> None:
        """A worker has ended."""
        for key in [key for key in self._numbers if worker in key]:
            self._free(key)

    def _free(self, key: Members) -> None:
        number = self._numbers.pop(key)
        for worker in key:
            worker.spent.append(number)
