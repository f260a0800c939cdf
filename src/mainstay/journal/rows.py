"""The statements of many rows: how calls are listed, and how they go in."""

from __future__ import annotations

import sqlite3
from itertools import chain
from typing import Any

ROWS = (256, 32, 4, 1)  # rows of one statement; few sizes, so that SQLite need not compile new ones

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


def insert(db: sqlite3.Connection, table: str, columns: int, rows: list[tuple[Any, ...]]) -> None:
    """Add rows by few statements of many rows each."""
    row = f"({', '.join('?' * columns)})"
    at = 0
    for count in ROWS:
        statement = f"INSERT INTO {table} VALUES {', '.join([row] * count)}"  # noqa: S608  our own names
        while len(rows) - at >= count:
            db.execute(statement, list(chain.from_iterable(rows[at : at + count])))
            at += count


def clean(text: str) -> str:
    """Return a text that can be written as UTF-8: a label may have been made of any file's name."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
