"""Gangs that wait, in their order. Pure."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from mainstay.orders import Members, Ranks, Task, order


class Waiting:
    """Gangs by kind, each kind in its order: those of a kind fit or do not fit as one. `first` is the first of all."""

    def __init__(self) -> None:
        self._kinds: dict[Ranks, list[Task]] = {}
        self.first: Task | None = None

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def __contains__(self, task: Task) -> bool:
        return task.gang is not None and task in self._kinds.get(task.gang, ())

    @property
    def demand(self) -> int:
        """How many workers what waits could use at least."""
        return sum(ranks.least * len(kind) for ranks, kind in self._kinds.items())

    def wants(self) -> list[tuple[Members | None, int]]:
        """Return the same by kind, with the process set that it is to be of (None: any workers)."""
        return [(ranks.on, ranks.least * len(kind)) for ranks, kind in self._kinds.items()]

    def add(self, task: Task) -> None:
        assert task.gang is not None
        insort(self._kinds.setdefault(task.gang, []), task, key=order)
        self.first = min(self.heads(), key=order)

    def remove(self, task: Task) -> None:
        assert task.gang is not None
        kind = self._kinds[task.gang]
        kind.remove(task)
        if not kind:
            del self._kinds[task.gang]
        self.first = min(self.heads(), key=order, default=None)

    def take_unfit(self, fits: Callable[[Task], bool]) -> list[Task]:
        """Take out the first of each kind that do not fit, until all do; return them."""
        taken: list[Task] = []
        while unfit := [task for task in self.heads() if not fits(task)]:
            for task in unfit:
                self.remove(task)
            taken += unfit
        return taken

    def heads(self) -> list[Task]:
        """Return the first gang of each kind."""
        return [kind[0] for kind in self._kinds.values()]

    def wanting(self) -> list[tuple[Members, int]]:
        """Return the process sets that gangs wait for, and how many of its members one of them wants at least."""
        kinds = [(kind.on, kind.least) for kind in self._kinds]
        return [(members, least) for members, least in kinds if members is not None]

    def kinds(self) -> list[Ranks]:
        """Return what the gangs that wait want, each once."""
        return list(self._kinds)

    def withdraw(self, kind: Ranks) -> list[Task]:
        """Take out all gangs of a kind; return them."""
        tasks = self._kinds.pop(kind, [])
        self.first = min(self.heads(), key=order, default=None)
        return tasks

    def comes_before(self, single: Task) -> bool:
        """Whether a gang stands before this single task."""
        return self.first is not None and order(self.first) < order(single)

    def drain(self) -> list[Task]:
        tasks = sorted((task for kind in self._kinds.values() for task in kind), key=order)
        self._kinds.clear()
        self.first = None
        return tasks
