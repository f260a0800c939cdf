"""Programs that are run on a node: compilers, and what they made. What went wrong is told by class."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

MOST_WORDS = 20_000  # characters of what a program wrote that are kept
NO_MEMORY = ("out of memory", "cannot allocate memory", "bad_alloc", "virtual memory exhausted", "memoryerror")


class CommandFailed(Exception):
    """A program ended with another code than 0: `argv`, `directory`, `code` (negative: the signal), `stderr`."""

    def __init__(self, argv: Sequence[str], directory: str, code: int, stderr: str) -> None:
        super().__init__(tuple(argv), directory, code, stderr)
        self.argv, self.directory, self.code, self.stderr = tuple(argv), directory, code, stderr

    @property
    def signal(self) -> int | None:
        return -self.code if self.code < 0 else None

    def __str__(self) -> str:
        ended = f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code} ({_name(-self.code)})"
        return f"{shlex.join(self.argv)}: {ended}" + (f"\n{self.stderr}" if self.stderr else "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "?"


def call(
    argv: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None = None,
    *,
    timeout: float | None = None,
    memory: int | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    Args:
        argv: the program and its arguments; no shell reads them.
        cwd: its working directory.
        timeout: seconds after which it is killed.
        memory: bytes of address space that it may have.
        env: variables that are added to the environment.

    Raises `CommandFailed` for an exit code that is not 0, `subprocess.TimeoutExpired`, and `FileNotFoundError` for a
    program that is not there.
    """
    words = [os.fspath(word) for word in argv]
    done = subprocess.run(  # noqa: S603  what the user asked to be run
        words,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=None if memory is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    )
    if done.returncode:
        raise CommandFailed(words, os.fspath(cwd or os.getcwd()), done.returncode, done.stderr[-MOST_WORDS:])
    return done.stdout


def is_short_of_memory(error: BaseException) -> bool:
    """Whether a failure looks like one for want of memory: the exception, what the program said, or SIGKILL."""
    if isinstance(error, CommandFailed):
        said = error.stderr.lower()
        return error.signal == signal.SIGKILL or any(words in said for words in NO_MEMORY)
    return isinstance(error, MemoryError)


def version(program: str) -> str:
    """Return the first line of what a program says of its version; empty where it is not there."""
    try:
        return call([program, "--version"], timeout=20).partition("\n")[0]
    except (OSError, CommandFailed, subprocess.TimeoutExpired):
        return ""
