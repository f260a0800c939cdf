"""The client's end of files: gives workers their inputs, and takes what tasks leave.

    the door ─▶ serve ─▶ waiting ─▶ at most `MOST` threads ─┬─ FETCH: the trees that were asked for go out
                                                            └─ BRING: files come in, beside where they belong,
                                                               and are renamed when all are there

Each stream has a connection of its own, so the broker's thread has no part in it, and a slow disk holds up nobody else.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from mainstay import staging
from mainstay.launches import Log
from mainstay.node.place import Orders
from mainstay.node.worker import send_all
from mainstay.wire import tree
from mainstay.wire.frames import Bytes, Frame, Kind, encode

MOST = 8  # streams at once; others wait for their turn
SILENT = 120.0  # seconds without a byte after which a peer is taken for dead
# Of a peer that says nothing the kernel asks whether its host is there: after 10 s, and then four times, 5 s apart.
KEPT_ALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}
PATIENCE = 2.0  # seconds for streams to end whose connections were ended here
PARTIAL = ".partial"  # at the end of the name of what may be cut off: its task was killed


class Files:
    """Serves the streams of a pool."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._waiting: deque[tuple[socket.socket, Frame]] = deque()
        self._threads: dict[threading.Thread, socket.socket | None] = {}  # that are at work, and what with
        self._closed = False
        self._paths: dict[str, str] = {}  # of inputs, by key
        self.ledger = Ledger()

    @property
    def busy(self) -> bool:
        """Whether files are under way."""
        return bool(self._threads or self._waiting)

    def orders(self, stage_in: Any, stage_out: Any) -> Orders:
        """Return what a call tells its worker of files. Raises what `staging.look` does."""
        inputs = staging.look(stage_in)
        self._paths.update((one.key, one.path) for one in inputs)
        return Orders(os.getcwd(), {one.path: (one.key, one.size) for one in inputs}, staging.targets(stage_out))

    def serve(self, sock: socket.socket, first: Frame) -> None:
        """Take over a connection whose first frame was FETCH or BRING; returns at once."""
        keep_alive(sock)
        with self._lock:
            if self._closed:
                sock.close()
                return
            self._waiting.append((sock, first))
            if len(self._threads) >= MOST:
                return
            thread = threading.Thread(target=self._work, name="mainstay-files", daemon=True)
            thread.start()
            self._threads[thread] = None

    def close(self) -> None:
        """End all streams, some of which may be of hosts that are gone; what is not whole is removed."""
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.pop()[0].close()
            threads = list(self._threads)
            for sock in filter(None, self._threads.values()):
                end(sock)
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        me = threading.current_thread()
        while (turn := self._next(me)) is not None:
            with turn[0] as sock:
                self._serve_one(sock, turn[1])
                with self._lock:
                    self._threads[me] = None  # before it is closed, and its number another's

    def _next(self, me: threading.Thread) -> tuple[socket.socket, Frame] | None:
        """Return whose turn it is; None: nobody waits, and this thread is at work no longer."""
        with self._lock:
            if not self._waiting:
                del self._threads[me]
                return None
            sock, first = self._waiting.popleft()
            self._threads[me] = sock
            return sock, first

    def _serve_one(self, sock: socket.socket, first: Frame) -> None:
        try:
            sock.setblocking(True)
            sock.settimeout(SILENT)
            answer = self._give(sock, first) if first.kind == Kind.FETCH else self._take(sock, first)
            send_all(sock, answer)
        except (OSError, EOFError) as error:
            self._log(logging.DEBUG, f"a stream of files ended early: {error}")  # its worker is gone, or says so itself
        except Exception as error:  # a bug; the worker hears an end-of-file, and others go on
            self._log(logging.ERROR, f"a stream of files failed: {error!r}")

    # -- inputs

    def _give(self, sock: socket.socket, first: Frame) -> list[Bytes]:
        for key in pickle.loads(first.body):
            path = self._paths[key]
            try:
                unchanged = tree.summary(path)[0] == key
                for pieces in self._packed(path, key) if unchanged else ():
                    send_all(sock, pieces)
            except (tree.Changed, FileNotFoundError, ValueError):
                unchanged = False
            except OSError as error:
                return refusal(f"stage_in: {path} could not be read by the client: {error}")
            if not unchanged:
                return refusal(f"stage_in: {path} has changed since the task was submitted; submit the task again")
        return encode(Kind.DONE)

    def _packed(self, path: str, key: str) -> Iterator[list[Bytes]]:
        return tree.pack(tree.walk(path, f"{key}/{os.path.basename(path)}"), steady=True)

    # -- results

    def _take(self, sock: socket.socket, first: Frame) -> list[Bytes]:
        errand = pickle.loads(first.body)
        arrival = Arrival(self.ledger, errand)
        send_all(sock, encode(Kind.DONE))
        try:
            for frame in tree.frames_from(sock):
                if frame.kind == Kind.DONE:
                    break
                arrival.take(frame)
            arrival.settle()
        finally:
            arrival.close()
        for line in arrival.warnings:
            self._log(logging.WARNING, line)
        return encode(Kind.DONE) if arrival.trouble is None else refusal(arrival.trouble)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice when the peer's host is gone."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEPT_ALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def end(sock: socket.socket) -> None:
    """Have whoever reads from a connection find its end."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was first


def refusal(text: str) -> list[Bytes]:
    return encode(Kind.REFUSED, text.encode(errors="replace"))


class Ledger:
    """Whose each file is, so that no task writes over another's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: dict[str, int] = {}
        self._partial: dict[int, list[str]] = {}
        self._whole: set[int] = set()

    def claim(self, path: str, task: int) -> str:
        """Return the name under which a task's file is to stand."""
        with self._lock:
            if self._owners.setdefault(path, task) == task:
                return path
            root, extension = os.path.splitext(path)
            return f"{root}.task-{task}{extension}"

    def knows(self, path: str) -> bool:
        """Whether a file of that name is some task's."""
        return path in self._owners

    def came(self, task: int, paths: list[str], is_partial: bool) -> list[str]:
        """A task's files are in place; return those that they make worthless."""
        with self._lock:
            if is_partial:
                self._partial.setdefault(task, []).extend(paths)
                return []
            self._whole.add(task)
            return self._partial.pop(task, [])

    def has_whole(self, task: int) -> bool:
        return task in self._whole


class Arrival:
    """What comes from one task: written beside its place, and renamed when all is there."""

    def __init__(self, ledger: Ledger, errand: dict[str, Any]) -> None:
        self._ledger, self._errand, self._task = ledger, errand, int(errand["task"])
        self._is_partial = errand["state"] == "killed"
        self._names: dict[str, str] = {}  # where a file belongs, by where it is written
        self._writer = tree.Writer(self._locate)
        self.trouble: str | None = None
        self.warnings: list[str] = []

    def take(self, frame: Frame) -> None:
        """Write what came; after the first trouble, only let it pass."""
        if self.trouble is None:
            try:
                self._writer.take(frame)
            except (OSError, ValueError) as error:
                self._fail(error)

    def _locate(self, name: str, is_directory: bool) -> str:
        """Return where to write: a directory's own place, and for a file a name beside its place."""
        if is_directory:
            return name
        directory, base = os.path.split(name)
        path = os.path.join(directory, f".{base[:40]}.mainstay-{os.urandom(4).hex()}")
        self._names[path] = name
        return path

    def settle(self) -> None:
        """All has come: put it where it belongs."""
        try:
            self._writer.end()
            if self.trouble is None and not (self._is_partial and self._ledger.has_whole(self._task)):
                self._put_in_place()
        except OSError as error:
            self._fail(error)

    def _put_in_place(self) -> None:
        if not self._names and self._errand["state"] == "done":
            patterns = ", ".join(map(repr, self._errand["outputs"]))
            self.warnings.append(
                f"task {self._task} ({self._errand['label']!r}) left nothing that stage_out={patterns} matches; "
                "it looks for files in mainstay.scratch(per='task')"
            )
        paths = [self._put(written, name) for written, name in list(self._names.items())]
        for path in self._ledger.came(self._task, paths, self._is_partial):
            _unlink(path)

    def _put(self, written: str, name: str) -> str:
        path = self._ledger.claim(name, self._task)
        if path != name:
            self.warnings.append(
                f"{name} is another task's: that of task {self._task} ({self._errand['label']!r}) is in {path}; "
                "{id} or {label} in the target of stage_out keeps them apart"
            )
        path += PARTIAL if self._is_partial else ""
        os.replace(written, path)
        if not self._is_partial and not self._ledger.knows(path + PARTIAL):
            _unlink(path + PARTIAL)  # of an earlier run of the program
        del self._names[written]
        return path

    def _fail(self, error: OSError | ValueError) -> None:
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        room = "make room there, or " if is_full else ""
        self.trouble = (
            f"stage_out: results of task {self._task} ({self._errand['label']!r}) could not be written "
            f"on the client: {error}; {room}give stage_out= another directory"
        )
        self.close()

    def close(self) -> None:
        """Remove what did not come to its place."""
        self._writer.close()
        while self._names:
            _unlink(self._names.popitem()[0])


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
