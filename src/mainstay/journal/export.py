"""A journal for other programs: CSV, JSON, JSON lines and Parquet; a row for each call."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

from mainstay.errors import JournalError
from mainstay.journal.record import Call, Choice
from mainstay.journal.sqlite import Store
from mainstay.journal.telling import plain
from mainstay.journal.upkeep import Path, groups, replacing

GROUP = 10_000  # rows that Parquet gets in one go

Row = dict[str, Any]
Write = Callable[[str, Iterator[Row]], None]


def export(path: Path, to: Path, choice: Choice | None = None, *, results: bool = False) -> int:
    """Write the calls chosen to a file, in the format that its suffix tells; return how many.

    The columns are the fields of `Call`; `started` is ISO 8601 in UTC, and `started_s` seconds since 1970. With
    `results`, each result is loaded, and written as JSON or, where JSON cannot have it, as its `repr`.
    """
    to = os.fsdecode(to)
    write = writer_for(to)
    store = Store(path, write=False)
    count = 0

    def rows() -> Iterator[Row]:
        nonlocal count
        for call in store.calls(choice):
            count += 1
            yield row_of(call) if not results else {**row_of(call), "result": _result(store, call)}

    try:
        if os.path.exists(to) and os.path.samefile(path, to):
            raise JournalError(f"{to!r} is the journal itself; give the path of another file")
        with replacing(to) as temporary:
            write(temporary, rows())
    except OSError as error:
        raise JournalError(f"{to!r} cannot be written: {error.strerror or error}") from error
    finally:
        store.close()
    return count


def row_of(call: Call) -> Row:
    """Return a call as other programs want it."""
    row = call._asdict()
    at = list(row).index("started")
    items = list(row.items())
    iso = datetime.fromtimestamp(call.started, timezone.utc).isoformat(timespec="milliseconds")
    return dict([*items[:at], ("started", iso), ("started_s", call.started), *items[at + 1 :]])


def _result(store: Store, call: Call) -> Any:
    try:
        return plain(store.load(call.id))
    except KeyError:
        return "(was removed meanwhile)"


def writer_for(to: str) -> Write:
    """Return what writes the format of a file. Raises `JournalError` for a suffix that says none."""
    suffix = os.path.splitext(to)[1].lower()
    if suffix not in FORMATS:
        raise JournalError(f"the suffix of {to!r} tells no format; let it be one of {', '.join(FORMATS)}")
    if suffix == ".parquet":
        _arrow()
    return FORMATS[suffix]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write_csv(to: str, rows: Iterator[Row]) -> None:
    with open(to, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head: list[str] | None = None
        for row in rows:
            if head is None:
                writer.writerow(head := list(row))
            if "result" in row:
                row["result"] = _text(row["result"])
            writer.writerow(row.values())
        if head is None:
            writer.writerow(row_of(NO_CALL))


def _write_json(to: str, rows: Iterator[Row]) -> None:
    with open(to, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write(f"{',' if number else ''}\n{json.dumps(row)}")
        file.write("\n]\n")


def _write_lines(to: str, rows: Iterator[Row]) -> None:
    with open(to, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(f"{json.dumps(row)}\n")


def _write_parquet(to: str, rows: Iterator[Row]) -> None:
    arrow, parquet = _arrow()
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    fields = {name: types[type(value)] for name, value in row_of(NO_CALL).items()}
    fields["started"] = arrow.timestamp("us", tz="UTC")
    writer = None
    try:
        for group in groups(rows, GROUP):
            if writer is None:
                extra = {"result": arrow.string()} if "result" in group[0] else {}
                schema = arrow.schema({**fields, **extra})
                writer = parquet.ParquetWriter(to, schema)
            writer.write_table(arrow.Table.from_pylist([_for_arrow(row) for row in group], schema=schema))
        if writer is None:
            writer = parquet.ParquetWriter(to, arrow.schema(fields))
    finally:
        if writer is not None:
            writer.close()


def _for_arrow(row: Row) -> Row:
    row["started"] = datetime.fromtimestamp(row["started_s"], timezone.utc)
    if "result" in row:
        row["result"] = _text(row["result"])
    return row


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise JournalError(
            "Parquet is written by pyarrow, which is not there: pip install 'mainstay[parquet]', "
            "or export to .csv, .json or .jsonl"
        ) from error
    return pyarrow, pyarrow.parquet


NO_CALL = Call(0, "", "", "", "", "", "", 0, 0.0, 0.0, 0, 0, 0)  # for the names and types of the columns
FORMATS: dict[str, Write] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
