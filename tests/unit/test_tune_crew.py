"""The crew: what is sent to the pool, and what follows from each end of it. The pool is a stand-in, nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainstay.errors import GangError, TaskTimeout, WorkerDied
from mainstay.tune.artifacts import Artifacts
from mainstay.tune.building import Built
from mainstay.tune.crew import Asks, Crew, Node, noted
from mainstay.tune.rules import Rules
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import Stages

A, B = Variant(x=1), Variant(x=2)
NODES = [Node("n1", "k", ()), Node("n2", "k", ())]


class Pool:
    """A pool whose calls end as `ends(options, *call)` says: what it returns, or raises; None: it does not end."""

    _keeper = None

    def __init__(self, ends: Callable[..., Any], hosts: tuple[str, ...] = ("n1", "n2")) -> None:
        self._ends, self._hosts = ends, hosts
        self.futures: list[Future[Any]] = []

    def describe(self) -> SimpleNamespace:
        return SimpleNamespace(hosts=dict.fromkeys(self._hosts))

    def options(self, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(submit=lambda *call: self._submit(options, call))

    def _submit(self, options: dict[str, Any], call: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        try:
            end = self._ends(options, *call)
            if end is not None:
                future.set_result(end)
        except (WorkerDied, GangError, TaskTimeout) as error:
            future.set_exception(error)
        return future


class Keeping(Pool):
    """A pool with a journal: a call whose key it has ends as it did, and does not run."""

    def __init__(self, ends: Callable[..., Any]) -> None:
        super().__init__(ends)
        self.kept: dict[str, Future[Any]] = {}
        self._keeper: Any = SimpleNamespace(has=lambda key, failed_too: key in self.kept)

    def _submit(self, options: dict[str, Any], call: tuple[Any, ...]) -> Future[Any]:
        if options["key"] not in self.kept:
            self.kept[options["key"]] = super()._submit(options, call)
        return self.kept[options["key"]]


def crew(pool: Any, tmp_path: Path, timeout: float | None = None) -> Crew:
    stages = Stages("", lambda variant, directory: None, lambda artifact: 1.0, None, None)
    return Crew(pool, stages, Rules(), Asks(1, (), timeout, None, counters=False), Artifacts(tmp_path))


def lost(options: dict[str, Any], there: Any, variant: Variant, kind: str) -> Built:
    if variant == A:
        raise WorkerDied("build", "n1", 1, "its agent is gone")
    return Built("ok")


def test_a_build_that_is_lost_each_time_says_nothing_of_nodes_that_stand(tmp_path):
    pool = Pool(lost, ("n1", "n2", "n3"))
    of, told = crew(pool, tmp_path), []

    def then(built: Built) -> None:
        told.append((built.variant, built.status, set(of.gone)))

    of.run(lambda: [of.build(variant, "k", NODES, then) for variant in (A, B)])
    assert sorted(told, key=str) == [(A, "node lost", set()), (B, "ok", set())]


def test_what_the_pool_refuses_is_raised_where_it_may_run_anywhere(tmp_path):
    def refuse(*given: Any) -> None:
        raise ValueError("ctypes objects containing pointers cannot be pickled")

    with pytest.raises(ValueError, match="ctypes"):
        crew(Pool(refuse), tmp_path).build(A, "k", NODES, lambda built: None)


def test_what_was_begun_before_an_exception_is_cancelled(tmp_path):
    pool = Pool(lambda *given: None)
    of = crew(pool, tmp_path)

    def begin() -> None:
        of.build(A, "k", NODES, lambda built: None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of.run(begin)
    assert [future.cancelled() for future in pool.futures] == [True]

    def again() -> None:
        of.build(A, "k", NODES, lambda built: pool.futures.clear())
        pool.futures[-1].set_result(Built("ok"))

    of.run(again)
    assert not pool.futures  # it was built anew


def test_what_a_limit_ended_runs_again_under_another_one(tmp_path):
    ran: list[float] = []

    def ends(options: dict[str, Any], there: Any, *call: Any) -> Built:
        if there is noted:
            return call[0]
        ran.append(options["timeout"])
        if options["timeout"] < 3:
            raise TaskTimeout("build", options["timeout"], "n1")
        return Built("ok")

    pool = Keeping(ends)

    def built(timeout: float) -> str:
        of, told = crew(pool, tmp_path, timeout), []
        of.run(lambda: of.build(A, "k", NODES, told.append))
        return told[0].status

    told = [built(timeout) for timeout in (1, 1, 2, 1, 2, 3, 3)]
    assert told == ["timeout"] * 5 + ["ok"] * 2
    assert ran == [1, 2, 3]
