"""Linux namespaces of which none has a name: they live as long as their init, and are entered by its pid.

unshare (waits) ──▶ init, pid 1 of its PID namespace ── its death is the death of every process in the namespace,
                                                        and with the last of them go mounts, links and addresses
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

# A fork of unshare's is the init of the new PID namespace, and is killed with it.
UNSHARE = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
READY = "ready"


class BedError(Exception):
    """The bed, or something in it, did not do what it was asked for; says what."""


def init(setup: Sequence[str]) -> list[str]:
    """The command of an init: sets its namespaces up, says that it is ready, and sleeps.

    Since it ignores SIGCHLD, the kernel reaps the orphans that it inherits.
    """
    # Not `trap '' CHLD`, which dash forgets when it executes another program.
    last = [f"echo {READY}", "exec env --ignore-signal=CHLD sleep infinity"]
    return ["sh", "-c", "\n".join(["set -e", *setup, *last])]


def wait_until_ready(process: subprocess.Popen[str], what: str) -> None:
    """Wait for the init's word.

    Raises:
        BedError: it ended instead.
    """
    said = []
    for line in process.stdout or ():
        if line.strip() == READY:
            return
        said.append(line)
    raise BedError(f"{what} did not come up: {''.join(said).strip()}")


def only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Namespaces:
    """The namespaces of a host, known by the pid of their init."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._identity = _pid_namespace(pid)

    def command(self, argv: Sequence[object], directory: str | Path = "/") -> list[str]:
        """What runs `argv` on this host, in that directory."""
        # nsenter's own option for the directory is too young for some distributions.
        return [
            *self._enter("--mount", "--uts", "--ipc", "--net", "--pid"),
            "env",
            f"--chdir={directory}",
            *map(str, argv),
        ]

    def ip(self, *commands: str) -> None:
        """Configure the network of this host; pids in the commands are this program's, not the host's."""
        batch = "\n".join(commands)
        done = subprocess.run([*self._enter("--net"), "ip", "-batch", "-"], input=batch, capture_output=True, text=True)
        if done.returncode != 0:
            raise BedError(f"ip failed: {done.stderr.strip()}\n{batch}")

    def pids(self) -> Iterator[int]:
        """All that runs in this PID namespace."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if _pid_namespace(pid) == self._identity:
                yield pid

    def _enter(self, *which: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", *which, "--"]


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None  # it has ended
