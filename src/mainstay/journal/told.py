"""What can be told of a journal's file without SQLite, whose own words would tell less."""

from __future__ import annotations

import os

from mainstay.errors import JournalError

HEAD = b"SQLite format 3\0"


def check(path: str, create: bool) -> None:
    """Raise `JournalError` where no journal can be."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise JournalError(f"the journal {path!r} cannot be: there is no directory {folder!r}; make it first")
    if os.path.isdir(path):
        raise JournalError(f"the journal {path!r} is a directory; give the path of a file")
    if not create and not os.path.exists(path):
        raise JournalError(f"there is no journal {path!r}; give the path of one")


def check_head(path: str, to_write: bool = False) -> None:
    """Raise `JournalError` for a file that is there and is no database, or cannot be read, or `to_write` written."""
    try:
        fd = os.open(path, (os.O_RDWR if to_write else os.O_RDONLY) | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        return
    except OSError as error:
        raise _closed(path, to_write, error) from error
    try:
        head = os.read(fd, len(HEAD))
    except IsADirectoryError:
        return
    finally:
        os.close(fd)
    if head and head != HEAD:
        raise JournalError(f"{path!r} is not a journal, and was left as it is; give another path")


def _closed(path: str, to_write: bool, error: OSError) -> JournalError:
    if not to_write or not os.access(path, os.R_OK):
        return JournalError(f"the journal {path!r} cannot be read: {error.strerror}")
    return JournalError(
        f"the journal {path!r} cannot be written ({error.strerror}): its file and its directory must be writable. "
        f"To go on from a copy: mainstay journal {path} copy COPY"
    )
