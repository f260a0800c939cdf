"""The journal's file: SQLite, made for network file systems.

    Journal ── write(records) ──▶ one transaction ──▶ calib.db (+ calib.db-journal, calib.db.lock; never more files)

No WAL and no shared memory, which network file systems do not have. A cursor that is never read to its end, the
anchor, keeps the shared lock for as long as the file is open: without a lock, SQLite would look for what a dead writer
left before each transaction, at several metadata operations a time. Others can read meanwhile, but not write.

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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mainstay
from mainstay.errors import JournalError
from mainstay.journal import told
from mainstay.journal.lock import Lock, look
from mainstay.journal.record import Call, Choice, Kept, Record, Run, UnfitRecord
from mainstay.journal.rows import CONDITIONS, LISTING, clean, explained, insert, insert_parts, rows_of

APPLICATION = 0x4D53544A  # "MSTJ", in the file's header
VERSION = 1  # of the schema
INLINE = 1 << 20  # bytes of a pickle without buffers that stands in `results`
PART = 16 << 20  # bytes of a row in `parts`; SQLite takes no blob of 1 GB
SHORTEST_WAIT = 0.2  # seconds for a reader to let go, after which a write is given up, to be tried again
LONGEST_WAIT = 30.0  # seconds that a reader waits for a writer to finish its commit
UNFIT = (sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeError)  # what a value may meet with
PAGE = 5000  # calls that a listing looks at in one go: a reader holds writers up while it reads

_open: weakref.WeakSet[Store] = weakref.WeakSet()
_of_the_parent: list[Any] = []


class Store:
    """A journal's file, open for its one writer, or for reading.

    Raises `JournalError` for what is not a journal, cannot be written, is damaged, or was written by a newer version;
    `JournalInUse` when another process has it open for writing. With `salvage`, a file that has lost its end is opened
    for reading, too.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, write: bool = True, create: bool = True, salvage: bool = False
    ) -> None:
        self.path = os.fsdecode(path)
        self._file = os.path.abspath(self.path)  # wherever the program goes from here
        self._writes = write
        self._lock = threading.Lock()
        self._held: Lock | None = None
        self._db: sqlite3.Connection | None = None
        self._anchor: sqlite3.Cursor | None = None
        self._ids: dict[tuple[str, ...], int] = {}  # of functions and hosts
        self._run = 0  # not noted yet: a run that finds all writes nothing
        try:
            self._open_to_write("rwc" if create else "rw") if write else self._open_to_read(salvage)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                told.check(self.path, create and write)
                if not is_open(self.path):  # closing any other descriptor of it would drop this process's locks
                    told.check_head(self.path)
                raise self._explained(error) from error
            raise
        self.left_by = self._held and self._held.left_by
        _open.add(self)

    # -- opening

    def _open_to_read(self, salvage: bool) -> None:
        """Open without changing anything, but for what a killed writer left half done, which SQLite undoes."""
        by_kernel, holder = look(self.path)
        mode = "rw" if by_kernel or holder is None else "ro"  # without locks it might undo what is being written
        self._db = self._connect(f"mode={mode}{'' if by_kernel else '&nolock=1'}", LONGEST_WAIT)
        if salvage:
            self._db.execute("PRAGMA writable_schema=1")  # or SQLite would read nothing of a file that is too short
        self._db.execute("PRAGMA query_only=1")
        self._check_version()

    def _open_to_write(self, mode: str) -> None:
        if not is_open(self.path):
            told.check_head(self.path, to_write=True)  # or a lock file would come to stand beside what is none of ours
        self._db = self._connect(f"mode={mode}", SHORTEST_WAIT)
        self._db.text_factory = os.fsdecode  # a path need not be UTF-8
        self._held = Lock(self.path, self._one("PRAGMA database_list")[2])  # which is the file itself, not a link to it
        self._db.text_factory = str
        if not self._held.by_kernel:
            self._db.close()
            self._db = self._connect(f"mode={mode}&nolock=1", SHORTEST_WAIT)
        self._anchor = self._anchored()
        self._db.execute("PRAGMA journal_mode=PERSIST")  # not deleted and made anew for each transaction
        self._db.execute("PRAGMA synchronous=FULL")
        with self.transaction() as db:
            if not self._one("SELECT count(*) FROM sqlite_master")[0] and not self._one("PRAGMA application_id")[0]:
                self._create(db)  # or it was left empty by a start that was killed
            self._check_version()
            self._last = int(self._one("SELECT coalesce(max(id), 0) FROM calls")[0])

    def _anchored(self) -> sqlite3.Cursor:
        """Take the shared lock once and for all."""
        self.db.execute("BEGIN")
        try:
            self._one("PRAGMA user_version")  # takes it; SQLite reads the schema under a lock of its own else
            return self.db.execute("SELECT count(*) FROM sqlite_master UNION ALL VALUES (1), (2)")
        finally:
            self.db.execute("COMMIT")

    def _create(self, db: sqlite3.Connection) -> None:
        schema = Path(__file__).with_name("schema.sql").read_text()
        for statement in schema.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id={APPLICATION}")
        db.execute(f"PRAGMA user_version={VERSION}")

    def _connect(self, options: str, wait: float) -> sqlite3.Connection:
        uri = f"file://{quote(os.fsencode(self._file))}?{options}"
        db = sqlite3.connect(
            uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        db.create_function("matches", 2, fnmatchcase, deterministic=True)
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
        return explained(self.path, error, writing=self._writes)

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
        select = "SELECT key, id, failed, attempts FROM calls WHERE id > ? AND id <= ? ORDER BY id"
        for page in self.pages():
            yield from self._all(select, *page)

    def calls(self, choice: Choice | None = None) -> Iterator[Call]:
        """Yield the calls chosen, in the order in which they finished; no result is read."""
        chosen = {name: value for name, value in vars(choice or Choice()).items() if value is not None}
        listing = LISTING.format(where=" AND ".join([CONDITIONS[name] for name in chosen] or ["1"]))
        for page in self.pages():
            for row in self._all(listing, *chosen.values(), *page):
                yield Call(row[0], row[1], "failed" if row[2] else "done", *row[3:])

    def pages(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of ids, each of `PAGE` calls: a search that finds little must not hold writers up either."""
        end = "SELECT max(id) FROM (SELECT id FROM calls WHERE id > ? ORDER BY id LIMIT ?)"
        last = 0
        while (upto := self._all(end, last, PAGE)[0][0]) is not None:
            yield last, upto
            last = upto

    def run(self, number: int) -> Run | None:
        """Return what is known of a run of a client; None where there is nothing."""
        for row in self._all("SELECT id, host, pid, started, python, mainstay, argv FROM runs WHERE id = ?", number):
            return Run._make((*row[:-1], tuple(json.loads(row[-1]))))
        return None

    def load(self, call: int) -> Kept:
        """Return the payload of a call. Raises `KeyError` for one that is not there, `JournalError` for damage."""
        with self._lock:
            try:
                row = self._one(
                    "SELECT failed, body, hosts.name, worker FROM calls JOIN results ON call = calls.id "
                    "JOIN hosts ON hosts.id = host WHERE calls.id = ?",
                    call,
                )
                segments = self._segments(call)
            except sqlite3.Error as error:
                raise self._explained(error) from error
        if row is None:
            raise KeyError(f"there is no call {call} in {self.path!r}")
        failed, body, host, worker = row
        if body is None and not segments:
            raise self._explained(sqlite3.DatabaseError(f"the result of call {call} is malformed: it has no parts"))
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
        with self.transaction() as db:
            run = self._run or self._note_run(db)
            self.delete(db, replaced)
            ids = list(range(self._last + 1, self._last + 1 + len(records)))
            insert(db, "calls", 12, rows_of(ids, records, run, self.id_of))
            bodies = [None if r.buffers or len(r.body) > INLINE else bytearray(r.body) for r in records]
            insert(db, "results", 2, list(zip(ids, bodies, strict=True)))
            for call, record, body in zip(ids, records, bodies, strict=True):
                if body is None:
                    insert_parts(db, call, [record.body, *record.buffers], PART)
        self._last += len(records)
        self._run = run
        return ids

    def remove(self, calls: Sequence[int]) -> None:
        """Remove calls with their results. Raises `JournalError` and leaves all where it cannot."""
        with self.transaction() as db:
            self.delete(db, calls)

    def vacuum(self) -> None:
        """Give the room of what was removed back. Raises `JournalError`, and leaves all as it is, where it cannot."""
        with self._lock:
            try:
                if self._anchor is not None:
                    self._anchor.close()  # no statement may be open meanwhile
                self.db.execute("PRAGMA temp_store=FILE")
                self.db.execute("VACUUM")
            except sqlite3.Error as error:
                raise self._explained(error) from error
            finally:
                self.db.execute("PRAGMA temp_store=MEMORY")
                self._anchor = self._anchored()

    def next_id(self) -> int:
        """Return an id for a new call, as part of a transaction."""
        self._last += 1
        return self._last

    def id_of(self, table: str, values: tuple[str, ...]) -> int:
        """Return the id of a function or a host, which gets one when it is first seen."""
        known = self._ids.get(values)
        if known is None:
            columns = ("name", "version")[: len(values)]
            where = " AND ".join(f"{column} = ?" for column in columns)
            words = [clean(value) for value in values]
            row = self._one(f"SELECT id FROM {table} WHERE {where}", *words)  # noqa: S608  our own names
            if row is None:
                marks = ", ".join("?" * len(values))
                into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) RETURNING id"  # noqa: S608
                row = self._one(into, *words)
            known = self._ids[values] = int(row[0])
        return known

    def delete(self, db: sqlite3.Connection, calls: Iterable[int]) -> None:
        """Remove calls, as part of a transaction."""
        for call in calls:
            db.execute("DELETE FROM calls WHERE id = ?", (call,))
            db.execute("DELETE FROM results WHERE call = ?", (call,))
            db.execute("DELETE FROM parts WHERE call = ?", (call,))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change the file: all of what is done inside or, where it raises, nothing."""
        if not self._writes:
            raise JournalError(f"the journal {self.path!r} was opened for reading; open it for writing to change it")
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
                    self._anchor_anew()
                    raise self._explained(error) from error
                raise

    def _anchor_anew(self) -> None:
        """Let SQLite come to itself after a full disk: it undoes the rest when no statement is open."""
        if self._anchor is None:
            return
        self._anchor.close()
        try:
            self._anchor = self._anchored()
        except sqlite3.Error:
            pass  # a closed one is none; it goes on at the price of metadata operations

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
        _open.discard(self)


def is_open(path: str) -> bool:
    """Whether this process has a store of this file open."""
    if not _open or not os.path.exists(path):
        return False
    return any(s._db is not None and os.path.exists(s._file) and os.path.samefile(s._file, path) for s in list(_open))


def _before_fork() -> None:
    """Let no child be born with a transaction half done, which its copy of SQLite would want to undo."""
    for store in list(_open):
        store._lock.acquire()


def _after_fork() -> None:
    for store in list(_open):
        store._lock.release()


def _after_fork_in_child() -> None:
    """What the parent writes is the parent's: a child would read by a copy of its connection without its locks."""
    _after_fork()
    for store in [store for store in _open if store._held is not None]:
        _of_the_parent.append((store._db, store._anchor))  # not closed either: SQLite would tidy up
        if store._held is not None:
            store._held.disown()
        store._db = store._anchor = store._held = None
        _open.discard(store)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
