"""What workers say, heard by the broker.

RESULT, ERROR ─▶ scheduler ─▶ the task's future, one more try, or a gang's part
UNLIKE ─▶ keeper    RAN ─▶ timeline    RETURNED ─▶ scheduler    ENROLLED ─▶ enrolments    IMPORTED ─▶ preloading
"""

from __future__ import annotations

import time
from typing import Protocol

from mainstay.acting import Acting
from mainstay.enrolment import Enrolments
from mainstay.launches import Launches
from mainstay.orders import Action, Task
from mainstay.outcomes import KeepsNothing, Outcome
from mainstay.peers import WorkerState
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.timeline import Span
from mainstay.wire.frames import Frame, Kind
from mainstay.wire.functions import Function
from mainstay.wire.payload import load

now = time.monotonic


class Pool(Protocol):
    """The pool whose workers are heard."""

    scheduler: Scheduler
    roster: Roster
    launches: Launches
    keeper: KeepsNothing
    tasks: dict[int, Task]
    functions: dict[int, Function]
    timeline: list[Span]

    def act(self, actions: list[Action]) -> None: ...
    def ended(self, task: Task, outcome: Outcome, seconds: float) -> None: ...


class Hearing:
    """Passes on what a worker said. Wants the broker's lock held."""

    def __init__(self, pool: Pool, acting: Acting, enrolments: Enrolments) -> None:
        self._pool, self._acting, self._enrolments = pool, acting, enrolments

    def spoke(self, worker: WorkerState, frames: list[Frame]) -> None:
        """Frames have come from a worker; most are results, which go first after what was said of them."""
        done = [
            frame
            for frame in frames
            if frame.kind == Kind.RESULT or frame.kind == Kind.ERROR or frame.kind == Kind.PAUSED
        ]
        if len(done) == len(frames):
            self._done(worker, done)
            return
        self._pool.keeper.hear(self._pool.tasks, frames, f"{worker.host}/{worker.number}")
        for frame in frames:
            if frame.kind == Kind.RAN:
                self._ran(worker, frame)
        if done:
            self._done(worker, done)
        for frame in frames:
            self._else(worker, frame)

    def _done(self, worker: WorkerState, done: list[Frame]) -> None:
        pool = self._pool
        pool.launches.bears()
        times = [(frame.task, frame.number / 1e6) for frame in done]
        tasks, actions = pool.scheduler.finished(worker.number, times, now())
        if actions:
            pool.act(actions)
        frame_of = {frame.task: frame for frame in done} if len(tasks) != len(done) else None
        for i, task in enumerate(tasks):
            self._finish(task, frame_of[task.id] if frame_of else done[i], worker)

    def _finish(self, task: Task, frame: Frame, worker: WorkerState) -> None:
        pool = self._pool
        if task.gang is not None and not task.gang.alone:
            self._acting.part_ended(task, frame, worker)
        elif frame.kind == Kind.ERROR and task.retries > 0 and task.id in pool.tasks:
            pool.act(pool.scheduler.retry(task, now()))
        else:
            pool.ended(task, Outcome(task.future, frame, None, worker.host, worker.number), frame.number / 1e6)

    def _ran(self, worker: WorkerState, frame: Frame) -> None:
        """A run of a task has ended, whose result is still to come."""
        task = self._pool.tasks.get(frame.task)
        if task is not None:
            label = task.label or self._pool.functions[task.function].name
            exclusive = task.gang is not None and task.gang.alone and task.gang.scope == "node"
            began, ended = load(frame.body)
            self._pool.timeline.append(Span(task.id, label, worker.host, worker.number, began, ended, exclusive))

    def _else(self, worker: WorkerState, frame: Frame) -> None:
        pool = self._pool
        if frame.kind == Kind.RETURNED:
            pool.act(pool.scheduler.returned(worker.number, load(frame.body), now()))
        elif frame.kind == Kind.STATE:
            if (task := pool.tasks.get(frame.task)) is not None:
                task.state = frame.body, frame.buffers
        elif frame.kind == Kind.ENROLLED:
            self._enrolments.answered(worker, frame)
        elif frame.kind == Kind.IMPORTED:
            pool.roster.preloading.seen(load(frame.body))
