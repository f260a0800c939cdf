"""`map` in a pool with a journal: what is there is taken from it, and only what is missing runs.

    items ─▶ keys ─┬─ known ────▶ journal ──┐
                   └─ missing ──▶ chunks ───┴─▶ results, in order

Each item is a call of its own in the journal, however the chunks fall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from mainstay.errors import TaskTimeout, WorkerDied
from mainstay.keeping import Damaged, Entry, Keeper, is_unlike, restored, unwrap
from mainstay.mapping import ChunkResult, Chunks, Item, Pace, Slot, run_kept
from mainstay.node.worker import describe_error
from mainstay.options import Options
from mainstay.wire.functions import Function


class KeptChunks(Chunks):
    """Chunks whose items go into the journal as they come back.

    `entries` are what the journal calls the items; `submit_alone` runs one item as a call of its own.
    """

    run = staticmethod(run_kept)

    def __init__(
        self, keeper: Keeper, entries: list[Entry], submit_alone: Callable[[Item], Future[Any]], *given: Any
    ) -> None:
        self._keeper, self._entries, self._submit_alone = keeper, entries, submit_alone
        super().__init__(*given)

    def received(self, slot: Slot, chunk: ChunkResult) -> None:
        """Keep each item's result, and the exception that ended the chunk."""
        if is_unlike(slot.future):
            return
        started = time.time() - chunk.seconds
        number = slot.start
        for body, buffers, seconds in chunk.results:
            self._keeper.keep_item(self._entries[number], False, body, buffers, chunk.worker, started, seconds)
            started += seconds
            number += 1
        if chunk.error is not None:
            self._keeper.keep_item(self._entries[number], True, chunk.error, (), chunk.worker, started, 0.0)

    def failed(self, slot: Slot, error: BaseException) -> None:
        """Keep that an item ended its worker, or overran; of a chunk of several, each item is run and kept alone."""
        if len(slot.items) == 1 and isinstance(error, (TaskTimeout, WorkerDied)) and not is_unlike(slot.future):
            worker = f"{getattr(error, 'host', '')}/0"
            self._keeper.keep_item(self._entries[slot.start], True, describe_error(error), (), worker, time.time(), 0.0)

    def value(self, number: int, result: Any) -> Any:
        """Unpickle a result; arrays that still wait for the disk are copied, since the caller may change them."""
        body, buffers, _ = result
        if buffers and self._keeper.journal.waits(self._entries[number].key):
            buffers = [bytearray(buffer) for buffer in buffers]
        return restored(body, buffers)

    def alone(self, number: int, item: Item) -> Future[Any]:
        """Run one item of a chunk that lost its worker."""
        return self._submit_alone(item)


class Mapped:
    """One `map` in a pool with a journal: `fn` over `rows`, each an item's arguments."""

    def __init__(self, fn: Callable[..., Any], function: Function, options: Options, rows: list[Item]) -> None:
        self._fn, self._function, self._options, self._rows = fn, function, options, rows

    def results(
        self,
        keeper: Keeper,
        submit: Callable[..., Future[Any]],
        deadline: float | None,
        workers: int,
        size: int | None,
        pace: Pace,
    ) -> Iterator[Any]:
        """Start what is missing, and return the results of all; see `Chunks` for the last three."""
        entries, witness = keeper.entries_of(self._fn, self._function, self._options, self._rows)
        has, failed_too = keeper.journal.has, not self._options.retry_failed
        have = [has(entry.key, failed_too=failed_too) for entry in entries]
        missing = [number for number, is_known in enumerate(have) if not is_known]

        def alone(row: Item) -> Future[Any]:
            return submit(self._options, self._fn, *row)

        unkept = partial(submit, replace(self._options, journal=False, key=None), witness=witness)
        rows, of_rows = [self._rows[number] for number in missing], [entries[number] for number in missing]
        chunks = KeptChunks(keeper, of_rows, alone, unkept, self._fn, rows, workers, size, pace)
        return self._merged(keeper, entries, have, chunks.results(deadline), alone)

    def _merged(
        self, keeper: Keeper, entries: list[Entry], have: list[bool], new: Iterator[Any], alone: Callable[[Item], Any]
    ) -> Iterator[Any]:
        """Yield the results of all items in order: from the journal, or as they come."""
        try:
            for row, entry, is_known in zip(self._rows, entries, have, strict=True):
                if not is_known:
                    yield next(new)
                    continue
                try:
                    result = unwrap(keeper.journal.load(entry.key))
                except Damaged:
                    keeper.journal.doubt(entry.key)
                    result = alone(row).result()
                yield result
        finally:
            new.close()  # type: ignore[attr-defined]
