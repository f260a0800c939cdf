"""`Tuner`: what the user holds. Variants become builds and sessions; what comes of these becomes a table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from mainstay.tune import nodes as roll
from mainstay.tune.artifacts import Artifacts
from mainstay.tune.building import Build
from mainstay.tune.crew import Asks, Crew, Node, hash_of, paths_of
from mainstay.tune.machine import Machine
from mainstay.tune.plan import Plan
from mainstay.tune.rules import rules_of
from mainstay.tune.session import Course
from mainstay.tune.table import Table
from mainstay.tune.trial import Trial
from mainstay.tune.variants import Constraint, Space, Variant, check_space, distinct
from mainstay.tune.visiting import Stages, Visit, words_of

if TYPE_CHECKING:
    from mainstay.executor import Executor

Log = Callable[[str], object]


class Progress(NamedTuple):
    """How far a sweep or a search is: builds done, of so many; visits done; the course that moved last."""

    built: int
    builds: int
    visits: int
    course: Course | None
    host: str


class Tuner:
    """Builds variants of a program and measures them, each alone on its node, on the nodes of a pool.

    Args:
        executor: a `mainstay.Executor`. With a journal, nothing is built or measured twice.
        run: `run(artifact)` is one sample: it returns seconds (float), None (it is timed), or a dict of metrics with
            "seconds" in it or not; or a command, a list of words in which "{artifact}" is the artifact's path (where
            nothing is built: "{name}" is the variant's value of that name).
        build: `build(variant, directory)` makes the artifact on a node, in a directory of its own, and returns it:
            paths in that directory (of files, which are shipped), or anything that can be pickled; None: all that is
            there. Or a `Build`, by commands. None: there is nothing to be built, and the variant is the artifact.
        check: `check(artifact)`, once before it is measured on a node: False, or an exception, means a wrong answer;
            where a program fails that it runs by `call`, that program's class of failure counts.
        setup: `setup()` makes, once in each worker, what cannot be pickled; the other functions get it as their last
            argument.
        ship: files and directories of the client that are on each node's own disk: `mainstay.staged(path)`.
        baseline: the variant that is measured as long as any other is; ratios are to it.
        nodes: how many nodes are to take part at least; fewer are an error.
        cores: how many cores a measurement is pinned to; None: it is not pinned.
        tools: programs whose versions count, as ("cc",); those that the commands of a `Build` begin with do in any
            case, but where variants name them, as "{cc}": then all that these may be are to be said here.
        kind: gives the kind of a node from its `Machine`, for which each variant is built once; None: by architecture,
            CPU model, CPU flags and the versions of tools.
        build_timeout, run_timeout: seconds for a build, and for a visit (its warm-up and samples).
        counters: whether hardware counters are read where the machine allows.
        artifacts: a directory of the client where built files are kept; None: one that goes with this program, but for
            builds that failed, which stay in the user's cache for a month.
        alpha: the p below which variants are told apart.
        seed: of the order of visits, and of random search.
        log: is told lines for people; None: nobody is.
        progress: is called with a `Progress` after each build and visit.
        **rules: see `Rules`: repeats, warmups, rounds, precision, unstable, seconds, slower.

    Raises `ValueError` or `TypeError` for what cannot be, `TooFewNodes`, and `UnreliableKey` for functions of which the
    journal cannot tell what they compute.
    """

    def __init__(
        self,
        executor: Executor,
        run: Callable[..., Any] | Sequence[str],
        *,
        build: Callable[..., Any] | None = None,
        check: Callable[..., Any] | None = None,
        setup: Callable[[], Any] | None = None,
        ship: Sequence[str | os.PathLike[str]] = (),
        baseline: Variant | None = None,
        nodes: int | None = None,
        cores: int | None = 1,
        tools: Sequence[str] = (),
        kind: Callable[[Machine], str] | None = None,
        build_timeout: float | None = None,
        run_timeout: float | None = None,
        counters: bool = True,
        artifacts: str | os.PathLike[str] | None = None,
        alpha: float = 0.01,
        seed: int = 0,
        log: Log | None = None,
        progress: Callable[[Progress], object] | None = None,
        **rules: Any,
    ) -> None:
        self.rules = rules_of(rules)
        stages = Stages("", build, run if callable(run) else words_of(run), check, setup)
        stages.validate()
        asks = Asks(cores, paths_of(ship), build_timeout, run_timeout, counters)
        asks.validate()
        distinct([] if baseline is None else [baseline])
        _check(alpha, nodes, tools)
        programs = _programs(tools, build)
        self.executor, self.baseline, self.alpha, self.seed = executor, baseline, alpha, seed
        self._begin()
        self._progress = progress or (lambda progress: None)
        present = roll.roll_call(executor, programs, cores, nodes)
        self.machines = {node.machine.host: node.machine for node in present}
        self._kind_of = kind or (lambda machine: machine.kind)
        kinds = len({node.kind for node in self.nodes})
        for line in roll.lines(present, kinds, executor.describe().absent):
            (log or (lambda line: None))(line)
        self.crew = Crew(executor, stages, self.rules, asks, Artifacts(artifacts))

    @property
    def nodes(self) -> list[Node]:
        """The nodes that measure."""
        return [Node(it.host, str(self._kind_of(it)), it.tools) for it in self.machines.values()]

    def _begin(self) -> None:
        self.began = time.time()
        self._done = {"built": 0, "builds": 0, "visits": 0}

    def measure(self, variants: Iterable[Variant]) -> Table:
        """Build variants for each kind of node, and measure all on each node. Returns when all is known."""
        self._begin()
        wanted = distinct([*([] if self.baseline is None else [self.baseline]), *distinct(variants)])
        if not wanted:
            raise ValueError("there is nothing to measure: the list of variants is empty, and there is no baseline")
        self.crew.check(wanted)
        trials = [Trial(self, self.plan(node, wanted, self.baseline)) for node in self.nodes]

        def begin() -> None:
            for trial in trials:
                trial.begin()

        self.crew.run(begin)
        return self.table(trials)

    def search(
        self, space: Space, strategy: Any = "random", budget: int = 50, *, constraint: Constraint | None = None
    ) -> Table:
        """Measure `budget` points of a space, chosen one after another by a strategy as results return.

        Args:
            space: what each name may be, as {"tile": (8, 16, 32), "unroll": range(1, 5)}.
            strategy: "random", "tpe" (Optuna's; wants `mainstay[tune]`), or an object with `ask()`, which returns a
                `Variant` (None: there is no other), and `tell(variant, ratio)`, with an infinite ratio to the baseline
                for one that failed. A point that it asks for again is not measured again: it is told the same. Where it
                has `recall(variant)` too, a search that is begun again does not ask for what was asked for before, but
                has it recalled, in the same order.
            constraint: which points may be measured, as `lambda v: v.tile % v.unroll == 0`.

        Each point is measured on one node, by turns, beside the baseline (the first point, if the tuner has none), and
        is told to the strategy by its ratio to that, so that nodes do not count.
        """
        from mainstay.tune.search import Search

        check_space(space)
        self._begin()
        return Search(self, space, strategy, budget, constraint).run()

    def plan(
        self, node: Node, variants: Sequence[Variant], baseline: Variant | None, bar: float = inf, search: str = ""
    ) -> Plan:
        """Return what a trial on a node is to do, in a sweep or a search of some name.

        Its session is known by all that is measured in it, and how: only what was measured in turn is compared, so a
        visit among other variants says nothing here.
        """
        base = "" if baseline is None else baseline.key
        among = hash_of(*sorted(variant.key for variant in variants), base, str(self.seed))
        session = hash_of(among, node.kind, self.crew.manner)
        return Plan(
            self.crew.token, search or among, session, self.machines[node.host], node.kind, tuple(variants), baseline,
            bar, self.rules, self.alpha, self.began,
        )  # fmt: skip

    def table(self, trials: Sequence[Trial]) -> Table:
        """Return what came of trials."""
        rows = [row for trial in trials for row in trial.rows()]
        calibrations: dict[str, list[Visit]] = {}
        for trial in trials:
            visits = trial.session.calibration.visits
            calibrations.setdefault(trial.plan.machine.host, []).extend(visits[number] for number in sorted(visits))
        return Table(rows, calibrations, self.machines, self.alpha)

    def moved(self, course: Course | None, host: str, **done: int) -> None:
        """So much more has been done: tell of it."""
        for name, count in done.items():
            self._done[name] += count
        self._progress(Progress(**self._done, course=course, host=host))


def _check(alpha: float, nodes: int | None, tools: Sequence[str]) -> None:
    """Raise `ValueError` or `TypeError` for what cannot be."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is a probability, 0 < alpha < 1; given: {alpha!r}")
    if nodes is not None and (type(nodes) is not int or nodes < 1):
        raise ValueError(f"nodes is how many are to take part, an int >= 1, or None; given: {nodes!r}")
    if isinstance(tools, str):
        raise TypeError(f'tools are names of programs, as ["cc"]; given: {tools!r}')


def _programs(tools: Sequence[str], build: Callable[..., Any] | None) -> tuple[str, ...]:
    """Return the programs whose versions count. Raises `ValueError` where only variants say which these are."""
    begin = build.programs if isinstance(build, Build) else ()
    filled = [program for program in begin if "{" in program]
    if filled and not tools:
        raise ValueError(
            f"the version of a compiler counts, and what {filled[0]!r} is, only variants say: "
            'name all that it may be, as tools=["gcc", "clang"]'
        )
    return tuple(dict.fromkeys([*tools, *(program for program in begin if program not in filled)]))
