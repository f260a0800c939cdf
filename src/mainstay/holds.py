"""Holds: tasks that want a node, or some of its cores, for themselves. Pure.

    Gangs.choose ─▶ Hold ─▶ one worker runs the task; others of its node keep quiet ─▶ all are let go

Such a task waits like a gang (see `gangs`), since it too wants several workers at once; but only one of them runs it,
as it would a single task: with its timeout, retries and files, and without MPI. The others have the task in their hand,
so that nothing else comes there, and are told nothing.

*An exclusive task* holds all workers of its node. One that is forked while it runs is held too.

*A task with cores* holds as many workers as stand for these: on a node with c cores and w workers, each stands for
c / w cores, so k cores are ⌈k w / c⌉ workers. The sum of what tasks hold at once is then at most c, and each gets cores
of its own. A worker that is new on the node is held too where the task holds fewer than that: one of them has died, or
with more workers each stands for fewer cores. Tasks without `cores` are pinned nowhere, and there are at most as many
as workers that are not held.
"""

from __future__ import annotations

from math import inf

from mainstay.orders import Hold, Ranks, Task, Worker


class Holds:
    """The tasks that run alone on a node, or on cores of it."""

    def __init__(self) -> None:
        self.cores: dict[str, int] = {}  # how many each node has
        self.ending: set[str] = set()  # nodes of workers that are about to end, perhaps after their task
        self._running: dict[int, tuple[Hold, str]] = {}  # by the worker that runs the task; with its node

    def least(self, gang: Ranks, node: str, kept: int) -> int:
        """Return how many of a node's workers are held for such a task; more than it keeps: it cannot run there."""
        worth = -(-gang.cores * kept // self.cores.get(node, kept))
        return max(worth, kept) if gang.scope == "node" else worth

    def has_room(self, gang: Ranks, node: str) -> bool:
        """Whether such a task may begin on a node once enough of its workers idle: those that leave are not counted
        with these, but may still be busy, and have cores."""
        is_quiet = gang.scope != "node" or node not in self.ending
        return is_quiet and len(self._pinned(node)) + gang.cores <= self.cores.get(node, inf)

    def _pinned(self, node: str) -> set[int]:
        """Return the cores of a node that tasks have for themselves."""
        return {core for hold, its_node in self._running.values() if its_node == node for core in hold.task.pinned}

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
        hold = Hold(task, [worker.id for worker in workers])
        self._running[workers[0].id] = hold, node
        return hold

    def adopt(self, worker: Worker, kept: int) -> None:
        """A worker is new on its node, which keeps so many: a task that wants it quiet holds it too."""
        for hold, node in self._running.values():
            if node == worker.node and self._wants_more(hold, node, kept):
                hold.workers.append(worker.id)
                worker.hand[hold.task.id], worker.load = hold.task, inf
                return

    def _wants_more(self, hold: Hold, node: str, kept: int) -> bool:
        """Whether a task should hold more workers than it does."""
        assert hold.task.gang is not None
        return hold.task.gang.scope == "node" or len(hold.workers) < self.least(hold.task.gang, node, kept)

    def left(self, worker_id: int, hand: list[Task]) -> list[Task]:
        """A worker has ended: return what it ran of what it has in hand, which is not what it was held for."""
        if not hand or hand[0].gang is None or not hand[0].gang.alone or worker_id in self._running:
            return hand
        for hold, _ in self._running.values():
            if hold.task is hand[0]:
                hold.workers.remove(worker_id)
        return []

    def ended(self, worker_id: int) -> list[int]:
        """What this worker ran is over: return those that were held for it."""
        hold, _ = self._running.pop(worker_id, (None, ""))
        return [] if hold is None else hold.workers[1:]
