"""A session: the variants that are measured in turn on one node, round by round, until enough is known of each. Pure.

    begin ─▶ visits ─▶ visited, all of a round ─▶ decide ─▶ the next round's visits, in another order ─▶ … ─▶ over

Each round visits each variant that goes on, once, in an order of its own, so that a drift of the machine favours none;
the calibration kernel is visited too. Who goes on is decided between rounds, from samples alone: so a session that is
begun again with the same samples takes the same way, and meets in the journal all that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random
from statistics import median

from mainstay.tune.building import NO_MEMORY, OK
from mainstay.tune.rules import EARLY, Rules
from mainstay.tune.statistics import Interval, interval
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import CRASH, Visit

CALIBRATION = Variant(calibration="kernel")
RETRIES = {CRASH: 1, NO_MEMORY: 1}  # visits that are tried again, by class of failure; all others are final
UNSTABLE, SLOWER = "unstable", "slower"
SOUND = ("", OK, UNSTABLE, SLOWER)  # statuses of courses whose times count


@dataclass(eq=False)
class Course:
    """What is known of one variant on one node. `status` is the class it ended with, empty while it goes on."""

    variant: Variant
    visits: dict[int, Visit] = field(default_factory=dict)  # by round, those that went well
    failures: list[Visit] = field(default_factory=list)
    status: str = ""

    @property
    def medians(self) -> dict[int, float]:
        """The median (s) of each visit, by round."""
        return medians_of(self.visits)

    @property
    def interval(self) -> Interval:
        """The median of the visits' medians, with its confidence interval (s)."""
        return interval(list(self.medians.values()))

    @property
    def lasted(self) -> float:
        return sum(visit.lasted for visit in [*self.visits.values(), *self.failures])


class Session:
    """The courses of some variants on one node.

    Args:
        baseline: the variant that is measured for as long as any other is.
        bar: a ratio to the baseline that another variant is known to have; it counts as measured here.
        open: whether more variants may come (`begin`); rounds after the first wait for `close`.
    """

    def __init__(self, rules: Rules, seed: str, baseline: Variant | None = None, bar: float = inf) -> None:
        self._rules, self._seed, self._baseline, self._bar = rules, seed, baseline, bar
        self.courses: dict[str, Course] = {}
        self.calibration = Course(CALIBRATION)
        self._round = 0
        self._under_way: set[str] = set()
        self._open = True

    def begin(self, variant: Variant) -> int:
        """A variant is ready: return the number of the round in which it is to be visited now, the first."""
        self.courses[variant.key] = Course(variant)
        self._under_way.add(variant.key)
        return 0

    def close(self) -> list[tuple[Variant, int]]:
        """No more variants will come: return the visits that follow, if the first round is done."""
        self._open = False
        return self._next()

    def visited(self, variant: Variant, number: int, visit: Visit) -> list[tuple[Variant, int]]:
        """A visit has ended; return those that follow from that."""
        course = self.calibration if variant == CALIBRATION else self.courses[variant.key]
        self._under_way.discard(variant.key)
        if visit.status == OK and visit.seconds:
            course.visits[number] = visit
        else:
            course.failures.append(visit)
        return self._next()

    @property
    def is_over(self) -> bool:
        return not (self._open or self._under_way) and all(course.status for course in self.courses.values())

    def _next(self) -> list[tuple[Variant, int]]:
        if self._under_way or self._open:
            return []
        self._decide()
        active = [course.variant for course in self.courses.values() if not course.status]
        if not active:
            return []
        self._round += 1
        visits = [*active, CALIBRATION]
        Random(f"{self._seed}/{self._round}").shuffle(visits)  # noqa: S311  no secret
        self._under_way = {variant.key for variant in visits}
        return [(variant, self._round) for variant in visits]

    # -- who goes on

    def _decide(self) -> None:
        going = [course for course in self.courses.values() if not course.status]
        baseline = None if self._baseline is None else self.courses.get(self._baseline.key)
        for course in going:
            course.status = failure_of(course)
        best = self._best(baseline)
        for course in going:
            if course is not baseline and not course.status:
                course.status = status_of(course, self._rules, best)
        if baseline is not None and not baseline.status:
            status = status_of(baseline, self._rules, inf)
            others_go_on = any(not course.status for course in going if course is not baseline)
            baseline.status = status if not (others_go_on and status in (OK, UNSTABLE)) else ""

    def _best(self, baseline: Course | None) -> float:
        """Return the least time (s) that is known; what failed has none."""
        sound = [course for course in self.courses.values() if course.visits and course.status in SOUND]
        known = {course.variant: median(course.medians.values()) for course in sound}
        barred = inf if baseline is None else self._bar * known.get(baseline.variant, inf)
        return min([*known.values(), barred], default=inf)


def failure_of(course: Course) -> str:
    """Return the class of failure with which a course ends now; empty: of none."""
    last = course.failures[-1].status if course.failures else ""
    same = sum(visit.status == last for visit in course.failures)
    return last if same > RETRIES.get(last, 0) else ""


def status_of(course: Course, rules: Rules, best: float) -> str:
    """Return the class with which a course that did not fail ends now; empty: it goes on."""
    if not course.visits:
        return ""
    medians = course.medians.values()
    if len(medians) >= EARLY and min(medians) > rules.slower * best:
        return SLOWER
    width = course.interval.width
    if len(medians) >= rules.rounds[0] and width <= rules.precision:
        return OK
    if len(medians) >= rules.rounds[1] or course.lasted >= rules.seconds:
        return UNSTABLE if rules.unstable < width < inf else OK  # infinite: too few rounds to tell
    return ""


def medians_of(visits: Mapping[int, Visit]) -> dict[int, float]:
    """Return the median (s) of each of some visits, by round."""
    return {number: median(visit.seconds) for number, visit in visits.items()}


def seconds_of(visits: Sequence[Visit]) -> list[float]:
    """Return all samples (s) of some visits."""
    return [seconds for visit in visits for seconds in visit.seconds]
