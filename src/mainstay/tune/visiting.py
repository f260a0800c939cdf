"""A visit: some samples of one variant on one node, which its worker has for itself meanwhile.

    artifact's files ─▶ check, once ─▶ warm-up ─▶ run, run, run … ─▶ Visit: every sample, and what the machine was like

What the user's functions do wrong becomes a class of failure. What ends the worker, its agent and the client see.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from math import inf, nan
from typing import Any, NamedTuple

from mainstay.node.scratch import staged
from mainstay.tune.building import NO_MEMORY, OK, TIMEOUT, Built, build, placed
from mainstay.tune.counters import Counters
from mainstay.tune.machine import calibrate, governor, load
from mainstay.tune.programs import CommandFailed, is_short_of_memory, timed
from mainstay.tune.variants import Variant, filled

CRASH, WRONG, ERROR, LOST = "crash", "wrong answer", "error", "node lost"
_states: dict[str, Any] = {}  # what `setup` made in this process, by tuner


class Stages(NamedTuple):
    """The user's functions, and what they are known by."""

    token: str
    build: Callable[..., Any] | None
    run: Callable[..., Any] | Sequence[str]
    check: Callable[..., Any] | None
    setup: Callable[[], Any] | None

    def validate(self) -> None:
        """Raise `TypeError` for what cannot be called."""
        for name in ("build", "check", "setup"):
            stage = getattr(self, name)
            if stage is not None and not callable(stage):
                more = ', a Build(["cc", "k.c", "-o", "k"], "k", ["k.c"])' if name == "build" else ""
                raise TypeError(f"{name} is a function{more} or None; given: {stage!r}")

    def more(self) -> tuple[Any, ...]:
        """Return what each function is given last: what `setup` made, once in this process, where there is one."""
        if self.setup is None:
            return ()
        if self.token not in _states:
            _states[self.token] = self.setup()
        return (_states[self.token],)


def words_of(run: Any) -> list[str]:
    """Return a command's words. Raises `TypeError` for what is none."""
    if not isinstance(run, Sequence) or isinstance(run, (str, bytes)) or not run:
        raise TypeError(f'run is a function of the artifact, or words as ["{{artifact}}", "1024"]; given: {run!r}')
    return [str(word) for word in run]


class About(NamedTuple):
    """What a visit is about; by tuner, session and host it belongs to a trial.

    `began` is when this run of the sweep or search did (s since 1970).
    """

    tuner: str
    session: str
    variant: Variant
    host: str
    kind: str
    round: int
    began: float


class Order(NamedTuple):
    """What a visit is to do: the artifact (a path of the client's that is staged, and the value), and how often.

    `by` are the commands that made the artifact.
    """

    files: str
    value: Any
    repeats: int
    warmups: int
    checks: bool
    counts: bool
    about: About
    by: str = ""


class Visit(NamedTuple):
    """What came of a visit. Times in seconds, one for each sample; `began` is of the wall clock (s since 1970).

    `cpu` is what the process and its children used; `counters` and `metrics` are by name; `load` before and after;
    `built_by` the commands that made what was run.
    """

    status: str
    about: About | None = None
    seconds: tuple[float, ...] = ()
    cpu: tuple[float, ...] = ()
    metrics: tuple[dict[str, Any], ...] = ()
    counters: tuple[dict[str, float], ...] = ()
    message: str = ""
    host: str = ""
    cores: tuple[int, ...] = ()
    governor: str = ""
    load: tuple[float, float] = (0.0, 0.0)
    began: float = 0.0
    lasted: float = 0.0
    built_by: str = ""


def built(stages: Stages, variant: Variant, kind: str) -> Built:
    """Build a variant here, for this kind of node."""
    assert stages.build is not None
    return build(stages.build, variant, stages.more)._replace(variant=variant, kind=kind)


def calibrated(about: About, repeats: int) -> Visit:
    """Return a visit of the calibration kernel."""
    taken = _noted(lambda samples: samples.extend(Sample(calibrate(), 0.0, {}, {}) for _ in range(repeats)))
    return taken._replace(about=about)


def visit(stages: Stages, order: Order) -> Visit:
    """Take the samples of a visit."""
    artifact = placed(order.value, str(staged(order.files)) if order.files else "")

    def take(samples: list[Sample]) -> None:
        more = stages.more()
        if order.checks and stages.check is not None:
            _check(stages.check, artifact, more)
        counters = Counters() if order.counts else None
        try:
            for _ in range(order.warmups):
                _sample(stages.run, artifact, more, None)
            samples.extend(_sample(stages.run, artifact, more, counters) for _ in range(order.repeats))
        finally:
            if counters is not None:
                counters.close()

    return _noted(take)._replace(about=order.about, built_by=order.by)


class Sample(NamedTuple):
    """One run."""

    seconds: float
    cpu: float
    metrics: dict[str, Any]
    counters: dict[str, float]


class WrongAnswer(Exception):
    """`check` said no."""


def _check(check: Callable[..., Any], artifact: Any, more: tuple[Any, ...]) -> None:
    try:
        verdict = check(artifact, *more)
        is_wrong = _says_no(verdict)
    except (CommandFailed, subprocess.TimeoutExpired, MemoryError):
        raise  # the program failed before it gave an answer
    except (Exception, SystemExit) as error:
        raise WrongAnswer("".join(traceback.format_exception(error)[-2:])) from error
    if is_wrong:
        raise WrongAnswer(f"check() returned {verdict!r}")


def _says_no(verdict: Any) -> bool:
    """Whether it is False, also of a library of arrays, as numpy.False_; 0 and "" may be what a program gave."""
    return verdict is False or (str(getattr(verdict, "dtype", "")).endswith("bool") and not verdict)


def _sample(run: Any, artifact: Any, more: tuple[Any, ...], counters: Counters | None) -> Sample:
    used = _cpu_time()
    if counters is not None:
        counters.start()
    began = time.perf_counter()
    said = run(artifact, *more) if callable(run) else timed(_spelt(run, artifact))
    wall = time.perf_counter() - began
    counted = counters.stop() if counters is not None else {}
    metrics = _plain(said) if isinstance(said, Mapping) else {"seconds": wall if said is None else said}
    seconds = _seconds(metrics.pop("seconds", wall))
    return Sample(seconds, _cpu_time() - used, metrics, counted)


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics with NumPy's numbers as Python's, which every reader of a table knows."""
    return {name: value.item() if getattr(value, "shape", None) == () else value for name, value in metrics.items()}


def _spelt(run: Sequence[str], artifact: Any) -> list[str]:
    """Return a command with its artifact's path or, where nothing was built, with the variant's values."""
    if isinstance(artifact, Variant):
        return [filled(word, artifact) if "{" in word else word for word in run]
    if not isinstance(artifact, (str, os.PathLike)):
        raise TypeError(f"a command runs an artifact that is one path; use a function of it. It is {artifact!r}")
    return [word.replace("{artifact}", os.fspath(artifact)) for word in run]


def _seconds(said: Any) -> float:
    """Return the seconds that a run told of. Raises `ValueError` for what cannot be a time."""
    try:
        seconds = float(said)
    except (TypeError, ValueError):
        seconds = nan
    if not 0 < seconds < inf:
        told = 'run returns seconds > 0, None (it is timed), or a dict of metrics with "seconds"'
        raise ValueError(f"{told}; it gave {said!r}")
    return seconds


def _cpu_time() -> float:
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _noted(take: Callable[[list[Sample]], None]) -> Visit:
    samples: list[Sample] = []
    before, began, clock = load(), time.time(), time.monotonic()
    status, message = OK, ""
    try:
        take(samples)
    except (Exception, SystemExit) as error:
        status, message = _class_of(error)
    return Visit(
        status,
        None,
        tuple(one.seconds for one in samples),
        tuple(one.cpu for one in samples),
        tuple(one.metrics for one in samples) if any(one.metrics for one in samples) else (),
        tuple(one.counters for one in samples if one.counters),
        message,
        os.uname().nodename,
        tuple(sorted(os.sched_getaffinity(0))),
        governor(),
        (before, load()),
        began,
        time.monotonic() - clock,
    )


def _class_of(error: BaseException) -> tuple[str, str]:
    """Return the class of a failure, and what is to be said of it."""
    if isinstance(error, WrongAnswer):
        return WRONG, str(error)
    if isinstance(error, subprocess.TimeoutExpired):
        return TIMEOUT, str(error)
    if is_short_of_memory(error):
        return NO_MEMORY, str(error)
    if isinstance(error, CommandFailed):
        return (CRASH if error.signal is not None else ERROR), str(error)
    return ERROR, "".join(traceback.format_exception(error)[-3:])
