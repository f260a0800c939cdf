"""What a node does with the user's functions and programs: counters, checks, commands that fail. In this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mainstay.tune import building
from mainstay.tune.counters import Counters
from mainstay.tune.programs import Command, CommandFailed
from mainstay.tune.rules import Rules
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import About, Order, Stages, Visit, visit

A = Variant(x=1)


def test_counters_of_programs_begin_anew_with_each_start():
    counters = Counters()
    counted = []
    for _ in range(4):
        counters.start()
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        counted.append(counters.stop())
    counters.close()
    for name in {"page_faults"} & set.intersection(*map(set, counted)):  # where the machine counts them
        first, *_, last = [one[name] for one in counted]
        assert 0 < last < 2 * first


def visited(check: Callable[[Variant], object]) -> Visit:
    about = About("", "", A, "h", "k", 0, False, Rules(), 0.0, (), 0.0)
    order = Order("", A, repeats=1, warmups=0, checks=True, counts=False, about=about)
    return visit(Stages("", None, lambda artifact: 1.0, check, None), order)


class Truth:
    """What a comparison of arrays gives: no bool, and false all the same."""

    dtype = "torch.bool"

    def __init__(self, said: bool) -> None:
        self._said = said

    def __bool__(self) -> bool:
        return self._said


def raising(error: BaseException) -> Callable[[Variant], object]:
    def check(artifact: Variant) -> None:
        raise error

    return check


def test_a_check_that_says_no_or_raises_is_a_wrong_answer():
    numpy = pytest.importorskip("numpy")
    for no in (False, Truth(False), numpy.bool_(False)):
        assert visited(lambda artifact, no=no: no).status == "wrong answer"
    for yes in (None, True, Truth(True), numpy.bool_(True), 0, "", numpy.zeros(3)):
        assert visited(lambda artifact, yes=yes: yes).status == "ok"
    assert visited(lambda artifact: numpy.array([True, False])).status == "wrong answer"  # it has no truth
    for error in (AssertionError("no"), RuntimeError("no"), FileNotFoundError("no"), SystemExit("no")):
        told = visited(raising(error))
        assert told.status == "wrong answer"
        assert "no" in told.message


def test_what_a_check_runs_fails_as_anywhere():
    command = Command(("k",), "/")
    failures = {
        CommandFailed(command, -6, ""): "crash",
        CommandFailed(command, 3, ""): "error",
        subprocess.TimeoutExpired("k", 1): "timeout",
        MemoryError(): "out of memory",
    }
    assert [visited(raising(error)).status for error in failures] == list(failures.values())


def test_a_build_that_runs_programs_by_itself_fails_as_data_however_it_names_them(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "scratch", lambda per: tmp_path / str(len(list(tmp_path.iterdir()))))
    program = tmp_path / "fails"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    for argv in (program, bytes(program), str(program), [bytes(program), "a b"], [program]):

        def make(variant: Variant, directory: Path, argv: Any = argv) -> None:
            subprocess.run(argv, check=True, cwd=directory)

        built = building.build(make, A, tuple)
        assert (built.status, built.code) == ("build error", 3)
        assert built.command is not None
        assert str(program) in str(built.command)
