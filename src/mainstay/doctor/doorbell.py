"""Where the nodes call back: a TCP socket on all of this host's networks, as a pool's broker has one."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import time

from mainstay.wire.address import own_addresses

SLOW = 2.0  # seconds for a caller's line
LONGEST = 200  # bytes of it


class Doorbell:
    """Answers the probes of the nodes, which know its token; `clocks` has how far a node's clock is ahead (s)."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.clocks: dict[int, float] = {}
        self._listener = socket.create_server(("", 0), backlog=1024)
        self.addresses = [(ip, self._listener.getsockname()[1]) for ip in own_addresses()]
        threading.Thread(target=self._answer, name="doctor-doorbell", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()

    def _answer(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller:
                try:
                    self._hear(caller)
                except (OSError, ValueError):
                    continue  # not one of ours

    def _hear(self, caller: socket.socket) -> None:
        caller.settimeout(SLOW)
        line = b""
        while not line.endswith(b"\n") and len(line) < LONGEST:
            piece = caller.recv(LONGEST)
            if not piece:
                return
            line += piece
        heard = time.time()
        token, node, clock = line.decode().split()
        if hmac.compare_digest(token, self.token):
            caller.sendall(b"heard\n")
            ahead = float(clock) - heard  # less the time under way, which the quickest call has least of
            self.clocks[int(node)] = max(ahead, self.clocks.get(int(node), ahead))
