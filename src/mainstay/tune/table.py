"""What came of a sweep or a search: a row for each variant on each node, with all samples."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from math import exp, inf, isfinite, log
from statistics import fmean, median
from typing import Any, NamedTuple

from mainstay.tune.building import OK
from mainstay.tune.machine import Machine
from mainstay.tune.session import SLOWER, UNSTABLE, medians_of, seconds_of
from mainstay.tune.statistics import BY, FEWEST, Comparison, Interval, compare, interval
from mainstay.tune.variants import COUNTER, METRIC, Variant
from mainstay.tune.visiting import LOST, Visit

NOISY = 0.05  # spread or drift of the calibration kernel, as a part of its median, above which a node is noisy
UNFINISHED = "unfinished"  # by a journal: the run goes on, or was killed
MEASURED = (OK, UNSTABLE, SLOWER, LOST, UNFINISHED)  # classes of rows whose samples are good
LESS = 0.005  # differences that are not told, as a part, however sure


@dataclass(eq=False)
class Row:
    """One variant on one node. Times in seconds.

    `session` tells which rows were measured in the same rounds. `status` is "ok", or the class of failure:
    "build error", "crash" (a signal), "timeout", "wrong answer", "out of memory", "error" (an exception or exit code),
    "node lost", "unstable" (it has samples, too widely spread), or "slower" (left early). `message` says more of it,
    and `command` repeats the build that failed.
    """

    variant: Variant
    host: str
    kind: str
    status: str
    session: str = ""
    visits: dict[int, Visit] = field(default_factory=dict)
    failures: tuple[Visit, ...] = ()
    message: str = ""
    command: str = ""
    is_baseline: bool = False
    machine: Machine | None = None

    @property
    def seconds(self) -> list[float]:
        """All samples, in the order in which they were taken."""
        return seconds_of([self.visits[number] for number in sorted(self.visits)])

    @property
    def medians(self) -> dict[int, float]:
        """The median (s) of each visit, by round."""
        return medians_of(self.visits)

    @property
    def interval(self) -> Interval | None:
        """The median of the rounds' medians, and its 95 % confidence interval."""
        return interval(list(self.medians.values())) if self.visits else None

    @property
    def median(self) -> float | None:
        return None if self.interval is None else self.interval.median

    def as_dict(self) -> dict[str, Any]:
        """Return the row as names and plain values."""
        of, seconds = self.interval, self.seconds
        ordered = [self.visits[number] for number in sorted(self.visits)]
        told = [visit for visit in ordered or self.failures if visit.began]
        first, last = (told[0], told[-1]) if told else (None, None)
        by = next((visit.built_by for visit in [*ordered, *self.failures]), "")
        machine = self.machine
        plain: dict[str, Any] = {
            **self.variant, "host": self.host, "kind": self.kind, "status": self.status,
            "median": self.median,
            "low": _finite(of and of.low), "high": _finite(of and of.high),
            "minimum": min(seconds, default=None), "mean": fmean(seconds) if seconds else None,
            "samples": len(seconds), "rounds": len(self.visits), "baseline": self.is_baseline,
            "cpu_seconds": median(one for visit in ordered for one in visit.cpu) if ordered else None,
            "cpu": machine.cpu if machine else "", "governor": first.governor if first else "",
            "pinned": " ".join(map(str, first.cores)) if first else "",
            "load_before": first.load[0] if first else None, "load_after": last.load[1] if last else None,
            "compiler_version": "; ".join(version for _, version in machine.tools) if machine else "",
            "built_by": by,
            "began": datetime.fromtimestamp(first.began, timezone.utc).isoformat(timespec="seconds") if first else "",
            "message": self.message, "command": self.command,
        }  # fmt: skip
        metrics = _means(METRIC, [one for visit in ordered for one in visit.metrics])
        return plain | metrics | _means(COUNTER, [one for visit in ordered for one in visit.counters])


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _means(prefix: str, counted: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of those that are numbers, by name."""
    numbers: dict[str, list[float]] = {}
    for one in counted:
        for name, value in one.items():
            if isinstance(value, (int, float)):
                numbers.setdefault(f"{prefix}{name}", []).append(value)
    return {name: median(values) for name, values in numbers.items()}


def _place(row: Row) -> tuple[Any, ...]:
    """Return what rows are sorted by: the node, then the fastest first, and those without samples last."""
    middle = row.median
    return row.kind, row.host, middle is None, middle or 0.0, str(row.variant)


def _typical(rows: list[Row]) -> Row:
    """Return that of some rows of one variant whose median is in the middle."""
    ordered = sorted((row for row in rows if row.visits), key=lambda row: row.median or inf)
    return ordered[len(ordered) // 2] if ordered else rows[0]


class Best(NamedTuple):
    """The fastest variant of a kind of node, and its median (s) on each host of it."""

    kind: str
    variant: Variant
    medians: dict[str, float]

    def __str__(self) -> str:
        where = ", ".join(f"{host} {seconds:.4g} s" for host, seconds in sorted(self.medians.items()))
        return f"[{self.variant}] ({where})"


class Table:
    """The rows of a sweep or a search; nodes are never mixed in one figure without that being said.

    `calibrations` holds the visits of the calibration kernel by host; `alpha` is the p below which variants are told
    apart.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        calibrations: dict[str, list[Visit]] | None = None,
        machines: dict[str, Machine] | None = None,
        alpha: float = 0.01,
    ) -> None:
        self.rows = sorted(rows, key=_place)
        self.calibrations, self.machines, self.alpha = calibrations or {}, machines or {}, alpha
        self._baselines = {(row.host, row.session): row for row in self.rows if row.is_baseline}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def of(self, host: str) -> list[Row]:
        """Return the rows of a host, the baseline only once where a search measured it again beside each point."""
        rows = [row for row in self.rows if row.host == host]
        bases: dict[Variant, list[Row]] = {}
        for row in rows:
            if row.is_baseline:
                bases.setdefault(row.variant, []).append(row)
        typical = [_typical(same) for same in bases.values()]
        return [row for row in rows if row in typical or not row.is_baseline]

    @property
    def began(self) -> float:
        """When the sweep or search began (s since 1970), by the client's clock; of one in several runs, the first."""
        visits = [visit for row in self.rows for visit in row.visits.values()]
        return min((visit.about.began for visit in visits if visit.about is not None), default=0.0)

    # -- who is fastest

    @property
    def kinds(self) -> list[str]:
        return sorted({row.kind for row in self.rows})

    @property
    def best_by_kind(self) -> dict[str, Best]:
        """The fastest variant of each kind of node: over its hosts, by the mean of ratios. One that failed is none."""
        found = {kind: self._best_of([row for row in self.rows if row.kind == kind]) for kind in self.kinds}
        return {kind: best for kind, best in found.items() if best is not None}

    @property
    def best(self) -> Best:
        """The fastest variant. Raises `ValueError` where there is none, or where there are several kinds of nodes."""
        by_kind = self.best_by_kind
        if len(by_kind) == 1:
            return next(iter(by_kind.values()))
        if not by_kind:
            raise ValueError("no variant was measured without failure; the rows' status and message say why")
        raise ValueError(f"there are {len(by_kind)} kinds of nodes ({', '.join(by_kind)}); see best_by_kind")

    def _best_of(self, rows: Sequence[Row]) -> Best | None:
        """Return the best of one kind; a row that goes on, or whose node was lost, says nothing of its variant."""
        scores: dict[Variant, list[float]] = {}
        rows = [row for row in rows if row.status not in (LOST, UNFINISHED)]
        paired = {(row.host, row.variant) for row in rows if not self._is_alone(row)}
        rows = [row for row in rows if not self._is_alone(row) or (row.host, row.variant) not in paired]
        for host in {row.host for row in rows}:
            for row, ratio in self._ratios([row for row in rows if row.host == host]):
                scores.setdefault(row.variant, []).append(ratio if ratio and row.status in (OK, UNSTABLE) else inf)
        means = {variant: fmean(map(log, ratios)) for variant, ratios in scores.items()}
        best = min(means, key=lambda variant: (means[variant], str(variant)), default=None)
        if best is None or means[best] == inf:
            return None
        medians: dict[str, list[float]] = {}
        for row in rows:
            if row.variant == best and row.median is not None:
                medians.setdefault(row.host, []).append(row.median)
        return Best(rows[0].kind, best, {host: median(several) for host, several in medians.items()})

    def _is_alone(self, row: Row) -> bool:
        """Whether the baseline of a row failed: a search measures its variant again, beside another."""
        base = self._baselines.get((row.host, row.session))
        return base is not None and base is not row and not base.visits

    def _ratios(self, rows: Sequence[Row]) -> list[tuple[Row, float | None]]:
        """Return the rows of a host with their ratios: to the baseline where all have the same, else to the fastest."""
        measured = [row for row in rows if row.visits]
        bases = [self._baselines.get((row.host, row.session)) for row in measured]
        known = {base.variant if base is not None and base.visits else None for base in bases}
        if len(known) == 1 and None not in known:
            return [(row, self.ratio(row)) for row in rows]
        least = min((row.median for row in measured if row.median), default=1.0)
        return [(row, row.median and row.median / least) for row in rows]

    def compare(
        self, a: Variant, b: Variant, host: str | None = None, *, by: str = "minimum", least: float = LESS
    ) -> Comparison:
        """Return whether one variant is faster than the other, by a test that is named.

        Pairs are of one round of one host each. `host` restricts it to one; None: pairs of all hosts are taken
        together, and the comparison says how many these are. `by` says what a visit counts for: the "minimum" of its
        samples, or their "median", for a program whose own time varies. A difference below the part `least` is not
        told, however sure.

        Raises `ValueError` where they were never measured in one round.
        """
        if by not in BY:
            raise ValueError(f"by is what a visit counts for, one of {', '.join(BY)}; given: {by!r}")
        of = BY[by]
        pairs, hosts = [], []
        for one in self._rows_of(a, host):
            for other in self._rows_of(b, host):
                if (one.host, one.session) == (other.host, other.session):
                    mine, its = one.visits, other.visits
                    rounds = sorted(mine.keys() & its.keys())
                    pairs += [(of(mine[number].seconds), of(its[number].seconds)) for number in rounds]
                    hosts += [one.host] * len(rounds)
        return compare(str(a), str(b), pairs, hosts, self.alpha, least, by)

    def _rows_of(self, variant: Variant, host: str | None) -> list[Row]:
        return [row for row in self.rows if row.variant == variant and host in (None, row.host)]

    def ratio(self, row: Row) -> float | None:
        """Return a row's time by the baseline's, in rounds of the same host; None where there is no such."""
        base = self._baselines.get((row.host, row.session))
        if base is None:
            return None
        mine, its = row.medians, base.medians
        logs = [log(mine[number] / its[number]) for number in mine.keys() & its.keys()]
        return exp(median(logs)) if logs else None

    # -- how far they can be trusted

    def noise(self, host: str) -> float | None:
        """Return how far the calibration kernel spread on a host, as a part of its median; None: too few visits."""
        medians = [median(visit.seconds) for visit in self.calibrations.get(host, ()) if visit.seconds]
        if len(medians) < FEWEST:
            return None
        middle, half = median(medians), len(medians) // 2
        drift = abs(median(medians[:half]) - median(medians[half:])) / middle
        return max(drift, median(abs(one - middle) for one in medians) / middle)

    @property
    def noisy(self) -> dict[str, float]:
        """The hosts whose calibration spread or drifted by more than `NOISY`, and by how much."""
        told = {host: self.noise(host) for host in sorted(self.calibrations)}
        return {host: noise for host, noise in told.items() if noise is not None and noise > NOISY}

    # -- for others

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as names and plain values, with their ratio to the baseline."""
        noisy = self.noisy
        return [row.as_dict() | {"ratio": self.ratio(row), "noisy": row.host in noisy} for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each variant and host. Wants pandas."""
        import pandas  # type: ignore[import-untyped,unused-ignore]

        return pandas.DataFrame(self.as_dicts())

    def samples(self) -> list[dict[str, Any]]:
        """Return a plain dict for each sample: variant, host, status of its row, session, round, seconds, metrics.

        Rounds of one session on one host were measured together; a search has a session for each point.
        """
        return [
            {
                **row.variant, "host": row.host, "status": row.status, "session": row.session, "round": number,
                "seconds": seconds, **_at(visit.metrics, place),
            }
            for row in self.rows
            for number, visit in sorted(row.visits.items())
            for place, seconds in enumerate(visit.seconds)
        ]  # fmt: skip

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each variant and host."""
        rows = self.as_dicts()
        names = dict.fromkeys(name for row in rows for name in row)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(rows)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the samples of each variant, and the best so far over time, into a PNG, PDF or SVG. Wants matplotlib."""
        from mainstay.tune.picture import draw

        draw(self, path)


def _at(metrics: Sequence[dict[str, Any]], place: int) -> dict[str, Any]:
    return {f"{METRIC}{name}": value for name, value in metrics[place].items()} if place < len(metrics) else {}
