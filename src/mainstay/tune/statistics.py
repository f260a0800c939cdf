"""What samples say: the median with its confidence interval, and whether one variant is faster than another.

*The interval of the median* is that of order statistics, which supposes nothing of the distribution: the k-th least and
the k-th greatest of n values enclose the median with the probability that a binomial (n, 1/2) lies in [k, n - k].
(W. J. Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2.)

*Faster* is decided by Wilcoxon's signed-rank test on pairs: two variants that were measured in one round, on one node,
make a pair, so that what changes from round to round, or between nodes, counts on neither side. (F. Wilcoxon,
Individual comparisons by ranking methods, Biometrics Bulletin 1, 1945.) Up to `EXACT` pairs its distribution is
counted, beyond that taken as normal, with correction for ties.

*What a visit counts for* in a pair is its least sample: what disturbs a program from outside only ever adds to its
time, so the least is disturbed the least. (J. Chen and J. Revels, Robust benchmarking in noisy environments, 2016,
arXiv:1608.04295.) Under equal variants the leasts of a pair, of as many samples each, are as likely either way round
as two medians: the test is as seldom wrong, and finds more. Where a program's own time varies, take the median.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, comb, erfc, exp, inf, log, log2, sqrt
from statistics import median
from typing import NamedTuple

EXACT = 60
FEWEST = 6  # values whose median has an interval of 95 %
TEST = "Wilcoxon signed-rank test on interleaved pairs (Wilcoxon 1945)"
BY: dict[str, Callable[[Sequence[float]], float]] = {"minimum": min, "median": median}


class Interval(NamedTuple):
    """The median of some values (s), and an interval that holds the true one; infinite where there are too few."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Half of the interval, as a part of the median."""
        return (self.high - self.low) / 2 / self.median if self.median > 0 else inf


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median (s) and its confidence interval by order statistics."""
    ordered = sorted(values)
    count = len(ordered)
    outside, rank = 0.0, 0
    while rank < count // 2 and outside + comb(count, rank) / 2**count <= (1 - confidence) / 2:
        outside += comb(count, rank) / 2**count
        rank += 1
    if rank == 0:
        return Interval(median(ordered), -inf, inf)
    return Interval(median(ordered), ordered[rank - 1], ordered[count - rank])


class Comparison(NamedTuple):
    """What came of comparing `a` with `b`: names, the ratio of their times (a / b), and what the test says.

    `p` is the probability of pairs as one-sided as these if neither were faster; `hosts` those that pairs are from,
    each pair from one; `by`: what a visit counts for, "minimum" or "median" of its samples; `verdict`: "a is faster",
    "b is faster", "not told apart", or "too few pairs" for any p to be as low as `alpha`.
    """

    a: str
    b: str
    ratio: float
    p: float
    pairs: int
    hosts: tuple[str, ...]
    alpha: float
    least: float
    by: str = "minimum"
    test: str = TEST

    @property
    def wanted(self) -> int:
        """How many pairs can tell two variants apart, if all are one-sided: 2 / 2**pairs <= alpha."""
        return ceil(log2(2 / self.alpha))

    @property
    def verdict(self) -> str:
        if self.pairs < self.wanted:
            return "too few pairs"
        if self.p > self.alpha or abs(log(self.ratio)) < log(1 + self.least):
            return "not told apart"
        return "a is faster" if self.ratio < 1 else "b is faster"

    def __str__(self) -> str:
        where = f"{self.hosts[0]}" if len(self.hosts) == 1 else f"{len(self.hosts)} hosts, each pair within one"
        times = f"{self.ratio:.4f} × its time, {self.pairs} pairs on {where}"
        what = {"a is faster": "is faster than", "b is faster": "is slower than"}.get(self.verdict, "is not told from")
        if self.pairs < self.wanted:
            times += f" ({self.verdict}: p <= {self.alpha:g} wants {self.wanted})"
        return f"[{self.a}] {what} [{self.b}]: {times}; p = {self.p:.2g} by the {self.test}, {self.by} of each visit"


def compare(
    a: str,
    b: str,
    pairs: Sequence[tuple[float, float]],
    hosts: Sequence[str],
    alpha: float,
    least: float,
    by: str = "minimum",
) -> Comparison:
    """Compare two variants by pairs of their times (s). Raises `ValueError` where there are none.

    `alpha` is the p below which they are told apart, if the times differ by the part `least` at least. `by` says what
    the times are of their visits.
    """
    if not pairs:
        raise ValueError(f"[{a}] and [{b}] were never measured in one round on one node, so they cannot be compared")
    differences = [log(one / other) for one, other in pairs]
    ratio = exp(pseudomedian(differences))
    return Comparison(a, b, ratio, signed_rank(differences), len(pairs), tuple(sorted(set(hosts))), alpha, least, by)


def pseudomedian(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs (Hodges and Lehmann 1963), which goes with the signed-rank test."""
    return median((one + other) / 2 for place, one in enumerate(values) for other in values[place:])


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; 1 where all differences are 0."""
    told = [one for one in differences if one != 0]
    if not told:
        return 1.0
    ranks = _ranks([abs(one) for one in told])
    positive = sum(rank for rank, one in zip(ranks, told, strict=True) if one > 0)
    total = sum(ranks)
    least = min(positive, total - positive)
    return min(1.0, _exact(ranks, least) if len(told) <= EXACT else _normal(ranks, least))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal ones share the mean of theirs."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values), 1):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]


def _exact(ranks: Sequence[float], least: float) -> float:
    ways = Counter({0: 1})  # of reaching a sum of doubled ranks, which are whole
    for rank in ranks:
        ways = ways + Counter({reached + round(2 * rank): count for reached, count in ways.items()})
    at_most = sum(count for reached, count in ways.items() if reached <= round(2 * least))
    return 2 * at_most / float(2 ** len(ranks))


def _normal(ranks: Sequence[float], least: float) -> float:
    spread = sqrt(sum(rank * rank for rank in ranks) / 4)
    return erfc((sum(ranks) / 2 - least - 0.5) / spread / sqrt(2))
