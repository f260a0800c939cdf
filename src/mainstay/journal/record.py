"""What a journal keeps of a call, and how calls are chosen from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mainstay.errors import JournalError
from mainstay.wire.frames import Bytes

STATES = ("done", "failed")


class UnfitRecord(JournalError):
    """A record that a store cannot take, whatever else is written."""


class FunctionInfo(NamedTuple):
    """What is told of a function: its name, and the version of the package that it is from ("" if it has none)."""

    name: str
    version: str


class Record(NamedTuple):
    """A call that has finished, on its way into the journal.

    `body` and `buffers` are a payload: of the result or, where `failed`, of what `describe_error` wrote. `started`
    is in seconds since 1970, by the client's clock; `seconds` is the run time on the worker; `attempt` counts from 1.
    """

    key: bytes
    failed: bool
    function: FunctionInfo
    label: str
    host: str
    worker: int
    started: float
    seconds: float
    attempt: int
    body: Bytes
    buffers: Sequence[Bytes]

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.body) + (sum(map(len, self.buffers)) if self.buffers else 0)


class Kept(NamedTuple):
    """The payload of a call that the journal has."""

    failed: bool
    body: Bytes
    buffers: Sequence[Any]
    host: str = ""
    worker: int = 0


class Call(NamedTuple):
    """A call in the journal, without its result: a row of a listing.

    key: 32 hexadecimal digits.  state: "done" or "failed".  started: seconds since 1970.  seconds: run time.
    attempts: how often it ran in all, earlier runs of the program included.  size: bytes of the result.
    run: number of the run of the client that it was part of.
    """

    id: int
    key: str
    state: str
    function: str
    version: str
    label: str
    host: str
    worker: int
    started: float
    seconds: float
    attempts: int
    size: int
    run: int


class Run(NamedTuple):
    """A run of a client that wrote into a journal; `started` in seconds since 1970."""

    id: int
    host: str
    pid: int
    started: float
    python: str
    mainstay: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """Which calls: those for which all that is given holds.

    state: "done" or "failed".  function, label, host: shell patterns such as "sim*".  key: first hexadecimal digits.
    since, before: by when they started (seconds since 1970).
    """

    state: str | None = None
    function: str | None = None
    label: str | None = None
    host: str | None = None
    key: str | None = None
    since: float | None = None
    before: float | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}; given: {self.state!r}")
        if self.key is not None and set(self.key) - set("0123456789abcdef"):
            raise ValueError(f"a key is written in hexadecimal digits; given: {self.key!r}")

    def takes(self, call: Call) -> bool:
        """Say whether a call is among those chosen."""
        from fnmatch import fnmatchcase

        patterns = ((self.function, call.function), (self.label, call.label), (self.host, call.host))
        return (
            (self.state is None or call.state == self.state)
            and (self.key is None or call.key.startswith(self.key))
            and (self.since is None or call.started >= self.since)
            and (self.before is None or call.started < self.before)
            and all(pattern is None or fnmatchcase(value, pattern) for pattern, value in patterns)
        )
