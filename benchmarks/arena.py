"""Runs one contestant for one round in processes of its own, and sees to it that none of them outlives the round."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from contestants import MODULES, RANKS

HERE = Path(__file__).parent
TIMEOUT = 120.0  # seconds for one contestant in one round
GRACE = 3.0  # seconds in which daemons may end by themselves after their contestant
PR_SET_CHILD_SUBREAPER = 36
MARK = "FIGURES "


class Round(NamedTuple):
    """What came of a contestant in one round: figures, or trouble, or both."""

    figures: dict[str, float]
    trouble: str = ""


def adopt_daemons() -> None:
    """Become the parent of what contestants leave behind.

    Some start daemons in sessions of their own; the kill of a process group does not reach these. Below this
    process they are found, both to count what they burn and to end them.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(name: str, effort: argparse.Namespace, folder: str) -> Round:
    """Let the contestant run; end all that it started, whatever comes."""
    missing = why_not(name)
    if missing:
        return Round({}, missing)
    with open(Path(folder) / f"{name}.out", "w+") as output:  # a pipe would stay open as long as any daemon
        process = start(name, effort, folder, output)
        try:
            ended = wait(process)
        finally:
            left = end(process)
        output.seek(0)
        return judge(output.read(), process.returncode, ended, left)


def why_not(name: str) -> str:
    """Say why the contestant cannot run here; empty if it can."""
    if importlib.util.find_spec(MODULES[name].partition(".")[0]) is None:
        return "not installed"
    if RANKS[name] and not shutil.which("mpiexec", path=environment(".")["PATH"]):
        return "not installed: no mpiexec"
    return ""


def start(name: str, effort: argparse.Namespace, folder: str, output: IO[str]) -> subprocess.Popen[str]:
    """Start the contestant in a session of its own."""
    ranks = RANKS[name]
    given = ["--batches", effort.batches, "--patience", effort.patience, "--idle", effort.idle, "--root", os.getpid()]
    return subprocess.Popen(
        [
            *(["mpiexec", "-n", str(ranks)] if ranks else []),
            sys.executable,
            HERE / "contest.py",
            name,
            *map(str, given),
        ],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=folder,
        env=environment(folder),
    )


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


def end(process: subprocess.Popen[str], spared: Collection[int] = ()) -> int:
    """Kill what is left of the contestant; return how many processes did not end by themselves.

    `spared` are processes below this one that are not the contestant's.
    """
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    psutil.wait_procs(below(spared), GRACE)
    left = len(below(spared))
    deadline = time.monotonic() + 10
    while (rest := below(spared)) and time.monotonic() < deadline:  # again, for those that were forked meanwhile
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
        return Round({}, f"failed: {lines[-1][:150] if lines else f'no word, exit status {status}'}")
    if status:
        return Round(figures, f"ended with status {status} after its last figure")
    return Round(figures, f"left {left} processes behind, killed" if left else "")
