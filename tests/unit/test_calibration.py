"""The example's search and scores."""

from __future__ import annotations

import numpy as np
import pytest

dds = pytest.importorskip("dds")
LOWER, UPPER = np.array([-3.0, 0.0, 10.0]), np.array([3.0, 1.0, 20.0])


def bowl(point):
    return -float(np.sum(((point - [1.0, 0.25, 12.0]) / (UPPER - LOWER)) ** 2))


def searched(evaluations, seed):
    search = dds.Search(LOWER, UPPER, evaluations, seed)
    for _ in range(evaluations):
        point = search.ask()
        assert ((point >= LOWER) & (point <= UPPER)).all()
        search.tell(point, bowl(point))
    return search


def test_it_finds_the_top_and_remembers_the_way():
    search = searched(500, seed=1)
    assert search.best_score > -1e-3
    assert search.history == sorted(search.history)
    assert len(search.history) == 500


def test_the_same_seed_gives_the_same_search():
    assert searched(50, seed=3).history == searched(50, seed=3).history


def test_perfect_and_mean_simulations_score_as_they_should():
    pytest.importorskip("spotpy")
    from hymod import kge, nse

    observed = np.array([1.0, 4.0, 2.0, 8.0])
    assert nse(observed, observed) == 1
    assert kge(observed, observed) == pytest.approx(1)
    assert nse(np.full(4, observed.mean()), observed) == pytest.approx(0)


def test_the_model_keeps_the_water_balance():
    pytest.importorskip("spotpy")
    from hymod import LITRES_PER_SECOND, catchment, simulate

    flow = simulate(np.array([200.0, 0.2, 0.5, 0.05, 0.5])) / LITRES_PER_SECOND
    assert flow.min() >= 0
    assert 0 < flow.sum() < sum(catchment().rain)
