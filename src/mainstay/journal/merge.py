"""Two journals become one: the calls of others that a journal lacks are added to it, as far as they can be read.

pages ──▶ rows of a damaged file, too ──▶ those wanted ──▶ groups, a transaction each ──▶ the journal
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import lt
from typing import Any

from mainstay.errors import JournalError
from mainstay.journal.record import Run
from mainstay.journal.rows import insert
from mainstay.journal.sqlite import Store
from mainstay.journal.upkeep import Path
from mainstay.journal.verify import first_segment, flaw

GROUP = 1000  # calls of a transaction
GROUP_BYTES = 32 << 20  # of results that are held in memory for it; larger ones go through part by part
FARTHEST = 40  # bits of the number of ids, from a damaged place on, within which the next sound one is looked for

ROW = """
    SELECT calls.id, key, failed, coalesce(functions.name, '?'), coalesce(functions.version, ''), label,
           coalesce(hosts.name, '?'), worker, started, seconds, attempts, size, run
    FROM calls LEFT JOIN functions ON functions.id = function LEFT JOIN hosts ON hosts.id = host
    WHERE calls.id > ? ORDER BY calls.id LIMIT ?
"""
TYPES = (int, bytes, int, str, str, str, str, int, float, float, int, int, int)
PAGES = (1000, 30, 1)  # calls that are read in one go; fewer near what is damaged

Row = tuple[Any, ...]


@dataclass
class Merged:
    """What became of the calls of the other journals.

    added: those that were lacking.  replaced: failed ones that are done in another.  present: those that were there.
    unreadable: those that are damaged.  damage: what else was found.
    """

    added: int = 0
    replaced: int = 0
    present: int = 0
    unreadable: int = 0
    damage: list[str] = field(default_factory=list)


def merge(into: Path, others: Sequence[Path]) -> Merged:
    """Add to a journal (made if it is not there) what it lacks of others, which are left as they are.

    A call that is done takes the place of one that failed. If it is interrupted, merge again: what was added, stays.
    Raises `JournalError` where one of them is no journal, or is `into` itself.
    """
    for other in others:
        if os.path.exists(into) and os.path.exists(other) and os.path.samefile(into, other):
            raise JournalError(f"the journal {os.fsdecode(other)!r} cannot be merged into itself; give another one")
        Store(other, write=False, salvage=True).close()  # so that a wrong path is told before anything is done
    target = Store(into)
    try:
        known = {key: (call, failed) for key, call, failed, _ in target.index()}
        merged = Merged()
        for other in others:
            source = Source(other, merged)
            try:
                _Merge(target, source, known, merged).run()
            finally:
                source.store.close()
        return merged
    finally:
        target.close()


class Unreadable(Exception):
    """A call of a source cannot be read, or not to its end."""


@contextmanager
def reading() -> Iterator[None]:
    """An error here is one of the source, not of the journal that is written."""
    try:
        yield
    except (sqlite3.DatabaseError, TypeError) as error:
        raise Unreadable(str(error)) from error


class Source:
    """A journal that is read, around what is damaged in it."""

    def __init__(self, path: Path, merged: Merged) -> None:
        self.merged = merged
        self.damaged = False
        try:
            self.store = Store(path, write=False)
        except JournalError as error:
            self._note(str(error))
            self.store = Store(path, write=False, salvage=True)

    def _note(self, text: str) -> None:
        self.damaged = True
        self.merged.damage.append(text)

    def rows(self) -> Iterator[Row]:
        """Yield the calls that can be read."""
        last = 0
        while rows := self._page(last) or self._beyond(last):
            for row in rows:
                if self._is_plausible(row):
                    yield row
                else:
                    self.merged.unreadable += 1
            last = rows[-1][0]

    def _page(self, last: int) -> list[Row]:
        """Return the next calls, as many as can be read in one go; none at the end, and before what is damaged."""
        for most in PAGES:
            rows = self._seek(last, most)
            if rows is not None:
                return rows
        return []

    def _seek(self, last: int, most: int = 1) -> list[Row] | None:
        """Return the calls after an id; None where they cannot be read."""
        try:
            rows = self.store.db.execute(ROW, (last, most)).fetchall()
        except sqlite3.DatabaseError as error:
            if not self.damaged:
                self._note(f"the journal {self.store.path!r} is damaged: {error}")
            return None
        ids = [last, *(row[0] for row in rows)]
        return rows if all(map(lt, ids, ids[1:])) else None  # damaged pages may lead round in circles

    def _beyond(self, last: int) -> list[Row]:
        """Return the first call behind a damaged place; none at the end."""
        if self._seek(last) is not None:
            return []
        reach = next((1 << bit for bit in range(FARTHEST) if self._seek(last + (1 << bit)) is not None), 0)
        bad, good = last + reach // 2, last + reach
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (middle, good) if self._seek(middle) is None else (bad, middle)
        rows = self._seek(good) if reach else None
        if rows:
            self.merged.unreadable += rows[0][0] - last - 1
            return rows
        self._note(f"calls of {self.store.path!r} after number {last} cannot be read; how many, is not known")
        return []

    def _is_plausible(self, row: Row) -> bool:
        return all(type(value) is kind for value, kind in zip(row, TYPES, strict=True)) and row[11] >= 0

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing changes meanwhile, and the file is not locked anew for each call."""
        self.store.db.execute("BEGIN")
        try:
            yield
        finally:
            self.store.db.execute("ROLLBACK")

    def body(self, row: Row) -> bytes | None:
        """Return the pickle of a call; None where it stands in parts. Raises `Unreadable` for one that is damaged."""
        call, size = row[0], row[11]
        with reading():
            found = self.store.db.execute("SELECT body FROM results WHERE call = ?", (call,)).fetchone()
            if found is None:
                raise Unreadable("there is no result")
            body: bytes | None = found[0]
            if body is not None and (not isinstance(body, bytes) or len(body) != size):
                raise Unreadable("the result has not its size")
            if self.damaged:
                self._check_pickle(call, body)
        return body

    def _check_pickle(self, call: int, body: bytes | None) -> None:
        last = self.store.db.execute("SELECT max(segment) FROM parts WHERE call = ?", (call,)).fetchone()[0]
        wrong = flaw(first_segment(self.store, call) if body is None else body, last or 0)
        if wrong:
            raise Unreadable(wrong)

    def parts(self, call: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the parts of a large result. Raises `Unreadable` where they are damaged."""
        with reading():
            select = "SELECT segment, part, data FROM parts WHERE call = ? ORDER BY segment, part"
            rows = self.store.db.execute(select, (call,))
        while True:
            with reading():
                row = rows.fetchone()
            if row is None:
                return
            yield row


class _Merge:
    """The calls of one source on their way into the target."""

    def __init__(self, target: Store, source: Source, known: dict[bytes, tuple[int, bool]], merged: Merged) -> None:
        self.target, self.source, self.known, self.merged = target, source, known, merged
        self._runs: dict[int, int] = {}

    def run(self) -> None:
        for group in self._groups():
            with self.target.transaction() as db, self.source.at_rest():
                self._add(db, group)

    def _groups(self) -> Iterator[list[Row]]:
        group: list[Row] = []
        room = GROUP_BYTES
        for row in self.source.rows():
            if not self._is_wanted(row):
                self.merged.present += 1
                continue
            group.append(row)
            room -= row[11]
            if len(group) == GROUP or room <= 0:
                yield group
                group, room = [], GROUP_BYTES
        if group:
            yield group

    def _is_wanted(self, row: Row) -> bool:
        there = self.known.get(row[1])
        return there is None or (bool(there[1]) and not row[2])

    def _add(self, db: sqlite3.Connection, group: list[Row]) -> None:
        calls: list[Row] = []
        results: list[Row] = []
        for row in group:
            if not self._is_wanted(row):
                self.merged.present += 1  # twice in a damaged file
                continue
            new = self.target.next_id()
            try:
                body = self._taken(db, row, new)
            except Unreadable:
                self.merged.unreadable += 1
                continue
            results.append((new, body))
            calls.append(self._row(db, row, new))
            self._replace(db, row, new)
        insert(db, "calls", 12, calls)
        insert(db, "results", 2, results)

    def _replace(self, db: sqlite3.Connection, row: Row, new: int) -> None:
        there = self.known.get(row[1])
        if there is not None:
            self.target.delete(db, [there[0]])
        self.merged.replaced += there is not None
        self.merged.added += there is None
        self.known[row[1]] = new, bool(row[2])

    def _taken(self, db: sqlite3.Connection, row: Row, new: int) -> bytes | None:
        """Return a pickle, or write it part by part; where it cannot be read to its end, nothing of it is left."""
        body = self.source.body(row)
        if body is not None:
            return body
        size = 0
        db.execute("SAVEPOINT large")
        try:
            for segment, part, data in self.source.parts(row[0]):
                db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (new, segment, part, data))
                size += len(data)
            if size != row[11]:
                raise Unreadable("parts of the result are missing")
        except Unreadable:
            db.execute("ROLLBACK TO large")
            raise
        db.execute("RELEASE large")
        return None

    def _row(self, db: sqlite3.Connection, row: Row, new: int) -> Row:
        _, key, failed, name, version, label, host, worker, started, seconds, attempts, size, run = row
        of, on = self.target.id_of("functions", (name, version)), self.target.id_of("hosts", (host,))
        return (new, key, failed, of, label, on, worker, started, seconds, attempts, size, self._run_of(db, run))

    def _run_of(self, db: sqlite3.Connection, number: int) -> int:
        """Return the target's number of a run of the source, which is the same after an interrupted merge."""
        if number not in self._runs:
            try:
                run = self.source.store.run(number)
            except (JournalError, ValueError):
                run = None
            self._runs[number] = run_in(db, run or Run(0, "?", 0, 0.0, "?", "?", ()))
        return self._runs[number]


def run_in(db: sqlite3.Connection, run: Run) -> int:
    """Return the number that a run has in a journal, and add it where it has none."""
    import json

    values = (run.host, run.pid, run.started, run.python, run.mainstay, json.dumps(run.argv))
    found = db.execute("SELECT id FROM runs WHERE host = ? AND pid = ? AND started = ?", values[:3]).fetchone()
    if found is not None:
        return int(found[0])
    into = "INSERT INTO runs (host, pid, started, python, mainstay, argv) VALUES (?, ?, ?, ?, ?, ?)"
    return int(db.execute(into, values).lastrowid or 0)
