"""What a node does with the user's functions and programs: counters, checks, commands that fail. In this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mainstay.tune import building
from mainstay.tune.artifacts import command_of
from mainstay.tune.counters import Counters
from mainstay.tune.programs import Command, CommandFailed, call
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
    about = About("", "", A, "h", "k", 0, 0.0)
    order = Order("", A, repeats=1, warmups=0, checks=True, counts=False, about=about)
    return visit(Stages("", None, lambda artifact: 1.0, check, None), order)


def test_a_build_tells_all_of_its_own_commands_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "scratch", lambda per: str(tmp_path))

    def setup() -> tuple[object, ...]:
        call(["true", "of", "setup"])
        return ()

    def make(variant: Variant, directory: Path) -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda name: call(["true", "-O2", str(directory / name)], directory), "ab"))
        call(["true", "a", "b"], directory, env={"CC": "x"})

    built = building.build(make, A, setup)
    assert sorted(built.by.split(" && ")[:2]) == ["true -O2 ./a", "true -O2 ./b"]
    assert built.by.split(" && ")[2:] == ["env CC=x true a b"]


def test_sources_of_one_name_are_refused_and_not_made_one(tmp_path):
    paths = [tmp_path / name / "kernel.c" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(str(path))
    with pytest.raises(ValueError, match=rf"{paths[0]} and {paths[1]} would both be kernel.c.*a mapping"):
        building.Build(["cc", "kernel.c"], "a.out", paths)
    assert building.Build(["cc", "kernel.c"], "a.out", paths[:1]).sources == {"kernel.c": str(paths[0])}


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


def test_what_a_build_returns_names_its_files_also_relative_to_its_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "scratch", lambda per: tmp_path / str(len(list(tmp_path.iterdir()))))

    def made(value: Callable[[Path], Any]) -> building.Built:
        def make(variant: Variant, directory: Path) -> Any:
            (directory / "k").write_text("code")
            (directory / "sub").mkdir()
            (directory / "sub" / "data").write_text("numbers")
            return value(directory)

        return building.build(make, A, tuple)

    def files(built: building.Built) -> list[str]:
        return [name for name, *_ in built.files]

    for each in ("k", Path("k"), "./k", "sub/../k"):
        built = made(lambda directory, each=each: each)
        assert (files(built), built.value) == (["k"], building.Inside("k")), each
    assert files(made(lambda directory: {"program": "k", "data": directory / "sub"})) == ["k", "sub/data"]
    assert files(made(lambda directory: directory)) == files(made(lambda directory: None)) == ["k", "sub/data"]
    for each in ("", "-O3", "../../../../../etc/passwd", "/etc/passwd", 3, b"k", "k\0", "x" * 5000):
        built = made(lambda directory, each=each: each)
        assert (built.status, files(built), built.value) == ("ok", [], each)
    assert "made no such file" in made(lambda directory: directory / "none").stderr


def test_a_program_that_failed_elsewhere_makes_no_directory_of_the_clients(tmp_path):
    elsewhere = tmp_path / "of a node"
    for command in (Command(("k",), str(elsewhere)), Command(("k", building.HERE), str(elsewhere))):
        assert command_of(building.Built("build error", command=command, digest="d"), tmp_path)
        assert not elsewhere.exists()
