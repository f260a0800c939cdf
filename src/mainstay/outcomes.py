"""What reaches the user: results, remote exceptions, the pool's own word on what happened, and what workers print."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple

from mainstay.errors import RemoteError, RemoteTraceback, TaskTimeout, WorkerDied
from mainstay.orders import Task
from mainstay.wire.frames import Frame, Kind
from mainstay.wire.payload import load

CANCELLED = CancelledError()  # in an outcome: the future is to be cancelled


class End(NamedTuple):
    """How a worker ended, as its agent saw it. Signal and exit code are None when nobody saw it."""

    signal: int | None = None
    exitcode: int | None = None
    stderr: str = ""
    peak: int = 0  # bytes of memory, at the most

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal}{_named(self.signal)}"
        return "the connection was lost" if self.exitcode is None else f"exit code {self.exitcode}"


def _named(number: int) -> str:
    import signal

    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


class Outcome(NamedTuple):
    """What became of a task: a frame that is still to be unpickled, or an error."""

    future: Future[Any]
    frame: Frame | None = None
    error: BaseException | None = None
    host: str = ""
    worker: int = 0
    place: str = ""  # the rank in words, where the task was a gang's


class KeepsNothing:
    """What the broker tells of ended tasks, in a pool without a journal. `keep` and `forget` want the lock held."""

    def keep(self, task: Task, outcome: Outcome, seconds: float) -> bool:
        """A task has ended after as many seconds; say whether its future will be set by somebody else, later."""
        return False

    def hear(self, tasks: dict[int, Task], frames: list[Frame], worker: str) -> None:
        """A worker has said something besides results, before those that came with it."""

    def forget(self, task: Task) -> None:
        """A task was cancelled before it was sent."""

    def close(self) -> None:
        """No task will end any more."""


def deliver(outcomes: list[Outcome]) -> None:
    """Set the futures. Unpickling runs the user's code, so no lock is held here."""
    outcomes.reverse()
    while outcomes:
        future, frame, error, host, worker, place = outcomes.pop()
        result = None
        if frame is not None:
            if frame.kind == Kind.RESULT:
                try:
                    result = load(frame.body, frame.buffers)
                except BaseException as raised:
                    error = raised
            else:
                error = rebuild_error(frame.body, host, f"{worker}, {place}" if place else str(worker))
        _settle(future, result, error)
        del future, frame, result, error  # keep nothing alive that the user let go


def _settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    try:
        if error is None:
            future.set_result(result)
            return
        if error is CANCELLED:
            future.cancel()
        if not future.running():
            future.set_running_or_notify_cancel()
        if error is not CANCELLED:
            future.set_exception(error)
    except Exception:  # noqa: S110  cancelled before it was sent: no one waits
        pass


def rebuild_error(body: Any, host: str, worker: str) -> BaseException:
    """Return the exception that `describe_error` wrote, with its remote traceback as the cause."""
    pickled, kind, message, text = pickle.loads(body)
    error: BaseException | None = None
    if pickled is not None:
        try:
            error = load(pickled)
        except BaseException:
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(f"{kind}: {message} (the exception itself could not be brought here)")
    error.__cause__ = RemoteTraceback(text, host, worker)
    return error


def timed_out(task: Task, label: str) -> TaskTimeout:
    return TaskTimeout(f"{label!r} ran for more than its timeout={task.timeout:g} s and was killed")


def worker_died(task: Task, label: str, host: str, pid: int, end: End, place: str = "") -> WorkerDied:
    return WorkerDied(
        label,
        host,
        pid,
        str(end),
        signal=end.signal,
        exitcode=end.exitcode,
        stderr=end.stderr,
        deaths=task.deaths,
        place=place,
    )


def show_output(name: str, frame: Frame) -> None:
    """Print what a worker wrote, with its host and number in front of each line."""
    stream = sys.stderr if frame.attempt else sys.stdout
    text = bytes(frame.body).decode(errors="replace")
    try:
        stream.write("".join(f"[{name}] {line}\n" for line in text.split("\n")))
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass  # the terminal is gone: the work goes on
