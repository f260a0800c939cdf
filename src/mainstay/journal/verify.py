"""Whether a journal is sound: its header, SQLite's own check, each call with its result, and that whole."""

from __future__ import annotations

import os
import pickletools
import sqlite3
from collections.abc import Iterator

from mainstay.errors import JournalError
from mainstay.journal.sqlite import VERSION, Store

MOST = 20  # findings of one kind that are told one by one
TABLES = {"runs", "functions", "hosts", "calls", "results", "parts"}
SEGMENTS = """
    SELECT call, sum(bytes) AS bytes, count(*) - 1 - max(segment) AS lost, min(whole) AS whole FROM (
        SELECT call, segment, sum(length(data)) AS bytes, count(*) = max(part) + 1 AS whole
        FROM parts GROUP BY call, segment
    ) GROUP BY call
"""
# What is wrong, and which calls it is wrong with.
QUESTIONS = (
    ("the key stands in more than one row", "SELECT max(id), key FROM calls GROUP BY key HAVING count(*) > 1"),
    (
        "its result is missing",
        "SELECT id, key FROM calls LEFT JOIN results ON results.call = id WHERE results.call IS NULL",
    ),
    (
        "its result is missing: it has no parts",
        "SELECT id, key FROM calls JOIN results ON results.call = id WHERE body IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM parts WHERE parts.call = id)",
    ),
    (
        "its result has not the size that it should have",
        "SELECT id, key FROM calls JOIN results ON results.call = id WHERE length(body) != size",
    ),
    (
        "a part of its result is missing, or has not the size that it should have",
        f"SELECT id, key FROM calls JOIN ({SEGMENTS}) AS s ON s.call = id "  # noqa: S608  our own words
        "WHERE s.bytes != size OR lost OR NOT whole",
    ),
    ("its function is not known", "SELECT id, key FROM calls WHERE function NOT IN (SELECT id FROM functions)"),
    ("its host is not known", "SELECT id, key FROM calls WHERE host NOT IN (SELECT id FROM hosts)"),
    ("its run is not known", "SELECT id, key FROM calls WHERE run NOT IN (SELECT id FROM runs)"),
    ("a result of a call that is not there", "SELECT call, NULL FROM results WHERE call NOT IN (SELECT id FROM calls)"),
    (
        "parts of a call that is not there",
        "SELECT DISTINCT call, NULL FROM parts WHERE call NOT IN (SELECT id FROM calls)",
    ),
)
BODIES = """
    SELECT id, key, body, (SELECT max(segment) FROM parts WHERE call = id)
    FROM calls JOIN results ON results.call = id WHERE id > ? AND id <= ?
"""


def verify(path: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """Return what is wrong with a journal; nothing is changed. With `deep`, each pickle is read, but not loaded.

    Raises `JournalError` only where there is no file, or it may not be read.
    """
    findings = []
    try:
        Store(path, write=False).close()
    except JournalError as error:
        if error.__cause__ is None or isinstance(error.__cause__, OSError):
            if not os.path.isfile(path) or isinstance(error.__cause__, OSError):
                raise
            return [str(error)]
        findings.append(str(error))
    try:
        store = Store(path, write=False, salvage=True)
    except JournalError as error:
        return findings or [str(error)]
    try:
        for check in (_schema, _integrity, _calls, *([_pickles] if deep else [])):
            findings += [" ".join(finding.split()) for finding in _told(check, store)]
    finally:
        store.close()
    return findings


def _told(check: object, store: Store) -> Iterator[str]:
    try:
        yield from check(store)  # type: ignore[operator]
    except (sqlite3.Error, JournalError) as error:
        yield f"what the check needs cannot be read: {error}"


def _schema(store: Store) -> Iterator[str]:
    version = store.db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        yield f"the schema has version {version}; it should be {VERSION}"
    tables = {name for (name,) in store.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name in sorted(TABLES - tables):
        yield f"the table {name!r} is missing"


def _integrity(store: Store) -> Iterator[str]:
    for (line,) in store.db.execute(f"PRAGMA integrity_check({MOST})"):
        if line != "ok":
            yield f"SQLite says: {' '.join(line.split())}"


def _calls(store: Store) -> Iterator[str]:
    for what, question in QUESTIONS:
        try:
            yield from _first(what, store.db.execute(question))
        except sqlite3.Error as error:
            yield f"whether {what!r} holds of a call cannot be told: {error}"


def _first(what: str, rows: sqlite3.Cursor) -> Iterator[str]:
    more = 0
    for number, (call, key) in enumerate(rows):
        if number < MOST:
            yield f"{named(call, key)}: {what}"
        more += number >= MOST
    if more:
        yield f"{more} calls more: {what}"


def named(call: int, key: object) -> str:
    """Return how a call is called in a finding."""
    return f"call {call}, key {key.hex()}" if isinstance(key, bytes) else f"call {call}"


def _pickles(store: Store) -> Iterator[str]:
    for page in store.pages():
        for call, key, body, last in store.db.execute(BODIES, page).fetchall():
            wrong = flaw(first_segment(store, call) if body is None else body, last or 0)
            if wrong:
                yield f"{named(call, key)}: its result is no sound pickle: {wrong}"


def first_segment(store: Store, call: int) -> bytes:
    """Return the pickle of a result that stands in parts."""
    rows = store.db.execute("SELECT data FROM parts WHERE call = ? AND segment = 0 ORDER BY part", (call,))
    return b"".join(data for (data,) in rows)


def flaw(body: bytes, buffers: int) -> str:
    """Return what is wrong with a pickle that should have so many buffers; nothing of it is loaded."""
    wanted, end = 0, 0
    try:
        for operation, _, at in pickletools.genops(body):
            wanted += operation.name == "NEXT_BUFFER"
            end = (at or 0) + 1
    except Exception as error:
        return str(error)
    if end != len(body):
        return f"{len(body) - end} bytes stand behind its end"
    return "" if wanted == buffers else f"it wants {wanted} buffers, and there are {buffers}"
