"""The file systems under the environment, the script, the journal, HOME and TMPDIR, as this host has them mounted."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from typing import NamedTuple

from mainstay.doctor.check import Case, Check, State
from mainstay.doctor.probe import is_network, mount_of
from mainstay.errors import size
from mainstay.journal.lock import NO_LOCKS, Holder, holder_in, look

TIGHT, FULL = 1e9, 50e6  # bytes that are free
MEMORY = ("tmpfs", "ramfs", "devtmpfs")
LAYERS = ("overlay", "aufs", "squashfs", "fuse.squashfuse", "fuse.fuse-overlayfs")


class Place(NamedTuple):
    """A path, its kind of file system, where that is mounted, and the bytes that are free."""

    path: str
    kind: str
    point: str
    free: int

    def __str__(self) -> str:
        shared = "shared" if is_network(self.kind) else "this host's memory" if self.kind in MEMORY else "local"
        return f"{self.path}: {self.kind} on {self.point} ({shared}), {size(self.free)} free"


def examine(case: Case) -> list[Check]:
    checks = [_simple("Environment", sys.prefix)]
    if case.script is not None:
        checks.append(_simple("Script", os.path.abspath(case.script)))
    if case.journal is not None:
        checks.append(_journal(case.journal))
    home, temporary = case.environ.get("HOME"), case.environ.get("TMPDIR", "/tmp")  # noqa: S108
    checks += [_simple("HOME", home)] if home else []
    return [*checks, _simple("TMPDIR", temporary, is_temporary=True)]


def place_of(path: str) -> Place:
    """Return how a path is stored. Raises `OSError`."""
    kind, point, _ = mount_of(path)
    found = os.statvfs(path)
    return Place(path, kind or "unknown", point, found.f_frsize * found.f_bavail)


def _simple(name: str, path: str, *, is_temporary: bool = False) -> Check:
    try:
        place = place_of(path)
    except OSError as error:
        return Check(name, State.BAD, f"{path}: {error.strerror}", f"{name} must be there: correct its path")
    return stored(name, place, is_temporary=is_temporary)


def stored(name: str, place: Place, *, is_temporary: bool = False) -> Check:
    """Judge where something is stored that is read, or that need not last."""
    if is_temporary and is_network(place.kind):
        return Check(name, State.ODD, str(place), "Temporary files are slow there: set TMPDIR to a local disk")
    if is_temporary and place.free < FULL:
        return Check(name, State.BAD, str(place), "It is full: remove old files, or set TMPDIR to another disk")
    return Check(name, State.GOOD, str(place))


# -- the journal


def _journal(journal: str) -> Check:
    file = os.path.realpath(journal)
    directory = os.path.dirname(file)
    try:
        place = place_of(directory)
    except OSError as error:
        advice = f"Make it: mkdir -p {directory}"
        return Check("Journal", State.BAD, f"{directory}: {error.strerror}", advice)
    return journal_at(place._replace(path=journal), try_lock(directory), _holder(journal))


def try_lock(directory: str) -> str:
    """Take a lock on a file that is made for it; return why that failed, empty if it did not."""
    path = os.path.join(directory, f".mainstay-doctor-{socket.gethostname()}-{os.getpid()}.try")
    try:
        with open(path, "wb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.unlink(path)
    except OSError as error:
        return "no locks" if error.errno in NO_LOCKS else f"no file can be made there: {error.strerror}"
    return ""


def _holder(journal: str) -> str:
    """Tell who has a journal open, or who left it without a word."""
    _, holder = look(journal)
    if holder is not None:
        return f"in use by {holder}"
    left = _left_by(f"{os.path.realpath(journal)}.lock")
    return f"left by {left}, which was killed; the next run goes on" if left else ""


def _left_by(path: str) -> Holder | None:
    try:
        with open(path, "rb") as file:
            return holder_in(file.fileno())
    except OSError:
        return None


def journal_at(place: Place, no_lock: str, holder: str = "") -> Check:
    """Judge where a journal is, or is to be."""
    found = "; ".join(filter(None, [str(place), no_lock, holder]))
    state, advice = _journals_place(place, no_lock)
    return Check("Journal", state, found, advice)


def _journals_place(place: Place, no_lock: str) -> tuple[State, str]:
    if no_lock.startswith("no file") or place.free < FULL:
        return State.BAD, "A pool could not write there: make room, or give another file"
    if no_lock:
        return State.ODD, "Two programs with one journal would spoil it, and nothing keeps them apart: take care"
    if place.kind in (*MEMORY, *LAYERS):
        return State.ODD, "It goes with the host or the container: put it into a directory that lasts"
    if place.free < TIGHT:
        return State.ODD, "Little room: results with large arrays may fill it"
    return State.GOOD, ""
