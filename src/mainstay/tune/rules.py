"""How variants are measured: what a visit is, and when enough is known. Pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple, TypeGuard

EARLY = 3  # visits after which a variant may be left for being clearly slower


class Rules(NamedTuple):
    """How a variant is measured.

    repeats, warmups: samples of a visit, and runs before them that do not count.
    rounds: visits at least and at most.
    precision: half the width of the median's confidence interval, as a part of it, at which a variant is known enough.
    unstable: the same, above which one that has had all its rounds is called unstable.
    seconds: a budget of one variant on one node, warm-up included.
    slower: the factor by which all visits of a variant must be slower than the best variant's median for it to be left
        after `EARLY` of them, or later; infinite: never.
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
        for name, least in (("repeats", 1), ("warmups", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is an int >= {least}; given: {value!r}")
        rounds: object = self.rounds
        if not (_are_ints(rounds) and len(rounds) == 2 and 1 <= rounds[0] <= rounds[1]):
            raise ValueError(f"rounds are (least, most), ints with 1 <= least <= most; given: {rounds!r}")
        for name, above in (("precision", 0), ("unstable", 0), ("seconds", 0), ("slower", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > above:
                more = "; math.inf: none is left early" if name == "slower" else ""
                raise ValueError(f"{name} is a number > {above}{more}; given: {value!r}")


def rules_of(given: Mapping[str, Any]) -> Rules:
    """Return rules by their names. Raises `TypeError` for one that there is not, `ValueError` for what cannot be."""
    unknown = sorted(given.keys() - set(Rules._fields))
    if unknown:
        raise TypeError(f"there is no option {', '.join(unknown)}; rules are {', '.join(Rules._fields)}")
    rules = Rules(**given)
    rules.check()
    return rules


def _are_ints(value: object) -> TypeGuard[Sequence[int]]:
    return isinstance(value, (tuple, list)) and all(type(one) is int for one in value)
