"""The agent: one process per node. It forks the workers, sees why they end, and tells the client.

    client ◀── control socket ──▶ agent ──fork──▶ worker, worker, …
                                    ▲                │ stdout, stderr
                                    └───── pipes ────┘

Single-threaded, so that forking is safe. When the client goes, the agent ends its workers and itself; when the
agent goes, the kernel ends the workers (PR_SET_PDEATHSIG). Output is passed on in whole lines, and no faster than
the client takes it: a worker that prints a gigabyte waits for its reader like in any pipe. What a killed worker's
task left on the disk is brought back by a porter, a process that is forked for that and ends with it.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from mainstay.node.home import Home, sweep_memory
from mainstay.node.output import Child, Output
from mainstay.node.place import Place, take_place
from mainstay.node.worker import serve_as_worker
from mainstay.wire.address import Address, dial
from mainstay.wire.frames import Bytes, Frame, FrameReader, Kind, encode
from mainstay.wire.payload import load
from mainstay.wire.poller import READ, WRITE, Poller

if TYPE_CHECKING:
    from resource import struct_rusage

    from mainstay.node.lending import Doors
    from mainstay.node.standing import Standing

HEARTBEATS = 6  # in the time after which a node that says nothing is taken for lost
HELLO = 5.0  # seconds in which the client says how long that is
LAST_WORDS = 1.0  # seconds for what was printed last to be taken
BACKLOG = 1 << 20  # bytes not yet taken by the client, above which workers' output is left in its pipes
PR_SET_PDEATHSIG = 1


class Agent:
    """Serves one pool on one node. `told` is what its launcher said: `launch`, its number; `slots` and `room`."""

    def __init__(
        self, addresses: list[Address], key: bytes, told: dict[str, int | None], standing: Standing | None = None
    ) -> None:
        self._sock, reached = dial(addresses, key)
        self._addresses, self._key = [reached, *addresses], key  # the workers try first what served their agent
        self._host, self._standing = socket.gethostname(), standing
        self._libc = _libc()
        self._reader = FrameReader()
        self._unsent: deque[memoryview] = deque()
        self._poller = Poller()
        self._doors: Doors | None = None
        self._wants_to_send = self._wants_janitor = self._paused = False
        self._children: dict[int, Child] = {}
        self._porters: dict[int, tuple[int, dict[str, Any]]] = {}  # by pid: the worker, and how it ended
        self._home: Home | None = None
        self._setup: dict[str, Any] = {}
        self._beat = monotonic() + HELLO
        self._end_at: float | None = None  # set when the client said stop
        hello: dict[str, Any] = {"host": self._host, "pid": os.getpid(), **told}
        hello |= {"cores": len(os.sched_getaffinity(0)), "stage": None if standing is None else standing.told()}
        self._sock.sendall(b"".join(encode(Kind.AGENT_HELLO, pickle.dumps(hello))))

    def run(self) -> None:
        """Serve until the client closes the pool or goes away; then leave nothing behind."""
        self._watch_for_deaths()
        self._sock.setblocking(False)
        self._poller.watch(self._sock, self._on_client)
        try:
            while not self._is_over():
                self._turn()
            self._say_the_rest()
        except (EOFError, OSError):
            pass  # the client is gone
        finally:
            self._end_all()
            if self._home is not None:
                self._home.remove()
            if self._standing is not None:
                self._standing.leave()

    def _turn(self) -> None:
        self._poller.handle(self._poller.wait(max(0.0, (self._end_at or self._beat) - monotonic())))
        self._tell_life()

    def _tell_life(self, doing: str = "") -> float:
        """Send a heartbeat, and what is imported, if it is time; return in how many seconds it is time again."""
        if monotonic() >= self._beat:
            self._beat = monotonic() + self._setup.get("node_timeout", HELLO * HEARTBEATS) / HEARTBEATS
            self._send(encode(Kind.HEARTBEAT, doing.encode()))
            sweep_memory()
        return max(0.0, self._beat - monotonic())

    def _is_over(self) -> bool:
        """Whether the client said stop, and the workers have ended or had their time."""
        return self._end_at is not None and (not self._children or monotonic() >= self._end_at)

    def _say_the_rest(self) -> None:
        """Kill what still runs, pass on what was printed last, and let what tasks left be brought to the client."""
        for child in list(self._children.values()):
            _kill_group(child.pid)
            self._read_the_rest(child)
        children = list(self._children.values())
        self._end_all()
        if self._home is not None:
            pids = [self._start_porter(child.number) for child in children if self._home.has_errand(child.number)]
            for pid in [*pids, *self._porters]:
                os.waitpid(pid, 0)
            self._porters.clear()
        if self._standing is not None and (left := self._standing.left()):
            self._unsent.extend(memoryview(piece) for piece in encode(Kind.OUTPUT, left.encode(), attempt=1))
        self._sock.settimeout(LAST_WORDS)
        for piece in self._unsent:
            self._sock.sendall(piece)

    # -- the client

    def _on_client(self, events: int) -> None:
        if events & WRITE:
            self._send([])
        if not events & ~WRITE:
            return
        try:
            count = self._sock.recv_into(self._reader.get_buffer())
        except BlockingIOError:
            return
        if count == 0:
            raise EOFError
        for frame in self._reader.received(count):
            self._on_frame(frame)

    def _on_frame(self, frame: Frame) -> None:
        if frame.kind == Kind.SETUP:
            self._setup = load(frame.body)
            self._home = Home(self._setup.get("scratch"), self._host, os.getpid())
            self._beat = monotonic()
            take_place(self._setup, self._standing)
        elif frame.kind == Kind.PRELOAD:
            self._preload(frame)
        elif frame.kind == Kind.FORK:
            self._fork(frame.number)
        elif frame.kind == Kind.KILL:
            self._signal(frame.number, signal.SIGKILL)
        elif frame.kind == Kind.RECALL:
            self._signal(frame.number, signal.SIGURG)
        elif frame.kind in (Kind.LEND, Kind.UNLEND):
            from mainstay.node.lending import Doors

            self._doors = self._doors or Doors(self._poller, self._send)
            self._doors.on_frame(frame)
        elif frame.kind == Kind.STOP:
            self._end_at = monotonic() + frame.number / 1000

    def _signal(self, number: int, what: signal.Signals) -> None:
        for child in self._children.values():
            if child.number == number:
                os.kill(child.pid, what)

    def _send(self, pieces: list[Bytes]) -> None:
        self._unsent.extend(memoryview(piece) for piece in pieces)
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent[0])
            except BlockingIOError:
                break
            if sent == self._unsent[0].nbytes:
                self._unsent.popleft()
            else:
                self._unsent[0] = self._unsent[0][sent:]
        self._throttle()

    def _throttle(self) -> None:
        """Stop reading the workers' output while the client does not take it."""
        if bool(self._unsent) != self._wants_to_send:
            self._wants_to_send = bool(self._unsent)
            self._poller.change(self._sock, READ | WRITE if self._unsent else READ)
        paused = sum(view.nbytes for view in self._unsent) > BACKLOG
        if paused != self._paused:
            self._paused = paused
            for child in self._children.values():
                for output in child.outputs:
                    self._poller.forget(output) if paused else self._listen(output)

    def _preload(self, frame: Frame) -> None:
        """Import what the client wants; goes on in another process, unless that failed."""
        from mainstay.node.preload import Report, Wanted, Watch, preload

        watch = Watch(
            self._sock,
            self._wake_read,
            self._tell_life,
            lambda: self._end_at is not None,
            self._die_with,
            self._let_go,
        )
        outcome = preload(Wanted(*load(frame.body)), watch)
        assert self._home is not None
        self._home.agent = os.getpid()
        kind = Kind.PRELOADED if isinstance(outcome, Report) else Kind.PRELOAD_FAILED
        self._send(encode(kind, pickle.dumps(tuple(outcome))))

    # -- the workers

    def _fork(self, number: int) -> None:
        pipes = [os.pipe(), os.pipe()]
        pid = os.fork()
        if pid == 0:
            self._become_worker(number, pipes)
        for _, write in pipes:
            os.close(write)
        outputs = [Output(pipes[0][0], number, False), Output(pipes[1][0], number, True)]
        self._children[pid] = Child(number, pid, outputs)
        for output in outputs if not self._paused else ():
            self._listen(output)
        self._send(encode(Kind.FORKED, number=number, task=pid))

    def _become_worker(self, number: int, pipes: list[tuple[int, int]]) -> None:
        """In the child: never returns."""
        status = 1
        try:
            self._stand_apart()
            os.dup2(pipes[0][1], 1)
            os.dup2(pipes[1][1], 2)
            for fd in {fd for pipe in pipes for fd in pipe}:
                os.close(fd)
            self._let_go()
            assert self._home is not None
            place = Place(self._home, number, self._addresses, self._key)
            serve_as_worker(place, self._setup)
            status = 0
        except BaseException as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                status = 0  # the client went away
            else:
                sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(status)

    def _stand_apart(self) -> None:
        """In a child: be a group of its own, which ends when the agent does."""
        self._die_with(os.getppid())
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for what in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(what, signal.SIG_DFL)

    def _die_with(self, parent: int) -> None:
        """In a child: have the kernel end it when its parent ends."""
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    def _let_go(self) -> None:
        """In a child: close what is the agent's."""
        self._poller.close()
        for sock in (self._sock, self._wake_read, self._wake_write):
            sock.close()
        for child in self._children.values():
            for output in child.outputs:
                os.close(output.fd)
        for part in (self._doors, self._home):
            if part is not None:
                part.let_go()

    def _start_porter(self, number: int) -> int:
        """Have what worker `number` left brought to the client, and its part of the disk cleared."""
        pid = os.fork()
        if pid:
            return pid
        try:
            self._stand_apart()
            self._let_go()
            from mainstay.node.porter import salvage

            assert self._home is not None
            salvage(self._home, number, (self._addresses, self._key))
        finally:
            os._exit(0)

    def _listen(self, output: Output) -> None:
        self._poller.watch(output, lambda events: self._on_output(output))

    def _on_output(self, output: Output) -> None:
        if (lines := output.read()) is None:
            self._poller.forget(output)
        else:
            self._pass_on(output, lines)

    def _pass_on(self, output: Output, lines: list[bytes]) -> None:
        if lines:
            self._send(encode(Kind.OUTPUT, b"\n".join(lines), number=output.worker, attempt=int(output.is_error)))

    def _watch_for_deaths(self) -> None:
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: self._leave())
        signal.signal(signal.SIGUSR1, lambda number, frame: self._want_janitor())
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self._poller.watch(self._wake_read, self._on_signals)

    def _leave(self) -> None:
        """The launcher wants the node back: end as if the client had said so."""
        self._end_at = self._end_at or monotonic()

    def _want_janitor(self) -> None:
        self._wants_janitor = True  # the signal also wakes the poller

    def _on_signals(self, events: int) -> None:
        try:
            while self._wake_read.recv(4096):
                pass
        except BlockingIOError:
            pass
        if self._wants_janitor and self._home is not None:
            self._wants_janitor = False
            self._home.guard()
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._on_death(child, status, usage)
            elif pid in self._porters:
                self._tell_end(*self._porters.pop(pid))

    def _on_death(self, child: Child, status: int, usage: struct_rusage) -> None:
        _kill_group(child.pid)  # what its tasks started and left running
        self._read_the_rest(child)
        ended = {
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "exitcode": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "peak": usage.ru_maxrss * 1024,  # bytes
            "stderr": b"\n".join(child.outputs[1].tail).decode(errors="replace"),
        }
        assert self._home is not None
        if self._home.has_errand(child.number):
            self._send(encode(Kind.SAVING, number=child.number))
            self._porters[self._start_porter(child.number)] = child.number, ended
            return
        self._tell_end(child.number, ended)
        if self._home.has_worker(child.number):
            self._start_porter(child.number)  # it clears up only

    def _tell_end(self, number: int, ended: dict[str, Any]) -> None:
        self._send(encode(Kind.ENDED, pickle.dumps(ended), number=number))

    def _read_the_rest(self, child: Child) -> None:
        for output in child.outputs:
            os.set_blocking(output.fd, False)
            try:
                while (lines := output.read()) is not None:
                    self._pass_on(output, lines)
            except BlockingIOError:
                pass
            self._pass_on(output, output.end())
            self._poller.forget(output)
            os.close(output.fd)

    def _end_all(self) -> None:
        while self._children:
            pid, _ = self._children.popitem()
            _kill_group(pid)
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)
