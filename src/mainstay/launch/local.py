"""`local`: one agent on this host, as a subprocess. Needs no MPI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque

from mainstay.launch import Invitation

LAST_LINES = 20


class Process:
    """An agent or a launcher's program as a subprocess in a session of its own (Ctrl-C does not reach it)."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603  argv is ours
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> str:
        assert self._process.stdout is not None
        last = deque(self._process.stdout, maxlen=LAST_LINES)
        code = self._process.wait()
        ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = b"".join(last).decode(errors="replace").strip()
        return f"{ended}; it printed: {text}" if text else ended

    def end(self) -> None:
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except OSError:
                pass


class Local:
    name = "local"

    def why_not(self) -> str | None:
        return None

    def start(self, invitation: Invitation) -> Process:
        return Process([sys.executable, "-m", "mainstay.node"], invitation.environment())


LAUNCHER = Local()
