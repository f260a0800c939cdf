"""A launcher's program as a subprocess in a session of its own, so that Ctrl-C does not reach it.

A program that does not notice by itself when the client dies is tethered: the kernel then sends it SIGTERM, on
which `mpiexec` and `srun` end their processes on every host.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from mainstay.node.program import RANK_VARIABLES as RANK_VARIABLES  # for launchers
from mainstay.node.program import WHILE_PARENT_LIVES

# What `python -m mainstay.node` does, without the five modules that `-m` itself imports, without the working
# directory on the path (a `socket.py` there must not be taken for Python's own), and with this package on it.
AGENT = (
    sys.executable,
    "-c",
    f"import sys; sys.path[:] = [*filter(None, sys.path), {str(Path(__file__).parents[2])!r}]; "
    "import mainstay.node.__main__ as node; sys.exit(node.main())",
)
# Waits for its place in the line, as many as $1 to a second, and becomes the rest of its command line. The rank is what
# the launcher's process manager says. It looks each second whether its parent still lives.
IN_LINE = """
wait=$(( ${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}} / $1 ))
shift
while [ $wait -gt 0 ]; do
    [ -d /proc/$PPID ] || exit 1
    sleep 1
    wait=$(( wait - 1 ))
done
exec "$@"
"""
LAST_LINES = 20

# Becomes the program, after it has asked the kernel for a signal at its parent's death (PR_SET_PDEATHSIG is 1).
TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() == int(sys.argv[2]):
    os.execv(sys.argv[3], sys.argv[3:])
"""


@functools.cache
def tether(setpriv: str | None, by: signal.Signals = signal.SIGTERM) -> list[str]:
    """Return the command that becomes a program after it has asked for a signal at its parent's death.

    It is util-linux's `setpriv` where that knows how, from 2.33 on: to start a Python for it would cost hundreds of
    metadata operations where Python lies on a shared file system.
    """
    asks = [
        "--pdeathsig",
        by.name.removeprefix("SIG"),
        "/bin/sh",
        "-c",
        WHILE_PARENT_LIVES,
        "mainstay",
    ]
    if setpriv is not None:
        told = subprocess.run([setpriv, "--help"], env={}, capture_output=True, check=False)  # noqa: S603
        if b"--pdeathsig" in told.stdout:
            return [setpriv, *asks]
    return [sys.executable, "-S", "-E", "-c", TETHER, str(by.value)]


def staggered(stagger: int | None, command: Sequence[str] = AGENT) -> list[str]:
    """Return the command of an agent that starts in its turn, `stagger` of them a second (None: all at once).

    A shell waits, since to start Python is itself hundreds of metadata operations where it lies on a shared disk.
    """
    return [*command] if stagger is None else ["/bin/sh", "-c", IN_LINE, "mainstay", str(stagger), *command]


class Process:
    """A running program; what it prints is kept for the reason why it ended.

    It inherits this program's environment, but for variables whose names begin with one of `hidden`, and its working
    directory unless another is given. `fed` says whether it is to get its input by `feed`; else it has none.
    """

    def __init__(
        self,
        argv: list[str],
        environment: dict[str, str],
        nodes: int = 1,
        *,
        tethered: bool = False,
        hidden: tuple[str, ...] = RANK_VARIABLES,
        directory: str | None = None,
        fed: bool = False,
    ) -> None:
        self.nodes = nodes
        if tethered:
            argv = [*tether(shutil.which("setpriv")), str(os.getpid()), *argv]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self._process = subprocess.Popen(  # noqa: S603  argv is ours
            argv,
            env=inherited | environment,
            stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=directory,
        )

    def feed(self, file: int, count: int) -> None:
        """Give it so many bytes of an open file as its input, from the beginning; it need not read them all.

        Several threads may do so with one file, whose position stays as it is.
        """
        assert self._process.stdin is not None
        sent = 0
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            while sent < count and (more := os.sendfile(pipe.fileno(), file, sent, count - sent)):
                sent += more

    def wait(self) -> str:
        """Block until the program has ended; return how, with its last lines."""
        assert self._process.stdout is not None
        last = deque(self._process.stdout, maxlen=LAST_LINES)
        code = self._process.wait()
        ended = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = b"".join(last).decode(errors="replace").strip()
        return f"{ended}; it printed: {text}" if text else ended

    @property
    def failed(self) -> bool:
        """Whether the program has ended, and not as it should."""
        return bool(self._process.returncode)

    def end(self) -> None:
        """Kill the program with its session, and whatever it started that has left the session."""
        if self._process.poll() is None:
            strays = descendants(self._process.pid)
            kill(os.killpg, self._process.pid)
            for pid in strays:
                kill(os.kill, pid)


def kill(how: Callable[[int, int], None], pid: int) -> None:
    try:
        how(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended


def descendants(ancestor: int) -> set[int]:
    """Return the ids of all processes that this one started, and those that they started."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        children.setdefault(parent, []).append(int(entry))
    found: set[int] = set()
    to_do = [ancestor]
    while to_do:
        new = children.get(to_do.pop(), [])
        found.update(new)
        to_do += new
    return found
