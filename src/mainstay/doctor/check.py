"""What is asked of the doctor, and what a check says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from mainstay.launch.process import RANK_VARIABLES, TETHER, descendants, kill
from mainstay.origin import present
from mainstay.slurm import OPTIONS, Allocation, allocation

PATIENCE = 10.0  # seconds for a command
MERCY = 2.0  # seconds from SIGTERM to SIGKILL
QUICK = "left out by --quick"


class State(Enum):
    GOOD = "good"
    ODD = "odd"  # it may be meant so
    BAD = "bad"
    NONE = "none"  # cannot be told here


class Check(NamedTuple):
    """What was found, whether it is good, and what to do (empty: nothing)."""

    name: str
    state: State
    found: str
    advice: str = ""


class Said(NamedTuple):
    """What a command printed, and why it failed; empty where it did not."""

    text: str
    errors: str
    problem: str


class Case(NamedTuple):
    """What is to be looked at.

    quick: start no process.
    """

    environ: Mapping[str, str]
    script: str | None = None
    journal: str | None = None
    quick: bool = False

    @property
    def allocation(self) -> Allocation | None:
        """The Slurm allocation; None outside of one, and where it cannot be read."""
        try:
            return allocation(present(self.environ))
        except ValueError:
            return None

    def ask(self, argv: Sequence[str], seconds: float = PATIENCE, **more: str) -> Said:
        """Run a command, which knows of no rank or step that this process may be; never raises, never hangs."""
        if self.quick:
            return Said("", "", QUICK)
        hidden = (*RANK_VARIABLES, *OPTIONS)
        environ = {name: value for name, value in self.environ.items() if not name.startswith(hidden)}
        return ask(argv, seconds, environ | more)


def ask(argv: Sequence[str], seconds: float, environ: Mapping[str, str]) -> Said:
    """Run a command to its end, which comes with ours, and after `seconds` at the latest."""
    tether = [sys.executable, "-S", "-E", "-c", TETHER, str(signal.SIGTERM.value), str(os.getpid())]
    program = _found(argv[0], environ)
    if program is None:
        return Said("", "", f"no {argv[0]} on PATH")
    try:
        process = subprocess.Popen(  # noqa: S603
            [*tether, program, *argv[1:]],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Said("", "", f"{argv[0]} cannot be started: {error.strerror}")
    return _hear(process, argv[0], seconds)


def _found(name: str, environ: Mapping[str, str]) -> str | None:
    return shutil.which(name, path=environ.get("PATH"))


def _hear(process: subprocess.Popen[bytes], name: str, seconds: float) -> Said:
    try:
        out, err = process.communicate(timeout=seconds)
        problem = _why(name, process.returncode)
    except subprocess.TimeoutExpired:
        out, err = _end(process)
        problem = f"{name} gave no answer in {seconds:g} s"
    return Said(out.decode(errors="replace"), err.decode(errors="replace"), problem)


def _why(name: str, code: int) -> str:
    if code == 0:
        return ""
    return f"{name} was ended by signal {-code}" if code < 0 else f"{name} ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End a command with all that it started here: gently first, since srun then ends its step."""
    strays = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=MERCY)
    except subprocess.TimeoutExpired:
        pass
    kill(os.killpg, process.pid)
    for pid in strays:
        kill(os.kill, pid)
    try:
        return process.communicate(timeout=MERCY)
    except subprocess.TimeoutExpired as error:  # one that nobody can end, or a stray that holds the pipe
        return error.output or b"", error.stderr or b""


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in a row, the first few of many."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def amount(count: int, what: str) -> str:
    """Return a number of things: 1 node, 3 nodes."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
