"""A journal in memory: for tests, and for programs that want no call twice but nothing kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mainstay.journal.record import Call, Choice, Kept, Record


class Store:
    """Has what `sqlite.Store` has, without a file; `path` is only a name."""

    left_by = None

    def __init__(self, path: str = "memory:") -> None:
        self.path = path
        self._records: dict[int, Record] = {}
        self._last = 0

    def index(self) -> Iterator[tuple[bytes, int, bool, int]]:
        """Yield `(key, id, failed, attempts)` of every call."""
        for call, record in list(self._records.items()):
            yield record.key, call, record.failed, record.attempt

    def calls(self, choice: Choice | None = None) -> Iterator[Call]:
        """Yield the calls chosen, in the order in which they finished."""
        choice = choice or Choice()
        yield from (row for row in map(self._row, list(self._records)) if choice.takes(row))

    def _row(self, call: int) -> Call:
        key, failed, (name, version), label, host, worker, started, seconds, attempts, _, _ = self._records[call]
        state, size = "failed" if failed else "done", self._records[call].size
        return Call(call, key.hex(), state, name, version, label, host, worker, started, seconds, attempts, size, 1)

    def load(self, call: int) -> Kept:
        """Return the payload of a call. Raises `KeyError` for one that is not there."""
        record = self._records[call]
        return Kept(record.failed, record.body, [bytearray(b) for b in record.buffers], record.host, record.worker)

    def write(self, records: Sequence[Record], replaced: Iterable[int] = ()) -> list[int]:
        """Add calls, and remove those that they replace; return the new calls' ids."""
        self.remove(list(replaced))
        ids = list(range(self._last + 1, self._last + 1 + len(records)))
        self._records.update(zip(ids, map(owned, records), strict=True))
        self._last += len(records)
        return ids

    def remove(self, calls: Sequence[int]) -> None:
        """Remove calls with their results."""
        for call in calls:
            self._records.pop(call, None)

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def owned(record: Record) -> Record:
    """Return a record with bytes of its own: those given are the caller's arrays, who may change them."""
    return record._replace(body=bytes(record.body), buffers=[bytes(buffer) for buffer in record.buffers])
