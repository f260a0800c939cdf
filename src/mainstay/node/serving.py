"""Being a worker, from its first step to its last: connect, run the initializer, serve until the client closes."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from typing import Any

from mainstay.node.place import Place
from mainstay.node.worker import Worker, describe_error, send_all
from mainstay.wire.address import dial
from mainstay.wire.frames import Kind, encode
from mainstay.wire.payload import load


def serve_as_worker(place: Place, setup: dict[str, Any]) -> None:
    """Be the worker of this place."""
    sys.stdout = open(1, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115  kept for life
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
    sock, _ = dial(*place.client)
    worker = Worker(sock, f"{place.home.host}/{place.number}", place=place, learns=setup["learns"])
    signal.signal(signal.SIGURG, lambda signum, frame: worker.recall())
    signal.siginterrupt(signal.SIGURG, False)
    start_worker(sock, place.number, setup)
    worker.serve()
    sys.stdout.flush()
    sys.stderr.flush()


def start_worker(sock: socket.socket, number: int, setup: dict[str, Any]) -> None:
    """Run the initializer, and tell the client that the worker stands or that the initializer failed."""
    initializer = setup.get("initializer")
    if initializer is not None:
        try:
            fn, args = load(*initializer)
            fn(*args)
        except BaseException as error:
            send_all(sock, encode(Kind.INITIALIZER_FAILED, describe_error(error), number=number))
            return
    send_all(sock, encode(Kind.WORKER_HELLO, pickle.dumps({"pid": os.getpid()}), number=number))
