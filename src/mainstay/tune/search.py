"""Search: which variant is measured next, asked of a strategy each time that a result returns.

    ask ─▶ trial on one node, beside the baseline ─▶ tell ─▶ ask …

What was asked is noted in the journal, with the bar that held then. A search that is begun again meets first what was
asked before, in the same order and on the same nodes, and so what was measured; then the strategy goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import exp, inf, log
from random import Random as Chance
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from mainstay.tune.building import OK
from mainstay.tune.crew import Node, hash_of, noted, word_of
from mainstay.tune.session import SLOWER, UNSTABLE, Course
from mainstay.tune.table import Table
from mainstay.tune.trial import Trial
from mainstay.tune.variants import TRIES, Constraint, Space, Variant, draw

if TYPE_CHECKING:
    from mainstay.tune.tuner import Tuner

PROPOSALS = 30  # of Optuna, for one that is new and meets the constraint
AHEAD = 2  # trials for each node at once: one is built while another is measured


class Random:
    """Draws points at random, none twice. `asked` are the keys of those that were asked for."""

    def __init__(self, space: Space, seed: int = 0, constraint: Constraint | None = None) -> None:
        self._space, self._constraint = space, constraint
        self._chance = Chance(seed)  # noqa: S311  no secret
        self.asked: set[str] = set()

    def ask(self) -> Variant | None:
        """Return a point; None where there seem to be no others."""
        for _ in range(TRIES):
            variant = draw(self._space, self._chance, self._constraint)
            if variant is None:
                return None
            if variant.key not in self.asked:
                self.asked.add(variant.key)
                return variant
        return None

    def tell(self, variant: Variant, ratio: float) -> None:
        """Nothing follows from a result."""

    def recall(self, variant: Variant) -> None:
        """This point was asked for in an earlier run; the draws go on as they did then."""
        self.ask()
        self.asked.add(variant.key)


class Tpe:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), by its ask-and-tell interface.

    No point is measured twice: where Optuna proposes nothing else, a point is drawn at random.

    Raises `ImportError` where Optuna is not there.
    """

    def __init__(self, space: Space, seed: int = 0, constraint: Constraint | None = None) -> None:
        try:
            import optuna  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ImportError("strategy='tpe' wants Optuna: pip install 'mainstay[tune]'; 'random' does not") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._constraint = constraint
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True))
        categorical = optuna.distributions.CategoricalDistribution
        self._ranges: dict[str, Any] = {name: categorical(list(choices)) for name, choices in space.items()}
        self._left_out = optuna.trial.TrialState.FAIL  # the estimator learns nothing from such a trial
        self._others = Random(space, seed, constraint)
        self._trials: dict[str, Any] = {}

    def ask(self) -> Variant | None:
        """Return a point; None where none that meets the constraint is found."""
        for _ in range(PROPOSALS):
            trial = self._study.ask(self._ranges)
            variant = Variant(**trial.params)
            if variant.key not in self._trials and (self._constraint is None or self._constraint(variant)):
                self._others.asked.add(variant.key)
                self._trials[variant.key] = trial
                return variant
            self._study.tell(trial, state=self._left_out)
        other = self._others.ask()
        if other is not None:
            self._take(other)
        return other

    def tell(self, variant: Variant, ratio: float) -> None:
        """The point took so many times what the baseline did; infinite: it failed."""
        trial = self._trials[variant.key]
        if ratio < inf:
            self._study.tell(trial, ratio)
        else:
            self._study.tell(trial, state=self._left_out)

    def recall(self, variant: Variant) -> None:
        """This point was asked for in an earlier run."""
        self._others.asked.add(variant.key)
        self._take(variant)

    def _take(self, variant: Variant) -> None:
        self._study.enqueue_trial(dict(variant))
        self._trials[variant.key] = self._study.ask(self._ranges)


STRATEGIES = {"random": Random, "tpe": Tpe}


class Asked(NamedTuple):
    """A point that was asked for, and what held then: the baseline, the best ratio to it that was known, and the host
    that had the fewest points under way, which is to measure it."""

    variant: Variant
    baseline: Variant
    bar: float
    host: str


class Search:
    """A search under way."""

    def __init__(self, tuner: Tuner, space: Space, strategy: Any, budget: int, constraint: Constraint | None) -> None:
        if isinstance(strategy, str):
            if strategy not in STRATEGIES:
                raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}, or an object; given: {strategy!r}")
            strategy = STRATEGIES[strategy](space, tuner.seed, constraint)
        if not (hasattr(strategy, "ask") and hasattr(strategy, "tell")) or isinstance(strategy, type):
            names = ", ".join(STRATEGIES)
            raise TypeError(f"strategy is one of {names}, or an object with ask() and tell(); given: {strategy!r}")
        if type(budget) is not int or budget < 1:
            raise ValueError(f"budget is how many points are measured, an int >= 1; given: {budget!r}")
        if not (constraint is None or callable(constraint)):
            raise TypeError(f"constraint is a function of a variant, or None; given: {constraint!r}")
        self._tuner, self._strategy = tuner, strategy
        base = "" if tuner.baseline is None else tuner.baseline.key
        words = [repr(sorted(space.items())), base, word_of(constraint) if tuner.crew.keeper else ""]
        self._name = hash_of(tuner.crew.token, *words, type(strategy).__name__, str(tuner.seed))
        self._trials: list[Trial] = []
        self._ratios: dict[str, float | None] = {}  # of the points that were asked for; None: under way
        self._repeats: Counter[str] = Counter()  # how often these were asked for again meanwhile
        self._baseline, self._best = tuner.baseline, inf
        self._failed: set[str] = set()  # points that were the baseline, and failed
        self._nodes = tuner.nodes
        self._under_way: Counter[str] = Counter()  # trials of each host
        self._bad: set[str] = set()  # hosts on which the baseline failed, and not on others
        self._numbers: Iterator[int] = iter(range(budget))

    def run(self) -> Table:
        """Search, and return what was measured."""
        self._tuner.crew.run(self._first)
        return self._tuner.table(self._trials)

    def _first(self) -> None:
        for _ in range(AHEAD * len(self._nodes)):
            self._next()

    def _next(self) -> None:
        """Begin with the next point that was not asked for before."""
        for number in self._numbers:
            asked = self._ask(number)
            if asked is None:
                if not self._trials:
                    raise ValueError(f"no point was found that meets the constraint, in {TRIES} draws; is there one?")
                self._numbers = iter(())  # there are no other points
                return
            if self._is_new(asked.variant):
                self._begin(asked)
                return

    def _is_new(self, variant: Variant) -> bool:
        """Whether a point was not asked for before; if it was, the strategy is told the same, once it is known."""
        if variant.key not in self._ratios:
            self._ratios[variant.key] = None
            return True
        ratio = self._ratios[variant.key]
        if ratio is None:
            self._repeats[variant.key] += 1
        else:
            self._strategy.tell(variant, ratio)
        return False

    def _ask(self, number: int) -> Asked | None:
        """Return the next point, of the strategy, with what held when it was asked for first.

        A strategy that recalls gets those of an earlier run by their numbers; another one asks for them again.
        """
        keeper, recall = self._tuner.crew.keeper, getattr(self._strategy, "recall", None)
        if keeper is not None and recall is not None and keeper.has(self._key(number)):
            asked = self._noted(number, None)
            if asked is not None:
                recall(asked.variant)
            return asked
        variant = self._proposed()
        asked = None
        if variant is not None:
            baseline = variant if self._baseline is None else self._baseline
            asked = Asked(variant, baseline, self._best, self._node().host)
        if keeper is None or (asked is None and recall is None):
            return asked
        which = number if asked is None or recall is not None else f"{asked.baseline.key}/{asked.variant.key}"
        return self._noted(which, asked)

    def _proposed(self) -> Variant | None:
        variant = self._strategy.ask()
        if isinstance(variant, Variant) or variant is None:
            return variant
        raise TypeError(f"the strategy's ask() is to return a Variant, or None; it returned {variant!r}")

    def _noted(self, which: int | str, asked: Asked | None) -> Asked | None:
        """Return what the journal has of an ask, and have it keep that if it has nothing."""
        options = {"key": self._key(which), "label": f"ask {which}", "priority": 2}
        found: Asked | None = self._tuner.executor.options(**options).submit(noted, asked).result()
        return found

    def _key(self, which: int | str) -> str:
        return f"tune/ask/{self._name}/{which}"

    def _begin(self, asked: Asked) -> None:
        variant, baseline, bar, host = asked
        if self._baseline is None and baseline.key not in self._failed:
            self._baseline = baseline
        variants = [baseline, variant] if variant != baseline else [variant]
        plan = self._tuner.plan(self._node(host), variants, baseline, bar, self._name)
        trial = Trial(self._tuner, plan, lambda: self._ended(asked, trial))
        self._trials.append(trial)
        self._under_way[plan.machine.host] += 1
        trial.begin()

    def _node(self, host: str = "") -> Node:
        """Return the node of that host, if it serves; else the one that has the fewest trials under way."""
        gone = self._tuner.crew.gone | self._bad
        serving = [node for node in self._nodes if node.host not in gone] or self._nodes
        roomiest = min(serving, key=lambda node: self._under_way[node.host])
        return next((node for node in serving if node.host == host), roomiest)

    def _ended(self, asked: Asked, trial: Trial) -> None:
        host = trial.plan.machine.host
        self._under_way[host] -= 1
        if trial.is_lost and self._node(host).host != host:
            self._begin(asked)  # on another node, from the beginning
            return
        variant, baseline = asked.variant, asked.baseline
        courses = trial.session.courses
        base = courses.get(baseline.key)
        has_failed = not (base and base.visits)
        if has_failed and not trial.is_lost and self._is_elsewhere(baseline):
            self._bad.add(host)
            if self._node(host).host != host:
                self._begin(asked)
                return
            self._numbers = iter(())  # no point can be compared with anything
        elif has_failed and self._tuner.baseline is None:
            self._baseline_failed(baseline)  # the next point is one
            if variant != baseline and _is_sound(courses.get(variant.key)):
                self._begin(self._again(asked))
                return
        ratio = self._ratios[variant.key] = ratio_of(courses.get(variant.key), base)
        if baseline == self._baseline:
            self._best = min(self._best, ratio)
        for _ in range(1 + self._repeats.pop(variant.key, 0)):
            self._strategy.tell(variant, ratio)
        self._next()

    def _again(self, asked: Asked) -> Asked:
        """Return how a point is measured again whose baseline failed, though it did not itself."""
        baseline = asked.variant if self._baseline is None else self._baseline
        again = asked._replace(baseline=baseline, bar=self._best)
        if self._tuner.crew.keeper is None:
            return again
        return self._noted(f"again {asked.baseline.key}/{asked.variant.key}", again) or again

    def _is_elsewhere(self, baseline: Variant) -> bool:
        """Whether it is no fault of the baseline that it failed on a host, or there is no other baseline."""
        courses = [trial.session.courses.get(baseline.key) for trial in self._trials]
        return self._tuner.baseline is not None or any(course and course.visits for course in courses)

    def _baseline_failed(self, baseline: Variant) -> None:
        self._failed.add(baseline.key)
        if self._baseline == baseline:
            self._baseline, self._best = None, inf


def _is_sound(course: Course | None) -> bool:
    return course is not None and course.status in (OK, UNSTABLE, SLOWER)


def ratio_of(course: Course | None, base: Course | None) -> float:
    """Return how many times as long a variant took as another in the same rounds; infinite where it failed."""
    if course is None or base is None or not _is_sound(course):
        return inf
    mine, its = course.medians, base.medians
    logs = [log(mine[number] / its[number]) for number in mine.keys() & its.keys()]
    return exp(median(logs)) if logs else inf
