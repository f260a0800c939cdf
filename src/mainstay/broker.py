"""The broker: bytes → events → scheduler → actions → bytes.

    submit() ─┐                       ┌─▶ workers' connections
              ├─▶ Broker (one lock) ──┤
    sockets ──┘   scheduler, tables   └─▶ futures (outside the lock)

The sockets are served by the broker's thread, or by a thread that waits or submits (see `reactor`). Futures with
callbacks are always finished by the broker's thread, so a callback never runs inside the caller's `submit` or
`result`, where it might want a lock that the caller holds.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from typing import Any, Protocol

from mainstay import outcomes
from mainstay.acting import Acting
from mainstay.door import Door
from mainstay.enrolment import Enrolments
from mainstay.errors import AllocationEnding, PoolBroken
from mainstay.hearing import Hearing
from mainstay.interrupts import GuardedLock
from mainstay.launch import Invitation, Launcher
from mainstay.launches import Launches, Log
from mainstay.malleable import Malleability
from mainstay.muster import Muster
from mainstay.orders import GiveUp, Task
from mainstay.outcomes import End, Outcome, deliver
from mainstay.peers import AgentState, WorkerState
from mainstay.reactor import NAP, Reactor, nothing
from mainstay.registrar import Registrar
from mainstay.resizing import Resizing
from mainstay.roster import Roster
from mainstay.scheduler import Scheduler
from mainstay.timeline import Span
from mainstay.wire import address, auth
from mainstay.wire.frames import Frame
from mainstay.wire.functions import Function

BURST = 16  # submits in one go, after which the submitting thread serves the sockets itself
LAST_WORDS = 2.0  # seconds for what workers printed last
now = time.monotonic


class Timed(Protocol):
    """What wants to be looked at as time passes."""

    def next_deadline(self) -> float | None: ...
    def tick(self, now: float) -> None: ...


class Broker:
    """Everything between the executor and the sockets."""

    def __init__(
        self, chain: list[Launcher], wanted: int | None, setup: dict[str, Any], start_timeout: float, log: Log
    ) -> None:
        self.lock = GuardedLock()
        self.changed = threading.Condition(self.lock)  # type: ignore[arg-type]
        self.scheduler = Scheduler()
        self.broken: BaseException | None = None
        self.keeper = outcomes.KeepsNothing()  # where there is a journal, another is set before the start
        self.on_shut: list[Callable[[], object]] = []
        self.tasks: dict[int, Task] = {}
        self.timeline: list[Span] = []
        self.done = 0  # calls that ended by themselves
        self.functions: dict[int, Function] = {}
        self._outcomes: list[Outcome] = []
        self._printed: deque[tuple[str, Frame]] = deque()
        self._log = log
        self._closing = self.over = False
        self._takes_late = True
        self._patience = LAST_WORDS / 2  # seconds for the workers to end by themselves
        self._callbacks: deque[Callable[[], object]] = deque()
        self._reactor = Reactor()
        self._burst = 0
        control, data, post = self._reactor.control, self._reactor.data, self._reactor.call_soon
        key = auth.new_key()
        self.door = Door(control, key, lambda sock: self.roster.admit(sock), log)
        told = (address.to_text(self.door.addresses), key.hex(), 0, setup["stagger"])
        invitation = Invitation(*told, most=wanted, patience=start_timeout / 2)
        self.launches = Launches(chain, start_timeout, invitation, post, log)
        self.launches.on_lost = lambda attempt: self.roster.dismiss(self.roster.of_launch(attempt.number))
        self.launches.on_exhausted = self.break_down
        self.launches.why_late = lambda: self.roster.preloading.late()
        self.roster = Roster(self, control, data, self.launches, setup, log)
        self.muster = Muster(self, start_timeout, log)
        self.enrolments = Enrolments(self, setup["mpi"], self.launches, start_timeout, post, log)
        self.resizing = Resizing(self, post, self._later, log)
        self.registrar: Registrar = Registrar(self, self._later, start_timeout, log)
        self._acting = Acting(self, self.enrolments.begin, self.enrolments.places)
        self.act = self._acting.act
        self._hearing = Hearing(self, self._acting, self.enrolments)
        self.timed: list[Timed] = [self.door, self.roster, self.launches, self.muster]
        malleability = Malleability(self.scheduler, self._acting.pause)
        self.timed += [self.enrolments, self.resizing, self.registrar, malleability]
        self._thread = threading.Thread(target=self._run, name="mainstay-broker", daemon=True)

    # -- what the executor and its futures call, in any thread

    def start(self) -> None:
        self._thread.start()
        self._reactor.call_soon(self.launches.begin)

    def submit(self, task: Task, function: Function, late: bool = False) -> None:
        """Queue a task; a `late` one belongs to a call made before the pool was closed, and is still taken."""
        with self.lock:
            if self.broken is not None:
                raise self.broken
            if self._closing and not (late and self._takes_late):
                raise RuntimeError("cannot schedule new futures after shutdown")
            self.tasks[task.id] = task
            self.functions.setdefault(function.number, function)
            actions = self.scheduler.submit(task, now())
            if actions:
                self.act(actions)
            elif task.gang is not None or task.on is not None or self.resizing.lags:
                self._reactor.wake_by(0.0)  # to look whether enough workers for it are there, or will come
            mine = self._is_mine()
            self._burst += not mine
            if mine or self._burst < BURST:
                if actions:
                    self._reactor.wake_by(self._due())
                return
            done = self._serve_burst()
        deliver(done)

    def _due(self) -> float | None:
        """Return when time alone has the scheduler do something, or the pool grow."""
        tick, look = self.scheduler.next_tick(), self.resizing.next_deadline()
        return look if tick is None else tick if look is None else min(tick, look)

    def _serve_burst(self) -> list[Outcome]:
        self._burst = 0
        self._reactor.borrow()
        self.act(self.scheduler.top_up(now()))
        self._reactor.wake_by(self._due())
        return self._take_outcomes()

    def drive(self, future: Future[Any], function: int) -> None:
        """Serve the workers' sockets in this thread until `future` is done, or nothing has come for a moment.

        Of a function that is known to run for longer, nothing would come: the thread had better sleep.
        """
        expected = self.scheduler.times.mean(function)
        if expected > NAP or self._is_mine():
            return
        self._burst = 0
        try:
            self._reactor.drive(self._serve_once, future.done, expected)
        finally:
            with self.lock:
                if self.tasks and not self.over:
                    self._reactor.wake_by(self._due())

    def _serve_once(self) -> bool:
        """Serve the workers' sockets, if no other thread has the lock; say whether anything came."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            moved = not self.over and self._reactor.borrow()
            done = self._take_outcomes()
        finally:
            self.lock.release()
        deliver(done)
        return moved

    def hand_over(self, call: Callable[[], None]) -> bool:
        """Run `call` in the broker's thread, without the lock; False if this is that thread, or if it has ended."""
        if self._is_mine() or self.over:
            return False
        self._later(call)
        return True

    def _later(self, call: Callable[[], object]) -> None:
        self._callbacks.append(call)
        self._reactor.call_soon(nothing)

    def close(self, *, cancel: bool = False, abort: bool = False) -> None:
        """Finish what is queued (or cancel it; or drop all), then end the pool. Returns at once; `join` waits."""
        self._reactor.call_soon(lambda: self._close(cancel, abort))

    def join(self) -> None:
        if self._thread.ident is not None and not self._is_mine():
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child: let go of everything without a word, since it all belongs to the parent."""
        self._closing = self.over = True
        self.broken = PoolBroken("this executor belongs to the parent process; make one of your own after a fork")
        self.roster.abandon()
        self.registrar.abandon()
        self.door.close()
        self._reactor.close()

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` in the broker's thread, under the lock; from any thread, or a signal's handler."""
        self._reactor.call_soon(call)

    def closes(self, at: float) -> None:
        """Begin no task that would run at that time."""
        self.act(self.scheduler.closes(at, now()))

    def give_up(self, tasks: list[Task], error: AllocationEnding) -> None:
        """These calls would not end before the allocation does."""
        told = error.counted(self.done, len(self.tasks))
        for task in tasks:
            self.resolve(task, told)

    def ends(self, error: AllocationEnding) -> None:
        """The allocation ends: whatever is left gets `error`."""
        self.break_down(error.counted(self.done, len(self.tasks)))

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._turn(self._reactor.sleep(self._timeout()))
        except BaseException as error:  # a bug; whoever waits must not wait for ever
            with self.lock:
                self.break_down(PoolBroken(f"the broker failed: {error!r}"), cause=error)
            self._settle()
        self._shut()

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        with self.lock:
            self._reactor.turn(ready)
            time_now = now()
            self.act(self.scheduler.tick(time_now))
            for part in self.timed:
                part.tick(time_now)
        self._settle()

    def _settle(self) -> None:
        """Set the futures that are done; their callbacks may submit, so no lock is held."""
        with self.lock:
            done = self._take_outcomes()
        deliver(done)
        while self._printed:
            outcomes.show_output(*self._printed.popleft())
        while self._callbacks:
            self.call_back(self._callbacks.popleft())

    def call_back(self, call: Callable[[], object]) -> None:
        """Run the user's code; whatever it raises, `SystemExit` too, must not end this thread."""
        try:
            call()
        except BaseException as error:
            traced = "".join(traceback.format_exception(error))
            self._log(logging.ERROR, f"a callback raised {error!r}; the pool goes on\n{traced}")

    def _is_over(self) -> bool:
        with self.lock:
            waiting = self.tasks or self._outcomes or self._reactor.calls or self._callbacks
            self._takes_late &= not self._closing or bool(waiting)
            return self._closing and not waiting

    def _timeout(self) -> float | None:
        with self.lock:
            parts = [part.next_deadline() for part in self.timed]
            return self._reactor.timeout([self.scheduler.next_tick(), *parts])

    def _is_mine(self) -> bool:
        return get_ident() == self._thread.ident

    # -- the end

    def _close(self, cancel: bool, abort: bool) -> None:
        self._closing = True
        self._takes_late &= not (cancel or abort)  # for good: `shutdown` closes once more
        self._reactor.take_back()
        if abort:
            self._patience = 0.0
        # As in the stdlib, the calls at the head of the queue count as begun, even if the workers still start.
        head = 0 if abort or self.scheduler.workers else self.launches.wanted or 1
        for place, task in enumerate(self.scheduler.drain() if cancel or abort else []):
            if (task.begun or place < head) and not abort:
                self.act(self.scheduler.submit(task, now()))
            elif not task.begun:
                self.resolve(task, outcomes.CANCELLED)
        for task in list(self.tasks.values()) if abort else []:
            self.resolve(task, PoolBroken("the pool was closed while this task ran"))

    def break_down(self, error: BaseException, cause: BaseException | None = None) -> None:
        """Nothing can run any more: every waiting future gets `error`."""
        broken = error if isinstance(error, PoolBroken) else PoolBroken(str(error))
        if cause is not None:
            broken.__cause__ = cause
        self.broken = broken
        self.roster.closing = True
        self.scheduler.drain()
        for task in list(self.tasks.values()):
            self.resolve(task, broken)
        self.resizing.close(broken)
        self.changed.notify_all()

    def _shut(self) -> None:
        self.keeper.close()
        with self.lock:
            self._closing = True
            self.launches.closing = True
            self.roster.stop(self._patience)
        self._hear_last_words(now() + LAST_WORDS)
        with self.lock:
            self.over = True
            for part in (self.roster, self.resizing, self.registrar, self.door, self._reactor):
                part.close()
            self.changed.notify_all()
        self.roster.files.close()
        self.enrolments.close()
        self.launches.close()
        for call in [*self._reactor.calls, *self._callbacks, *self.on_shut]:
            call()

    def _hear_last_words(self, deadline: float) -> None:
        """Pass on what workers printed last, until each agent has closed its end."""
        while self.roster.agents and ((left := deadline - now()) > 0 or self.roster.files.busy):
            ready = self._reactor.control.wait(max(left, 0.05))
            with self.lock:
                self._reactor.control.handle(ready)
            self._settle()

    # -- events

    def worker_joined(self, worker: WorkerState) -> None:
        self.registrar.noted()
        self.act(self.scheduler.joined(worker.number, now(), worker.host, worker.agent.site))
        self.muster.joined()
        self.resizing.growing.look()

    def stands(self) -> None:
        self.act(self.enrolments.stands())
        self.resizing.stands()

    def slot_lent(self, agent: AgentState, frame: Frame) -> None:
        self.enrolments.lent(agent, frame)

    def headcount_changed(self) -> None:
        staying = [worker for worker in self.roster.workers.values() if not worker.is_leaving]
        self.scheduler.gangs.kept = self.roster.kept()
        self.scheduler.gangs.berths = Counter((worker.host, worker.agent.site) for worker in staying)
        self.scheduler.gangs.holds.cores = self.roster.cores
        self.act(self.scheduler.top_up(now()))  # a gang may have waited for workers that are not to come any more
        self.muster.look()
        self.resizing.growing.look()

    def node_vacated(self, agent: AgentState) -> None:
        self.resizing.shrinking.node_vacated(agent)

    def worker_replaced(self, old: WorkerState, new: int) -> None:
        self.resizing.growing.replaced(old, new)

    def worker_spoke(self, worker: WorkerState, frames: list[Frame]) -> None:
        self._hearing.spoke(worker, frames)

    def resolve(self, task: Task, error: BaseException) -> None:
        self.ended(task, Outcome(task.future, error=error), 0.0)

    def ended(self, task: Task, outcome: Outcome, seconds: float) -> None:
        if self.tasks.pop(task.id, None) is None:
            return  # it was settled before
        self.done += outcome.frame is not None
        if not self.keeper.keep(task, outcome, seconds):
            self._outcomes.append(outcome)

    def worker_leaving(self, worker: WorkerState) -> None:
        self.scheduler.leaving(worker.number)

    def worker_left(self, worker: WorkerState, end: End) -> None:
        self._acting.fell(worker, end)
        self.enrolments.worker_left(worker, end)
        self.registrar.left(worker)
        actions = self.scheduler.left(worker.number, now(), blame=not worker.is_taken)
        if worker.overran is not None:
            actions += self._acting.overran(worker.overran)
        for action in actions:
            if isinstance(action, GiveUp):
                self._acting.give_up(action, worker, end)
        self.act(actions)
        self.resizing.left(worker)
        self.changed.notify_all()

    def worker_printed(self, name: str, frame: Frame) -> None:
        self._printed.append((name, frame))  # printed without the lock: a terminal may be slow, or stopped

    def _take_outcomes(self) -> list[Outcome]:
        done, self._outcomes = self._outcomes, []
        return done
