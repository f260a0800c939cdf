"""Runs one contestant for one round in processes of its own, and sees to it that none of them outlives the round."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import psutil

from contestants import MODULES, RANKS
from rounds import Round

HERE = Path(__file__).parent
TIMEOUT = 120.0  # seconds for one contestant in one round
GRACE = 3.0  # seconds in which daemons may end by themselves after their contestant
PR_SET_CHILD_SUBREAPER = 36
MARK = "FIGURES "


def adopt_daemons() -> None:
    """Become the parent of what contestants leave behind.

    Some start daemons in sessions of their own; the kill of a process group does not reach these. Below this
    process they are found, both to count what they burn and to end them.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(name: str, effort: argparse.Namespace, folder: str) -> Round:
    """Let the contestant run, in a folder where it may leave files."""
    ranks = RANKS[name]
    given = ["--batches", effort.batches, "--patience", effort.patience, "--idle", effort.idle, "--root", os.getpid()]
    command = [*(["mpiexec", "-n", ranks] if ranks else []), sys.executable, HERE / "contest.py", name, *given]
    missing = why_not(name)
    return Round({}, missing) if missing else outcome(command, folder)


def why_not(name: str) -> str:
    """Say why the contestant cannot run here; empty if it can."""
    if importlib.util.find_spec(MODULES[name].partition(".")[0]) is None:
        return "not installed"
    if RANKS[name] and not shutil.which("mpiexec", path=environment(".")["PATH"]):
        return "not installed: no mpiexec"
    return ""


def outcome(command: Sequence[object], folder: str, spared: Collection[int] = ()) -> Round:
    """Run a command in a session of its own, and end all that it started, whatever comes; return what it printed.

    `spared` are processes below this one that are not the command's.
    """
    with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open as long as any daemon
        process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=folder,
            env=environment(folder),
        )
        try:
            ended = wait(process)
        finally:
            left = end(process, spared)
        output.seek(0)
        return judge(output.read(), process.returncode, ended, left)


def environment(folder: str) -> dict[str, str]:
    """Return the environment in which contestants find their programs and the tasks."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    modules = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    own = {"PATH": programs, "PYTHONPATH": modules, "IPYTHONDIR": folder, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return os.environ | own


def wait(process: subprocess.Popen[str]) -> bool:
    """Say whether the contestant ends in time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TIMEOUT)
        return True
    return False


def end(process: subprocess.Popen[str], spared: Collection[int]) -> int:
    """Kill what is left of the contestant; return how many processes did not end by themselves."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return sweep(lambda: below(spared))


def sweep(running: Callable[[], list[psutil.Process]]) -> int:
    """Kill what still runs after a moment of grace; return how many processes that were."""
    psutil.wait_procs(running(), GRACE)
    left = len(running())
    deadline = time.monotonic() + 10
    while (rest := running()) and time.monotonic() < deadline:  # again, for those that were forked meanwhile
        for one in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(rest, GRACE)
    return left


def below(spared: Collection[int]) -> list[psutil.Process]:
    """Return every process that descends from this one, but those spared: only contestants do."""
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in spared]


def judge(said: str, status: int, ended: bool, left: int) -> Round:
    """Make figures and trouble of what the contestant printed and how it ended."""
    lines = said.strip().splitlines()
    printed = [line for line in lines if line.startswith(MARK)]
    figures: dict[str, float] = json.loads(printed[-1].removeprefix(MARK)) if printed else {}
    if not ended:
        return Round(figures, f"failed: {'did not end' if figures else 'not done'} within {TIMEOUT:g} s, killed")
    if not figures:
        return Round({}, f"failed: {reason(lines) or f'no word, exit status {status}'}")
    if status:
        return Round(figures, f"ended with status {status} after its last figure")
    return Round(figures, f"left {left} processes behind, killed" if left else "")


def reason(lines: list[str]) -> str:
    """Return the line that tells most of why a contestant failed: its last error, else its last word."""
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:150]
