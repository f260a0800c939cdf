"""What the stores say to SQLite and it to them: how calls are listed, how they go in, what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any

from mainstay.errors import JournalError
from mainstay.journal.record import Record
from mainstay.wire.frames import Bytes

ROWS = (1000, 256, 32, 4, 1)  # rows of one statement; few sizes, so that SQLite need not compile new ones

LISTING = """
    SELECT calls.id, lower(hex(key)), failed, functions.name, functions.version, label, hosts.name, worker, started,
           seconds, attempts, size, run
    FROM calls CROSS JOIN functions ON functions.id = function CROSS JOIN hosts ON hosts.id = host
    WHERE {where} AND calls.id > ? AND calls.id <= ? ORDER BY calls.id
"""
CONDITIONS = {
    "state": "failed = (? = 'failed')",
    "function": "matches(functions.name, ?)",
    "label": "matches(label, ?)",
    "host": "matches(hosts.name, ?)",
    "key": "lower(hex(key)) GLOB ? || '*'",
    "since": "started >= ?",
    "before": "started < ?",
}


def rows_of(
    ids: list[int], records: Sequence[Record], run: int, id_of: Callable[[str, tuple[str, ...]], int]
) -> list[tuple[Any, ...]]:
    """Return what stands in `calls`; made column by column, which takes a third of the time.

    Of a `bytes` or a `bool`, `sqlite3` asks first whether somebody has another form of it for databases. That takes
    longer than all the rest; of a `bytearray` or an `int` it does not ask.
    """
    if not records:
        return []
    *told, bodies, buffers = zip(*records, strict=True)
    keys, failed, functions, labels, hosts, workers, started, seconds, attempts = told
    of = {function: id_of("functions", function) for function in set(functions)}
    on = {host: id_of("hosts", (host,)) for host in set(hosts)}
    written = {label: clean(label) for label in set(labels)}
    plain = (map(bytearray, keys), map(int, failed))
    named = (map(of.get, functions), map(written.get, labels), map(on.get, hosts))
    sizes = [record.size for record in records] if any(buffers) else map(len, bodies)
    return list(zip(ids, *plain, *named, workers, started, seconds, attempts, sizes, repeat(run)))


def insert(db: sqlite3.Connection, table: str, columns: int, rows: list[tuple[Any, ...]]) -> None:
    """Add rows by few statements of many rows each."""
    row = f"({', '.join('?' * columns)})"
    at = 0
    for count in ROWS:
        statement = f"INSERT INTO {table} VALUES {', '.join([row] * count)}"  # noqa: S608  our own names
        while len(rows) - at >= count:
            db.execute(statement, list(chain.from_iterable(rows[at : at + count])))
            at += count


def insert_parts(db: sqlite3.Connection, call: int, segments: Sequence[Bytes], size: int) -> None:
    """Add a result in parts of that many bytes; each is bound as it lies in memory."""
    for number, segment in enumerate(segments):
        view = memoryview(segment).cast("B")
        for part, at in enumerate(range(0, view.nbytes, size) or [0]):
            db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (call, number, part, view[at : at + size]))


def clean(text: str) -> str:
    """Return a text that can be written as UTF-8: a label may have been made of any file's name."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def explained(path: str, error: sqlite3.Error, *, writing: bool) -> JournalError:
    """Return what an error of SQLite means for a journal, and what to do about it."""
    text = str(error)
    if not writing and ("readonly" in text or "unable to open" in text):
        return JournalError(
            f"the journal {path!r} cannot be read ({text}): its writer was killed in the middle of a commit, "
            f"and to undo that takes write permission for its directory and for it. Get that, or copy it "
            f"together with {path}-journal to a directory of yours and read it there"
        )
    if "readonly" in text or "unable to open" in text:
        return JournalError(
            f"the journal {path!r} cannot be written ({text}): its file and its directory must be writable. "
            f"To go on from a copy: mainstay journal {path} copy COPY"
        )
    if "malformed" in text or "not a database" in text:
        return JournalError(
            f"the journal {path!r} is damaged ({text}), and was left as it is. What can still be read: "
            f"mainstay journal NEW merge {path}"
        )
    return JournalError(f"the journal {path!r}: {text}")
