"""What the scheduler orders, carried out: tasks become frames for workers, gangs frames for several at once.

Send, Hold ─▶ CALL ─▶ worker            Assemble ─▶ GANG with its part ─▶ each member
Recall, Kill, Replace ─▶ agent          Disband ◀── results by rank, or the first failure
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from mainstay import outcomes
from mainstay.communicators import Communicators
from mainstay.node.context import Places
from mainstay.node.gang import Part
from mainstay.orders import Action, Assemble, Disband, Enrol, GiveUp, Hold, Kill, Leave, Recall, Replace, Send, Task
from mainstay.outcomes import End, KeepsNothing, Outcome
from mainstay.peers import WorkerState
from mainstay.process_sets import numbered
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.wire.frames import Bytes, Frame, Kind, encode
from mainstay.wire.functions import Function
from mainstay.wire.payload import gather

UNKNOWN = object()
now = time.monotonic


class Pool(Protocol):
    """What the orders are carried out on."""

    scheduler: Scheduler
    roster: Roster
    keeper: KeepsNothing
    tasks: dict[int, Task]
    functions: dict[int, Function]

    def resolve(self, task: Task, error: BaseException) -> None: ...
    def ended(self, task: Task, outcome: Outcome, seconds: float) -> None: ...


class Fallen(NamedTuple):
    """A worker that ended under a gang."""

    worker: WorkerState
    end: End


class Gang:
    """A gang under way: its members in the order of its ranks, what came from each, and who fell."""

    def __init__(self, task: Task, members: list[WorkerState]) -> None:
        self.task, self.members = task, members
        self.frames: dict[int, Frame] = {}
        self.fallen: dict[int, Fallen] = {}

    def member(self, worker: int) -> WorkerState:
        return next(member for member in self.members if member.number == worker)

    def place(self, worker: int) -> str:
        """Return which rank a worker is, in words."""
        rank = [member.number for member in self.members].index(worker)
        return f"rank {rank} of {len(self.members)}"


class Acting:
    """Carries out actions; each may lead to others, which follow those that were decided before."""

    def __init__(
        self, pool: Pool, enrol: Callable[[list[int]], None], places: Callable[[list[WorkerState]], Places]
    ) -> None:
        self._pool, self._enrol, self._places = pool, enrol, places
        self._gangs: dict[int, Gang] = {}  # by task
        self._communicators = Communicators()

    def act(self, actions: list[Action]) -> None:
        roster = self._pool.roster
        for action in actions:
            if isinstance(action, Send):
                actions += self._send(action)
            elif isinstance(action, Hold):
                actions += self._hold(action)
            elif isinstance(action, Recall):
                roster.tell(action.worker, Kind.RECALL)
            elif isinstance(action, Kill):
                roster.tell(action.worker, Kind.KILL)
                if action.task.brings:
                    roster.workers[action.worker].overran = action.task  # its files come first
                else:
                    actions += self.overran(action.task)
            elif isinstance(action, Assemble):
                actions += self._assemble(action)
            elif isinstance(action, Disband):
                actions += self._disband(action)
            elif isinstance(action, Leave):
                roster.let_go(action.worker)
            elif isinstance(action, Replace):
                roster.tell(action.worker, Kind.KILL)
            elif isinstance(action, Enrol):
                self._enrol(action.workers)

    def _hold(self, action: Hold) -> list[Action]:
        task = action.task
        if task.gang is not None and task.gang.is_program:
            workers = [self._pool.roster.workers[number] for number in action.workers]
            task.places = self._places(workers)
        return self._send(Send(action.workers[0], [task]))

    def _send(self, action: Send) -> list[Action]:
        worker = self._pool.roster.workers[action.worker]
        assert worker.connection is not None
        pieces: list[Bytes] = []
        cancelled = [task.id for task in action.tasks if not self._begins(task)]
        for task in action.tasks:
            if task.id not in cancelled:
                if worker.known.get(task.function, UNKNOWN) is not task.witness:
                    pieces += self._definition(worker, task)
                pieces += call(task)
        if pieces:
            worker.connection.send(pieces)
        return self._pool.scheduler.dropped(action.worker, cancelled, now()) if cancelled else []

    def _begins(self, task: Task) -> bool:
        """Whether a task is still wanted; its future is running from now on."""
        pool = self._pool
        if task.id in pool.tasks and (task.begun or task.future.set_running_or_notify_cancel()):
            task.begun = True
            return True
        pool.tasks.pop(task.id, None)
        pool.keeper.forget(task)
        return False

    def _definition(self, worker: WorkerState, task: Task) -> list[Bytes]:
        """Return what brings a worker the task's function and what its calls compare, where it has another or none."""
        pieces: list[Bytes] = []
        known = worker.known.get(task.function, UNKNOWN)
        if known is UNKNOWN:
            payload = self._pool.functions[task.function].payload
            pieces += encode(Kind.DEFINE, payload.body, payload.buffers, number=task.function)
            known = None
        if known is not task.witness:
            pieces += encode(Kind.WITNESS, pickle.dumps(task.witness), number=task.function)
        worker.known[task.function] = task.witness
        return pieces

    def overran(self, task: Task) -> list[Action]:
        """A task has run out of time."""
        if task.retries > 0 and task.id in self._pool.tasks:
            return self._pool.scheduler.retry(task, now())
        self._pool.resolve(task, outcomes.timed_out(task, self._label(task)))
        return []

    def give_up(self, action: GiveUp, worker: WorkerState, end: End) -> None:
        """A task has ended more workers than it may."""
        label = self._label(action.task)
        self._pool.resolve(action.task, outcomes.worker_died(action.task, label, worker.host, worker.pid, end))

    def _label(self, task: Task) -> str:
        return task.label or self._pool.functions[task.function].name

    # -- gangs

    def _assemble(self, action: Assemble) -> list[Action]:
        scheduler, task = self._pool.scheduler, action.task
        if not self._begins(task):
            scheduler.gangs.parts.unassembled(task)
            return scheduler.released([], now())
        assert task.gang is not None
        members = sorted(map(self._pool.roster.workers.__getitem__, action.workers), key=_as_in_a_set)
        self._gangs[task.id] = Gang(task, members)
        number, leaves = self._communicators.plan(members)
        words = call(task, Kind.GANG)
        homes = [home for home, leaf in enumerate(leaves) for _ in leaf.ranks] or [0] * len(members)
        for index, (worker, home) in enumerate(zip(members, homes, strict=True)):
            assert worker.connection is not None
            answers = index == 0 or not task.gang.root_only
            part = Part(number, leaves, home, answers, tuple(worker.spent))
            pieces = self._definition(worker, task)
            if part != worker.part:
                pieces += encode(Kind.PART, pickle.dumps(tuple(part)))
                worker.part = part
                worker.spent.clear()
            if index == 0 and task.state is not None:
                pieces += resume(task)  # rank 0 hands it out
            worker.connection.send([*pieces, *words])
        task.pausing = False
        return []

    def part_ended(self, task: Task, frame: Frame, worker: WorkerState) -> None:
        """A rank of a gang has answered."""
        gang = self._gangs.get(task.id)
        if gang is not None and worker in gang.members:
            gang.frames[worker.number] = frame
            how = "raised" if frame.kind == Kind.ERROR else "returned"
            scheduler, time_now = self._pool.scheduler, now()
            actions = scheduler.gangs.parts.ended(task, worker.number, how, time_now)
            if actions or scheduler.gangs.parts.released:
                self.act(scheduler.released(actions, time_now))

    def pause(self, task: Task) -> None:
        """Tell rank 0 of a malleable gang that all are to hand over at their next point."""
        connection = self._gangs[task.id].members[0].connection
        if connection is not None and not connection.closed:
            connection.send(encode(Kind.PAUSE, task=task.id))

    def fell(self, worker: WorkerState, end: End) -> None:
        """A worker has ended; if it was in a gang, that will want to know how."""
        for gang in self._gangs.values():
            if worker in gang.members and worker.number not in gang.frames:
                gang.fallen[worker.number] = Fallen(worker, end)
                self._spoil(gang)
        self._communicators.forget(worker)

    def _spoil(self, gang: Gang) -> None:
        """A gang's communicator is not to be used again; who has too many such ones is to be replaced."""
        for worker in self._communicators.spoil(gang.members):
            if worker.number in self._pool.scheduler.workers:
                self._pool.scheduler.workers[worker.number].stale = True

    def _disband(self, action: Disband) -> list[Action]:
        pool, task = self._pool, action.task
        gang = self._gangs.pop(task.id)
        if action.how != "returned" or any(frame.attempt for frame in gang.frames.values()):
            self._spoil(gang)  # a message may be left in it
        if action.how == "overran":
            return self.overran(task)
        if action.failed is None and all(frame.kind == Kind.PAUSED for frame in gang.frames.values()):
            task.attempt += 1
            members, time_now = [member.number for member in gang.members], now()
            pool.scheduler.gangs.renew(task, members, pool.scheduler.workers, time_now)
            return pool.scheduler.submit(task, time_now)
        if action.failed is None:
            self._succeeded(gang)
        elif action.how == "died":
            worker, end = gang.fallen[action.failed]
            label, place = self._label(task), gang.place(action.failed)
            pool.resolve(task, outcomes.worker_died(task, label, worker.host, worker.pid, end, place))
        elif task.retries > 0 and task.id in pool.tasks:
            return pool.scheduler.retry(task, now())
        else:
            frame, worker = gang.frames[action.failed], gang.member(action.failed)  # who may have ended since
            outcome = Outcome(task.future, frame, None, worker.host, worker.number, gang.place(worker.number))
            pool.ended(task, outcome, frame.number / 1e6)
        return []

    def _succeeded(self, gang: Gang) -> None:
        assert gang.task.gang is not None
        root, frames = gang.members[0], [gang.frames[worker.number] for worker in gang.members]
        whole = frames[0]
        if not gang.task.gang.root_only:
            body, buffers = gather([(frame.body, frame.buffers) for frame in frames])
            whole = frames[0]._replace(body=body, buffers=buffers)
        seconds = max(frame.number for frame in frames) / 1e6
        self._pool.ended(gang.task, Outcome(gang.task.future, whole, None, root.host, root.number), seconds)


def call(task: Task, kind: int = Kind.CALL) -> list[Bytes]:
    """Return the frames that call a worker: for a task of its own or, with `GANG`, for its part of one."""
    body, buffers = task.payload
    frames = encode(kind, body, buffers, number=task.function, task=task.id, attempt=min(task.attempt, 255))
    if task.places is not None:
        frames = [*encode(Kind.PLACES, pickle.dumps(tuple(task.places))), *frames]
    if task.pinned:
        frames = [*encode(Kind.PIN, pickle.dumps(task.pinned)), *frames, *encode(Kind.UNPIN)]
    return frames


def resume(task: Task) -> list[Bytes]:
    """Return the frame with the state that a malleable gang goes on from."""
    kept, apart = task.state
    return encode(Kind.RESUME, kept, [memoryview(buffer) for buffer in apart], task=task.id)


def _as_in_a_set(worker: WorkerState) -> tuple[str, int, int]:
    """Return what the members of a gang are sorted by: as those of a process set are, so its places are their ranks."""
    return *numbered(worker.namespace), worker.rank
