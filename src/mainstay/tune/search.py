"""Search: which variant is measured next, asked of a strategy each time that a result returns.

    ask ─▶ trial on one node, beside the baseline ─▶ tell ─▶ ask …

What was asked is noted in the journal, with the bar that held then. A search that is begun again meets first what was
asked before, in the same order and on the same nodes, and so what was measured; then the strategy goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, inf, log
from random import Random as Chance
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from mainstay.tune.building import OK
from mainstay.tune.crew import Node, noted, word_of
from mainstay.tune.session import SLOWER, UNSTABLE, Course
from mainstay.tune.table import Table
from mainstay.tune.variants import TRIES, Constraint, Space, Variant, draw

if TYPE_CHECKING:
    from mainstay.tune.tuner import Trial, Tuner

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
        """This point was asked for in an earlier run."""
        self.ask()


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
    """A point that was asked for, and the best ratio to the baseline that was known then."""

    variant: Variant | None
    bar: float


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
        self._tuner, self._strategy, self._budget = tuner, strategy, budget
        what = f"{sorted(space.items())!r}/{word_of(constraint) if tuner.crew.keeper else ''}"
        self._name = f"tune/ask/{tuner.crew.token}/{what}/{type(strategy).__name__}/{tuner.seed}"
        self._trials: list[Trial] = []
        self._baseline, self._best = tuner.baseline, inf
        self._nodes = tuner.nodes
        self._numbers: Iterator[int] = iter(range(budget))

    def run(self) -> Table:
        """Search, and return what was measured."""
        self._tuner.crew.run(self._first)
        return self._tuner.table(self._trials)

    def _first(self) -> None:
        for _ in range(AHEAD * len(self._nodes)):
            self._next()

    def _next(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            return
        asked = self._ask(number)
        if asked.variant is None:
            if not self._trials:
                raise ValueError(f"no point was found that meets the constraint, in {TRIES} draws; is there one?")
            self._numbers = iter(())  # there are no other points
            return
        self._begin(number, asked.variant, asked.bar)

    def _ask(self, number: int) -> Asked:
        """Return the point with this number: as it was asked for in an earlier run, or else of the strategy."""
        key = f"{self._name}/{number}"
        view = self._tuner.executor.options(key=key, label=f"ask {number}", priority=2)
        keeper = self._tuner.crew.keeper
        if keeper is not None and keeper.has(key):
            asked: Asked = view.submit(noted, Asked(None, inf)).result()
            if asked.variant is not None and hasattr(self._strategy, "recall"):
                self._strategy.recall(asked.variant)
            return asked
        asked = Asked(self._strategy.ask(), self._best)
        return view.submit(noted, asked).result() if keeper is not None else asked

    def _begin(self, number: int, variant: Variant, bar: float) -> None:
        from mainstay.tune.tuner import Trial

        baseline = self._baseline = variant if self._baseline is None else self._baseline
        node = self._node(number)
        seed = f"{self._tuner.seed}/{number}/{node.host}"
        trial = Trial(self._tuner, node, seed, baseline, bar, lambda: self._ended(number, trial))
        self._trials.append(trial)
        trial.begin([baseline, variant] if variant != baseline else [variant])

    def _node(self, number: int) -> Node:
        """Return the node whose turn it is; another one, where that was lost."""
        gone = self._tuner.crew.gone
        standing = [node for node in self._nodes if node.host not in gone] or self._nodes
        node = self._nodes[number % len(self._nodes)]
        return node if node in standing else standing[number % len(standing)]

    def _ended(self, number: int, trial: Trial) -> None:
        variant = trial.variants[-1]
        if trial.is_lost and self._node(number) != trial.node:
            self._begin(number, variant, trial.bar)  # on another node, from the beginning
            return
        courses = trial.session.courses
        base = courses.get(trial.variants[0].key)
        if self._tuner.baseline is None and self._baseline == trial.variants[0] and not (base and base.visits):
            self._baseline = None  # it failed: the next point is
        ratio = ratio_of(courses.get(variant.key), base)
        self._best = min(self._best, ratio)
        self._strategy.tell(variant, ratio)
        self._next()


def ratio_of(course: Course | None, base: Course | None) -> float:
    """Return how many times as long a variant took as another in the same rounds; infinite where it failed."""
    if course is None or base is None or course.status not in (OK, UNSTABLE, SLOWER):
        return inf
    mine, its = course.medians, base.medians
    logs = [log(mine[number] / its[number]) for number in mine.keys() & its.keys()]
    return exp(median(logs)) if logs else inf
