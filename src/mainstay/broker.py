"""The broker: bytes → events → scheduler → actions → bytes.

    submit() ─┐                       ┌─▶ worker sockets
              ├─▶ Broker (one lock) ──┤
    sockets ──┘   scheduler, tables   └─▶ futures (outside the lock)

One thread sleeps in epoll. A thread that waits for a result may do the I/O itself for `SPIN` seconds (`drive`),
which saves two wake-ups per call; meanwhile the worker sockets are disarmed, so that the broker thread sleeps on.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mainstay.errors import (
    InitializerFailed,
    LaunchError,
    PoolBroken,
    RemoteError,
    RemoteTraceback,
    TaskTimeout,
    WorkerDied,
)
from mainstay.launch import Invitation, Launched, Launcher
from mainstay.scheduler import Action, GiveUp, Kill, Recall, Scheduler, Send, Task
from mainstay.wire import address, auth
from mainstay.wire.connection import Connection, Handshake
from mainstay.wire.frames import Frame, Kind, encode
from mainstay.wire.functions import Function
from mainstay.wire.payload import load

SPIN = 100e-6  # seconds
MOST_STRANGERS = 256  # connections without a proof; the oldest is closed for a further one
GRACE = 2.0  # seconds between a worker's end-of-file and its agent's word on why
MOST_LAUNCHES = 3  # one after another without a single result
now = time.monotonic


class WorkerState:
    """A worker as the broker sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.agent: AgentState | None = None
        self.connection: Connection | None = None
        self.pid = 0
        self.host = ""
        self.known: set[int] = set()  # numbers of the functions that it has
        self.ended: dict[str, Any] | None = None
        self.closed_at: float | None = None


class AgentState:
    """An agent as the broker sees it."""

    def __init__(self, connection: Connection, host: str, launch: int) -> None:
        self.connection, self.host, self.launch = connection, host, launch
        self.workers: dict[int, WorkerState] = {}


Outcome = tuple[Future[Any], Any, BaseException | None]


class Broker:
    """Everything between the executor and the sockets."""

    def __init__(
        self,
        launchers: list[Launcher],
        size: int,
        setup: dict[str, Any],
        start_timeout: float,
        log: Callable[[str], None],
    ) -> None:
        self.size, self._setup, self._start_timeout, self._log = size, setup, start_timeout, log
        self._launchers = launchers
        self.reasons: list[tuple[str, str]] = []
        self.launcher = ""
        self._launched: Launched | None = None
        self._launch = 0
        self._fruitless = 0
        self._start_deadline: float | None = None
        self._started = now()
        self.lock = threading.Lock()
        self.scheduler = Scheduler()
        self.tasks: dict[int, Task] = {}
        self._functions: dict[int, Function] = {}
        self.agents: list[AgentState] = []
        self.workers: dict[int, WorkerState] = {}
        self._numbers = 0
        self.ever_started = 0
        self.broken: BaseException | None = None
        self._closing = False
        self._outcomes: list[Outcome] = []
        self._key = auth.new_key()
        self._epoll, self._inner = select.epoll(), select.epoll()
        self._armed = True
        self._epoll.register(self._inner.fileno(), select.EPOLLIN)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._register(self._wake_read, self._on_wake)
        self._strangers: dict[int, Handshake] = {}
        self._calls: list[Callable[[], None]] = []
        self._addresses = self._listen()
        self.changed = threading.Condition(self.lock)
        self._thread = threading.Thread(target=self._run, name="mainstay-broker", daemon=True)

    # -- what the executor calls

    def start(self) -> None:
        self._calls.append(self._launch_next)
        self._thread.start()
        self._wake()

    def submit(self, task: Task, function: Function) -> None:
        with self.lock:
            if self.broken is not None:
                raise self.broken
            self.tasks[task.id] = task
            self._functions.setdefault(function.number, function)
            self._act(self.scheduler.submit(task, now()))
            if not self._armed:
                self._arm(True)
            wake = task.timeout is not None
        if wake:
            self._wake()

    def drive(self, future: Future[Any]) -> None:
        """Do the broker's I/O in this thread until `future` is done, for `SPIN` seconds at the most."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self._armed:
                self._arm(False)
            end = now() + SPIN
            while not future.done():
                ready = self._inner.poll(0)
                for fd, events in ready:
                    self._handlers[fd](events)
                if self._outcomes:
                    break
                if not ready and now() > end:
                    break
            if self.tasks:
                self._arm(True)
            outcomes = self._take_outcomes()
        finally:
            self.lock.release()
        deliver(outcomes)

    def close(self, cancel: bool) -> None:
        """Finish what is queued (or cancel it), then end the pool. Returns at once; `join` waits."""
        with self.lock:
            cancelled = self.scheduler.drain() if cancel else []
            for task in cancelled:
                self.tasks.pop(task.id, None)
            self._closing = True
        for task in cancelled:
            task.future.cancel()
            task.future.set_running_or_notify_cancel()
        self._wake()

    def join(self) -> None:
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # -- the thread

    def _run(self) -> None:
        while True:
            events = self._epoll.poll(self._timeout())
            with self.lock:
                for fd, event in events:
                    if fd == self._inner.fileno():
                        for inner_fd, inner_event in self._inner.poll(0):
                            self._handlers[inner_fd](inner_event)
                    elif fd in self._handlers:
                        self._handlers[fd](event)
                self._on_time()
                outcomes = self._take_outcomes()
                over = self._closing and not self.tasks and not outcomes
            deliver(outcomes)
            if over:
                break
        self._shut()

    def _timeout(self) -> float:
        with self.lock:
            times = [self.scheduler.next_tick(), self._start_deadline]
            times += [stranger.deadline for stranger in self._strangers.values()]
            times += [w.closed_at + GRACE for w in self.workers.values() if w.closed_at is not None]
            soonest = min((t for t in times if t is not None), default=None)
            if self._closing and not self.tasks:
                return 0
        return -1 if soonest is None else max(0.0, soonest - now()) + 0.0005

    def _on_time(self) -> None:
        time_now = now()
        self._act(self.scheduler.tick(time_now))
        for fd, stranger in list(self._strangers.items()):
            if stranger.deadline <= time_now:
                self._dismiss(fd)
        for worker in list(self.workers.values()):
            if worker.closed_at is not None and worker.closed_at + GRACE <= time_now:
                self._worker_gone(worker, {"signal": None, "exitcode": None, "stderr": "", "lost": True})
        if self._start_deadline is not None and self._start_deadline <= time_now:
            self._launch_failed(f"brought no worker within start_timeout={self._start_timeout:g} s")

    def _shut(self) -> None:
        with self.lock:
            self._closing = True
            for agent in self.agents:
                agent.connection.sock.setblocking(True)
                agent.connection.send(encode(Kind.STOP))
                agent.connection.close()
            for worker in self.workers.values():
                if worker.connection is not None:
                    worker.connection.close()
            for sock in self._listeners:
                sock.close()
            for stranger in self._strangers.values():
                stranger.sock.close()
            launched = self._launched
            self._inner.close()
            self._epoll.close()
            self._wake_read.close()
            self._wake_write.close()
        if launched is not None:
            self._waiter.join(GRACE)
            launched.end()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"x")
        except OSError:
            pass

    def _on_wake(self, events: int) -> None:
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            pass
        while self._calls:
            self._calls.pop(0)()

    def _call_soon(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wake()

    def _register(self, sock: socket.socket, handler: Callable[[int], None]) -> None:
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _arm(self, armed: bool) -> None:
        if armed != self._armed:
            self._armed = armed
            self._epoll.modify(self._inner.fileno(), select.EPOLLIN if armed else 0)

    # -- strangers

    def _listen(self) -> list[address.Address]:
        tcp = socket.create_server(("", 0), backlog=1024)
        name = f"mainstay-{os.getpid()}-{os.urandom(8).hex()}"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("\0" + name)
        unix.listen(1024)
        self._listeners = [unix, tcp]
        for sock in self._listeners:
            sock.setblocking(False)
            self._register(sock, lambda events, sock=sock: self._on_stranger(sock))  # type: ignore[misc]
        port = tcp.getsockname()[1]
        return [("@" + name, 0), *((ip, port) for ip in address.own_addresses())]

    def _on_stranger(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._strangers) >= MOST_STRANGERS:
            self._dismiss(next(iter(self._strangers)))
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stranger = Handshake(sock, self._key, now() + address.HANDSHAKE_TIMEOUT)
        except OSError:
            sock.close()
            return
        fd = sock.fileno()
        self._strangers[fd] = stranger
        self._register(sock, lambda events: self._on_proof(fd))

    def _on_proof(self, fd: int) -> None:
        stranger = self._strangers[fd]
        proved = stranger.step()
        if proved is False:
            self._dismiss(fd)
        elif proved:
            del self._strangers[fd]
            connection = Connection(stranger.sock)
            self._handlers[fd] = lambda events: self._on_hello(connection)

    def _dismiss(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._handlers[fd]
        self._strangers.pop(fd).sock.close()

    def _on_hello(self, connection: Connection) -> None:
        """The first frames of a peer that proved the key say what it is."""
        frames = connection.receive()
        fd = connection.sock.fileno()
        if frames is None:
            self._forget(connection)
            return
        if not frames:
            return
        first = frames[0]
        if first.kind == Kind.AGENT_HELLO:
            self._handlers[fd] = lambda events: self._on_agent(connection, events)
            self._agent_came(connection, load(first.body))
        else:
            self._epoll.unregister(fd)
            self._inner.register(fd, select.EPOLLIN)
            self._handlers[fd] = lambda events: self._on_worker(connection, events)
            self._worker_came(connection, first)

    def _forget(self, connection: Connection) -> None:
        fd = connection.sock.fileno()
        if fd in self._handlers:
            del self._handlers[fd]
            poller = self._inner if isinstance(connection.owner, WorkerState) else self._epoll
            poller.unregister(fd)
        connection.close()

    # -- agents

    def _agent_came(self, connection: Connection, hello: dict[str, Any]) -> None:
        if hello["launch"] != self._launch:
            self._forget(connection)  # of a launch that was given up
            return
        agent = connection.owner = AgentState(connection, hello["host"], hello["launch"])
        self.agents.append(agent)
        for _ in range(self._share(len(self.agents) - 1)):
            self._numbers += 1
            worker = agent.workers[self._numbers] = self.workers[self._numbers] = WorkerState(self._numbers)
            worker.agent, worker.host = agent, agent.host
        connection.send(encode(Kind.SETUP, pickle.dumps({**self._setup, "workers": list(agent.workers)})))

    def _share(self, index: int) -> int:
        """Return how many of the pool's workers the agent that came as number `index` gets."""
        assert self._launched is not None
        bound = self._launchers[0].most_workers
        size = self.size if bound is None else min(self.size, bound)
        each, more = divmod(size, self._launched.nodes)
        return each + (index % self._launched.nodes < more)

    def _on_agent(self, connection: Connection, events: int) -> None:
        frames = connection.receive()
        for frame in frames or ():
            if frame.kind == Kind.FORKED:
                self.ever_started += 1
            elif frame.kind == Kind.OUTPUT:
                self._print(frame)
            elif frame.kind == Kind.ENDED:
                self._on_ended(connection.owner, frame)
        if frames is None:
            self._agent_gone(connection.owner)

    def _print(self, frame: Frame) -> None:
        worker = self.workers.get(frame.number)
        stream = sys.stderr if frame.attempt else sys.stdout
        prefix = f"[{worker.host if worker else '?'}/{frame.number}] "
        text = bytes(frame.body).decode(errors="replace")
        try:
            stream.write("".join(f"{prefix}{line}\n" for line in text.split("\n")))
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the terminal is gone: the work goes on

    def _on_ended(self, agent: AgentState, frame: Frame) -> None:
        worker = agent.workers.get(frame.number)
        if worker is None:
            return
        worker.ended = load(frame.body)
        if worker.connection is None or worker.closed_at is not None:
            self._worker_gone(worker, worker.ended)
        else:
            worker.closed_at = None
            for received in iter(worker.connection.receive, None):
                if not received:
                    break
                self._on_frames(worker, received)
            self._worker_gone(worker, worker.ended)

    def _agent_gone(self, agent: AgentState) -> None:
        self._forget(agent.connection)
        if agent in self.agents:
            self.agents.remove(agent)
        for worker in list(agent.workers.values()):
            self._worker_gone(worker, {"signal": None, "exitcode": None, "stderr": "", "lost": True}, replace=False)

    # -- workers

    def _worker_came(self, connection: Connection, first: Frame) -> None:
        worker = self.workers.get(first.number)
        if worker is None:
            connection.owner = WorkerState(0)
            self._forget(connection)
            return
        connection.owner, worker.connection = worker, connection
        if first.kind == Kind.INITIALIZER_FAILED:
            error = InitializerFailed("the initializer raised on a worker; its exception is the cause")
            error.__cause__ = rebuild_error(first.body, worker.host, str(worker.number))
            self._break(error)
            return
        worker.pid = load(first.body)["pid"]
        if self._start_deadline is not None:
            self._start_deadline = None
            self._log(
                f"launcher {self.launcher}, {len(self.agents)} node(s), {self.size} worker(s) on {worker.host}, "
                f"first after {now() - self._started:.2f} s" + "".join(f"; not {n}: {r}" for n, r in self.reasons)
            )
        self._act(self.scheduler.joined(worker.number, now()))
        self.changed.notify_all()

    def _on_worker(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            connection.flush()
            self._watch(connection)
        if not events & ~select.EPOLLOUT:
            return
        worker: WorkerState = connection.owner
        frames = connection.receive()
        if frames is None:
            self._inner.unregister(connection.sock.fileno())
            del self._handlers[connection.sock.fileno()]
            worker.closed_at = now()
            self._wake()
            if worker.agent is not None:
                worker.agent.connection.send(encode(Kind.KILL, number=worker.number))
        elif frames:
            self._on_frames(worker, frames)

    def _on_frames(self, worker: WorkerState, frames: list[Frame]) -> None:
        done = [(f.task, f.number / 1e6) for f in frames if f.kind in (Kind.RESULT, Kind.ERROR)]
        if done:
            self._fruitless = 0
            tasks, actions = self.scheduler.finished(worker.number, done, now())
            self._act(actions)
            known = {task.id: task for task in tasks}
            for frame in frames:
                if frame.task in known and frame.kind in (Kind.RESULT, Kind.ERROR):
                    self._finish(known[frame.task], frame, worker)
        for frame in frames:
            if frame.kind == Kind.RETURNED:
                self._act(self.scheduler.returned(worker.number, load(frame.body), now()))

    def _finish(self, task: Task, frame: Frame, worker: WorkerState) -> None:
        if frame.kind == Kind.RESULT:
            try:
                self._resolve(task, load(frame.body, frame.buffers), None)
            except BaseException as error:
                self._resolve(task, None, error)
        elif task.retries > 0:
            self._act(self.scheduler.retry(task, now()))
        else:
            self._resolve(task, None, rebuild_error(frame.body, worker.host, str(worker.number)))

    def _resolve(self, task: Task, result: Any, error: BaseException | None) -> None:
        if self.tasks.pop(task.id, None) is not None:
            self._outcomes.append((task.future, result, error))

    def _take_outcomes(self) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _worker_gone(self, worker: WorkerState, how: dict[str, Any], *, replace: bool = True) -> None:
        if self.workers.pop(worker.number, None) is None:
            return
        if worker.connection is not None and worker.connection.sock.fileno() >= 0:
            worker.closed_at = None
            self._forget(worker.connection)
        for action in self.scheduler.left(worker.number, now()):
            if isinstance(action, GiveUp):
                self._give_up(action.task, worker, how)
            else:
                self._act([action])
        if worker.agent is not None:
            worker.agent.workers.pop(worker.number, None)
            if replace and not self._closing and self.broken is None:
                self._numbers += 1
                new = worker.agent.workers[self._numbers] = self.workers[self._numbers] = WorkerState(self._numbers)
                new.agent, new.host = worker.agent, worker.host
                worker.agent.connection.send(
                    encode(Kind.SETUP, pickle.dumps({**self._setup, "workers": [self._numbers]}))
                )

    def _give_up(self, task: Task, worker: WorkerState, how: dict[str, Any]) -> None:
        name, code = how["signal"], how["exitcode"]
        reason = f"killed by signal {name}" if name else f"exit code {code}" if code is not None else "connection lost"
        label = task.label or self._functions[task.function].name
        self._resolve(
            task,
            None,
            WorkerDied(
                label,
                worker.host,
                worker.pid,
                reason,
                signal=name,
                exitcode=code,
                stderr=how["stderr"],
                deaths=task.deaths,
            ),
        )

    # -- actions

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Recall):
                self._tell_agent(action.worker, Kind.RECALL)
            elif isinstance(action, Kill):
                self._tell_agent(action.worker, Kind.KILL)
                self._time_out(action.task)

    def _time_out(self, task: Task) -> None:
        if task.retries > 0:
            self._act(self.scheduler.retry(task, now()))
            return
        label = task.label or self._functions[task.function].name
        self._resolve(
            task, None, TaskTimeout(f"{label!r} ran for more than its timeout={task.timeout:g} s and was killed")
        )

    def _tell_agent(self, number: int, kind: int) -> None:
        worker = self.workers[number]
        if worker.agent is not None:
            worker.agent.connection.send(encode(kind, number=number))

    def _send(self, action: Send) -> None:
        worker = self.workers[action.worker]
        assert worker.connection is not None
        pieces, dropped = [], []
        for task in action.tasks:
            if not task.begun and not task.future.set_running_or_notify_cancel():
                dropped.append(task.id)
                self.tasks.pop(task.id, None)
                continue
            task.begun = True
            if task.function not in worker.known:
                worker.known.add(task.function)
                payload = self._functions[task.function].payload
                pieces += encode(Kind.DEFINE, payload.body, payload.buffers, number=task.function)
            body, buffers = task.payload
            pieces += encode(
                Kind.CALL, body, buffers, number=task.function, task=task.id, attempt=min(task.attempt, 255)
            )
        worker.connection.send(pieces)
        if worker.connection.wants_to_send:
            self._watch(worker.connection)
        if dropped:
            self._act(self.scheduler.dropped(action.worker, dropped, now()))

    def _watch(self, connection: Connection) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if connection.wants_to_send else 0)
        self._inner.modify(connection.sock.fileno(), events)

    # -- launches

    def _launch_next(self) -> None:
        """Try the launchers in their order until one starts; its agents come by themselves."""
        while self._launchers:
            launcher = self._launchers[0]
            reason = launcher.why_not()
            if reason is None:
                try:
                    self._begin(launcher)
                    return
                except OSError as error:
                    reason = str(error)
            self.reasons.append((launcher.name, reason))
            self._launchers.pop(0)
        self._break(LaunchError(self.reasons))

    def _begin(self, launcher: Launcher) -> None:
        self._launch += 1
        self._fruitless += 1
        launch = self._launch
        invitation = Invitation(address.to_text(self._addresses), self._key.hex(), launch)
        launched = self._launched = launcher.start(invitation)
        self.launcher = launcher.name
        self._started = now()
        self._start_deadline = self._started + self._start_timeout

        def wait() -> None:
            reason = launched.wait()
            self._call_soon(lambda: self._launcher_ended(launch, reason))

        self._waiter = threading.Thread(target=wait, name="mainstay-launcher", daemon=True)
        self._waiter.start()

    def _launcher_ended(self, launch: int, reason: str) -> None:
        if launch == self._launch and not self._closing:
            self._launch_failed(reason)

    def _launch_failed(self, reason: str) -> None:
        self._start_deadline = None
        launched, self._launched = self._launched, None
        self._launch += 1  # whoever still comes from this launch is sent away
        for agent in list(self.agents):
            self._agent_gone(agent)
        if launched is not None:
            launched.end()
        if self._fruitless >= MOST_LAUNCHES or not self.ever_started:
            self.reasons.append((self._launchers[0].name, reason))
            self._launchers.pop(0)
            self._fruitless = 0
        self._log(f"launcher {self.launcher}: {reason}; starting anew")
        self._launch_next()

    def _break(self, error: BaseException) -> None:
        """Nothing can run any more: every waiting future gets `error`."""
        self.broken = error if isinstance(error, PoolBroken) else PoolBroken(str(error))
        self.scheduler.drain()
        for task in list(self.tasks.values()):
            self._resolve(task, None, self.broken)
        self.changed.notify_all()


def deliver(outcomes: list[Outcome]) -> None:
    """Set the futures; their callbacks may submit, so no lock is held."""
    for future, result, error in outcomes:
        try:
            if error is None:
                future.set_result(result)
            else:
                if not future.running():
                    future.set_running_or_notify_cancel()
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
