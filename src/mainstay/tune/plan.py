"""What the journal keeps of a trial besides its builds and visits, so that a report can be made from it alone.

Plan, as a trial begins ─▶ builds ─▶ Unbuilt, for each variant whose build failed ─▶ visits
"""

from __future__ import annotations

from typing import NamedTuple

from mainstay.tune.building import Built
from mainstay.tune.machine import Machine
from mainstay.tune.rules import Rules
from mainstay.tune.variants import Variant


class Place(NamedTuple):
    """Where visits belong together: in one trial of a tuner."""

    tuner: str
    session: str
    host: str


class Plan(NamedTuple):
    """A trial as it begins: what is to be measured, on which node and how.

    `table` names the sweep or search that it is part of. `baseline` and `bar`: see `Session`. `alpha` is the p below
    which variants are told apart. `began` is when this run of the sweep or search did (s since 1970).
    """

    tuner: str
    table: str
    session: str
    machine: Machine
    kind: str
    variants: tuple[Variant, ...]
    baseline: Variant | None
    bar: float
    rules: Rules
    alpha: float
    began: float

    @property
    def place(self) -> Place:
        return Place(self.tuner, self.session, self.machine.host)


class Unbuilt(NamedTuple):
    """A build that failed, so that its variant has no visits in a trial; `built` has no files. `began`: see `Plan`."""

    place: Place
    variant: Variant
    built: Built
    began: float
