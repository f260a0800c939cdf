"""What waits for its turn, and what for its time. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from math import inf

from mainstay.orders import Task, Worker

SPARE_DEADLINES = 64  # outdated ones that may stand in the heap, beside one for each worker


class Queues:
    """Tasks that want one worker each: one queue for each priority, the highest goes first."""

    def __init__(self) -> None:
        self.by_priority: dict[int, deque[Task]] = {0: deque()}
        self.priorities = [0]  # of the queues, negated: a heap, so the highest is the first

    def __len__(self) -> int:
        return sum(map(len, self.by_priority.values()))

    def of(self, priority: int) -> deque[Task]:
        """Return the queue of a priority."""
        if priority not in self.by_priority:
            self.by_priority[priority] = deque()
            heapq.heappush(self.priorities, -priority)
        return self.by_priority[priority]

    def first(self) -> deque[Task] | None:
        """Return the queue of the highest priority that has tasks; empty ones above it are dropped."""
        while not (queue := self.by_priority[-self.priorities[0]]):
            if len(self.by_priority) == 1:
                return None
            del self.by_priority[-heapq.heappop(self.priorities)]
        return queue

    def drain(self) -> list[Task]:
        """Empty the queues; return the tasks in the order in which they would have gone."""
        tasks = [task for negated in sorted(self.priorities) for task in self.by_priority[-negated]]
        self.by_priority, self.priorities = {0: deque()}, [0]
        return tasks


class Deadlines:
    """When workers run out of time: a heap of (deadline, worker's number), in which outdated ones are skipped."""

    def __init__(self, workers: Mapping[int, Worker]) -> None:
        self._workers = workers
        self.heap: list[tuple[float, int]] = []

    def set(self, worker: Worker, deadline: float) -> None:
        worker.deadline = deadline
        heapq.heappush(self.heap, (deadline, worker.id))
        if len(self.heap) > 2 * len(self._workers) + SPARE_DEADLINES:
            self.heap = [(one.deadline, one.id) for one in self._workers.values() if one.deadline < inf]
            heapq.heapify(self.heap)

    def next(self) -> float:
        """Return the soonest; infinite if there is none."""
        while self.heap and self._due(*self.heap[0]) is None:
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else inf

    def pop(self, now: float) -> Worker | None:
        """Return a worker that has run out of time, if there is one."""
        while self.heap and self.heap[0][0] <= now:
            worker = self._due(*heapq.heappop(self.heap))
            if worker is not None:
                return worker
        return None

    def _due(self, deadline: float, worker_id: int) -> Worker | None:
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.deadline == deadline else None
