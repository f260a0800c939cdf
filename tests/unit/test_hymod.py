"""The example's search at its bounds, its scores on known series, and its model against limits known by hand."""

from __future__ import annotations

import numpy as np
import pytest

dds = pytest.importorskip("dds")
hymod = pytest.importorskip("hymod")
LOWER, UPPER = np.zeros(3), np.array([1.0, 1.0, 4.0])
OBSERVED = np.array([1.0, 2.0, 3.0, 4.0])


def test_a_point_beyond_a_bound_is_mirrored_at_it():
    search = dds.Search(LOWER, UPPER, 10, seed=1)
    assert search._mirrored(np.array([-0.25, 1.25, 2.0])).tolist() == [0.25, 0.75, 2.0]


def test_candidates_keep_within_bounds_however_far_the_search_reaches():
    search = dds.Search(LOWER, UPPER, 300, seed=2, reach=5.0)
    for _ in range(300):
        point = search.ask()
        assert ((point >= LOWER) & (point <= UPPER)).all()
        search.tell(point, -float(point.sum()))


def test_a_late_candidate_differs_in_one_dimension():
    search = dds.Search(LOWER, UPPER, 100, seed=3)
    search.tell(np.array([0.5, 0.5, 2.0]), 1.0)
    search.asked = 99
    assert np.count_nonzero(search.ask() != search.best) == 1


def test_nse_of_known_series():
    assert hymod.nse(OBSERVED + 1, OBSERVED) == pytest.approx(1 - 4 / 5)  # squares: 4 of errors, 5 about the mean


def test_kge_of_known_series():
    assert hymod.kge(2 * OBSERVED, OBSERVED) == pytest.approx(1 - np.sqrt(2))  # variability and bias 2
    assert hymod.kge(5 - OBSERVED, OBSERVED) == pytest.approx(-1)  # correlation -1, the rest perfect


def test_a_full_soil_sheds_all_rain_and_a_dry_one_none():
    assert hymod.soil_moisture(100.0, 7.0, 0.0, 200.0, 1.0) == pytest.approx((100.0, 7.0))
    assert hymod.soil_moisture(0.0, 0.0, 5.0, 200.0, 1.0) == (0.0, 0.0)


def test_what_rains_is_stored_or_shed():
    soil, shed = hymod.soil_moisture(40.0, 12.0, 0.0, 200.0, 0.5)
    assert soil + shed == pytest.approx(52.0)


def test_what_lies_beyond_both_bounds_once_mirrored_is_set_to_the_first():
    search = dds.Search(LOWER, UPPER, 10, seed=1)
    assert search._mirrored(np.array([-1.5, 2.5, 2.0])).tolist() == [0.0, 1.0, 2.0]
