"""How variants are measured: what a visit is, and when enough is known. Pure data."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

EARLY = 3  # visits after which a variant may be left for being clearly slower


class Rules(NamedTuple):
    """How a variant is measured.

    repeats, warmups: samples of a visit, and runs before them that do not count.
    rounds: visits at least and at most.
    precision: half the width of the median's confidence interval, as a part of it, at which a variant is known enough.
    unstable: the same, above which one that has had all its rounds is called unstable.
    seconds: a budget of one variant on one node, warm-up included.
    slower: the factor by which each of a variant's visits must be slower than the best variant's median for it to be
        left after `EARLY` visits; infinite: never.
    """

    repeats: int = 3
    warmups: int = 1
    rounds: tuple[int, int] = (8, 30)
    precision: float = 0.01
    unstable: float = 0.1
    seconds: float = inf
    slower: float = 1.5

    def check(self) -> None:
        """Raise `ValueError` for what cannot be."""
        least, most = self.rounds
        if self.repeats < 1 or self.warmups < 0:
            raise ValueError(f"repeats >= 1 and warmups >= 0; given: {self.repeats} and {self.warmups}")
        if not 1 <= least <= most:
            raise ValueError(f"rounds are (least, most) with 1 <= least <= most; given: {self.rounds}")
        if not (self.precision > 0 and self.unstable > 0 and self.seconds > 0 and self.slower > 1):
            raise ValueError("precision, unstable and seconds must be > 0, and slower > 1 (inf: none is left early)")
