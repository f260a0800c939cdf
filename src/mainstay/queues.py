"""What waits for its turn, and what for its time. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf

from mainstay.orders import Members, Task, Worker, order

SPARE_DEADLINES = 64  # outdated ones that may stand in the heap, beside one for each worker


class Queues:
    """Tasks of one kind: one queue for each priority, the highest goes first."""

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


class Singles(Queues):
    """Tasks that want one worker each: any; or, in `bound`, one of a process set.

    A worker of a set that tasks wait for gets what comes first of all that it may have, in the order of priority and
    submit; so neither kind of task starves the other. Tasks for no set in particular cost what they do without sets.

    Args:
        fits: whether a task may begin at that time (s).
        set_apart: called with a task that may not, which is taken out.
    """

    def __init__(self, fits: Callable[[Task, float], bool], set_apart: Callable[[Task], None]) -> None:
        super().__init__()
        self.bound: dict[Members, Queues] = {}
        self._fits, self._set_apart = fits, set_apart

    def __len__(self) -> int:
        return super().__len__() + sum(map(len, self.bound.values()))

    @property
    def unbound(self) -> int:
        """How many want any worker."""
        return super().__len__()

    def among(self, members: Members) -> Queues:
        """Return the queues of the tasks that want a worker of a set."""
        return self.bound.setdefault(members, Queues())

    def head(self, queues: Queues, now: float) -> deque[Task] | None:
        """Return the queue of the highest priority that has a task which may begin, at its head."""
        while (queue := queues.first()) is not None and not self._fits(queue[0], now):
            self._set_apart(queue.popleft())
        return queue

    def turns(
        self, idle: dict[int, Worker], roomy: Mapping[int, Worker], now: float
    ) -> Iterator[tuple[Worker, deque[Task], int]]:
        """Yield the workers of sets that tasks wait for, with the queue that each is to have of, and its share."""
        for members in [members for members, queues in self.bound.items() if not queues]:
            del self.bound[members]
        takers = {number: among[number] for among in (roomy, idle) for number in self._wanted(among)}
        for worker in reversed(takers.values()):
            bound = [self.head(queues, now) for members, queues in self.bound.items() if worker.id in members]
            free = self.head(self, now)
            if len(idle) <= self.unbound or not any(bound):
                bound.append(free)  # unless all of those could have a worker now, and this one too
            queue = min(filter(None, bound), key=_order_of, default=None)
            if queue is not None:
                yield worker, queue, -(-len(queue) // len(takers))

    def _wanted(self, workers: Collection[int]) -> list[int]:
        """Return those of the workers that are of a set that tasks wait for."""
        found: dict[int, None] = {}
        for members in self.bound:
            if len(members) < len(workers):
                found.update((number, None) for number in members.numbers if number in workers)
            else:
                found.update((number, None) for number in workers if number in members)
        return list(found)

    def first_for(self, idle: Mapping[int, Worker], now: float) -> deque[Task] | None:
        """Return the queue whose head comes first of those that one of these workers may have."""
        kinds = [queues for members, queues in self.bound.items() if not members.numbers.isdisjoint(idle)]
        heads = [self.head(queues, now) for queues in (self, *kinds)]
        return min(filter(None, heads), key=_order_of, default=None)

    def withdraw(self, members: Members) -> list[Task]:
        """Take out the tasks that want a worker of a set."""
        return self.bound.pop(members, Queues()).drain()

    def drain(self) -> list[Task]:
        """Empty the queues; return the tasks in the order in which they would have gone."""
        tasks, bound = super().drain(), [task for queues in self.bound.values() for task in queues.drain()]
        self.bound.clear()
        return sorted([*tasks, *bound], key=order) if bound else tasks


def _order_of(queue: deque[Task]) -> tuple[int, int]:
    return order(queue[0])


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
