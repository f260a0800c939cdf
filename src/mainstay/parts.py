"""Gangs under way: the parts that their workers run, and how a gang ends. Pure.

    begin ─▶ parts that return, raise, or lose their worker ─▶ Disband, or it waits again

A gang has ended when all its parts have, and its workers are its own until then: so they are free at once and go to a
gang as wide, not one by one to single tasks. When one part has failed, by an exception or with its worker, the others
have `GRACE` seconds to fail or end too; those that have not are blocked in a message that will not come, and their
workers are replaced. So are all of them where the gang was of several namespaces and lost one in the middle. A gang
that lost a worker waits again, up to its `worker_retries`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mainstay.orders import Action, Assemble, Disband, Replace, Task, Worker

GRACE = 0.5  # seconds in which the other parts of a gang that has failed may end by themselves


@dataclass(eq=False, slots=True)
class Running:
    """A gang under way: its workers in the order of its ranks, and those whose parts have not ended."""

    task: Task
    workers: list[int]
    busy: set[int]
    deadline: float
    is_joint: bool  # it is of several namespaces
    failed: int | None = None
    how: str = "returned"
    is_broken: bool = False  # a part was ended in its middle


class Parts:
    """The gangs that run. Knows no clock; `wait_again` takes one that is to run anew."""

    def __init__(self, wait_again: Callable[[Task], None]) -> None:
        self._wait_again = wait_again
        self._running: dict[int, Running] = {}
        self._timed: dict[int, Running] = {}  # those that have a deadline
        self.released: list[int] = []  # workers of gangs that have ended; whoever takes them empties this

    def begin(self, task: Task, members: list[Worker], now: float) -> Assemble:
        """A gang has got its workers, in the order of its ranks."""
        ids = [worker.id for worker in members]
        deadline = inf if task.timeout is None else now + task.timeout
        is_joint = len({worker.namespace for worker in members}) > 1
        running = self._running[task.id] = Running(task, ids, set(ids), deadline, is_joint)
        if deadline < inf:
            self._timed[task.id] = running
        return Assemble(task, ids)

    def ended(self, task: Task, worker: int, how: str, now: float) -> list[Action]:
        """A member's part has "returned", "raised", "died", or "left": its worker was taken away."""
        running = self._running.get(task.id)
        if running is None or worker not in running.busy:
            return []
        running.busy.discard(worker)
        running.is_broken |= how in ("died", "left")
        if how != "returned" and running.failed is None:
            running.failed, running.how = worker, how
            running.deadline = min(running.deadline, now + GRACE)
            self._timed[task.id] = running
        return [] if running.busy else self._disband(running)

    def malleable(self) -> list[tuple[Task, list[int]]]:
        """Return the gangs that can change their size, with their workers, that have not failed."""
        all_ = self._running.values()
        return [(one.task, one.workers) for one in all_ if one.task.malleable is not None and one.failed is None]

    def unassembled(self, task: Task) -> None:
        """A gang had been cancelled and was not sent."""
        self._timed.pop(task.id, None)
        self.released += self._running.pop(task.id).workers

    def next_deadline(self) -> float:
        return min(running.deadline for running in self._timed.values()) if self._timed else inf

    def overdue(self, now: float) -> list[Action]:
        """Return what is to be done about gangs whose time is over: their blocked workers are replaced."""
        actions: list[Action] = []
        for running in [running for running in self._timed.values() if running.deadline <= now]:
            if running.failed is None:
                running.how = "overran"
            running.is_broken = True
            actions += self._disband(running)
        return actions

    def _disband(self, running: Running) -> list[Action]:
        task = running.task
        spoilt = running.workers if running.is_joint and running.is_broken else running.busy
        actions: list[Action] = [Replace(worker) for worker in running.workers if worker in spoilt]
        self.released += running.workers
        del self._running[task.id]
        self._timed.pop(task.id, None)
        if running.how in ("died", "left"):
            task.deaths += running.how == "died"
            if task.deaths <= task.worker_retries:
                task.attempt += 1
                self._wait_again(task)
                return actions
        return [*actions, Disband(task, running.failed, running.how)]
