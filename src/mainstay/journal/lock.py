"""One writer for a journal: who holds it now, and what a dead holder left.

`calib.db.lock`, beside the journal, is locked by the kernel (fcntl, which network file systems pass on to their
server), so the end of the holder, or of its host, frees it. Its text tells others who the holder is. The file stays
when the run has ended: removing a lock file while another opens it would let two in.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import time
from typing import Any, NamedTuple

from mainstay.errors import JournalError, JournalInUse

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LENGTH = 512  # bytes of a holder's text, filled up with blanks
FLOCK = "hhqqi4x"  # `struct flock`

_held: set[Lock] = set()  # by this process, whose own locks never refuse it, and go when it closes the file


class Holder(NamedTuple):
    """A process that has a journal open: its host, pid, and since when (s since 1970)."""

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on host {self.host}, since {since}"


class Lock:
    """The right to write a journal, until `release`. Raises `JournalInUse` at once if another has it.

    Args: `journal` (what the user calls it), `file` (where it really is, no link).

    Attributes: `holder` (this process), `left_by` (the holder that ended without letting go, or None), `by_kernel`
    (False where the file system has no locks: then the holder's text is all that keeps others out, and only on its own
    host can it be told whether it lives).
    """

    def __init__(self, journal: str, file: str) -> None:
        self.holder = Holder(socket.gethostname(), os.getpid(), time.time())
        self._journal, self._path = journal, f"{file}.lock"
        if (ours := _own(self._path)) is not None:
            raise self._in_use(ours.holder, "this very ")
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise JournalError(
                f"cannot make {self._path!r}, which a journal wants beside it: {error.strerror}"
            ) from error
        try:
            self.by_kernel = self._lock()
            self.left_by = holder_in(self._fd)
            if self.left_by is None and text_in(self._fd):
                raise self._not_a_lock()
            if not self.by_kernel and self.left_by is not None and may_live(self.left_by):
                raise self._in_use(self.left_by)
        except BaseException:
            os.close(self._fd)
            raise
        self._name_holder()
        _held.add(self)

    def _lock(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise self._in_use(holder_in(self._fd)) from None
        return True

    def _in_use(self, holder: Holder | None, which: str = "") -> JournalInUse:
        who = f"{which}{holder}" if holder else "another process"
        return JournalInUse(
            f"the journal {self._journal!r} is in use by {who}. Wait until it has ended, or give another file; "
            f"to look at it meanwhile: mainstay journal {self._journal}",
            holder,
        )

    def _not_a_lock(self) -> JournalError:
        return JournalError(
            f"{self._path!r}, which the journal {self._journal!r} wants beside it, is another program's file, and was "
            "left as it is; give the journal another path"
        )

    def _name_holder(self) -> None:
        try:
            self._write(json.dumps(self.holder._asdict()))
        except OSError as error:  # the disk is full: where the kernel keeps others out, they only learn less
            if not self.by_kernel:
                os.close(self._fd)
                raise JournalError(f"cannot write {self._path!r}: {error.strerror}") from error

    def _write(self, text: str) -> None:
        os.pwrite(self._fd, text.encode().ljust(LENGTH), 0)

    def is_of(self, found: os.stat_result) -> bool:
        """Whether this is the lock file of that status."""
        return os.path.samestat(found, os.fstat(self._fd))

    def disown(self) -> None:
        """In a forked child: the lock is the parent's."""
        _held.discard(self)

    def release(self) -> None:
        """Let others write."""
        _held.discard(self)
        try:
            self._write("")
        except OSError:
            pass  # the next one will take us for a holder that was killed
        os.close(self._fd)


def look(journal: str) -> tuple[bool, Holder | None]:
    """Return whether the kernel keeps others out, and who has a journal open for writing now; disturbs nobody."""
    path = f"{os.path.realpath(journal)}.lock"
    if (ours := _own(path)) is not None:
        return ours.by_kernel, ours.holder
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True, None
    try:
        return _look(fd)
    finally:
        os.close(fd)


def _own(path: str) -> Lock | None:
    """Return this process's own lock. It must be known before the file is opened: to close it would let go."""
    if not _held:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return next((lock for lock in _held if lock.is_of(found)), None)


def _look(fd: int) -> tuple[bool, Holder | None]:
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        holder = holder_in(fd)
        return False, holder if holder and may_live(holder) else None
    kind, _, _, _, pid = struct.unpack_from(FLOCK, answer)
    if kind == fcntl.F_UNLCK:
        return True, None
    return True, holder_in(fd) or Holder("(unknown)", pid, os.fstat(fd).st_mtime)


def text_in(fd: int) -> bytes:
    """Return the text of a lock file, without what fills it up."""
    return os.pread(fd, LENGTH, 0).strip(b" \0")


def holder_in(fd: int) -> Holder | None:
    """Return whom the text of a lock file names."""
    try:
        fields: dict[str, Any] = json.loads(text_in(fd))
        return Holder(str(fields["host"]), int(fields["pid"]), float(fields["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def may_live(holder: Holder) -> bool:
    """Whether a holder may still run, as far as this host can tell."""
    return holder.host != socket.gethostname() or os.path.exists(f"/proc/{holder.pid}")
