"""What is seen of a program, as it comes, and what is made of it."""

from __future__ import annotations

from typing import NamedTuple

UNKNOWN = "?"  # whether an operation failed


class Operation(NamedTuple):
    """Something that a file system is asked by name, or about an open file.

    at: seconds since 1970. path: as it was given; relative to `below`, or where that is empty to the working directory.
    error: why it failed, as ENOENT; empty where it did not; or `UNKNOWN`.
    """

    at: float
    thread: int
    kind: str
    path: str
    below: str = ""
    error: str = ""


class Mark(NamedTuple):
    at: float
    thread: int
    name: str


class Fork(NamedTuple):
    """A process, or a thread of the same process, begins."""

    at: float
    thread: int
    child: int
    is_thread: bool


class Program(NamedTuple):
    """A process begins to run a program."""

    at: float
    thread: int
    argv: tuple[str, ...]


class Directory(NamedTuple):
    """A process is in another working directory from here."""

    at: float
    thread: int
    path: str


Event = Operation | Mark | Fork | Program | Directory


class Seen(NamedTuple):
    """An operation with all that is known of it; `path` is absolute, `batch` is 0 before the first."""

    at: float
    process: int
    phase: str
    batch: int
    kind: str
    path: str
    error: str


class Process(NamedTuple):
    """A process of the program; `role` is script, agent, worker, Python or program."""

    pid: int
    parent: int
    role: str
    command: str


class Module(NamedTuple):
    """A module that was imported, its file (may be empty), and the module that wanted it (empty: none)."""

    name: str
    file: str
    importer: str


class Interpreter(NamedTuple):
    """What a Python of the program said of itself."""

    prefix: str
    base_prefix: str
    directory: str
    path: tuple[str, ...]


class Told(NamedTuple):
    """What the interpreters of a program said: of themselves, what they imported, and files and modules in use."""

    interpreters: tuple[Interpreter, ...] = ()
    modules: tuple[Module, ...] = ()
    used: frozenset[str] = frozenset()
    is_silent: bool = False  # use was not looked at
