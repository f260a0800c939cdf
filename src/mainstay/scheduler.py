"""Which task goes to which worker, what a death means, and when to give up. Pure: no socket, clock or thread.

    submit ─▶ queue ─▶ hands of a worker ─▶ finished
                ▲            │
                └── returned, or the worker ended

An essay in three rules; of tasks that want several workers, `gangs` tells, and of those for a process set `queues`.

*Who gets work.* Idle workers form a stack: the one that was busy last is the likeliest to be awake, so it goes first.
Busy ones may hold short tasks ahead (see `hands`).

*Whom to blame.* A worker runs its hand in order, and tells of results in batches; so when it ends with several in hand,
which of them ended it cannot be told. All run again, each alone ("solo"), and only one that was alone with its worker
is given up, when its deaths exceed its `worker_retries`. A task that must not run twice (`worker_retries=0`) is alone
from the start, and so is one with a timeout.

*When the allocation ends.* A task that would not be done by `closes_at`, by its timeout or else by the mean run time
of its function, is not begun; it stands among the `unfit`, and others go on.

*What it costs.* Each event takes a constant time per task that it moves, whatever the number of tasks and workers,
or the logarithm of the number of deadlines or priorities. Workers that take turns stand in an `OrderedDict`: the first
key of a dict is found behind all that were deleted before it.
"""

from __future__ import annotations

from collections import deque
from math import inf

from mainstay.gangs import Gangs
from mainstay.hands import AHEAD, MOST_IN_HAND, NEXT, OVERDUE, STALLED, Hands
from mainstay.orders import Action, Assemble, Enrol, GiveUp, Hold, Kill, Leave, Recall, Replace, Send, Task, Worker
from mainstay.queues import Deadlines, Singles
from mainstay.runtimes import RunTimes


class Scheduler:
    """The state machine. Every method takes one event and returns the actions that follow from it."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.queues = Singles(self.fits, lambda task: self.unfit.append(task))
        self._idle: dict[int, Worker] = {}  # a stack: the last in is the first out
        self._hands = Hands()
        self._roomy = self._hands.roomy
        self.gangs = Gangs()
        self.closes_at = inf  # when no task may run any more
        self.unfit: list[Task] = []  # those that would not be done by then
        self._errands: set[int] = set()  # workers that were recalled and have not answered
        self._vacated: list[int] = []  # workers that were to leave, and have nothing in hand any more
        self.times = RunTimes()
        self._deadlines = Deadlines(self.workers)

    # -- what can be asked

    @property
    def queued(self) -> int:
        return len(self.queues) + len(self.gangs.waiting)

    @property
    def demand(self) -> int:
        """How many workers more than there are what waits could use; for a set, they would not be of it."""
        return self.queues.unbound + self.gangs.waiting.demand

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing runs, and nothing waits that might still run."""
        return self.queued == 0 and not any(worker.hand for worker in self.workers.values())

    def next_tick(self) -> float | None:
        """Return when `tick` should be called next; None: not before another event."""
        soonest = min(self._hands.next_stall(), self._deadlines.next(), self.gangs.next_deadline())
        return None if soonest == inf else soonest

    # -- events

    def submit(self, task: Task, now: float) -> list[Action]:
        task.solo = task.solo or task.worker_retries == 0 or task.timeout is not None
        if task.gang is not None:
            self.gangs.waiting.add(task)
        else:
            (self.queues if task.on is None else self.queues.among(task.on)).of(task.priority).append(task)
        return self._dispatch(now) if self._idle else []

    def top_up(self, now: float) -> list[Action]:
        """Let busy workers with room in hand have more, which `submit` leaves, so that calls travel together; and let
        members of process sets that have changed have theirs."""
        return self._dispatch(now) if self._roomy or self.queues.bound or self.gangs.waiting else []

    def joined(self, worker_id: int, now: float, node: str = "", site: int = 0) -> list[Action]:
        worker = self.workers.setdefault(worker_id, Worker(worker_id, node, since=now, site=site))
        self.gangs.holds.adopt(worker, self.gangs.kept.get(node, 1))
        self._settle(worker)
        return self._dispatch(now)

    def enrolled(self, worker_ids: list[int], namespace: str, now: float) -> list[Action]:
        """These workers are ranks of one namespace now; empty: that failed, and they are as they were.

        From then on workers may be chosen to enrol; before, more might come, and a namespace does not grow.
        """
        self.gangs.may_enrol = True
        for worker_id in worker_ids:
            if (worker := self.workers.get(worker_id)) is not None:
                worker.namespace, worker.enrolling = namespace, False
                self._settle(worker)
        return self._dispatch(now)

    def finished(self, worker_id: int, done: list[tuple[int, float]], now: float) -> tuple[list[Task], list[Action]]:
        """Results came from a worker: `(task id, run time in s)` each. Returns the tasks that they are of."""
        if (worker := self.workers.get(worker_id)) is None:
            return [], []
        tasks = []
        for task_id, seconds in done:
            if (task := worker.hand.pop(task_id, None)) is not None:
                tasks.append(task)
                self.times.measure(task.function, seconds)
                if task.gang is not None:
                    if not task.gang.alone:
                        worker.hand[task_id] = task  # until all its parts have ended
                        return tasks, []
                    self._free(self.gangs.holds.ended(worker_id))
                worker.load -= task.expected
        if tasks:
            self._front_moved(worker, now)
        return tasks, self._dispatch(now)

    def retry(self, task: Task, now: float) -> list[Action]:
        """A task failed and has retries left: it goes to the front of its queue."""
        task.retries -= 1
        task.attempt += 1
        self._requeue([task])
        return self._dispatch(now)

    def dropped(self, worker_id: int, task_ids: list[int], now: float) -> list[Action]:
        """Tasks of a `Send` had been cancelled and were not sent."""
        if (worker := self.workers.get(worker_id)) is None:
            return []
        self._take_back(worker, task_ids)
        self._free(self.gangs.holds.ended(worker_id))
        self._settle(worker)
        return self._dispatch(now)

    def returned(self, worker_id: int, task_ids: list[int], now: float) -> list[Action]:
        """A recalled worker gave back what it had not begun."""
        if (worker := self.workers.get(worker_id)) is None:
            return []
        self._requeue(self._take_back(worker, task_ids))
        self._front_moved(worker, now)
        return self._dispatch(now)

    def released(self, actions: list[Action], now: float) -> list[Action]:
        """Of what happened to `gangs` these actions follow; return them, and what the workers do that it freed."""
        if not self.gangs.parts.released:
            return actions
        actions = [one for one in actions if not isinstance(one, Replace) or one.worker in self.workers]
        for action in actions:
            if isinstance(action, Replace):
                self._retire(self.workers[action.worker])
        released, self.gangs.parts.released = self.gangs.parts.released, []
        self._free(released)
        return [*actions, *self._dispatch(now)]

    def retire(self, worker_ids: list[int], now: float) -> list[Action]:
        """These workers are to leave when they have done what they have begun: `Leave` tells when that is."""
        actions: list[Action] = []
        for worker in filter(None, map(self.workers.get, worker_ids)):
            if not worker.dying:
                self._idle.pop(worker.id, None)
                worker.idle, worker.dying, worker.leaving = False, True, True
                self._hands.forget(worker)
                if len(worker.hand) > 1 and not worker.recalled:
                    actions.append(self._recall(worker))
                self._settle(worker)
        return actions + self._dispatch(now)

    def leaving(self, worker_id: int) -> None:
        """A worker is about to have `left`: it gets nothing more that would be blamed for it; its results count.

        Tell this of all that end together before the first has left, or its tasks go to the next of them.
        """
        if worker_id in self.workers:
            self._retire(self.workers[worker_id])

    def left(self, worker_id: int, now: float, *, blame: bool = True) -> list[Action]:
        """A worker has ended. With `blame`, its tasks' deaths count; without, it was our own doing."""
        if (worker := self.workers.pop(worker_id, None)) is None:
            return []
        self._retire(worker)
        tasks = self.gangs.holds.left(worker_id, list(worker.hand.values()))
        self._free(self.gangs.holds.ended(worker_id))
        if tasks and tasks[0].gang is not None and not tasks[0].gang.alone:
            return self.released(self.gangs.parts.ended(tasks[0], worker_id, "died" if blame else "left", now), now)
        for task in tasks:
            task.deaths += blame
            task.solo |= blame
        if blame and len(tasks) == 1 and tasks[0].deaths > tasks[0].worker_retries:
            return [GiveUp(tasks[0], worker_id), *self._dispatch(now)]
        for task in tasks:
            task.attempt += 1
        self._requeue(tasks)
        return self._dispatch(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed: recall what is stuck, end what overruns."""
        actions: list[Action] = []
        while (overdue := self._deadlines.pop(now)) is not None:
            actions.append(self._kill(overdue))
        actions = self.released([*actions, *self.gangs.parts.overdue(now)], now)
        while (stalled := self._hands.stalled(now)) is not None:
            actions.append(self._recall(stalled))
        if self.gangs.renewal.deadline <= now:
            actions += self._dispatch(now)
            self.gangs.renewal.passed(now)
        return actions

    def drain(self) -> list[Task]:
        """Empty the queue: return all tasks that are not in a hand, in the order in which they would have gone."""
        unfit, self.unfit = self.unfit, []
        return self.queues.drain() + self.gangs.waiting.drain() + unfit

    def closes(self, at: float, now: float) -> list[Action]:
        """No task may run at or after that time; it may be told again, and be later or earlier."""
        self.closes_at = at
        unfit, self.unfit = self.unfit, []
        self._requeue(unfit)
        return self._dispatch(now)

    # -- decisions

    def _dispatch(self, now: float) -> list[Action]:
        actions: list[Action] = [Leave(worker_id) for worker_id in self._vacated]
        self._vacated.clear()
        self._serve_singles(actions, now)
        if self.gangs.waiting:
            self._take_turns(actions, now)
        while self._hands.heavy and len(self._errands) < len(self._idle):
            actions.append(self._recall(next(iter(self._hands.heavy.values()))))
        return actions

    def _serve_singles(self, actions: list[Action], now: float) -> None:
        """Give workers to the single tasks that stand before the first gang."""
        if self.queues.bound:
            self._serve_sets(actions, now)
        takers = len(self._idle) + len(self._roomy)
        while (self._idle or self._roomy) and (queue := self.queues.head(self.queues, now)):
            if self.gangs.waiting.comes_before(queue[0]):
                break
            if self._idle:
                worker = self._idle.popitem()[1]
                worker.idle = False
            elif self.times.in_hand(queue[0]) > NEXT:
                break  # nobody who is busy may have it
            else:
                worker = next(iter(self._roomy.values()))
            if tasks := self._fill(worker, queue, -(-len(queue) // takers) if takers > 1 else len(queue), now):
                actions.append(Send(worker.id, tasks))
            takers -= 1

    def _serve_sets(self, actions: list[Action], now: float) -> None:
        """Tasks wait for workers of process sets."""
        for worker, queue, share in self.queues.turns(self._idle, self._roomy, now):
            if (worker.idle or self.times.in_hand(queue[0]) <= NEXT) and not self.gangs.waiting.comes_before(queue[0]):
                self._idle.pop(worker.id, None)
                worker.idle = False
                if tasks := self._fill(worker, queue, share, now):
                    actions.append(Send(worker.id, tasks))

    def _take_turns(self, actions: list[Action], now: float) -> None:
        """Gangs wait, and no single task stands before the first of them."""
        gangs = self.gangs
        while self._idle and gangs.waiting:
            self.unfit += gangs.waiting.take_unfit(lambda task: self.fits(task, now))
            queue = self.queues.first_for(self._idle, now)
            if queue is not None and queue[0].on is None and not gangs.waiting.comes_before(queue[0]):
                self._serve_singles(actions, now)  # those that stand before the next gang
                continue
            chosen = gangs.choose(self._idle, self.workers, queue[0] if queue else None, self.times.of, now)
            if chosen is None:
                break
            if isinstance(chosen, Worker):
                assert queue is not None
                self._idle.pop(chosen.id).idle = False
                actions.append(Send(chosen.id, self._fill(chosen, queue, 1, now)))
                continue
            self.occupy(chosen, now)
            actions.append(chosen)
        self._serve_singles(actions, now)  # those that stood behind

    def occupy(self, chosen: Assemble | Hold | Enrol | Replace, now: float) -> None:
        """Take the workers that were chosen out of those that idle."""
        if isinstance(chosen, Replace):
            self._retire(self.workers[chosen.worker])
            return
        for worker_id in chosen.workers:
            worker = self.workers[worker_id]
            del self._idle[worker_id]
            worker.idle, worker.since = False, now
            if isinstance(chosen, Enrol):
                worker.enrolling = True
            else:
                worker.hand[chosen.task.id], worker.load = chosen.task, inf
        if isinstance(chosen, Hold) and chosen.task.timeout is not None:
            self._deadlines.set(self.workers[chosen.workers[0]], now + chosen.task.timeout)

    def _fill(self, worker: Worker, queue: deque[Task], share: int, now: float) -> list[Task]:
        """Move tasks from the queue into the worker's hand: its share, if it may hold as many."""
        tasks: list[Task] = []
        hand, held, is_bound = worker.hand, len(worker.hand), queue[0].on is not None
        most = min(share, MOST_IN_HAND - held)
        if held and worker.since + (STALLED if worker.load <= AHEAD else OVERDUE) <= now:
            most = 0  # it has been silent for too long
        while len(tasks) < most:
            expected, load = self.times.in_hand(queue[0]), worker.load
            if not self.fits(queue[0], now) or (tasks and self.gangs.waiting.comes_before(queue[0])):
                break
            if hand and load + expected > AHEAD and (len(hand) > 1 or max(expected, load) > NEXT or is_bound):
                break  # for a set, nothing waits behind what is long: who idles may not have it
            task = queue.popleft()
            task.expected = expected
            worker.load = load + expected
            hand[task.id] = task
            tasks.append(task)
        if not tasks:
            del self._roomy[worker.id]  # until its hand changes, so that nobody refuses twice
            return tasks
        if held < 2:
            worker.since = now  # nothing waited in this hand so far
        if tasks[0].timeout is not None:
            self._deadlines.set(worker, now + tasks[0].timeout)
        self._hands.note(worker)
        return tasks

    def fits(self, task: Task, now: float) -> bool:
        """Whether a task that begins now would be done before the pool closes, as far as that can be told."""
        return self.closes_at == inf or now + self.times.lasts(task) < self.closes_at

    def _recall(self, worker: Worker) -> Recall:
        worker.recalled = worker.closed = True
        self._errands.add(worker.id)
        self._hands.note(worker)
        return Recall(worker.id)

    def _kill(self, worker: Worker) -> Kill:
        self._retire(worker)
        return Kill(worker.id, worker.hand.popitem()[1])  # it was alone

    # -- what is known of the workers

    def _take_back(self, worker: Worker, task_ids: list[int]) -> list[Task]:
        """Take these tasks out of the worker's hand, where they still are in it."""
        tasks = [worker.hand.pop(task_id) for task_id in task_ids if task_id in worker.hand]
        worker.load -= sum(task.expected for task in tasks)
        return tasks

    def _front_moved(self, worker: Worker, now: float) -> None:
        worker.since = now
        if worker.recalled:
            worker.recalled = False  # it may be asked again, if it still has several
            self._errands.discard(worker.id)
        self._hands.moved(worker)
        self._settle(worker)

    def _settle(self, worker: Worker) -> None:
        """Its hand has shrunk."""
        if worker.leaving and not worker.hand and not worker.enrolling:
            self._retire(worker)
            self._vacated.append(worker.id)
        if worker.dying or worker.enrolling:
            return
        if worker.hand:
            self._hands.note(worker)
        elif not worker.idle:
            self._forget(worker)
            worker.load, worker.recalled, worker.closed, worker.idle = 0.0, False, False, True
            self._idle[worker.id] = worker

    def _free(self, worker_ids: list[int]) -> None:
        """Their task, which others ran too or instead, has ended."""
        for worker in filter(None, map(self.workers.get, worker_ids)):
            worker.hand.clear()
            self._settle(worker)

    def _retire(self, worker: Worker) -> None:
        """Let nothing more go there, and ask nothing of it."""
        self._forget(worker)
        self._idle.pop(worker.id, None)
        worker.dying, worker.idle, worker.leaving = True, False, False

    def _forget(self, worker: Worker) -> None:
        worker.deadline = inf
        self._errands.discard(worker.id)
        self._hands.forget(worker)

    def _requeue(self, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            if task.gang is not None:
                self.gangs.waiting.add(task)
            else:
                (self.queues if task.on is None else self.queues.among(task.on)).of(task.priority).appendleft(task)
