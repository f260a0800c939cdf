"""The end of the allocation: known in time, so that no work is lost to it.

    squeue, now and then ──▶ when it ends ──▶ `closes_at`, `drain` seconds before: nothing begins that would last longer
    SIGUSR1 (sbatch --signal=B:USR1@120), SIGTERM ──▶ nothing begins any more
      nothing runs any more ──▶ `AllocationEnding` for what cannot begin      the end is near ──▶ for what runs, too

Slurm is asked in a thread of its own, since it may take its time. All other methods want the broker's lock held.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
import weakref
from types import FrameType
from typing import Protocol

from mainstay.errors import AllocationEnding
from mainstay.launches import Log, Post
from mainstay.orders import Task
from mainstay.scheduler import Scheduler

ASK = 60.0  # seconds between two questions to Slurm: the limit may be changed while the job runs
LOOK = 0.2  # seconds between two looks whether the rest has ended
LAST = 5.0  # seconds before the end, at the most, at which what still runs is given up
PATIENCE = 20.0  # seconds that a SIGTERM leaves, where Slurm does not tell; it kills after KillWait, 30 s
# What a program has that leaves a signal to the system. `mainstay sbatch` has SIGUSR1 ignored until a pool hears it.
LEFT = {signal.SIGUSR1: (signal.SIG_DFL, signal.SIG_IGN), signal.SIGTERM: (signal.SIG_DFL,)}

_endings: weakref.WeakSet[Ending] = weakref.WeakSet()


class Pool(Protocol):
    """What the end is told to."""

    scheduler: Scheduler

    def closes(self, at: float) -> None: ...
    def give_up(self, tasks: list[Task], error: AllocationEnding) -> None: ...
    def ends(self, error: AllocationEnding) -> None: ...


class Ending:
    """Watches the end of a Slurm job for a pool.

    Args:
        job: the job's id.
        drain: seconds before the end of the job at which the pool is to be at rest.
        resume: what the user is told to do to go on.
    """

    def __init__(self, pool: Pool, job: str, drain: float, resume: str, post: Post, log: Log) -> None:
        self._pool, self._job, self._drain, self._resume = pool, job, drain, resume
        self._post, self._log = post, log
        self._last = min(LAST, drain / 2)  # what begins just in time may take a little longer
        self._ask_at: float | None = time.monotonic()
        self._ends_at: float | None = None
        self._closes_at: float | None = None
        self._exit_at: float | None = None  # when this program is to end, after a SIGTERM
        self.over = False
        self._began = time.monotonic()
        self.is_short = False  # whether calls were given up that might have ended in a job that lasts as long
        _endings.add(self)

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        if self.over:
            return self._exit_at
        looks = bool(self._pool.scheduler.unfit) or self._exit_at is not None
        look = time.monotonic() + LOOK if looks else None
        late = None if self._ends_at is None else self._ends_at - self._last
        return min((t for t in (self._ask_at, look, late) if t is not None), default=None)

    def tick(self, now: float) -> None:
        """Ask Slurm when it is time to; give up what cannot run any more."""
        if self._ask_at is not None and self._ask_at <= now:
            self._ask_at = None
            threading.Thread(target=self._ask, name="mainstay-squeue", daemon=True).start()
        if self.over:
            self._exit(now)
        elif self._ends_at is not None and now >= self._ends_at - self._last:
            self._end(now)
        elif self._pool.scheduler.is_at_rest:
            self._come_to_rest(now)

    def _come_to_rest(self, now: float) -> None:
        """Nothing runs, and nothing that waits can."""
        unfit, self._pool.scheduler.unfit = self._pool.scheduler.unfit, []
        if unfit:
            room = (self._closes_at or now) - self._began
            self.is_short |= any(self._pool.scheduler.times.lasts(task) < room for task in unfit)
            self._pool.give_up(unfit, self._error())
        if self._exit_at is not None:
            self._end(now)

    def _end(self, now: float) -> None:
        self.over = self.is_short = True
        self._exit_at = None if self._exit_at is None else now + LAST  # time for the program to end by itself
        self._pool.ends(self._error())

    def _exit(self, now: float) -> None:
        if self._exit_at is not None and self._exit_at <= now:
            self._exit_at = None
            os.kill(os.getpid(), signal.SIGTERM)  # which raises SystemExit in the main thread

    def _error(self) -> AllocationEnding:
        return AllocationEnding(self._job, self._resume)

    def _ask(self) -> None:
        end = end_of(self._job)
        self._post(lambda: self._told(end))

    def _told(self, end: float | None) -> None:
        """Slurm has said when the job ends (s since 1970), or that it does not know."""
        now = time.monotonic()
        self._ask_at = now + ASK
        if end is None:
            return
        left = end - time.time()
        if self._ends_at is None or abs(now + left - self._ends_at) > 1:
            self._log(logging.INFO, f"Slurm job {self._job} ends in {left:.0f} s; the pool will be at rest by then")
        self._ends_at = now + left
        self._close(self._ends_at - self._drain)

    def _close(self, at: float) -> None:
        if not self.over:
            self._closes_at = at
            self._pool.closes(at)

    def drain_now(self, number: int) -> None:
        """A signal has come: begin nothing any more. Called in any thread."""
        self._post(lambda: self._drain_now(number))

    def _drain_now(self, number: int) -> None:
        now = time.monotonic()
        self._log(logging.WARNING, f"{signal.Signals(number).name} came: no further task begins")
        self._ask_at = None  # what Slurm said before counts no more
        if number == signal.SIGTERM:
            self._ends_at = self._exit_at = min(self._ends_at or now + PATIENCE, now + PATIENCE)
        self._close(now)


def end_of(job: str) -> float | None:
    """Return when a job ends (s since 1970), as squeue tells it; None without a limit, or if it does not tell."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK, check=True)  # noqa: S603
        return time.mktime(time.strptime(done.stdout.split()[0], "%Y-%m-%dT%H:%M:%S"))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def how_to_resume(journal: str | None, requeue: bool) -> str:
    """Return what the user is told to do to go on."""
    if journal is None:
        return "Give the pool a journal, as Executor(journal='calls.db'): then a next run does only what is missing"
    if requeue:
        return f"The job is queued again, and goes on from {journal!r}"
    return f"Submit it again: it goes on from {journal!r}"


def requeue(job: str, log: Log) -> None:
    """Have Slurm end this job and queue it again; it ends this program too."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=ASK, check=False)  # noqa: S603, S607
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    if reason:
        log(logging.ERROR, f"Slurm job {job} could not be requeued: {reason}. Submit it again: it goes on where it was")


def listen() -> None:
    """Take the signals by which Slurm tells of the end, where this program leaves them to the system."""
    if threading.current_thread() is threading.main_thread():
        for number in LEFT:
            if signal.getsignal(number) in LEFT[number]:
                signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    living = [ending for ending in _endings if not ending.over]
    for ending in living:
        ending.drain_now(number)
    if not living and number == signal.SIGTERM:
        raise SystemExit(128 + number)
