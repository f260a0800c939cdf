"""`preload=`: what a node imports once, before its workers are forked.

    the agent ──fork──▶ its understudy: imports, looks what forks would inherit broken ──well──▶ is the agent from then
       │   ◀── what it imports now, how it went ──┘
       └─ meanwhile: tells the client that the node lives, ends all when the client goes
          then: only waits for the understudy's end; where it went badly, is the agent still, with nothing imported

So whatever a module does as it is imported (takes minutes, crashes, starts threads), the agent can tell of it, and of a
list that was only learnt (`preload="auto"`) it leaves the culprit out and tries again.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, NoReturn

from mainstay.node.inherited import broken_by_fork, native_threads
from mainstay.node.worker import describe_error

MOST_TRIES = 8  # of a list that was learnt; each leaves out one module more
NO_MPI = "MPI4PY_RC_INITIALIZE"  # mpi4py, from 4.0 on, initialises MPI as it is imported, unless this is "0"
MPI = "mpi4py.MPI"


class Wanted(NamedTuple):
    """What is to be imported. Of a list that was `learnt`, what cannot be is left out."""

    names: list[str]
    learnt: bool = False


class Report(NamedTuple):
    """What was imported, in how many seconds; what the user had better know; what was left out, and why.

    `names` are those of the list that the names before them had not brought along.
    """

    names: list[str]
    seconds: float
    notes: list[str]
    left_out: dict[str, str]


class Failure(NamedTuple):
    """The module that could not be imported, why, and its exception as `describe_error` writes it.

    Where there is no exception, it has done harm: the process ended, or its forks would not be whole.
    """

    name: str
    reason: str
    error: bytes | None = None


class Watch(NamedTuple):
    """What the agent goes on with meanwhile.

    `control` is the connection to the client and `wake` what signals write to; `beat` tells the client that the node
    lives, and which module it imports, when it is time, and returns in how many seconds it is time again; `is_over`
    says whether to leave;
    `become` makes the understudy end with the process that has this pid; `let_go` closes all that is the agent's.
    """

    control: socket.socket
    wake: socket.socket
    beat: Callable[[str], float]
    is_over: Callable[[], bool]
    become: Callable[[int], None]
    let_go: Callable[[], None]


def preload(wanted: Wanted, watch: Watch) -> Report | Failure:
    """Have an understudy import what is wanted: where that went well, this returns in the understudy.

    Raises `EOFError` when the client is gone, or the agent is to leave.
    """
    left_out: dict[str, str] = {}
    while True:
        names = [name for name in wanted.names if not is_below(name, left_out)]
        outcome = _understudy(wanted._replace(names=names), left_out, watch)
        if isinstance(outcome, Report) or not wanted.learnt:
            return outcome
        left_out[outcome.name] = outcome.reason
        if len(left_out) >= MOST_TRIES:
            return Report([], 0.0, [], left_out)


def is_below(name: str, others: dict[str, str]) -> bool:
    """Whether a module is one of these, or inside one of them."""
    return any(name == other or name.startswith(other + ".") for other in others)


# -- two processes


def _understudy(wanted: Wanted, left_out: dict[str, str], watch: Watch) -> Report | Failure:
    hears, says = os.pipe()
    waits, lets = os.pipe()
    agent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(hears)
        os.close(lets)
        watch.become(agent)
        report = _rehearse(wanted, left_out, says)
        os.close(says)
        os.read(waits, 1)  # until the other no longer speaks with the client
        os.close(waits)
        return report
    os.close(says)
    os.close(waits)
    outcome = _outcome(_listen(hears, pid, watch), pid)
    os.close(hears)
    if isinstance(outcome, Report):
        _step_back(pid, lets, watch)
    os.close(lets)
    return outcome


def _rehearse(wanted: Wanted, left_out: dict[str, str], says: int) -> Report:
    """In the understudy: import, say how it went, and end if it went badly."""
    try:
        report = import_all(wanted, lambda name: _say(says, name.encode() + b"\n"), apart=True)
        report.left_out.update(left_out)
        pickled = pickle.dumps(report)
    except ImportFailed as failed:
        _say_last(says, pickle.dumps(failed.failure))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    gc.collect()
    gc.freeze()  # or the first collection in each worker would touch, and so copy, every page of what they share
    _say_last(says, pickled)
    return report


def _say(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _say_last(fd: int, pickled: bytes) -> None:
    _say(fd, b"\0" + len(pickled).to_bytes(8, "big") + pickled)


def _last_said(said: bytes) -> bytes | None:
    """Return what came by `_say_last`, if all of it has come."""
    rest = said.partition(b"\0")[2]
    size = int.from_bytes(rest[:8], "big")
    return rest[8:] if len(rest) > 8 and len(rest) == 8 + size else None


def _listen(hears: int, pid: int, watch: Watch) -> bytes:
    """Return all that the understudy said; meanwhile do what cannot wait.

    What it imports may leave processes behind that hold its end of the pipe: the end of the file is not waited for.
    """
    poll = select.poll()
    poll.register(hears, select.POLLIN)
    poll.register(watch.wake, select.POLLIN)
    poll.register(watch.control, select.POLLRDHUP)  # what the client says is for who will be the agent then
    said = b""
    while not watch.is_over():
        ready = {fd for fd, _ in poll.poll(watch.beat(_said_last(said)) * 1000)}
        if watch.control.fileno() in ready:
            break
        if watch.wake.fileno() in ready:
            watch.wake.recv(4096)
        piece = os.read(hears, 1 << 16) if hears in ready else b""
        said += piece
        if _last_said(said) is not None or (not piece and _has_ended(pid)):
            return said
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise EOFError


def _said_last(said: bytes) -> str:
    """Return the module that is imported, or was when the understudy ended."""
    return said.partition(b"\0")[0].rpartition(b"\n")[0].rpartition(b"\n")[2].decode()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _outcome(said: bytes, pid: int) -> Report | Failure:
    last = _last_said(said)
    outcome: Report | Failure | None = None if last is None else pickle.loads(last)
    if isinstance(outcome, Report):
        return outcome
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if outcome is not None:
        return outcome
    how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
    return Failure(_said_last(said), f"the process that imported it {how}")


def _step_back(pid: int, lets: int, watch: Watch) -> NoReturn:
    """The understudy is the agent now: be only the process that the launcher knows."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(pid, number))
    watch.let_go()
    os.close(lets)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


# -- importing


class ImportFailed(Exception):
    """An import that failed; `failure` tells which and how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def import_all(wanted: Wanted, begins: Callable[[str], object], *, apart: bool) -> Report:
    """Import the names that are not there yet, in their order. Raises `ImportFailed`.

    Args:
        begins: called with each name before it is imported.
        apart: whether workers will be forked from this process, so that what would be broken in them fails;
            else they are threads of it.
    """
    begun, done = perf_counter(), []
    left_out: dict[str, str] = {}
    before = os.environ.get(NO_MPI)
    if apart:
        os.environ[NO_MPI] = "0"
    try:
        for name in wanted.names:
            if name in sys.modules or is_below(name, left_out):
                if not apart and name in sys.modules:
                    done.append(name)  # this process has it for reasons of its own; another node would not
                continue
            begins(name)
            failure = _import(name, wanted.learnt, apart)
            if failure is None:
                done.append(name)
            elif wanted.learnt and failure.error is not None:
                left_out[name] = failure.reason
            else:
                raise ImportFailed(failure)
    finally:
        if apart:
            _restore(NO_MPI, before)
    notes = _notes() if apart else []
    return Report(done, perf_counter() - begun, notes, left_out)


def _import(name: str, learnt: bool, apart: bool) -> Failure | None:
    had_mpi = MPI in sys.modules
    try:
        __import__(name)
    except BaseException as error:
        return Failure(name, f"{type(error).__name__}: {error}", describe_error(error))
    broken = broken_by_fork() if apart else None
    if apart and learnt and MPI in sys.modules and not had_mpi:
        broken = f"it imports {MPI}, and workers that are forked find MPI not initialised"
    return None if broken is None else Failure(name, broken)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _notes() -> list[str]:
    """Return what works in forks, but not as users may expect."""
    notes = []
    left = native_threads()
    if left:
        notes.append(
            f"{len(left)} threads of a library ({', '.join(sorted(set(left)))}) run on after a fork, and workers do "
            "not have them; should workers hang in that library, take its module out of preload"
        )
    if MPI in sys.modules:
        notes.append(
            f"{MPI} was imported, but MPI not initialised: an initialised MPI cannot be forked. A task that uses MPI "
            "begins with `if not MPI.Is_initialized(): MPI.Init()`"
        )
    return notes
