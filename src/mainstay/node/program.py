"""Programs as tasks: an executable that a worker starts, or starts as MPI ranks on several workers' places.

    run ─▶ worker ─▶ the program                                   of one worker
                 └─▶ mpiexec or srun ─▶ rank, rank, rank, …        of several, which keep quiet meanwhile

The program is in the worker's process group, which the agent kills when the worker ends, however that comes; and the
kernel ends the program with the worker (PR_SET_PDEATHSIG), where util-linux's `setpriv` can ask for that. srun,
and Open MPI's mpiexec, are not killed: their ranks would go on. The kernel sends them SIGTERM, at which they end these,
and they are in a session of their own.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple

from mainstay.errors import GangError, ProgramFailed
from mainstay.node import context
from mainstay.node.context import Places
from mainstay.node.scratch import scratch

# For a shell whose first argument is the number of the process that started it: it becomes the rest.
WHILE_PARENT_LIVES = 'test "$PPID" = "$1" && shift && exec "$@"'
# What a process manager tells its ranks. What is started by a rank must not take itself for that rank.
RANK_VARIABLES = ("PMI_", "PMIX_", "PMI2_", "OMPI_COMM_WORLD_", "PRTE_LAUNCHED", "MPI_LOCAL", "HYDI_", "HYDRA_PROXY")


class Program(NamedTuple):
    """A program to run; see `Calls.run`. `digest` is of the executable, for the journal."""

    args: tuple[str, ...]
    check: bool
    input: str | bytes | None
    env: Mapping[str, str] | None
    cwd: str | None
    text: bool
    capture: bool
    stages: bool  # it has staged files, so that it runs where they are
    digest: str = ""


class Completed(NamedTuple):
    """How a program ended.

    `args` (its command line, strings), `returncode` (int; negative: the signal that ended it), `stdout` and `stderr`
    (str, or bytes with `text=False`; empty where they were not captured), `seconds` (float), `hosts` (how many of its
    ranks were on each host).
    """

    args: tuple[str, ...]
    returncode: int
    stdout: str | bytes
    stderr: str | bytes
    seconds: float
    hosts: dict[str, int]


def run_program(program: Program) -> Completed:
    """In a worker: run a program, and return how it ended.

    Raises `ProgramFailed` where it failed and that is checked, `FileNotFoundError` or `PermissionError` where it cannot
    be started, `GangError` where several ranks cannot be.
    """
    import subprocess

    places = context.places or Places({os.uname().nodename: 1})
    if places.why_not:
        raise GangError(f"the program's ranks cannot be started: {places.why_not}")
    directory = _directory(program)
    args = [_executable(program.args[0], directory), *program.args[1:]]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith((*RANK_VARIABLES, *places.hidden))
    }
    environment |= {**places.environment, **(program.env or {})}
    pipe = subprocess.PIPE if program.capture else None
    given = program.input.encode() if isinstance(program.input, str) else program.input
    tether = [*_tether(shutil.which("setpriv"), places.ends_by)]
    tether += [str(os.getpid())] if WHILE_PARENT_LIVES in tether else []
    started = perf_counter()
    process = subprocess.Popen(  # noqa: S603  what the user asked for
        [*tether, *places.prefix, *args],
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=pipe,
        stderr=pipe,
        cwd=directory,
        env=environment,
        start_new_session=bool(tether) and places.ends_by != "KILL",  # where the group's SIGKILL does not come first
    )
    said = [words or b"" for words in process.communicate(given)]
    stdout, stderr = [words.decode(errors="replace") if program.text else words for words in said]
    seconds = perf_counter() - started
    completed = Completed(program.args, process.returncode, stdout, stderr, seconds, places.hosts)
    if program.check and completed.returncode:
        raise ProgramFailed(completed)
    return completed


def _directory(program: Program) -> str:
    """Return where the program runs: where it was told to, where its staged files are, or where the client is."""
    if program.cwd is not None or not program.stages:
        return program.cwd or os.getcwd()
    directory = str(scratch(per="task"))
    assert context.place is not None
    for name, path in context.place.inputs().items():
        link = os.path.join(directory, name)
        if not os.path.lexists(link):
            os.symlink(path, link)
    return directory


def _executable(name: str, directory: str) -> str:
    """Return the path of a program; a relative one is looked for where it runs, and then where the client is."""
    if "/" not in name:
        found = shutil.which(name)
    else:
        looked = [os.path.join(directory, name), os.path.abspath(name)]
        found = next(filter(os.path.exists, looked), None)
    if found is None:
        where = "on PATH" if "/" not in name else "at " + " or ".join(dict.fromkeys(map(os.path.normpath, looked)))
        raise FileNotFoundError(2, f"host {os.uname().nodename} has no such program {where}", name)
    if not os.access(found, os.X_OK) or os.path.isdir(found):
        raise PermissionError(13, f"host {os.uname().nodename} may not execute it", found)
    return found


@functools.cache
def _tether(setpriv: str | None, signal: str) -> list[str]:
    """Return what stands before a command line so that the program gets a signal with the end of what started it."""
    import subprocess

    if setpriv is None:
        return []
    told = subprocess.run([setpriv, "--help"], capture_output=True, check=False)  # noqa: S603
    if b"--pdeathsig" not in told.stdout:
        return []
    # What the group's SIGKILL does not reach looks, once it has asked, whether that end has not come already.
    looks = [] if signal == "KILL" else ["/bin/sh", "-c", WHILE_PARENT_LIVES, "mainstay"]
    return [setpriv, "--pdeathsig", signal, "--", *looks]
