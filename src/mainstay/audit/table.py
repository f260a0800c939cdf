"""A report, or several beside each other, as text of 100 columns."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence

from mainstay.audit.events import Process
from mainstay.audit.report import Report, Share
from mainstay.doctor.check import amount

WIDTH = 100
MOST = 12  # lines of a list
UNUSED = (
    "Imported and not used: after the imports no function of it was called, and none that ran names it, nor does the "
    "script. With the operations that leaving it out may save:"
)


def lines(report: Report) -> Iterator[str]:
    """Yield the lines that tell of one report."""
    ended = "" if report.code == 0 else f"; it ended with exit code {report.code}"
    yield from _wrapped(f"{report.command}: {report.seconds:.1f} s{ended}")
    yield from _wrapped(f"Counted by {report.how}.")
    yield from _wrapped(f"Shared: {report.shared}.")
    yield ""
    yield _row(
        "Metadata operations",
        report.sums.total,
        f"peak {report.sums.peak:,} in a second; {report.elsewhere:,} elsewhere",
    )
    yield from (_row(f"  {phase}", count) for phase, count in report.sums.phases.items() if count)
    yield from _batches(report.sums.batches)
    yield from _listed("By kind", report.sums.kinds.most_common())
    yield from _listed("By package", report.sums.packages.most_common())
    yield from _listed("By process", [(_told(shares), sum(operations(shares))) for shares in alike(report.sums.shares)])
    yield from _unused(report)
    yield from _leaks(report)
    for name, counts in report.counters.items():
        yield from _listed(f"{name} says of this host", counts.most_common())


def _row(name: str, count: int, remark: str = "") -> str:
    return f"{name:44} {count:12,}   {remark}".rstrip()


def _wrapped(text: str, indent: str = "", following: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + following)


def _listed(title: str, rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    if rows:
        yield from ("", title)
        yield from (_row(f"  {_short(name)}", count) for name, count in rows[:MOST])
    if len(rows) > MOST:
        yield _row(f"  {amount(len(rows) - MOST, 'other')}", sum(count for _, count in rows[MOST:]))


def _short(name: str, width: int = 56) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _batches(batches: Sequence[int]) -> Iterator[str]:
    if batches:
        rest = batches[1:]
        then = f"; then {statistics.median(rest):,.0f} (median), at most {max(rest):,}" if rest else ""
        yield _row(f"Batches: {len(batches)}", sum(batches), f"the first {batches[0]:,}{then}")


def alike(shares: Sequence[Share]) -> list[list[Share]]:
    """Return processes of the same role and command together, the dearest kind first."""
    found: dict[tuple[str, str], list[Share]] = {}
    for share in shares:
        found.setdefault((share.process.role, share.process.command), []).append(share)
    return sorted(found.values(), key=lambda shares: -sum(operations(shares)))


def operations(shares: Sequence[Share]) -> list[int]:
    return [share.operations for share in shares]


def _told(shares: Sequence[Share]) -> str:
    process, counts = shares[0].process, operations(shares)
    each = f" × {len(shares)}, {min(counts):,} to {max(counts):,} each" if len(shares) > 1 else f" {process.pid}"
    return f"{process.role}{each}{_command(process)}"


def _command(process: Process) -> str:
    return "" if process.role in ("agent", "worker") else f": {process.command}"


def _unused(report: Report) -> Iterator[str]:
    yield ""
    if not report.use_is_known:
        yield "Which modules were used is not known: it was not looked at"
        return
    yield from _wrapped(UNUSED if report.unused else "All packages that were imported were used.")
    for one in report.unused[:MOST]:
        yield _row(f"  {one.name}", one.operations, f"for {one.importer}" if one.importer else "")


def _leaks(report: Report) -> Iterator[str]:
    yield ""
    yield "Ways back to shared storage, with the operations that took them (one may lie in another)"
    if not report.leaks:
        yield "  none"
    for leak in report.leaks:
        yield _row(f"  {leak.name}", leak.operations)
        yield from _wrapped(leak.cause, "      ")
        yield from _wrapped(f"-> {leak.cure}", "      ", "   ")


def compared(reports: Sequence[Report]) -> Iterator[str]:
    """Yield a table of several reports, a column each."""
    for number, report in enumerate(reports, 1):
        ended = "" if report.code == 0 else f" (exit code {report.code})"
        yield from _wrapped(f"{number}  {report.command}{ended}")
    yield from _wrapped(f"Counted by {reports[0].how}.")
    yield from _wrapped(f"Shared: {reports[0].shared}.")
    yield ""
    yield _columns("", [str(number) for number in range(1, len(reports) + 1)])
    yield _counts("Metadata operations", [report.sums.total for report in reports])
    for phase in reports[0].sums.phases:
        yield _counts(f"  {phase}", [report.sums.phases[phase] for report in reports])
    yield _counts("Peak in a second", [report.sums.peak for report in reports])
    yield _counts("Most in a batch after the first", [max(report.sums.batches[1:], default=0) for report in reports])
    yield _counts("Processes", [len(report.sums.shares) for report in reports])
    yield _columns("Seconds", [f"{report.seconds:.1f}" for report in reports])


def _counts(name: str, counts: Sequence[int]) -> str:
    return _columns(name, [f"{count:,}" for count in counts])


def _columns(name: str, cells: Sequence[str]) -> str:
    return f"{name:34}" + "".join(f"{cell:>14}" for cell in cells)
