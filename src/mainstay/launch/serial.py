"""`serial`: one worker as a thread of this process, for where no process can be started.

It speaks the agents' protocol, so a task is pickled, run and answered like anywhere else. What a thread cannot do:
a task that overruns its `timeout` is told so to the caller and left to itself, and one that ends its process ends
this one.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from typing import Any

from mainstay.errors import ScratchError
from mainstay.launch import Invitation
from mainstay.node.agent import HEARTBEATS
from mainstay.node.home import Home
from mainstay.node.place import Place
from mainstay.node.porter import bring
from mainstay.node.preload import Failure, ImportFailed, Report, Wanted, import_all
from mainstay.node.worker import Worker, send_all, start_worker
from mainstay.wire.address import Address, dial, from_text
from mainstay.wire.frames import Frame, FrameReader, Kind, encode
from mainstay.wire.payload import load


class Threads:
    """An agent as a thread, and its workers as threads."""

    nodes = 1

    def __init__(self, invitation: Invitation) -> None:
        self._addresses: list[Address] = from_text(invitation.addresses)
        self._key = bytes.fromhex(invitation.key)
        self._launch = invitation.launch
        self._host = socket.gethostname()
        self._workers: dict[int, tuple[socket.socket, Place]] = {}
        self._home: Home | None = None
        self._setup: dict[str, Any] = {}
        self._control: socket.socket | None = None
        self._stopped = False
        self._over = threading.Event()
        threading.Thread(target=self._serve, name="mainstay-serial", daemon=True).start()

    def wait(self) -> str:
        self._over.wait()
        return "the serial worker's thread ended"

    def end(self) -> None:
        self._over.set()

    def _serve(self) -> None:
        try:
            self._control, _ = dial(self._addresses, self._key)
            control = self._control
            hello = {"host": self._host, "pid": os.getpid(), "cores": 1, "slots": 1, "room": 1}
            hello["launch"] = self._launch
            send_all(control, encode(Kind.AGENT_HELLO, pickle.dumps(hello)))
            reader = FrameReader()
            while not self._stopped and (count := control.recv_into(reader.get_buffer())):
                for frame in reader.received(count):
                    self._on_frame(control, frame)
        except OSError:
            pass
        finally:
            if self._home is not None:
                self._home.remove()
            if self._control is not None:
                self._control.close()
            self._over.set()

    def _beat(self, seconds: float) -> None:
        try:
            while not self._over.wait(seconds) and self._control is not None:
                send_all(self._control, encode(Kind.HEARTBEAT))
        except OSError:
            pass  # the pool was closed

    def _on_frame(self, control: socket.socket, frame: Frame) -> None:
        if frame.kind == Kind.SETUP:
            self._setup = load(frame.body)
            self._home = Home(self._setup.get("scratch"), self._host)
            beat = self._setup["node_timeout"] / HEARTBEATS
            threading.Thread(target=self._beat, args=(beat,), daemon=True).start()
        elif frame.kind == Kind.PRELOAD:
            outcome = imported(Wanted(*load(frame.body)))
            kind = Kind.PRELOADED if isinstance(outcome, Report) else Kind.PRELOAD_FAILED
            send_all(control, encode(kind, pickle.dumps(tuple(outcome))))
        elif frame.kind == Kind.FORK:
            threading.Thread(target=self._work, args=(frame.number, self._setup), daemon=True).start()
            send_all(control, encode(Kind.FORKED, number=frame.number))
        elif frame.kind == Kind.KILL:
            if frame.number in self._workers:
                self._give_up(*self._workers.pop(frame.number))
            send_all(control, encode(Kind.ENDED, pickle.dumps({}), number=frame.number))
        elif frame.kind == Kind.STOP:
            self._stopped = True

    def _give_up(self, sock: socket.socket, place: Place) -> None:
        """Bring back what the task has left by now; its thread cannot be ended."""
        place.given_up = True
        sock.close()
        try:
            if place.home.has_errand(place.number):
                bring(place.home, place.number, place.client, "killed")
        except (OSError, EOFError, ValueError, ScratchError):
            pass  # it goes on writing, and removing

    def _work(self, number: int, setup: dict[str, Any]) -> None:
        assert self._home is not None
        place = Place(self._home, number, self._addresses, self._key)
        try:
            sock, _ = dial(self._addresses, self._key)
            with sock:
                self._workers[number] = sock, place
                name = f"{self._host}/{number}"
                worker = Worker(sock, name, 0.0, place, timed=setup["timeline"])  # a thread cannot be recalled
                start_worker(sock, number, setup)
                worker.serve()
        except OSError:
            pass  # the pool was closed, or this thread was given up after a timeout


def imported(wanted: Wanted) -> Report | Failure:
    """Import in this process: nothing is forked from it, so what forks cannot inherit does no harm."""
    try:
        return import_all(wanted, lambda name: None, apart=False)
    except ImportFailed as failed:
        return failed.failure


class Serial:
    """Starts one worker inside this process."""

    name = "serial"
    most_workers = 1
    in_process = True

    def why_not(self) -> str | None:
        return None

    def start(self, invitation: Invitation) -> Threads:
        return Threads(invitation)


LAUNCHER = Serial()
