"""A pool without a process: simulated workers under a fake clock, driven by the real scheduler.

Every step checks what must always hold (`check`). A simulated task is a `Task` whose payload is its run time in
seconds; a negative one kills its worker after that time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque

from mainstay.orders import GiveUp, Hold, Kill, Recall, Send, Task
from mainstay.scheduler import Scheduler

LATENCY = 50e-6  # seconds that a message takes


def in_hand(scheduler: Scheduler) -> int:
    """How many tasks workers have."""
    return sum(len(worker.hand) for worker in scheduler.workers.values())


def check(scheduler: Scheduler) -> None:
    """Assert what must hold between any two events."""
    for worker_id, worker in scheduler.workers.items():
        hand = list(worker.hand.values())
        assert worker.idle == (worker_id in scheduler._idle)
        assert not (worker.idle and worker.enrolling)
        assert not (worker.idle and (hand or worker.dying))
        assert not (worker_id in scheduler._roomy and (not hand or worker.recalled))
        loaded = (worker_id in scheduler._hands.laden) + (worker_id in scheduler._hands.heavy)
        assert loaded == (len(hand) > 1 and not worker.recalled)
        assert len(hand) < 2 or not any(task.solo for task in hand), "a task that must be alone has company"
    since = [worker.since for worker in scheduler._hands.laden.values()]
    assert since == sorted(since), "the longest stalled must stand first"
    places = Counter(task.id for queue in scheduler.queues.by_priority.values() for task in queue)
    for queues in scheduler.queues.bound.values():
        places.update(task.id for queue in queues.by_priority.values() for task in queue)
    places.update(task.id for kind in scheduler.gangs.waiting._kinds.values() for task in kind)
    places.update(
        {task.id for worker in scheduler.workers.values() for task in worker.hand.values() if not _held(task)}
    )
    assert not places or max(places.values()) == 1, "a task is in two places"
    if scheduler._idle and not scheduler.gangs.waiting:
        wanted = [members for members, queues in scheduler.queues.bound.items() if queues]
        assert all(members.numbers.isdisjoint(scheduler._idle) for members in wanted), "a member idles, and is wanted"
        bound = sum(len(scheduler.queues.bound[members]) for members in wanted)
        assert scheduler.queued == bound, "someone idles while tasks wait"
        assert not scheduler._hands.heavy or scheduler._errands, "someone idles while another holds long tasks ahead"


def _held(task: Task) -> bool:
    """Whether several workers may have it in their hand, even for two of its runs: one that overran may yet end."""
    return task.gang is not None and task.gang.alone


def check_quiet(running: list[tuple[Task, str]]) -> None:
    """Assert of tasks under way, each with its node, that none is where one wants to be alone."""
    for task, node in running:
        if task.gang is not None and task.gang.alone:
            others = [other for other, its_node in running if its_node == node and other is not task]
            assert not (others and task.gang.scope == "node"), "something runs beside an exclusive task"
            assert len(task.pinned) == task.gang.cores
            taken = {core for other in others for core in other.pinned}
            assert not taken & set(task.pinned), "two tasks are pinned to one core"


class Cluster:
    """Runs a scheduler's actions on simulated workers; `outcomes` says how each task ended, in order."""

    def __init__(self, workers: int, checked: bool = True) -> None:
        self._checked = checked  # costs a look at every task
        self.scheduler = Scheduler()
        self.now = 0.0
        self.outcomes: list[tuple[int, str]] = []
        self.began: dict[int, list[float]] = {}
        self.ended_at = 0.0
        self._tasks: dict[int, Task] = {}
        self._ids = itertools.count()
        self._events: list = []
        self._inbox: dict[int, deque[Task]] = {}
        self._running: dict[int, tuple[Task, int]] = {}
        for _ in range(workers):
            self.join()

    # -- what a test does

    def join(self) -> int:
        worker = next(self._ids)
        self._inbox[worker] = deque()
        self.act(self.scheduler.joined(worker, self.now))
        return worker

    def submit(self, seconds: float, **options) -> Task:
        task = Task(next(self._ids), options.pop("function", 1), payload=seconds, **options)
        self._tasks[task.id] = task
        self.act(self.scheduler.submit(task, self.now))
        return task

    def kill(self, worker: int) -> None:
        self._end(worker, blame=True)

    def run(self, until: float = 1e9) -> None:
        """Go on until nothing is left to happen, or that time."""
        while True:
            self.act(self.scheduler.top_up(self.now))
            tick = self.next_tick()
            at = self._events[0][0] if self._events else None
            if at is None and tick is None:
                break
            if at is None or (tick is not None and tick <= at):
                assert tick is not None
                self.now = max(self.now, min(tick, until))
                if tick > until:
                    break
                self.tick()
                continue
            if at > until:
                break
            self.now, _, event, arguments = heapq.heappop(self._events)
            event(*arguments)

    # -- the machinery

    def next_tick(self) -> float | None:
        return self.scheduler.next_tick()

    def tick(self) -> None:
        self.act(self.scheduler.tick(self.now))

    def act(self, actions) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._later(LATENCY, self._arrive, action.worker, list(action.tasks))
            elif isinstance(action, Hold):
                self._later(LATENCY, self._arrive, action.workers[0], [action.task])
            elif isinstance(action, Recall):
                self._later(LATENCY, self._give_back, action.worker)
            elif isinstance(action, Kill):
                self._later(LATENCY, self._end, action.worker)
                if action.task.retries:
                    self.act(self.scheduler.retry(action.task, self.now))
                else:
                    self._settle(action.task, "timeout")
            elif isinstance(action, GiveUp):
                self._settle(action.task, "died")
        if self._checked:
            check(self.scheduler)

    def _later(self, seconds, event, *arguments) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ids), event, arguments))

    def _settle(self, task: Task, how: str) -> None:
        assert task.id not in dict(self.outcomes), "a task ended twice"
        self.outcomes.append((task.id, how))
        self.ended_at = self.now

    def _arrive(self, worker: int, tasks: list[Task]) -> None:
        if worker in self._inbox:
            self._inbox[worker].extend(tasks)
            self._next(worker)

    def _next(self, worker: int) -> None:
        if worker in self._running or not self._inbox[worker]:
            return
        task = self._inbox[worker].popleft()
        self.began.setdefault(task.id, []).append(self.now)
        run = next(self._ids)
        self._running[worker] = (task, run)
        nodes = {number: one.node for number, one in self.scheduler.workers.items()}
        check_quiet([(one, nodes.get(number, "")) for number, (one, _) in self._running.items()])
        self._later(abs(task.payload), self._done, worker, run)

    def _done(self, worker: int, run: int) -> None:
        if self._running.get(worker, (None, None))[1] != run:
            return
        task, _ = self._running.pop(worker)
        if task.payload < 0:
            self._end(worker, blame=True)
            return
        self._succeeded(worker, task)
        self._next(worker)

    def _succeeded(self, worker: int, task: Task) -> None:
        self._later(LATENCY, self._result, worker, task)

    def _result(self, worker: int, task: Task) -> None:
        tasks, actions = self.scheduler.finished(worker, [(task.id, task.payload)], self.now)
        for finished in tasks:
            self._settle(finished, "done")
        self.act(actions)

    def _give_back(self, worker: int) -> None:
        if worker in self._running:
            ids = [task.id for task in self._inbox[worker]]
            self._inbox[worker].clear()
            self.act(self.scheduler.returned(worker, ids, self.now))

    def _end(self, worker: int, blame: bool = False) -> None:
        """A worker ends, and another takes its place."""
        if self._inbox.pop(worker, None) is not None:
            self._running.pop(worker, None)
            self.act(self.scheduler.left(worker, self.now))
            self.join()
