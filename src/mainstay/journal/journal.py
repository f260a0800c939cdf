"""What the pool tells of finished calls, and asks whether a call has finished before.

    append ──▶ waiting ──(1,000 of them, or 50 ms after the first)──▶ store.write, in the journal's thread
                  └──── find ────┴──── index: key → id, in memory

While the store cannot be written (a full disk, a reader that does not let go), what is waiting stays, up to
`MOST_WAITING` bytes, and is tried again every second.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from mainstay.errors import JournalError
from mainstay.journal.record import Kept, Record, UnfitRecord
from mainstay.journal.store import Store

INTERVAL = 0.05  # seconds from the first call that waits to the beginning of its commit, which is to end within 0.1
GROUP = 1000  # calls that are written without waiting further
RETRY = 1.0  # seconds after a write that failed
MOST_WAITING = 256 << 20  # bytes of results that wait while the store cannot be written

Then = Callable[[], object]
T = TypeVar("T")


class Journal:
    """Keeps finished calls in `store`, and finds them.

    Args:
        store: where they are kept.
        each: whether a result is only delivered when it is on disk.
        log: takes a level and a line.
    """

    def __init__(self, store: Store, *, each: bool = False, log: Callable[[int, str], object]) -> None:
        self.store, self.each, self.log = store, each, log
        self.error: JournalError | None = None  # why it cannot be written now; after `close`, what was not kept
        self._done: dict[bytes, int] = {}  # ids, by key
        self._failed: dict[bytes, tuple[int, int]] = {}  # ids and attempts, by key
        for key, call, failed, attempts in store.index():
            if failed:
                self._failed[key] = call, attempts
            else:
                self._done[key] = call
        self._doubted: set[bytes] = set()  # keys of results that cannot be had, and that a new one replaces
        self._fresh: deque[Record] = deque()  # the next group
        self._waiting: dict[bytes, Record] = {}  # all that is not on disk yet
        self._thens: deque[Then] = deque()
        self._unwritten = 0  # bytes, while the store cannot be written
        self._lost = 0
        self._some, self._enough = threading.Event(), threading.Event()
        self._closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="mainstay-journal", daemon=True)
        self._thread.start()
        if store.left_by is not None:
            log(logging.INFO, f"the journal {store.path!r} was left by {store.left_by}, which has ended")

    # -- any thread

    def has(self, key: bytes, *, failed_too: bool) -> bool:
        """Whether a call is known to have finished; with `failed_too`, also if it failed."""
        if key in self._done:
            return True
        record = self._waiting.get(key)
        if record is not None:
            return failed_too or not record.failed
        return failed_too and key in self._failed

    def waits(self, key: bytes) -> bool:
        """Whether a call is not on disk yet."""
        return key in self._waiting

    def load(self, key: bytes) -> Kept:
        """Return what a call has left. Raises `KeyError` where there is nothing, `JournalError` for damage."""
        record = self._waiting.get(key)  # first: what is written leaves it after it has come into the index
        if record is not None:
            buffers = [bytearray(buffer) for buffer in record.buffers]  # the first owner may change its own
            return Kept(record.failed, record.body, buffers, record.host, record.worker)
        return self.store.load(self._done.get(key) or self._failed.get(key, (0,))[0])

    def doubt(self, key: bytes) -> None:
        """A kept result cannot be unpickled: the next one takes its place."""
        self._doubted.add(key)

    def _is_new(self, record: Record) -> bool:
        waiting = self._waiting.get(record.key)
        if record.failed and waiting is not None and not waiting.failed:
            return False  # a call that is done stays done, on disk or not yet
        return record.key not in self._done or (not record.failed and record.key in self._doubted)

    def append(self, record: Record, then: Then | None = None) -> None:
        """Keep a call soon; run `then`, in the journal's thread, when it is on disk.

        What comes after the end is not kept: the log tells, and `then` runs at once.
        """
        if self._ended:
            self._drop(record, JournalError(f"the journal {self.store.path!r} was closed before it came"))
            if then is not None:
                then()
            return
        key = record.key
        is_new = (key not in self._done and key not in self._waiting) or self._is_new(record)
        if is_new and (self.error is None or self._has_room(record)):
            self._waiting[key] = record
            self._fresh.append(record)
        if then is not None:
            self._thens.append(then)
        if (then is not None or len(self._fresh) >= GROUP) and not self._enough.is_set():
            self._enough.set()
        if not self._some.is_set():
            self._some.set()

    def _has_room(self, record: Record) -> bool:
        self._unwritten += record.size
        self._lost += self._unwritten > MOST_WAITING
        return self._unwritten <= MOST_WAITING

    def close(self) -> None:
        """Write what waits, and let go of the store; `error` then tells what could not be kept."""
        self._closing = True
        self._some.set()
        self._enough.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what `close` found."""
        if self.error is not None:
            raise self.error

    # -- the thread

    def _run(self) -> None:
        while not self._closing:
            self._some.wait()
            self._enough.wait(INTERVAL)
            self._some.clear()
            self._enough.clear()
            if not self._commit() and not self._closing:
                self._enough.wait(RETRY)
                self._some.set()
        self._commit()
        self._end()

    def _commit(self) -> bool:
        """Write what waits; say whether that worked. What is to follow follows in any case."""
        thens = take(self._thens, len(self._thens))  # before the group: each call came before what is to follow it
        waits_no_longer = bool(thens) or self._closing
        group = take(self._fresh, len(self._fresh) if waits_no_longer else of_full_groups(len(self._fresh)))
        if self._fresh:
            self._some.set()
        try:
            if group:
                self._write(group)
        except Exception as error:  # whatever it is, the thread goes on: others wait for it
            self._told(error if isinstance(error, JournalError) else JournalError(f"the journal failed: {error!r}"))
            self._fresh.extendleft(reversed([one for one in map(self._detached, group) if one]))
            return False
        finally:
            for then in thens:
                then()
        return True

    def _detached(self, record: Record) -> Record | None:
        """Return a record that has to wait longer, with arrays of its own: they are delivered now, and may change."""
        if all(type(buffer) is bytes for buffer in record.buffers):
            return record
        try:
            detached = record._replace(buffers=[bytes(buffer) for buffer in record.buffers])
        except MemoryError:
            self._drop(record, JournalError("there is no memory for a copy of it"))
            return None
        if self._waiting.get(record.key) is record:
            self._waiting[record.key] = detached
        return detached

    def _write(self, group: list[Record]) -> None:
        newest = [*{record.key: record for record in group if self._is_new(record)}.values()]
        try:
            self._write_together(newest)
        except UnfitRecord as error:
            if len(newest) == 1:
                self._drop(newest[0], error)
                return
            for record in newest:  # one of them cannot be kept, and must not keep the others out
                self._write([record])
        self.error, self._unwritten = None, 0

    def _write_together(self, records: list[Record]) -> None:
        keys = [record.key for record in records]
        old = {key: self._failed[key] for key in self._failed.keys() & keys}
        written = [with_attempts(record, old) for record in records] if old else records
        doubted = [self._done[key] for key in self._done.keys() & keys]
        ids = self.store.write(written, [*doubted, *(call for call, _ in old.values())])
        self._doubted.difference_update(keys)
        for key in old:
            del self._failed[key]
        for record, call in zip(written, ids, strict=True):
            if record.failed:
                self._failed[record.key] = call, record.attempt
            else:
                self._done[record.key] = call
        self._let_go(records)

    def _let_go(self, records: list[Record]) -> None:
        for record in records:
            if self._waiting.get(record.key) is record:  # else the same call has ended once more
                del self._waiting[record.key]

    def _drop(self, record: Record, error: JournalError) -> None:
        self._let_go([record])
        self._lost += 1
        self.log(logging.ERROR, f"the result of {record.label!r} cannot be kept: {error}")

    def _told(self, error: JournalError) -> None:
        if self.error is None:
            self.log(logging.ERROR, f"{error}. The work goes on, and its results are kept when they can be written")
        self.error = error

    def _end(self) -> None:
        self._ended = True
        try:
            self.store.close()
        except Exception as raised:
            self.log(logging.ERROR, f"the journal {self.store.path!r} could not be closed: {raised!r}")
        missing = len(self._waiting) + self._lost
        if missing:
            error = JournalError(
                f"{missing} results of this run were delivered but are not in the journal {self.store.path!r}: "
                f"{self.error or 'there was no room for them in memory'}. They will run again the next time"
            )
            error.__cause__ = self.error
            self.error = error


def take(queue: deque[T], count: int) -> list[T]:
    """Return as many from the front of a queue, to which more may be added meanwhile."""
    return [queue.popleft() for _ in range(count)]


def of_full_groups(count: int) -> int:
    """Return how many to write now of so many that wait: where they fill groups, the rest belongs to the next.

    A full group goes in by one statement. In the middle of a group there are several, and after each the thread waits
    for the interpreter's lock.
    """
    return count - count % GROUP if count > GROUP else count


def with_attempts(record: Record, old: dict[bytes, tuple[int, int]]) -> Record:
    """Return the record with the attempts of the call that it replaces counted in."""
    before = old.get(record.key)
    return record if before is None else record._replace(attempt=record.attempt + before[1])
