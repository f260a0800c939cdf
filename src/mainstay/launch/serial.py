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

from mainstay.launch import Invitation
from mainstay.node.agent import HEARTBEATS, start_worker
from mainstay.node.worker import Worker, send_all
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
        self._workers: dict[int, socket.socket] = {}
        self._setup: dict[str, Any] = {}
        self._control: socket.socket | None = None
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
            hello = {"host": self._host, "pid": os.getpid(), "cores": 1, "slots": 1, "launch": self._launch}
            send_all(control, encode(Kind.AGENT_HELLO, pickle.dumps(hello)))
            reader = FrameReader()
            while count := control.recv_into(reader.get_buffer()):
                for frame in reader.received(count):
                    self._on_frame(control, frame)
        except OSError:
            pass
        finally:
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
            beat = self._setup["node_timeout"] / HEARTBEATS
            threading.Thread(target=self._beat, args=(beat,), daemon=True).start()
        elif frame.kind == Kind.FORK:
            threading.Thread(target=self._work, args=(frame.number, self._setup), daemon=True).start()
            send_all(control, encode(Kind.FORKED, number=frame.number))
        elif frame.kind == Kind.KILL:
            sock = self._workers.pop(frame.number, None)
            if sock is not None:
                sock.close()
            send_all(control, encode(Kind.ENDED, pickle.dumps({}), number=frame.number))
        elif frame.kind == Kind.STOP:
            control.shutdown(socket.SHUT_RDWR)

    def _work(self, number: int, setup: dict[str, Any]) -> None:
        try:
            sock, _ = dial(self._addresses, self._key)
            with sock:
                self._workers[number] = sock
                worker = Worker(sock, f"{self._host}/{number}", flush=0.0)  # a thread cannot be recalled
                start_worker(sock, number, setup)
                worker.serve()
        except OSError:
            pass  # the pool was closed, or this thread was given up after a timeout


class Serial:
    """Starts one worker inside this process."""

    name = "serial"
    most_workers = 1

    def why_not(self) -> str | None:
        return None

    def start(self, invitation: Invitation) -> Threads:
        return Threads(invitation)


LAUNCHER = Serial()
