"""Dynamically dimensioned search, to maximise a score within bounds.

Tolson and Shoemaker 2007, doi:10.1029/2005WR004723. The search perturbs the best point that it knows, in all
dimensions at first and in ever fewer as its evaluations run out. `tell` takes scores in any order, so several
candidates may be under way at once, in batches or one by one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]


class Search:
    """A search of `evaluations` points between `lower` and `upper`.

    Args:
        lower, upper: bounds, arrays of shape (dimensions,).
        evaluations: how many candidates there will be in all.
        seed: of the random numbers; the same seed and order of scores give the same search.
        reach: the perturbation's standard deviation, as a share of each range.
    """

    def __init__(self, lower: Point, upper: Point, evaluations: int, seed: int, reach: float = 0.2) -> None:
        self._lower, self._upper, self._reach = lower, upper, reach
        self._evaluations = evaluations
        self._random = np.random.default_rng(seed)
        self.best: Point = self._random.uniform(lower, upper)
        self.best_score = -math.inf
        self.asked = 0
        self.history: list[float] = []  # the best score after each evaluation

    def ask(self) -> Point:
        """Return the next candidate: a random point until a score is known, then a neighbour of the best."""
        self.asked += 1
        if self.best_score == -math.inf:
            return self._random.uniform(self._lower, self._upper)
        share = 1 - math.log(min(self.asked, self._evaluations)) / math.log(self._evaluations)
        chosen = self._random.random(self.best.size) < share
        if not chosen.any():
            chosen[self._random.integers(self.best.size)] = True
        step = self._reach * (self._upper - self._lower) * self._random.standard_normal(self.best.size)
        return self._mirrored(np.where(chosen, self.best + step, self.best))

    def tell(self, point: Point, score: float) -> None:
        """Take note of a candidate's score."""
        if score > self.best_score:
            self.best, self.best_score = point, score
        self.history.append(self.best_score)

    def _mirrored(self, point: Point) -> Point:
        """Reflect at a bound what lies beyond it; what then lies beyond the other is set to the first."""
        from_lower, from_upper = 2 * self._lower - point, 2 * self._upper - point
        low = np.where(from_lower > self._upper, self._lower, from_lower)
        high = np.where(from_upper < self._lower, self._upper, from_upper)
        return np.where(point < self._lower, low, np.where(point > self._upper, high, point))
