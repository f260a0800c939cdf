"""Shrinking: who leaves, and what becomes of the nodes on which nobody is left.

the scheduler lets workers leave ─▶ they end ─▶ empty nodes: their agents end ─▶ given back ─▶ the future
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from mainstay.elastic import Candidate, leavers
from mainstay.launches import Launches, Log, Post
from mainstay.orders import Action
from mainstay.peers import AgentState, WorkerState
from mainstay.report import WorkerInfo
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.wire.frames import Kind

now = time.monotonic
# A worker, or several: each as `Executor.workers` shows it, by its id, or as MPI and PMIx name it.
Which = WorkerInfo | Iterable[WorkerInfo | int | tuple[str, int]]


class Shrunk(NamedTuple):
    """What `Executor.shrink` has done: the workers that left (as they were before), the names of the nodes that were
    given back, and those on which nobody is left but that could not be, with the reason."""

    workers: list[WorkerInfo]
    nodes: list[str]
    kept: dict[str, str]


class Pool(Protocol):
    """The pool that shrinks."""

    scheduler: Scheduler
    roster: Roster
    launches: Launches

    def act(self, actions: list[Action]) -> None: ...
    def headcount_changed(self) -> None: ...


class Leaving:
    """Workers that are to leave, and nodes that are to be given back then."""

    def __init__(self, workers: list[WorkerInfo]) -> None:
        self.waiting = {worker.id for worker in workers}
        self.nodes: set[AgentState] = set()
        self.future: Future[Shrunk] = Future()
        self.future.set_running_or_notify_cancel()
        self.told = Shrunk(workers, [], {})


class Shrinking:
    """Lets workers leave. All methods want the pool's lock held.

    Args:
        post: runs a call in the broker's thread, under the lock.
        later: runs a call there without the lock: futures have callbacks.
    """

    def __init__(self, pool: Pool, post: Post, later: Callable[[Callable[[], object]], None], log: Log) -> None:
        self._pool, self._post, self._later, self._log = pool, post, later, log
        self.under_way: list[Leaving] = []

    def shrink(self, which: int | Which, at_once: bool, least: int) -> Future[Shrunk]:
        """Let workers leave; raise `ValueError` where fewer than `least` would be left (see `Executor.shrink`)."""
        workers = self._pool.roster.workers.values()
        staying = {worker.number: worker for worker in workers if not worker.is_leaving}
        if isinstance(which, int) and (which < 1 or which is True):
            raise ValueError(f"shrink({which}): how many workers leave must be an int >= 1")
        numbers = None if isinstance(which, int) else {*_numbers(which, staying)}
        count = which if isinstance(which, int) else len(numbers or ())
        if len(staying) - count < least:
            raise ValueError(
                f"shrink: {count} of {len(staying)} workers are to leave, and {least} must stay at least, so "
                f"{max(0, len(staying) - least)} may go; ex.shutdown() ends them all"
            )
        return self.take(self.choose(count) if numbers is None else sorted(numbers), at_once)

    def choose(self, count: int) -> list[int]:
        """Return which workers leave when so many are to."""
        scheduled = self._pool.scheduler.workers
        candidates = [worker for worker in self._pool.roster.workers.values() if not worker.is_leaving]
        busy = {worker.number for worker in candidates if worker.number in scheduled and scheduled[worker.number].hand}
        return self.choose_among(count, candidates, busy)

    def choose_among(self, count: int, candidates: Sequence[WorkerState], busy: set[int]) -> list[int]:
        """Return so many of these; `busy` are the numbers of those that are."""
        agents = self._pool.roster.agents
        places = {id(agent): place for place, agent in enumerate(agents)}
        told = [
            Candidate(
                worker.number,
                places[id(worker.agent)],
                worker.agent.launch,
                worker.number in busy,
                _is_home(worker.agent),
            )
            for worker in candidates
        ]
        return leavers(count, told, {place: agent.staying for place, agent in enumerate(agents)})

    def take(self, numbers: Collection[int], at_once: bool) -> Future[Shrunk]:
        """Let these workers leave."""
        roster, scheduler = self._pool.roster, self._pool.scheduler
        workers = [roster.workers[number] for number in numbers]
        leaving = Leaving([worker.info(scheduler.workers.get(worker.number)) for worker in workers])
        self.under_way.append(leaving)
        for worker in workers:
            roster.resize(worker.agent, -1)
            worker.is_leaving = True
        standing = [worker.number for worker in workers if worker.number in scheduler.workers]
        for worker in workers:
            if worker.number not in standing:
                roster.drop(worker)
            elif at_once:
                worker.is_taken = True
                scheduler.leaving(worker.number)
                roster.tell(worker.number, Kind.KILL)
        if not at_once:
            self._pool.act(scheduler.retire(standing, now()))
        self._pool.headcount_changed()
        self._look_whether_gone(leaving)
        return leaving.future

    def left(self, worker: WorkerState) -> None:
        """A worker has ended."""
        for leaving in list(self.under_way):
            if worker.number in leaving.waiting:
                leaving.waiting.discard(worker.number)
                self._vacate(leaving, worker.agent)
                self._look_whether_gone(leaving)

    def _vacate(self, leaving: Leaving, agent: AgentState) -> None:
        """A worker of this agent has left; where it was the last, the node is given back, but for the client's own."""
        roster = self._pool.roster
        others = [one for one in roster.agents if one is not agent and not one.is_released]
        if agent.workers or agent not in roster.agents or _is_home(agent) or not others:
            return
        leaving.nodes.add(agent)
        roster.release(agent)
        attempt = self._pool.launches.attempt(agent.launch)
        if attempt is not None:
            attempt.is_released = all(one.is_released for one in roster.of_launch(agent.launch))

    def node_vacated(self, agent: AgentState) -> None:
        """An agent that was told to end has ended: give its node back, in a thread, since Slurm may take its time."""
        attempt = self._pool.launches.attempt(agent.launch)
        is_further = agent.launch in self._pool.launches.further

        def give_back() -> None:
            why_not = ""
            try:
                if attempt is not None:
                    attempt.give_back(agent.host, is_further)
            except OSError as error:
                why_not = str(error)
            self._post(lambda: self._given_back(agent, why_not))

        threading.Thread(target=give_back, name="mainstay-give-back", daemon=True).start()

    def _given_back(self, agent: AgentState, why_not: str) -> None:
        if why_not:
            self._log(logging.WARNING, f"node {agent.host} has no worker left, and cannot be given back: {why_not}")
        for leaving in list(self.under_way):
            if agent in leaving.nodes:
                leaving.nodes.discard(agent)
                if why_not:
                    leaving.told.kept[agent.host] = why_not
                else:
                    leaving.told.nodes.append(agent.host)
                self._look_whether_gone(leaving)

    def _look_whether_gone(self, leaving: Leaving) -> None:
        if leaving in self.under_way and not leaving.waiting and not leaving.nodes:
            self.under_way.remove(leaving)
            self._later(lambda: leaving.future.set_result(leaving.told))


def several(which: Which, verb: str) -> list[WorkerInfo | int | tuple[str, int]]:
    """Return the workers that were named, one or several or those of a process set, as a list.

    Raises `TypeError` for what names none; `verb` is what is to be done with them.
    """
    if isinstance(which, WorkerInfo):
        return [which]
    given = getattr(which, "members", which)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(
            f"{verb} wants workers: some of ex.workers, their ids, (namespace, rank), or a process set; "
            f"given: {which!r}"
        )
    return list(given)


def _numbers(which: Which, staying: Mapping[int, WorkerState]) -> Iterator[int]:
    """Return the numbers of the workers that were named; raise `ValueError` for one that there is not."""
    by_rank = {(worker.namespace, worker.rank): number for number, worker in staying.items()}
    for one in several(which, "shrink"):
        number = one.id if isinstance(one, WorkerInfo) else one
        if isinstance(number, tuple):
            number = by_rank.get((number[0], number[1]), 0)
        if number not in staying:
            raise ValueError(f"shrink: {one!r} is no worker of this pool that stays; those are {sorted(staying)}")
        yield number


def _is_home(agent: AgentState) -> bool:
    """Whether an agent is on the client's own node."""
    return agent.host == os.uname().nodename
