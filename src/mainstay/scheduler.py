"""Which task goes to which worker, what a death means, and when to give up. Pure: no socket, clock or thread.

    submit ─▶ queue ─▶ hands of a worker ─▶ finished
                ▲            │
                └── returned, or the worker ended

An essay in three rules.

*Who gets work.* Idle workers form a stack: the one that was busy last is the likeliest to be awake, so it
goes first. A busy worker may hold tasks ahead, as many as are expected to last `AHEAD` seconds together, or one
of up to `NEXT` seconds, so that it does not wait for the network between two tasks. What a task is expected to
last is the moving mean of its function's run times; of a function that was never measured it is for ever, so
such a task gets no company. When a worker idles, what others hold ahead of more than `AHEAD` seconds is recalled
and given to it. And when no result has come from a worker with several tasks for `STALLED` seconds, or for
`OVERDUE` if they are long, it is recalled too: one of its tasks must be taking longer than expected, and those
before it may have results that wait to be sent, and that others wait for.

*Whom to blame.* A worker runs its hand in order, and tells of results in batches; so when it ends with
several tasks in hand, which of them ended it cannot be told. All of them run again, each alone ("solo"),
and only a task that was alone with its worker is given up, when its deaths exceed its `worker_retries`.
A task that must not run twice (`worker_retries=0`) is alone from the start, and so is one with a timeout.

*What it costs.* Each event takes a constant time, or the logarithm of the number of deadlines, whatever the
number of tasks and workers.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

AHEAD = 0.001  # seconds of work that a worker may hold ahead
NEXT = 0.05  # seconds that a task may last which waits behind one other
MOST_IN_HAND = 128
STALLED = 0.010  # seconds without a result after which a hand of several short tasks is recalled
OVERDUE = 5 * NEXT  # the same for a hand of long ones
SHORTEST = 1e-6  # seconds; what a run time is at least taken for
SMOOTHING = 0.2  # weight of the newest run time in the moving mean


@dataclass(eq=False, slots=True)
class Task:
    """One call, from submit to its result."""

    id: int
    function: int
    payload: Any = None
    future: Any = None
    label: str = ""
    priority: int = 0
    timeout: float | None = None
    retries: int = 0
    worker_retries: int = 2
    attempt: int = 0
    deaths: int = 0
    solo: bool = False
    expected: float = 0.0  # seconds; what it was taken for when it came into a hand
    begun: bool = False  # it was sent once, so its future runs and can no longer be cancelled


@dataclass(eq=False, slots=True)
class Worker:
    """What the scheduler knows of a worker: the tasks in its hand, in the order in which it runs them."""

    id: int
    hand: dict[int, Task] = field(default_factory=dict)
    load: float = 0.0  # seconds that the hand is expected to last
    since: float = 0.0  # when the hand last changed at its front
    deadline: float = inf
    recalled: bool = False
    idle: bool = False
    dying: bool = False  # it was killed, or its end is known: it gets nothing more


class Send(NamedTuple):
    """Send these tasks to this worker; those that were cancelled meanwhile are reported by `dropped`."""

    worker: int
    tasks: list[Task]


class Recall(NamedTuple):
    """Ask this worker for the tasks that it has not begun."""

    worker: int


class Kill(NamedTuple):
    """End this worker: its task has run out of time."""

    worker: int
    task: Task


class GiveUp(NamedTuple):
    """This task has ended more workers than it may."""

    task: Task
    worker: int


Action = Send | Recall | Kill | GiveUp


class Scheduler:
    """The state machine. Every method takes one event and returns the actions that follow from it."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self._queues: dict[int, deque[Task]] = {0: deque()}
        self._priorities = [0]  # of the queues, negated: highest first
        self._idle: dict[int, Worker] = {}  # a stack: the last in is the first out
        # Ordered dictionaries: of a plain one, finding the first key takes the longer the more were deleted before it.
        self._roomy: OrderedDict[int, Worker] = OrderedDict()  # busy, with room in hand
        # with several tasks in hand and not recalled, longest stalled first: short ones, and those worth an errand
        self._laden: OrderedDict[int, Worker] = OrderedDict()
        self._heavy: OrderedDict[int, Worker] = OrderedDict()
        self._errands: set[int] = set()  # workers that were recalled and have not answered
        self._means: dict[int, float] = {}  # of run times (s), by function
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, worker); outdated ones are skipped

    # -- what can be asked

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def in_hand(self) -> int:
        return sum(len(worker.hand) for worker in self.workers.values())

    def mean(self, function: int) -> float:
        """Return the moving mean of a function's run times (s); 0 if it was never measured."""
        return self._means.get(function, 0.0)

    def next_tick(self) -> float | None:
        """Return when `tick` should be called next; None: not before another event."""
        heap = self._deadlines
        while heap and not self._is_due_at(*heap[0]):
            heapq.heappop(heap)
        soonest = heap[0][0] if heap else inf
        for hands, patience in ((self._laden, STALLED), (self._heavy, OVERDUE)):
            if hands:
                soonest = min(soonest, next(iter(hands.values())).since + patience)
        return None if soonest == inf else soonest

    def _is_due_at(self, deadline: float, worker_id: int) -> bool:
        worker = self.workers.get(worker_id)
        return worker is not None and worker.deadline == deadline

    # -- events

    def submit(self, task: Task, now: float) -> list[Action]:
        task.solo = task.solo or task.worker_retries == 0 or task.timeout is not None
        self._queue(task.priority).append(task)
        return self._dispatch(now) if self._idle else []

    def top_up(self, now: float) -> list[Action]:
        """Let busy workers with room in hand have more; `submit` leaves that, so that calls travel together."""
        return self._dispatch(now) if self._roomy else []

    def joined(self, worker_id: int, now: float) -> list[Action]:
        worker = self.workers[worker_id] = Worker(worker_id, since=now)
        self._becomes_idle(worker)
        return self._dispatch(now)

    def finished(self, worker_id: int, done: list[tuple[int, float]], now: float) -> tuple[list[Task], list[Action]]:
        """Results came from a worker: `(task id, run time in s)` each. Returns the tasks that they are of."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return [], []
        tasks = []
        for task_id, seconds in done:
            task = worker.hand.pop(task_id, None)
            if task is not None:
                tasks.append(task)
                worker.load -= task.expected
                self._measure(task.function, seconds)
        if tasks:
            self._front_moved(worker, now)
        return tasks, self._dispatch(now)

    def retry(self, task: Task, now: float) -> list[Action]:
        """A task failed and has retries left: it goes to the front of its queue."""
        task.retries -= 1
        task.attempt += 1
        self._queue(task.priority).appendleft(task)
        return self._dispatch(now)

    def dropped(self, worker_id: int, task_ids: list[int], now: float) -> list[Action]:
        """Tasks of a `Send` had been cancelled and were not sent."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        self._take_back(worker, task_ids)
        self._front_moved(worker, now)
        return self._dispatch(now)

    def returned(self, worker_id: int, task_ids: list[int], now: float) -> list[Action]:
        """A recalled worker gave back what it had not begun."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        self._requeue(self._take_back(worker, task_ids))
        self._front_moved(worker, now)
        if worker.hand:
            worker.recalled = True  # no company for the task that overran, until it is done
            self._note_room(worker)
        return self._dispatch(now)

    def leaving(self, worker_id: int) -> None:
        """A worker's end is known, and why it ended is not: it gets nothing more, but its results still count.

        Of several workers that end together, tell this of each before the first has `left`: its tasks would go to
        the next of them otherwise, and be blamed once more.
        """
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.dying, worker.idle = True, False
            self._idle.pop(worker_id, None)
            self._roomy.pop(worker_id, None)

    def left(self, worker_id: int, now: float, *, blame: bool = True) -> list[Action]:
        """A worker has ended. With `blame`, its tasks' deaths count; without, it was our own doing."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        self._idle.pop(worker_id, None)
        self._roomy.pop(worker_id, None)
        self._errands.discard(worker_id)
        self._forget_load(worker)
        tasks = list(worker.hand.values())
        actions: list[Action] = []
        if blame:
            alone = len(tasks) == 1
            for task in list(tasks):
                task.deaths += 1
                task.solo = True
                if alone and task.deaths > task.worker_retries:
                    tasks.remove(task)
                    actions.append(GiveUp(task, worker_id))
        for task in tasks:
            task.attempt += 1
        self._requeue(tasks)
        return actions + self._dispatch(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: recall what is stuck, end what overruns."""
        actions: list[Action] = []
        heap = self._deadlines
        while heap and heap[0][0] <= now:
            deadline, worker_id = heapq.heappop(heap)
            if self._is_due_at(deadline, worker_id):
                actions.append(Kill(worker_id, self._condemn(self.workers[worker_id])))
        for hands, patience in ((self._laden, STALLED), (self._heavy, OVERDUE)):
            while hands and (worker := next(iter(hands.values()))).since + patience <= now:
                actions.append(self._recall(worker))
        return actions

    def _recall(self, worker: Worker) -> Recall:
        worker.recalled = True
        self._errands.add(worker.id)
        self._note_room(worker)
        return Recall(worker.id)

    def _condemn(self, worker: Worker) -> Task:
        """Take the task from a worker that is to be killed for it, and let no other task go there."""
        _, task = worker.hand.popitem()
        worker.dying, worker.deadline = True, inf
        return task

    def drain(self) -> list[Task]:
        """Empty the queue: return all tasks that are not in a hand."""
        tasks = [task for negated in self._priorities for task in self._queues[-negated]]
        for queue in self._queues.values():
            queue.clear()
        return tasks

    # -- decisions

    def _dispatch(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for takers in range(len(self._idle) + len(self._roomy), 0, -1):
            queue = self._first_queue()
            if queue is None:
                break
            if self._idle:
                _, worker = self._idle.popitem()
                worker.idle, worker.since = False, now
            else:
                worker = next(iter(self._roomy.values()))
            tasks = self._fill(worker, queue, -(-len(queue) // takers), now)
            if tasks:
                actions.append(Send(worker.id, tasks))
        while self._heavy and len(self._errands) < len(self._idle):
            actions.append(self._recall(next(iter(self._heavy.values()))))
        return actions

    def _fill(self, worker: Worker, queue: deque[Task], share: int, now: float) -> list[Task]:
        """Move tasks from the queue into the worker's hand: its share, if it may hold as many."""
        hand = worker.hand
        tasks: list[Task] = []
        most = min(share, MOST_IN_HAND - len(hand))
        while queue and len(tasks) < most:
            expected = self._expected(queue[0])
            if hand and worker.load + expected > AHEAD and (len(hand) > 1 or expected > NEXT or worker.load > NEXT):
                break
            task = queue.popleft()
            task.expected = expected
            worker.load += expected
            hand[task.id] = task
            tasks.append(task)
            if task.timeout is not None:
                worker.deadline = now + task.timeout
                heapq.heappush(self._deadlines, (worker.deadline, worker.id))
        self._note_room(worker)
        return tasks

    def _expected(self, task: Task) -> float:
        """Return what a task adds to a hand (s); a task that must be alone with its worker fills it."""
        return inf if task.solo else self._means.get(task.function, inf)

    def _note_room(self, worker: Worker) -> None:
        """Keep `_roomy`, the busy workers whose hand is at most half full, and `_laden`."""
        count, load = len(worker.hand), worker.load
        self._roomy.pop(worker.id, None)
        if worker.recalled or count < 2:
            self._forget_load(worker)
        elif load > AHEAD:
            self._heavy.setdefault(worker.id, worker)
        else:
            self._laden.setdefault(worker.id, worker)
        if worker.recalled or worker.dying or not count:
            return
        if (load <= AHEAD / 2 and count <= MOST_IN_HAND // 2) or (count == 1 and load <= NEXT):
            self._roomy[worker.id] = worker  # as the last: they take turns

    def _forget_load(self, worker: Worker) -> None:
        self._laden.pop(worker.id, None)
        self._heavy.pop(worker.id, None)

    def _take_back(self, worker: Worker, task_ids: list[int]) -> list[Task]:
        """Take these tasks out of the worker's hand, where they still are in it."""
        tasks = [worker.hand.pop(task_id) for task_id in task_ids if task_id in worker.hand]
        for task in tasks:
            worker.load -= task.expected
        return tasks

    def _front_moved(self, worker: Worker, now: float) -> None:
        worker.since = now
        worker.deadline = inf
        worker.recalled = False
        self._errands.discard(worker.id)
        self._forget_load(worker)  # it comes back as the last: it has just moved
        if worker.hand:
            self._note_room(worker)
        else:
            self._becomes_idle(worker)

    def _becomes_idle(self, worker: Worker) -> None:
        self._roomy.pop(worker.id, None)
        worker.load = 0.0
        if not worker.idle and not worker.dying:
            worker.idle = True
            self._idle[worker.id] = worker

    def _measure(self, function: int, seconds: float) -> None:
        seconds = max(seconds, SHORTEST)
        mean = self._means.get(function)
        self._means[function] = seconds if mean is None else mean + SMOOTHING * (seconds - mean)

    def _requeue(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            self._queue(task.priority).appendleft(task)

    def _queue(self, priority: int) -> deque[Task]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            insort(self._priorities, -priority)
        return queue

    def _first_queue(self) -> deque[Task] | None:
        """Return the queue of the highest priority that has tasks; empty ones above it are dropped."""
        while True:
            priority = -self._priorities[0]
            queue = self._queues[priority]
            if queue:
                return queue
            if len(self._priorities) == 1:
                return None
            del self._queues[priority], self._priorities[0]
