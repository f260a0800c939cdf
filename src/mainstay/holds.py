"""Holds: tasks that want a node, or some of its cores, for themselves. Pure.

    Gangs.choose ─▶ Hold ─▶ one worker runs the task; others of its node keep quiet ─▶ all are let go

Such a task waits like a gang (see `gangs`), since it too wants several workers at once; but only one of them runs it,
as it would a single task: with its timeout, retries and files, and without MPI. The others have the task in their hand,
so that nothing else comes there, and are told nothing.

*An exclusive task* holds all workers of its node. One that is forked while it runs is held too.

*A task with cores* holds as many workers as stand for these: on a node with c cores and w workers, each stands for
c / w cores, so k cores are ⌈k w / c⌉ workers. The sum of what tasks hold at once is then at most c, and each gets cores
of its own. Tasks without `cores` are pinned nowhere, and there are at most as many as workers that are not held.

*A program* holds a worker for each of its ranks, perhaps on several nodes.

A worker that is new on a node is held too where a task holds fewer there than it should: one of them has died, and what
runs is still there; or with more workers each stands for fewer cores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf

from mainstay.orders import Hold, Ranks, Task, Worker


@dataclass(eq=False, slots=True)
class Held:
    """What is held for a task. A retry of it may begin before the process that it overran in has ended: that is two."""

    task: Task
    pinned: tuple[int, ...]
    nodes: dict[int, str]  # of the workers that are held, the one that runs it too
    places: Counter[str]  # how many these were on each node

    def wants_more(self, node: str, least: float) -> bool:
        """Whether it should hold more workers of a node than it does."""
        return list(self.nodes.values()).count(node) < max(self.places[node], least)


class Holds:
    """The tasks that run alone on a node, or on cores of it."""

    def __init__(self) -> None:
        self.cores: dict[str, int] = {}  # how many each node has
        self.ending: set[str] = set()  # nodes of workers that are about to end, perhaps after their task
        self._running: dict[int, Held] = {}  # by the worker that runs the task

    def least(self, gang: Ranks, node: str, kept: int) -> int:
        """Return how many of a node's workers are held for such a task; more than it keeps: it cannot run there."""
        worth = -(-gang.cores * kept // self.cores.get(node, kept))
        return max(worth, kept) if gang.scope == "node" else worth

    def has_room(self, gang: Ranks, node: str) -> bool:
        """Whether a task may begin on a node once enough of its workers idle.

        Those that leave are not counted with these, but may still be busy, and have cores; and a program's rank may
        outlive the worker that is held for it.
        """
        if not gang.holds_others:
            return True
        is_quiet = node not in self.ending and not any(held.wants_more(node, 0) for held in self._running.values())
        return (is_quiet or gang.scope != "node") and len(self._pinned(node)) + gang.cores <= self.cores.get(node, inf)

    def _pinned(self, node: str) -> set[int]:
        """Return the cores of a node that tasks have for themselves."""
        return {core for held in self._running.values() if node in held.places for core in held.pinned}

    def shortage(self, gang: Ranks, kept: dict[str, int]) -> str:
        """Return why no node of those that the pool keeps can ever run such a task; empty: one can."""
        mine = [node for node in kept if gang.nodes is None or node in gang.nodes]
        if not mine:
            wanted = ", ".join(sorted(gang.nodes or ()))
            return f"the task wants to run on {wanted}; the pool has {', '.join(sorted(kept))}"
        if any(self.least(gang, node, kept[node]) <= kept[node] for node in mine):
            return ""
        most = ", ".join(f"{self.cores.get(node, kept[node])} on {node}" for node in sorted(mine))
        return f"the task wants cores={gang.cores} of one node; there are {most}"

    def begin(self, task: Task, workers: list[Worker]) -> Hold:
        """A task has got its workers; the first is to run it."""
        assert task.gang is not None
        node = workers[0].node
        taken = self._pinned(node)
        cores = sorted(range(self.cores.get(node, len(workers))), key=lambda core: core in taken)
        task.pinned = tuple(cores[: task.gang.cores])
        nodes = {worker.id: worker.node for worker in workers}
        self._running[workers[0].id] = Held(task, task.pinned, nodes, Counter(nodes.values()))
        return Hold(task, list(nodes))

    def adopt(self, worker: Worker, kept: int) -> None:
        """A worker is new on its node, which keeps so many: a task that wants it quiet holds it too."""
        for held in self._running.values():
            if worker.node in held.places and held.wants_more(worker.node, self._due(held.task, worker.node, kept)):
                held.nodes[worker.id] = worker.node
                worker.hand[held.task.id], worker.load = held.task, inf
                return

    def _due(self, task: Task, node: str, kept: int) -> float:
        """Return how many workers of its node a task is to hold now."""
        assert task.gang is not None
        if task.gang.scope == "node":
            return inf
        return self.least(task.gang, node, kept)

    def left(self, worker_id: int, hand: list[Task]) -> list[Task]:
        """A worker has ended: return what it ran of what it has in hand, which is not what it was held for."""
        if not hand or hand[0].gang is None or not hand[0].gang.alone or worker_id in self._running:
            return hand
        for held in self._running.values():
            held.nodes.pop(worker_id, None)
        return []

    def ended(self, worker_id: int) -> list[int]:
        """What this worker ran is over: return those that were held for it."""
        held = self._running.pop(worker_id, None)
        return [] if held is None else [one for one in held.nodes if one != worker_id]
