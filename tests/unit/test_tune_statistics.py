"""The statistics against what is known of them: worked values, and how often they are right on drawn samples."""

from __future__ import annotations

import random
from math import inf

import pytest

from mainstay.tune.statistics import Comparison, compare, interval, pseudomedian, signed_rank
from mainstay.tune.table import Row, Table
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import Visit


def drawn(seed: int, count: int, ratio: float, spread: float = 0.02) -> list[tuple[float, float]]:
    """Pairs with a drift that both share, and a spread of each."""
    chance = random.Random(seed)
    drift = [1 + chance.uniform(0, 0.3) for _ in range(count)]
    return [(ratio * d * (1 + chance.gauss(0, spread)), d * (1 + chance.gauss(0, spread))) for d in drift]


def test_the_interval_is_that_of_order_statistics():
    assert interval([5.0, 1.0, 3.0]) == (3.0, -inf, inf)  # too few
    assert interval([6, 1, 5, 2, 4, 3.0]) == (3.5, 1, 6)  # 1 - 2 / 64 = 97 %
    values = list(range(1, 26))
    assert interval(values) == (13, 8, 18)  # the table for n = 25
    assert interval([2.0] * 9).width == 0


def test_the_interval_holds_the_median_as_often_as_it_says():
    chance = random.Random(1)
    held = 0
    for _ in range(2000):
        of = interval([chance.expovariate(1) for _ in range(15)])
        held += of.low <= 0.6931471805599453 <= of.high
    assert held >= 0.95 * 2000


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([1, -2, 3, 4, 5, 6], 6 / 64),
        ([0, 0, 0], 1.0),
        ([1, -1], 1.0),
        ([2, 2, 2, 2, 2], 2 / 32),
    ],
)
def test_the_signed_rank_test_counts_small_samples(differences, p):
    assert signed_rank(differences) == pytest.approx(p)


def test_the_normal_approximation_joins_the_counted_distribution():
    differences = [chance - 0.35 for chance in (random.Random(3).random() for _ in range(61))]
    assert signed_rank(differences) == pytest.approx(signed_rank(differences[:60]), rel=0.35)


def test_what_is_equal_is_seldom_told_apart_and_what_differs_is_found():
    names = ("a", "b")
    equal = [compare(*names, drawn(seed, 10, 1.0), ["h"], 0.01, 0.005).verdict for seed in range(400)]
    assert equal.count("not told apart") >= 0.98 * 400
    apart = [compare(*names, drawn(seed, 20, 0.97), ["h"], 0.01, 0.005).verdict for seed in range(400)]
    assert apart.count("a is faster") >= 0.95 * 400
    assert apart.count("b is faster") == 0


def disturbed(seed: int, ratio: float) -> Table:
    """Two variants, 20 rounds of 9 samples (ms), on a machine where others take the core in most visits."""
    chance = random.Random(seed)

    def row(x: int, seconds: float) -> Row:
        def sample() -> float:
            return seconds * (1 + abs(chance.gauss(0, 0.01))) + (4 if chance.random() < busy else 0)

        visits = {}
        for number in range(20):
            busy = chance.choice((0.1, 0.6))  # for as long as a visit
            visits[number] = Visit("ok", seconds=tuple(sample() for _ in range(9)))
        return Row(Variant(x=x), "h", "kind", "ok", visits=visits)

    return Table([row(1, 1.0), row(2, ratio)])


def test_what_others_add_to_a_time_hides_no_difference_and_makes_none():
    def told(ratio: float, by: str) -> list[str]:
        return [disturbed(seed, ratio).compare(Variant(x=1), Variant(x=2), by=by).verdict for seed in range(100)]

    assert told(1.03, "minimum").count("a is faster") >= 95
    assert told(1.03, "median").count("a is faster") < 50
    assert told(1.0, "minimum").count("not told apart") >= 95
    with pytest.raises(ValueError, match="one of minimum, median; given: 'mean'"):
        told(1.0, "mean")


def test_a_comparison_names_its_test_and_where_its_pairs_are_from():
    of = compare("x=1", "x=2", drawn(0, 20, 1.2), ["n2", "n1"], 0.01, 0.005)
    assert "Wilcoxon 1945" in str(of)
    assert "2 hosts, each pair within one" in str(of)
    assert "[x=1] is slower than [x=2]" in str(of)
    assert of.hosts == ("n1", "n2")
    assert compare("a", "b", [(1.001, 1.0)] * 40, ["h"], 0.01, 0.005).verdict == "not told apart"  # too little to tell
    with pytest.raises(ValueError, match="never measured in one round on one node"):
        compare("a", "b", [], [], 0.01, 0.005)


@pytest.mark.parametrize(("alpha", "wanted"), [(0.01, 8), (0.05, 6), (2 / 2**7, 7), (0.9, 2)])
def test_a_comparison_of_too_few_pairs_says_how_many_it_wants(alpha, wanted):
    def of(count: int) -> Comparison:
        return compare("a", "b", [(1.0, 1.1 + number / 100) for number in range(count)], ["h"], alpha, 0.005)

    assert [of(wanted - 1).verdict, of(wanted).verdict] == ["too few pairs", "a is faster"]
    pairs = f"{wanted - 1} pairs on h (too few pairs: p <= {alpha:g} wants {wanted}); p = "
    assert "[a] is not told from [b]: " in str(of(wanted - 1))
    assert pairs in str(of(wanted - 1))
    assert "too few" not in str(of(wanted))


def calibrated(*milliseconds: float) -> list[Visit]:
    """Visits of the calibration kernel, of which one sample in three was disturbed."""
    return [Visit("ok", seconds=(one / 1e3, one / 1e3, 1.0)) for one in milliseconds]


def test_a_host_is_noisy_whose_calibration_spread_or_drifted():
    table = Table(
        [],
        {
            "steady": calibrated(10, 10.1, 9.9, 10, 10.1, 9.9, 30),  # once is not often
            "spread": calibrated(10, 12, 8, 12, 10, 8),
            "drifting": calibrated(10, 10, 10, 10, 11, 11, 11, 11),
            "few": calibrated(10, 20, 10, 20, 10),
            "failed": [*calibrated(10, 20, 10, 20, 10), Visit("node lost")],
        },
    )
    assert table.noise("steady") == pytest.approx(0.01)
    assert table.noise("few") is table.noise("failed") is table.noise("unknown") is None
    assert table.noisy == pytest.approx({"drifting": 1 / 10.5, "spread": 0.2})
    assert Table([], {"h": calibrated(10, 10, 10, 10, 10, 10)}).noisy == {}


def test_the_pseudomedian_is_the_median_of_the_pairs_means():
    assert pseudomedian([1, 2, 6]) == 2.75


def test_the_best_of_a_host_is_by_one_measure_for_all_its_rows():
    def row(x: int, session: str, seconds: float | None, base: int) -> Row:
        visits = {} if seconds is None else {0: Visit("ok", seconds=(seconds,))}
        status = "error" if seconds is None else "ok"
        return Row(Variant(x=x), "h", "kind", status, session, visits, is_baseline=x == base)

    failed = [row(0, "a", None, 0), row(1, "a", 2.0, 0)]  # the baseline failed: 1 has no ratio
    others = [row(2, "b", 9.0, 2), row(3, "b", 8.0, 2)]  # 3 has one, and is slower all the same
    assert Table([*failed, *others]).best.variant == Variant(x=1)
    two = [row(4, "a", 2.0, 4), row(5, "a", 1.9, 4), *others]  # two baselines
    assert Table(two).best.variant == Variant(x=5)
    again = [row(1, "c", 9.5, 1), *failed]  # 1 was measured once more, as its own baseline
    assert Table([*again, row(6, "c", 9.0, 1)]).best.variant == Variant(x=6)
    several = [row(7, session, seconds, 7) for session, seconds in (("a", 3.0), ("b", 1.0), ("c", 2.0))]
    table = Table([*several, row(8, "a", 4.0, 7)])
    assert table.best.medians == {"h": 2.0}
    assert [one.median for one in table.of("h")] == [2.0, 4.0]
    elsewhere = [Row(Variant(x=x), "h2", "kind", status) for x, status in ((4, "unfinished"), (5, "node lost"))]
    assert Table([*two, *elsewhere]).best.variant == Variant(x=5)  # which say nothing yet
    unbuilt = Row(Variant(x=9), "h", "kind", "build error")  # of a journal's: it is in no session
    drifted = [row(1, "a", 1.0, 1), row(2, "a", 0.5, 1), row(1, "b", 0.3, 1), row(3, "b", 0.25, 1)]
    assert Table([*drifted, unbuilt]).best.variant == Variant(x=2)  # though 3 took the least time
