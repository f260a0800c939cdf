"""A launcher's program as a subprocess in a session of its own, so that Ctrl-C does not reach it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque

LAST_LINES = 20
# What a process manager tells its ranks. A launcher that is started by a rank must not take itself for that rank.
RANK_VARIABLES = ("PMI_", "PMIX_", "PMI2_", "OMPI_COMM_WORLD_", "PRTE_LAUNCHED", "MPI_LOCAL", "HYDI_", "HYDRA_PROXY")


class Process:
    """A running program; what it prints is kept for the reason why it ended."""

    def __init__(self, argv: list[str], environment: dict[str, str], nodes: int = 1) -> None:
        self.nodes = nodes
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(RANK_VARIABLES)}
        self._process = subprocess.Popen(  # noqa: S603  argv is ours
            argv,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> str:
        """Block until the program has ended; return how, with its last lines."""
        assert self._process.stdout is not None
        last = deque(self._process.stdout, maxlen=LAST_LINES)
        code = self._process.wait()
        ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = b"".join(last).decode(errors="replace").strip()
        return f"{ended}; it printed: {text}" if text else ended

    def end(self) -> None:
        """Kill the program with its whole session."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except OSError:
                pass
