"""Programs that are run on a node: compilers, and what they made. What went wrong is told by class."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

MOST_WORDS = 20_000  # characters of what a program wrote that are kept
NO_MEMORY = ("out of memory", "cannot allocate memory", "bad_alloc", "virtual memory exhausted", "memoryerror")


class Command(NamedTuple):
    """A program as it is run: `env` what is added to the environment, `memory` bytes of address space.

    Its `str` is what a shell repeats it by.
    """

    argv: tuple[str, ...]
    directory: str
    env: tuple[tuple[str, str], ...] = ()
    memory: int | None = None

    def moved(self, old: str, new: str) -> Command:
        """Return the same with everything that lies in one directory in another."""
        env = tuple((name, value.replace(old, new)) for name, value in self.env)
        argv = tuple(word.replace(old, new) for word in self.argv)
        return Command(argv, self.directory.replace(old, new), env, self.memory)

    @property
    def words(self) -> str:
        """What is run, wherever that is, as a shell reads it."""
        added = ["env", *(f"{name}={value}" for name, value in self.env)] if self.env else []
        return shlex.join([*added, *self.argv])

    def __str__(self) -> str:
        limit = "" if self.memory is None else f"ulimit -v {self.memory // 1024} && "  # in kB
        return f"(cd {shlex.quote(self.directory)} && {limit}{self.words})"


_heard: list[list[Command]] = []  # of builds under way in this process: of a worker, one


@contextmanager
def hearing() -> Iterator[list[Command]]:
    """Give a list, to which each command is added that has been run to a good end by `call` meanwhile."""
    heard: list[Command] = []
    _heard.append(heard)
    try:
        yield heard
    finally:
        _heard.remove(heard)


class CommandFailed(Exception):
    """A program ended with another code than 0: the `command`, its `code` (negative: the signal), its `stderr`."""

    def __init__(self, command: Command, code: int, stderr: str) -> None:
        super().__init__(command, code, stderr)
        self.command, self.code, self.stderr = command, code, stderr

    @property
    def signal(self) -> int | None:
        return -self.code if self.code < 0 else None

    def __str__(self) -> str:
        ended = f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code} ({_name(-self.code)})"
        return f"{shlex.join(self.command.argv)}: {ended}" + (f"\n{self.stderr}" if self.stderr else "")


class CommandOverran(subprocess.TimeoutExpired):
    """A program was killed, and all that it had started, since it ran for longer than its `timeout` (s)."""

    def __init__(self, command: Command, timeout: float) -> None:
        super().__init__(command.argv, timeout)
        self.command = command

    def __str__(self) -> str:
        return f"{shlex.join(self.command.argv)}: killed after its timeout of {self.timeout:g} s"


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
        timeout: seconds after which it is killed, and what it has started.
        memory: bytes of address space that it may have.
        env: variables that are added to the environment.

    Raises `CommandFailed` for an exit code that is not 0, `subprocess.TimeoutExpired`, and `FileNotFoundError` for a
    program that is not there.
    """
    words, added = tuple(os.fspath(word) for word in argv), env or {}
    command = Command(words, os.path.abspath(cwd or "."), tuple(added.items()), memory)
    with subprocess.Popen(  # noqa: S603  what the user asked to be run
        words,
        cwd=cwd,
        env={**os.environ, **added},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=None if memory is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            _kill(process.pid)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandOverran(command, error.timeout) from None
            raise
    if process.returncode:
        raise CommandFailed(command, process.returncode, stderr[-MOST_WORDS:])
    for heard in _heard:
        heard.append(command)
    return stdout


def timed(argv: Sequence[str]) -> float:
    """Run a program to its end and return its seconds; what it writes is thrown away, which costs it least.

    Raises `CommandFailed` for an exit code that is not 0, and `FileNotFoundError` for a program that is not there.
    """
    with tempfile.TemporaryFile() as said:  # and no pipe, which would have to be read meanwhile
        began = time.perf_counter()
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said) as process:  # noqa: S603
            code = process.wait()
            seconds = time.perf_counter() - began
        if code:
            said.seek(max(0, said.tell() - MOST_WORDS))
            raise CommandFailed(Command(tuple(argv), os.getcwd()), code, said.read().decode(errors="replace"))
    return seconds


def _kill(pid: int) -> None:
    """Kill a process and its descendants: a compiler's driver has others work for it, which outlive it."""
    for each in [pid, *_descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _descendants(pid: int) -> Iterator[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:  # it has ended
        return
    for child in children:
        yield child
        yield from _descendants(child)


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
