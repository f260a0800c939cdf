"""Which task goes to which worker, what a death means, and when to give up. Pure: no socket, clock or thread.

    submit ─▶ queue ─▶ hands of a worker ─▶ finished
                ▲            │
                └── returned, or the worker ended

An essay in three rules.

*Who gets work.* Idle workers form a stack: the one that was busy last is the likeliest to be awake, so it
goes first. A worker may hold several tasks ahead, as many as are expected to last `AHEAD` seconds together,
so that short tasks never wait for the network and long ones are never stuck behind each other. What a task
is expected to last is the moving mean of its function's run times; a function that was never measured gets
no company. If a held task lasts longer than expected while another worker idles, the rest is recalled.

*Whom to blame.* A worker runs its hand in order, and tells of results in batches; so when it ends with
several tasks in hand, which of them ended it cannot be told. All of them run again, each alone ("solo"),
and only a task that was alone with its worker is given up, when its deaths exceed its `worker_retries`.
A task that must not run twice (`worker_retries=0`) is alone from the start, and so is one with a timeout.

*What it costs.* Each event takes a constant time, whatever the number of tasks and workers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

AHEAD = 0.001  # seconds of work that a worker may hold ahead
MOST_IN_HAND = 128
STALLED = 0.010  # seconds without a result after which a hand of several is recalled, if someone idles
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
    begun: bool = False  # it was sent once, so its future runs and can no longer be cancelled


@dataclass(eq=False, slots=True)
class Worker:
    """What the scheduler knows of a worker: the tasks in its hand, in the order in which it runs them."""

    id: int
    hand: dict[int, Task] = field(default_factory=dict)
    since: float = 0.0  # when the hand last changed at its front
    recalled: bool = False
    idle: bool = False


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
        self._priorities = [0]  # highest first
        self._idle: dict[int, Worker] = {}  # a stack: the last in is the first out
        self._roomy: dict[int, Worker] = {}  # busy, with room in hand
        self._laden: dict[int, Worker] = {}  # with more than one task in hand, and not recalled
        self._means: dict[int, float] = {}
        self._deadlines: dict[int, float] = {}  # by worker

    # -- what can be asked

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def in_hand(self) -> int:
        return sum(len(worker.hand) for worker in self.workers.values())

    @property
    def hungry(self) -> bool:
        """Whether a task that is submitted now would go out at once."""
        return bool(self._idle or self._roomy)

    def next_tick(self) -> float | None:
        """Return when `tick` should be called next; None: not before another event."""
        times = list(self._deadlines.values())
        if self._idle:
            times += [worker.since + STALLED for worker in self._laden.values()]
        return min(times, default=None)

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
        worker = self.workers[worker_id]
        tasks = []
        for task_id, seconds in done:
            task = worker.hand.pop(task_id, None)
            if task is not None:
                tasks.append(task)
                self._measure(task.function, seconds)
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
        worker = self.workers[worker_id]
        for task_id in task_ids:
            worker.hand.pop(task_id, None)
        self._front_moved(worker, now)
        return self._dispatch(now)

    def returned(self, worker_id: int, task_ids: list[int], now: float) -> list[Action]:
        """A recalled worker gave back what it had not begun."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        back = [worker.hand.pop(task_id) for task_id in task_ids if task_id in worker.hand]
        self._requeue(back)
        self._front_moved(worker, now)
        if worker.hand:
            worker.recalled = True  # no company for the task that overran, until it is done
            self._note_room(worker)
        return self._dispatch(now)

    def left(self, worker_id: int, now: float, *, blame: bool = True) -> list[Action]:
        """A worker has ended. With `blame`, its tasks' deaths count; without, it was our own doing."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        self._idle.pop(worker_id, None)
        self._roomy.pop(worker_id, None)
        self._laden.pop(worker_id, None)
        self._deadlines.pop(worker_id, None)
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
        for worker_id, deadline in list(self._deadlines.items()):
            if deadline <= now:
                del self._deadlines[worker_id]
                (task,) = self.workers[worker_id].hand.values()
                self.workers[worker_id].hand.clear()
                actions.append(Kill(worker_id, task))
        if self._idle:
            for worker in list(self._laden.values()):
                if worker.since + STALLED <= now:
                    worker.recalled = True
                    self._note_room(worker)
                    actions.append(Recall(worker.id))
        return actions

    def drain(self) -> list[Task]:
        """Empty the queue: return all tasks that are not in a hand."""
        tasks = [task for priority in self._priorities for task in self._queues[priority]]
        for queue in self._queues.values():
            queue.clear()
        return tasks

    # -- decisions

    def _dispatch(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while (self._idle or self._roomy) and (queue := self._first_queue()) is not None:
            if self._idle:
                _, worker = self._idle.popitem()
                worker.idle = False
                worker.since = now
            elif queue[0].solo:
                break  # needs a worker for itself: none is idle
            else:
                worker = next(iter(self._roomy.values()))
            tasks = self._fill(worker, queue, now)
            if not tasks:
                break
            actions.append(Send(worker.id, tasks))
        return actions

    def _fill(self, worker: Worker, queue: deque[Task], now: float) -> list[Task]:
        """Move tasks from the queue into the worker's hand, as many as it may hold."""
        hand = worker.hand
        tasks: list[Task] = []
        room = self._room(worker, queue[0])
        share = max(1, -(-len(queue) // max(1, len(self.workers))))  # leave some for the others
        while queue and len(tasks) < min(room, share):
            if queue[0].solo and hand:
                break
            task = queue.popleft()
            hand[task.id] = task
            tasks.append(task)
            if task.solo:
                if task.timeout is not None:
                    self._deadlines[worker.id] = now + task.timeout
                break
        self._note_room(worker)
        return tasks

    def _room(self, worker: Worker, task: Task) -> int:
        if not worker.hand and (task.solo or task.function not in self._means):
            return 1
        return self._most(task.function) - len(worker.hand)

    def _most(self, function: int) -> int:
        mean = self._means.get(function)
        if mean is None:
            return 1
        return min(MOST_IN_HAND, 1 + int(AHEAD / max(mean, 1e-6)))

    def _note_room(self, worker: Worker) -> None:
        """Keep `_roomy`: the busy workers whose hand is at most half full."""
        hand = worker.hand
        if not hand:
            return
        last = hand[next(reversed(hand))]
        roomy = not worker.recalled and not last.solo and 2 * len(hand) <= self._most(last.function)
        if roomy:
            self._roomy[worker.id] = worker
        else:
            self._roomy.pop(worker.id, None)
        if len(hand) > 1 and not worker.recalled:
            self._laden[worker.id] = worker
        else:
            self._laden.pop(worker.id, None)

    def _front_moved(self, worker: Worker, now: float) -> None:
        worker.since = now
        worker.recalled = False
        if worker.hand:
            self._note_room(worker)
        else:
            self._becomes_idle(worker)

    def _becomes_idle(self, worker: Worker) -> None:
        self._roomy.pop(worker.id, None)
        self._laden.pop(worker.id, None)
        self._deadlines.pop(worker.id, None)
        if not worker.idle:
            worker.idle = True
            self._idle[worker.id] = worker

    def _measure(self, function: int, seconds: float) -> None:
        mean = self._means.get(function)
        self._means[function] = seconds if mean is None else mean + SMOOTHING * (seconds - mean)

    def _requeue(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            self._queue(task.priority).appendleft(task)

    def _queue(self, priority: int) -> deque[Task]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._priorities = sorted(self._queues, reverse=True)
        return queue

    def _first_queue(self) -> deque[Task] | None:
        for priority in self._priorities:
            if self._queues[priority]:
                return self._queues[priority]
        return None
