"""The journal's file: SQLite, made for network file systems.

    Journal ── write(records) ──▶ one transaction ──▶ calib.db (+ calib.db-journal, calib.db.lock; never more files)

No WAL and no shared memory, which network file systems do not have. A cursor that is never read to its end, the
anchor, keeps the shared lock for as long as the file is open: without a lock, SQLite would look for what a dead writer
left before each transaction, at several metadata operations a time. Others can read meanwhile, but not write. For the
same reason the anchor comes first, nothing is looked at that SQLite looks at anyway, and what went wrong is found out
when it has.

Rows go in by statements of many rows: each step of a statement gives up the interpreter's lock and has to get it
back, which beside a busy main thread takes longer than the row itself.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mainstay
from mainstay.errors import JournalError
from mainstay.journal.lock import Lock
from mainstay.journal.record import Call, Choice, Kept, Record, UnfitRecord
from mainstay.wire.frames import Bytes

APPLICATION = 0x4D53544A  # "MSTJ", in the file's header
VERSION = 1  # of the schema
INLINE = 1 << 20  # bytes of a pickle without buffers that stands in `results`
PART = 16 << 20  # bytes of a row in `parts`; SQLite takes no blob of 1 GB
SHORTEST_WAIT = 0.2  # seconds for a reader to let go, after which a write is given up, to be tried again
PAGE = 5000  # calls that a listing reads in one go: a reader holds writers up while it reads
UNFIT = (sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeError)  # what a value may meet with
ROWS = (256, 32, 4, 1)  # rows of one statement; few sizes, so that SQLite need not compile new ones

LISTING = """
    SELECT calls.id, lower(hex(key)), failed, functions.name, functions.version, label, hosts.name, worker, started,
           seconds, attempts, size, run
    FROM calls JOIN functions ON functions.id = function JOIN hosts ON hosts.id = host
    WHERE {where} AND calls.id > ? ORDER BY calls.id LIMIT ?
"""
CONDITIONS = {
    "state": "failed = (? = 'failed')",
    "function": "functions.name GLOB ?",
    "label": "label GLOB ?",
    "host": "hosts.name GLOB ?",
    "key": "lower(hex(key)) GLOB ? || '*'",
    "since": "started >= ?",
    "before": "started < ?",
}

_open: weakref.WeakSet[Store] = weakref.WeakSet()


class Store:
    """A journal's file, open for its one writer, or for reading.

    Raises `JournalError` for what is not a journal, cannot be written, is damaged, or was written by a newer version;
    `JournalInUse` when another process has it open for writing.
    """

    def __init__(self, path: str | os.PathLike[str], *, write: bool = True, create: bool = True) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._held: Lock | None = None
        self._db: sqlite3.Connection | None = None
        self._anchor: sqlite3.Cursor | None = None
        try:
            self._open(("rwc" if create else "rw") if write else "ro")
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                self._check(create and write)
                raise self._explained(error) from error
            raise
        self.left_by = self._held and self._held.left_by
        _open.add(self)

    # -- opening

    def _check(self, create: bool) -> None:
        """Raise for what can be told better than by SQLite, which could not open the file."""
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise JournalError(f"the journal {self.path!r} cannot be: there is no directory {folder!r}; make it first")
        if os.path.isdir(self.path):
            raise JournalError(f"the journal {self.path!r} is a directory; give the path of a file")
        if not create and not os.path.exists(self.path):
            raise JournalError(f"there is no journal {self.path!r}")
        try:
            with open(self.path, "rb") as file:
                head = file.read(16)
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(f"the journal {self.path!r} cannot be read: {error.strerror}") from error
        if head and not head.startswith(b"SQLite format 3\0"):
            raise self._not_a_journal()

    def _not_a_journal(self) -> JournalError:
        return JournalError(f"{self.path!r} is not a journal, and was left as it is; give another path")

    def _open(self, mode: str) -> None:
        self._db = self._connect(f"mode={mode}")
        if mode == "ro":
            self._check_version()
            return
        self._held = Lock(self.path, self._one("PRAGMA database_list")[2])  # which is the file itself, not a link to it
        if not self._held.by_kernel:
            self._db.close()
            self._db = self._connect(f"mode={mode}&nolock=1")
        self._anchor = self._anchored(self._db)
        self._db.execute("PRAGMA journal_mode=PERSIST")  # not deleted and made anew for each transaction
        self._db.execute("PRAGMA synchronous=FULL")
        self._ids: dict[tuple[str, ...], int] = {}  # of functions and hosts
        self._run = 0  # not noted yet: a run that finds all writes nothing
        with self._transaction() as db:
            if not self._one("SELECT count(*) FROM sqlite_master")[0] and not self._one("PRAGMA application_id")[0]:
                self._create(db)  # or it was left empty by a start that was killed
            self._check_version()
            self._last = self._one("SELECT coalesce(max(id), 0) FROM calls")[0]

    def _anchored(self, db: sqlite3.Connection) -> sqlite3.Cursor:
        """Take the shared lock once and for all."""
        db.execute("BEGIN")
        db.execute("PRAGMA user_version").fetchone()  # takes it; SQLite reads the schema under a lock of its own else
        anchor = db.execute("SELECT count(*) FROM sqlite_master UNION ALL VALUES (1), (2)")
        db.execute("COMMIT")
        return anchor

    def _create(self, db: sqlite3.Connection) -> None:
        if os.path.getsize(self.path) == 1:
            raise self._not_a_journal()  # to SQLite, a file of one byte is empty
        schema = Path(__file__).with_name("schema.sql").read_text()
        for statement in schema.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id={APPLICATION}")
        db.execute(f"PRAGMA user_version={VERSION}")

    def _connect(self, options: str) -> sqlite3.Connection:
        uri = f"file:{quote(os.path.abspath(self.path))}?{options}"
        db = sqlite3.connect(
            uri, uri=True, timeout=SHORTEST_WAIT, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        db.execute("PRAGMA temp_store=MEMORY")
        if sys.version_info >= (3, 12):
            db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)  # a look at the file less; there is no WAL anyway
        return db

    def _check_version(self) -> None:
        if self._one("PRAGMA application_id")[0] != APPLICATION:
            raise JournalError(f"{self.path!r} is another program's database, and was left as it is; give another path")
        version = self._one("PRAGMA user_version")[0]
        if version > VERSION:
            raise JournalError(
                f"the journal {self.path!r} has schema {version}, from a newer Mainstay; this one knows schema "
                f"{VERSION}. Upgrade Mainstay, or give another file"
            )

    def _note_run(self, db: sqlite3.Connection) -> int:
        who = (socket.gethostname(), os.getpid(), time.time(), platform.python_version(), mainstay.__version__)
        into = "INSERT INTO runs (host, pid, started, python, mainstay, argv) VALUES (?, ?, ?, ?, ?, ?)"
        return int(db.execute(into, (*who, json.dumps(sys.argv))).lastrowid or 0)

    def _explained(self, error: sqlite3.Error) -> JournalError:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            return JournalError(
                f"the journal {self.path!r} cannot be written ({text}): its file and its directory must be writable. "
                f"To go on from a copy: mainstay journal {self.path} copy COPY"
            )
        if "malformed" in text or "not a database" in text:
            return JournalError(
                f"the journal {self.path!r} is damaged ({text}), and was left as it is. What can still be read: "
                f"mainstay journal NEW merge {self.path}"
            )
        return JournalError(f"the journal {self.path!r}: {text}")

    # -- what is there

    @property
    def db(self) -> sqlite3.Connection:
        """The database. Raises `JournalError` when the journal is closed."""
        if self._db is None:
            raise JournalError(f"the journal {self.path!r} is closed")
        return self._db

    def _one(self, sql: str, *values: Any) -> Any:
        return self.db.execute(sql, values).fetchone()

    def index(self) -> Iterator[tuple[bytes, int, bool, int]]:
        """Yield `(key, id, failed, attempts)` of every call."""
        last = 0
        select = "SELECT key, id, failed, attempts FROM calls WHERE id > ? ORDER BY id LIMIT ?"
        while rows := self._all(select, last, PAGE):
            yield from rows
            last = rows[-1][1]

    def calls(self, choice: Choice | None = None) -> Iterator[Call]:
        """Yield the calls chosen, in the order in which they finished; no result is read."""
        chosen = {name: value for name, value in vars(choice or Choice()).items() if value is not None}
        listing = LISTING.format(where=" AND ".join([CONDITIONS[name] for name in chosen] or ["1"]))
        last = 0
        while rows := self._all(listing, *chosen.values(), last, PAGE):
            for row in rows:
                yield Call(row[0], row[1], "failed" if row[2] else "done", *row[3:])
            last = rows[-1][0]

    def load(self, call: int) -> Kept:
        """Return the payload of a call. Raises `KeyError` for one that is not there."""
        with self._lock:
            row = self._one(
                "SELECT failed, body, hosts.name, worker FROM calls JOIN results ON call = calls.id "
                "JOIN hosts ON hosts.id = host WHERE calls.id = ?",
                call,
            )
            if row is None:
                raise KeyError(f"there is no call {call} in {self.path!r}")
            failed, body, host, worker = row
            segments = self._segments(call)
        if body is None:
            body = segments.pop(0)
        return Kept(bool(failed), body, segments, host, worker)

    def _segments(self, call: int) -> list[bytearray]:
        """Read what stands in parts; each segment is put together in place."""
        sizes = self.db.execute(
            "SELECT segment, sum(length(data)) FROM parts WHERE call = ? GROUP BY segment ORDER BY segment", (call,)
        ).fetchall()
        segments = {segment: bytearray(size) for segment, size in sizes}
        filled = dict.fromkeys(segments, 0)
        for segment, data in self.db.execute(
            "SELECT segment, data FROM parts WHERE call = ? ORDER BY segment, part", (call,)
        ):
            at = filled[segment]
            segments[segment][at : at + len(data)] = data
            filled[segment] = at + len(data)
        return list(segments.values())

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                return self.db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._explained(error) from error

    # -- writing

    def write(self, records: Sequence[Record], replaced: Iterable[int] = ()) -> list[int]:
        """Add calls, and remove those that they replace: all or, where it raises `JournalError`, nothing.

        Returns the new calls' ids. All is on disk when this returns.
        """
        with self._transaction() as db:
            run = self._run or self._note_run(db)
            self._delete(db, replaced)
            ids = list(range(self._last + 1, self._last + 1 + len(records)))
            large = {id(record) for record in records if record.buffers or len(record.body) > INLINE}
            insert(db, "calls", 12, [self._row(call, record, run) for call, record in zip(ids, records, strict=True)])
            bodies = [None if id(record) in large else record.body for record in records]
            insert(db, "results", 2, list(zip(ids, bodies, strict=True)))
            for call, record in zip(ids, records, strict=True):
                if id(record) in large:
                    insert_parts(db, call, [record.body, *record.buffers])
        self._last += len(records)
        self._run = run
        return ids

    def remove(self, calls: Sequence[int]) -> None:
        """Remove calls with their results. Raises `JournalError` and leaves all where it cannot."""
        with self._transaction() as db:
            self._delete(db, calls)

    def _row(self, call: int, record: Record, run: int) -> tuple[Any, ...]:
        key, failed, function, label, host, worker, started, seconds, attempt, _, _ = record
        of, on = self._id_of("functions", function), self._id_of("hosts", (host,))
        return (call, key, failed, of, label, on, worker, started, seconds, attempt, record.size, run)

    def _id_of(self, table: str, values: tuple[str, ...]) -> int:
        """Return the id of a function or a host, which gets one when it is first seen."""
        known = self._ids.get(values)
        if known is None:
            columns = ("name", "version")[: len(values)]
            where = " AND ".join(f"{column} = ?" for column in columns)
            row = self._one(f"SELECT id FROM {table} WHERE {where}", *values)  # noqa: S608  our own names
            if row is None:
                marks = ", ".join("?" * len(values))
                into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) RETURNING id"  # noqa: S608
                row = self._one(into, *values)
            known = self._ids[values] = int(row[0])
        return known

    def _delete(self, db: sqlite3.Connection, calls: Iterable[int]) -> None:
        for call in calls:
            db.execute("DELETE FROM calls WHERE id = ?", (call,))
            db.execute("DELETE FROM results WHERE call = ?", (call,))
            db.execute("DELETE FROM parts WHERE call = ?", (call,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            db = self.db
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                self._ids.clear()  # some may have been rolled back
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if isinstance(error, UNFIT):
                    raise UnfitRecord(f"{type(error).__name__}: {error}") from error
                if isinstance(error, sqlite3.Error):
                    raise self._explained(error) from error
                raise

    # -- the end

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        with self._lock:
            if self._anchor is not None:
                self._anchor.close()  # or SQLite would keep the file open, and its lock, for this statement
            if self._db is not None:
                self._db.close()
            if self._held is not None:
                self._held.release()
            self._anchor = self._db = self._held = None


def insert(db: sqlite3.Connection, table: str, columns: int, rows: list[tuple[Any, ...]]) -> None:
    """Add rows by few statements of many rows each."""
    row = f"({', '.join('?' * columns)})"
    at = 0
    for count in ROWS:
        statement = f"INSERT INTO {table} VALUES {', '.join([row] * count)}"  # noqa: S608  our own names
        while len(rows) - at >= count:
            db.execute(statement, list(chain.from_iterable(rows[at : at + count])))
            at += count


def insert_parts(db: sqlite3.Connection, call: int, segments: Sequence[Bytes]) -> None:
    """Add a result in parts that SQLite takes; each is bound as it lies in memory."""
    for number, segment in enumerate(segments):
        view = memoryview(segment).cast("B")
        for part, at in enumerate(range(0, view.nbytes, PART) or [0]):
            db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (call, number, part, view[at : at + PART]))


def _before_fork() -> None:
    """Let no child be born with a transaction half done, which its copy of SQLite would want to undo."""
    for store in list(_open):
        store._lock.acquire()


def _after_fork() -> None:
    for store in list(_open):
        store._lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
