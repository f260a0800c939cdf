"""Everything that Mainstay raises: one family, under `MainstayError`."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from errno import ENOSPC

TYPE_CHECKING = False  # as type checkers take it
if TYPE_CHECKING:
    from typing import Any

LAST_LINES = 10  # of a program that failed

__all__ = [
    "AllocationEnding",
    "GangError",
    "GrowError",
    "InitializerFailed",
    "JournalError",
    "JournalInUse",
    "LaunchError",
    "MainstayError",
    "PayloadError",
    "PoolBroken",
    "PreloadFailed",
    "ProcessSetError",
    "ProgramFailed",
    "RemoteError",
    "RemoteTraceback",
    "ScratchError",
    "ScratchFull",
    "StageError",
    "StagingError",
    "TaskTimeout",
    "UnreliableKey",
    "WorkerDied",
]


class MainstayError(Exception):
    """Base of all errors that come from Mainstay itself, not from a task's own code."""


class PoolBroken(MainstayError, BrokenExecutor):
    """The pool can run nothing more; every waiting future carries this or a subclass."""


class LaunchError(PoolBroken):
    """No launcher brought workers.

    `reasons` is a list of `(launcher name, reason)` in the order in which they were tried.
    """

    def __init__(self, reasons: list[tuple[str, str]]) -> None:
        self.reasons = list(reasons)
        tried = "".join(f"\n  {name}: {reason}" for name, reason in self.reasons)
        super().__init__(
            f"no launcher brought workers; tried, in order:{tried}\n"
            "`mainstay doctor` tells what is there; launcher='local' needs no MPI, 'serial' no processes."
        )

    def __reduce__(self) -> tuple[type[LaunchError], tuple[list[tuple[str, str]]]]:
        return type(self), (self.reasons,)


class InitializerFailed(PoolBroken):
    """The `initializer` raised on a worker; its exception is the cause."""


class PreloadFailed(PoolBroken):
    """A node could not import a module of `preload`; the exception that it got there is the cause.

    Attributes: `host` (str), `module` (str), `reason` (str).
    """

    def __init__(self, host: str, module: str, reason: str) -> None:
        self.host, self.module, self.reason = host, module, reason
        super().__init__(f"host {host} cannot preload {module!r}: {reason}")

    def __reduce__(self) -> tuple[type[PreloadFailed], tuple[str, str, str]]:
        return type(self), (self.host, self.module, self.reason)


class AllocationEnding(PoolBroken):
    """The allocation ends before this call could; it was not begun, or did not end in time.

    Attributes: `job` (the Slurm job's id, str), `done` and `left` (how many calls ended, and how many did not, int).
    """

    def __init__(self, job: str, resume: str, done: int = 0, left: int = 0) -> None:
        self.job, self.resume, self.done, self.left = job, resume, done, left
        super().__init__(f"the Slurm job {job} ends: {done} calls are done, {left} are not. {resume}")

    def counted(self, done: int, left: int) -> AllocationEnding:
        """Return the same with these numbers."""
        return AllocationEnding(self.job, self.resume, done, left)

    def __reduce__(self) -> tuple[type[AllocationEnding], tuple[str, str, int, int]]:
        return type(self), (self.job, self.resume, self.done, self.left)


class GangError(MainstayError):
    """A gang cannot be formed: there is no MPI for it, or its ranks could not be started; the message says why."""


class GrowError(MainstayError):
    """Not all of the workers came by which a pool was to grow; the message says how many did, and why not the others.

    Those that came stay.
    """


class ProcessSetError(MainstayError):
    """A process set cannot be used: there is none of that name, it is invalid, or has no members; the message says."""


class ProgramFailed(MainstayError):
    """A program ended with another exit code than 0, or by a signal.

    Attribute: `completed` (a `Completed`: its command line, exit code, output, time and hosts).
    """

    def __init__(self, completed: Any) -> None:
        self.completed = completed
        code = completed.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        said = completed.stderr or completed.stdout
        lines = (said if isinstance(said, str) else said.decode(errors="replace")).strip().splitlines()[-LAST_LINES:]
        tail = "".join(f"\n  {line}" for line in lines)
        where = ", ".join(completed.hosts)
        command = " ".join(completed.args)
        super().__init__(
            f"`{command}` {how} after {completed.seconds:.3g} s on {where}"
            + (f"; its last lines:{tail}" if tail else "")
        )

    def __reduce__(self) -> tuple[type[ProgramFailed], tuple[Any]]:
        return type(self), (self.completed,)


class ScratchError(MainstayError):
    """A node has no directory for scratch files, or what was asked for is not in it."""


class ScratchFull(ScratchError, OSError):
    """There is no room on a node's disk for scratch files.

    Attributes: `directory` (str), `host` (str), `free` (bytes, int), `needed` (bytes; 0 if that is not known).
    """

    def __init__(self, directory: str, host: str, free: int, needed: int = 0) -> None:
        self.directory, self.host, self.free, self.needed = directory, host, free, needed
        wanted = f", {size(needed)} needed" if needed else ""
        super().__init__(
            f"no room for scratch files in {directory} on host {host}: {size(free)} free{wanted}. "
            "Stage fewer or smaller files, remove what tasks no longer need, "
            "or give the pool another directory: Executor(scratch='/a/larger/disk')"
        )
        self.errno = ENOSPC

    def __reduce__(self) -> tuple[type[ScratchFull], tuple[str, str, int, int]]:
        return type(self), (self.directory, self.host, self.free, self.needed)


def size(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class StagingError(ScratchError):
    """Input files could not be brought to a node, or results from it."""


class StageError(MainstayError):
    """An environment could not be packed, or a packed one cannot be used."""


class TaskTimeout(MainstayError, TimeoutError):
    """A task ran for longer than its `timeout`; its worker was killed and replaced."""


class WorkerDied(MainstayError):
    """A task's worker ended under it, more often than `worker_retries` allows.

    Attributes: `host` (str), `pid` (int), `signal` (int or None), `exitcode` (int or None),
    `stderr` (the worker's last lines, str), `label` (the task's label or the function's name),
    `place` (the rank in words, str; empty where the task was not a gang's).
    """

    def __init__(
        self,
        label: str,
        host: str,
        pid: int,
        reason: str,
        *,
        signal: int | None = None,
        exitcode: int | None = None,
        stderr: str = "",
        deaths: int = 1,
        place: str = "",
    ) -> None:
        self.label, self.host, self.pid, self.reason = label, host, pid, reason
        self.signal, self.exitcode, self.stderr, self.deaths = signal, exitcode, stderr, deaths
        self.place = place
        what = f" as {place}" if place else ""
        times = "" if deaths == 1 else f" (the last of {deaths} workers that it was on)"
        tail = f"\nIts last lines on stderr:\n{stderr}" if stderr else ""
        super().__init__(
            f"the worker that ran {label!r}{what} ended: {reason}, on host {host}, pid {pid}{times}.{tail}"
        )

    def __reduce__(self):  # type: ignore[no-untyped-def]
        keywords = {k: getattr(self, k) for k in ("signal", "exitcode", "stderr", "deaths", "place")}
        return _rebuild_worker_died, ((self.label, self.host, self.pid, self.reason), keywords)


def _rebuild_worker_died(args: tuple[str, str, int, str], keywords: dict[str, object]) -> WorkerDied:
    return WorkerDied(*args, **keywords)  # type: ignore[arg-type]


class PayloadError(MainstayError):
    """Arguments or a result could not be turned into bytes, or bytes into objects."""


class JournalError(MainstayError):
    """A journal cannot be opened, read or written; nothing that it held is lost."""


class JournalInUse(JournalError):
    """Another process has the journal open for writing.

    Attribute: `holder` (its host, pid, and since when in s since 1970; None if that is not known).
    """

    def __init__(self, message: str, holder: object = None) -> None:
        super().__init__(message)
        self.holder = holder


class RemoteError(MainstayError):
    """Stands for a remote exception that cannot be rebuilt here; the message names its type."""


class RemoteTraceback(Exception):
    """The cause of an exception that came from a worker: where it was, and its traceback there.

    Attributes: `tb` (the remote traceback, str), `host` (str), `worker` (str).
    """

    def __init__(self, tb: str, host: str = "", worker: str = "") -> None:
        super().__init__(tb, host, worker)
        self.tb, self.host, self.worker = tb, host, worker

    def __str__(self) -> str:
        worker = f", worker {self.worker}" if self.worker else ""
        where = f" on host {self.host}{worker}" if self.host else ""
        return f'\n"""\n{self.tb.rstrip()}\n"""\nraised{where}'


class UnreliableKey(JournalError, TypeError):
    """A call has no key in the journal: something that it depends on cannot be told apart reliably.

    Attributes: `kind` (the type that is in the way, str), `why` (str), `path` (the steps that lead to it, a tuple
    of str), `function` (what was called, str).
    """

    def __init__(self, kind: str, why: str, path: tuple[str, ...] = (), function: str = "") -> None:
        super().__init__(kind, why, path, function)
        self.kind, self.why, self.path, self.function = kind, why, tuple(path), function

    def inside(self, step: str) -> UnreliableKey:
        """Return this error with one more step before its path."""
        self.path = (step, *self.path)
        return self

    def __str__(self) -> str:
        call = f"the call of {self.function!r}" if self.function else "the call"
        return (
            f"{call} has no reliable key: {' -> '.join(self.path) or 'it'} is of type {self.kind}: {self.why}.\n"
            'Give the call a key of your own, ex.options(key="..."), or leave it out of the journal, '
            'ex.options(journal=False). Where only the function is in the way, @mainstay.memo(version="1") '
            "makes its name and version stand for its code; its ignore=[...] leaves arguments out."
        )

    def __reduce__(self) -> tuple[type[UnreliableKey], tuple[str, str, tuple[str, ...], str]]:
        return type(self), (self.kind, self.why, self.path, self.function)
