"""The tuner on a real pool: builds and their failures, state, files, what a killed run leaves, search, the command."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from math import inf
from pathlib import Path

import numpy as np
import psutil
import pytest

import mainstay
from conftest import agents, wait_until
from mainstay import Executor
from mainstay.timeline import overlaps
from mainstay.tune import Build, Table, Tuner, Variant, call
from mainstay.tune.nodes import TooFewNodes
from mainstay.tune.report import tables

EXAMPLES = Path(__file__).parents[2] / "examples"
MAIN = "import sys; from mainstay.cli import main; sys.exit(main())"
FEW = {"rounds": (2, 3), "repeats": 2, "warmups": 0, "slower": 1e9}
SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#ifdef BROKEN
#error broken on purpose
#endif
int main(void) {
    if (@answer@ == 6) abort();
    if (@answer@ == 9) { fprintf(stderr, "cannot allocate memory"); return 3; }
    if (@answer@ == 5) return 5;
    printf("%d", @answer@);
    return 0;
}
"""
answers = Build(["cc", "{flags}", "answer.c", "-o", "bin/answer"], "bin/answer", {"bin/x": "", "answer.c": SOURCE})


@pytest.fixture(scope="module")
def pool():
    with Executor(3, launcher="local", timeline=True) as executor:
        yield executor


def is_42(artifact) -> bool:
    return call([artifact]) == "42"


def by_variant(table: Table):
    return {row.variant: row for row in table}


def test_every_failure_is_a_row_with_its_class_and_ends_no_sweep(pool, tmp_path):
    base = Variant(answer=42, flags="-O1")
    broken = Variant(answer=42, flags="-DBROKEN")
    others = {5: "error", 6: "crash", 7: "wrong answer", 9: "out of memory"}
    begun = len(pool.timeline)
    tuner = Tuner(pool, ["{artifact}"], build=answers, check=is_42, baseline=base, artifacts=tmp_path, **FEW)
    table = tuner.measure([broken, *(Variant(answer=answer, flags="-O1") for answer in others)])
    rows = by_variant(table)
    assert {variant.answer: row.status for variant, row in rows.items() if variant not in (base, broken)} == others
    assert rows[base].status in ("ok", "unstable")
    assert table.best.variant == base
    for variant, row in rows.items():
        assert variant == broken or row.as_dict()["built_by"] == "cc -O1 answer.c -o bin/answer"
    row = rows[broken]
    assert row.status == "build error"
    assert "broken on purpose" in row.message
    again = subprocess.run(row.command, shell=True, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "broken on purpose" in again.stderr
    assert "SIGABRT" in rows[Variant(answer=6, flags="-O1")].message
    assert len(rows[Variant(answer=6, flags="-O1")].failures) == 2  # it was tried again
    plain = rows[base].as_dict()
    assert plain["cpu"]
    assert plain["compiler_version"].startswith("cc")
    assert plain["samples"] == 2 * plain["rounds"]
    spans = pool.timeline[begun:]
    assert sum(span.exclusive for span in spans) > 10
    assert overlaps(spans) == []


def test_what_ends_a_worker_is_a_class_too(pool):
    def run(variant):
        if variant.how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if variant.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if variant.how == "hangs":
            signal.pause()
        if variant.how == "raises":
            raise KeyError(variant.how)

    def measured(*names, **more):
        table = Tuner(pool, run, **FEW, **more).measure([Variant(how=how) for how in names])
        return {row.variant.how: row.status for row in table}

    told = measured("segfault", "killed", "raises")
    assert told == {"segfault": "crash", "killed": "out of memory", "raises": "error"}
    assert measured("hangs", run_timeout=0.2) == {"hangs": "timeout"}
    hanging = Build([sys.executable, "-c", "import time; time.sleep(600)"], "x", timeout=0.2)
    table = Tuner(pool, ["{artifact}"], build=hanging, **FEW).measure([Variant(a=1)])
    assert [row.status for row in table] == ["timeout"]
    table = Tuner(pool, ["x"], build=Build(["no-such-compiler"], "x"), **FEW).measure([Variant(a=1)])
    assert [row.status for row in table] == ["build error"]
    assert "no-such-compiler" in table.rows[0].message


def test_a_check_that_ended_its_worker_is_asked_again(pool, tmp_path):
    mark = tmp_path / "died"

    def check(variant):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        return False

    (row,) = Tuner(pool, lambda variant: 1.0, check=check, **FEW).measure([Variant(x=1)])
    assert [visit.status for visit in row.failures] == ["crash", "wrong answer"]
    assert row.status == "wrong answer"


def test_what_is_lost_with_its_agent_is_built_and_measured_again(tmp_path):
    def build(variant, directory):
        die_once("build", variant)
        (directory / "made").touch()

    def run(artifact):
        die_once("run", artifact)

    def die_once(what, about):
        mark = tmp_path / what
        if not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)  # the agent; this worker goes with it
            signal.pause()

    with Executor(2, launcher="local", journal=tmp_path / "tune.db") as executor:
        table = Tuner(executor, run, build=build, **FEW).measure([Variant(x=x) for x in range(4)])
    assert {row.status for row in table} <= {"ok", "unstable"}
    assert [row.failures for row in table] == [()] * 4
    assert {path.name for path in tmp_path.iterdir()} >= {"build", "run"}
    assert [len(table) for table in tables(tmp_path / "tune.db")] == [4]


def test_what_a_timeout_ended_is_measured_under_another_one(tmp_path):
    def run(variant):
        if not (tmp_path / "go").exists():
            signal.pause()
        return 1.0

    def measured(timeout: float) -> set[str]:
        with Executor(1, launcher="local", journal=tmp_path / "tune.db") as executor:
            return {row.status for row in Tuner(executor, run, run_timeout=timeout, **FEW).measure([Variant(x=1)])}

    assert measured(0.2) == {"timeout"}
    (tmp_path / "go").touch()
    assert measured(0.2) == {"timeout"}  # as it was
    assert measured(60) == {"ok"}
    assert [row.status for table in tables(tmp_path / "tune.db") for row in table] == ["ok"]


def test_state_that_cannot_be_pickled_is_made_once_a_worker_from_a_file_that_was_shipped(pool, tmp_path):
    source = tmp_path / "count.c"
    source.write_text("static int calls; int count(void) { return ++calls; }")
    library = tmp_path / "libcount.so"
    call(["cc", "-shared", "-fPIC", source, "-o", library])
    home, shipped = str(tmp_path), str(library)

    def setup():
        place = str(mainstay.staged(shipped))
        assert not place.startswith(home)  # on the node's own disk
        return ctypes.CDLL(place)

    def build(variant, directory, library):
        (directory / "made").write_text(f"{variant.x}")
        return {"file": str(directory / "made"), "by": library.count() > 0}

    def run(artifact, library):
        assert artifact["by"]
        return {"seconds": 1.0, "calls": library.count(), "pid": os.getpid(), "x": Path(artifact["file"]).read_text()}

    tuner = Tuner(pool, run, build=build, setup=setup, ship=[shipped], **FEW)
    samples = tuner.measure([Variant(x=x) for x in range(3)]).samples()
    by_worker: dict[int, list[int]] = {}
    for sample in samples:
        by_worker.setdefault(sample["metric_pid"], []).append(sample["metric_calls"])
    assert all(len(set(calls)) == len(calls) for calls in by_worker.values())  # one counter each, never begun anew


SWEEP = """
import os, signal, sys, zlib
from mainstay import Executor
from mainstay.tune import Tuner, Variant

def run(variant):
    # what it says is always the same, so that tables can be compared
    with open(sys.argv[2], "a") as file:
        file.write(f"{variant}\\n")
    if "VICTIM" in os.environ and os.path.getsize(sys.argv[2]) > 13 * 4:  # in the second round, or a later one
        os.kill(int(os.environ["VICTIM"]), signal.SIGKILL)
    return 1 + zlib.crc32(str(variant).encode()) % 100 / 1000

if sys.argv[4:]:
    os.environ["VICTIM"] = str(os.getpid())
with Executor(2, launcher="local", journal=sys.argv[1], journal_sync="each") as ex:
    tuner = Tuner(ex, run, repeats=1, warmups=0, rounds=(6, 6), baseline=Variant(a=0))
    if sys.argv[3] == "measure":
        table = tuner.measure([Variant(a=a) for a in range(6)])
    else:
        table = tuner.search({"a": range(6), "b": range(6)}, sys.argv[3], 5, constraint=lambda v: v.a + v.b < 9)
    for row in table:
        print(row.variant, row.status, row.session, sorted(row.medians.items()), table.ratio(row))
"""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("how", ["measure", "random", "tpe"])
def test_a_killed_run_goes_on_where_it_was_and_its_table_is_the_same(tmp_path, how):
    if how == "tpe":
        pytest.importorskip("optuna")
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP)

    def start(name, *more):
        words = [sys.executable, script, tmp_path / f"{name}.db", tmp_path / name, how, *more]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, timeout=100)

    others = {process.pid for process in agents()}
    assert start("killed", "in its midst").returncode == -signal.SIGKILL
    wait_until(lambda: {process.pid for process in agents()} <= others)
    before, kept = len(lines(tmp_path / "killed")), visits(tmp_path / "killed.db")
    table = [start("killed").stdout for _ in range(2)]
    assert table[0] == table[1]
    assert 0 < kept < visits(tmp_path / "killed.db")
    assert len(lines(tmp_path / "killed")) - before == visits(tmp_path / "killed.db") - kept  # none was repeated
    if how != "tpe":  # what that asks next depends on the order in which results come
        assert table[0] == start("whole").stdout
        assert visits(tmp_path / "whole.db") == visits(tmp_path / "killed.db")


def visits(journal: Path) -> int:
    """How many visits a journal has."""
    return sum(len(row.visits) for table in tables(journal) for row in table)


def test_what_a_run_or_a_build_does_wrong_is_said_in_its_row(pool):
    def run(variant):
        if variant.says == "exit":
            sys.exit("bye")
        return {"zero": 0.0, "nan": float("nan"), "word": "fast", "none": {"seconds": None}}.get(variant.says, 1.0)

    base = Variant(says="exit")
    wrong = [Variant(says=says) for says in ("zero", "nan", "word", "none")]
    table = Tuner(pool, run, baseline=base, **FEW).measure([*wrong, Variant(says="right")])
    rows = by_variant(table)
    assert {rows[one].status for one in [base, *wrong]} == {"error"}
    assert all("run returns seconds > 0" in rows[one].message for one in wrong)
    assert "bye" in rows[base].message
    assert table.best.variant == Variant(says="right")  # though there is no baseline to compare it with

    def build(variant, directory):
        (directory / "made").touch()
        paths = {"set": {directory / "made"}, "tuple": (str(directory / "made"), 1), "missing": directory / "other"}
        return paths[variant.how]

    def exists(artifact):
        return all(Path(path).exists() for path in artifact if path != 1)

    variants = [Variant(how=how) for how in ("set", "tuple", "missing")]
    rows = by_variant(Tuner(pool, lambda artifact: 1.0, build=build, check=exists, **FEW).measure(variants))
    assert [rows[one].status for one in variants] == ["ok", "ok", "build error"]
    assert "made no such file" in rows[variants[2]].message
    table = Tuner(pool, ["{artifact}"], build=Build(["touch", "one"], "two"), **FEW).measure([Variant(x=1)])
    assert "made no two, which output= names; there is: one" in table.rows[0].message
    several = Build(["touch", "one"], ["one"])
    table = Tuner(pool, ["{artifact}"], build=several, **FEW).measure([Variant(x=1)])
    assert "an artifact that is one path" in table.rows[0].message
    table = Tuner(pool, ["sh", "-c", "exit {code}"], **FEW).measure([Variant(code=code) for code in (0, 3)])
    assert {row.variant.code: row.status == "error" for row in table} == {0: False, 3: True}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"round": (1, 2)}, "there is no option round; rules are repeats"),
        ({"rounds": 5}, r"rounds are \(least, most\).*given: 5"),
        ({"repeats": "3"}, "repeats is an int >= 1; given: '3'"),
        ({"slower": 1}, "slower is a number > 1; math.inf"),
        ({"nodes": "3"}, "nodes is how many"),
        ({"cores": 0}, "cores must be None or an int >= 1"),
        ({"run_timeout": -1}, "timeout must be None or a number of seconds > 0"),
        ({"alpha": 2}, "0 < alpha < 1"),
        ({"ship": "k.so"}, r"ship is a list of paths, as \['k.so'\]"),
        ({"ship": ["/no such file"]}, "there is no /no such file"),
        ({"tools": "cc"}, r'as \["cc"\]'),
        ({"build": ["cc"]}, r"build is a function, a Build\("),
        ({"check": "yes"}, "check is a function or None"),
        ({"baseline": {"x": 1}}, "Variant objects"),
        ({"run": 3}, "run is a function of the artifact, or words"),
        ({"variants": 3}, "variants are a list"),
        ({"variants": []}, "there is nothing to measure"),
        (
            {"build": Build(["cc", "{x}"], "k"), "variants": [Variant(x="'a")]},
            r"\"'a\", of \[x='a\]: No closing quotation",
        ),
        ({"variants": Variant(x=1)}, "variants are a list"),
        ({"build": Build(["cc", "-DT={tile}"], "k")}, r"'-DT={tile}' is to name what the variant has, {x}"),
        ({"build": Build(["{cc}", "k.c"], "k")}, r"'{cc}'.* as tools=\[\"gcc\", \"clang\"\]"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(pool, given, told):
    given = {"run": lambda variant: 1.0, "variants": [Variant(x=1)], **given}
    with pytest.raises((ValueError, TypeError, OSError), match=told):
        Tuner(pool, given.pop("run"), **{name: given[name] for name in given if name != "variants"}).measure(
            given["variants"]
        )


def test_a_compiler_that_variants_name_is_a_tool(pool):
    build = Build(["{cc}", "k.c", "-o", "k"], "k", {"k.c": "int main(void) { return 0; }"})
    tuner = Tuner(pool, ["{artifact}"], build=build, tools=["cc"], **FEW)
    (row,) = tuner.measure([Variant(cc="cc")])
    assert row.status in ("ok", "unstable")
    assert [name for name, _ in row.machine.tools] == ["cc"]


def test_a_sweep_that_was_broken_off_leaves_nothing_to_the_next(pool):
    told: list[object] = []

    def break_off(progress):
        told.append(progress)
        if len(told) == 5:
            raise KeyboardInterrupt

    tuner = Tuner(pool, lambda artifact: 1.0, build=lambda variant, directory: None, progress=break_off, **FEW)
    variants = [Variant(x=x) for x in range(6)]
    with pytest.raises(KeyboardInterrupt):
        tuner.measure(variants)
    table = tuner.measure(variants)
    assert [row.status for row in table] == ["ok"] * 6
    assert tuner.measure(variants[:1]).best.variant == variants[0]


class Told:
    """A strategy that asks for these points, and notes what it is told."""

    def __init__(self, *points):
        self._points, self.ratios = [*points, Variant(a=5, b=True)], {}

    def ask(self):
        return self._points.pop(0)

    def tell(self, variant, ratio):
        self.ratios[variant] = ratio


def test_a_point_is_told_once_though_its_node_is_gone(pool):
    pool.wait_ready()
    host = pool.workers[0].host
    strategy = Told(*(Variant(a=a, b=False) for a in range(3)))
    tell, told = strategy.tell, []
    strategy.tell = lambda variant, ratio: (told.append(variant), tell(variant, ratio))

    def lose(progress):
        if progress.visits == 3 and not told:
            tuner.crew.gone.add(host)

    tuner = Tuner(pool, lambda variant: 1.0, progress=lose, **FEW)
    table = tuner.search({"a": range(6), "b": (False, True)}, strategy, 4)
    assert len(told) == len(set(told)) == 4
    assert "node lost" in {row.status for row in table}
    assert tuner.search({"a": range(6)}, "random", 2).best  # it may be there again


def test_search_goes_where_it_is_faster_and_says_what_it_allows(pool):
    def run(variant):
        return 1.0 + abs(variant.a - 5) + (0.5 if variant.b else 0.0)

    space = {"a": range(10), "b": (False, True)}
    tuner = Tuner(pool, run, **FEW)
    table = tuner.search(space, "random", 40)  # more than there are
    assert table.best.variant == Variant(a=5, b=False)
    assert len({row.variant for row in table}) == 20
    told = Told(Variant(a=9, b=False), Variant(a=5, b=False), Variant(a=0, b=True))
    tuner = Tuner(pool, lambda variant: run(variant) if variant.a != 9 else 0.0, **(FEW | {"slower": 2.0}))
    tuner.search(space, told, 4)  # the first point is the baseline, and fails
    assert told.ratios[Variant(a=9, b=False)] == inf
    assert told.ratios[Variant(a=5, b=True)] < inf  # the last, for which there is another one
    pytest.importorskip("optuna")
    assert len({row.session for row in tuner.search({"a": range(4)}, "tpe", 9)}) == 4  # none is measured twice
    for strategy in ("random", "tpe"):
        with pytest.raises(ValueError, match="no point was found that meets the constraint"):
            tuner.search(space, strategy, 3, constraint=lambda v: v.a > 99)
    with pytest.raises(TypeError, match="an object with ask"):
        tuner.search(space, object(), 3)
    with pytest.raises(TypeError, match="a space is a mapping"):
        tuner.search([1])
    with pytest.raises(ValueError, match="strategy is one of random, tpe"):
        tuner.search(space, "magic", 3)
    with pytest.raises(TypeError, match="give a list, tuple or range"):
        tuner.search({"a": 3})
    with pytest.raises(ValueError, match="budget"):
        tuner.search(space, "random", 0)


class Listed:
    """A strategy that has a list of points, and knows nothing of earlier runs."""

    def __init__(self, *points: int) -> None:
        self._points, self.told = list(points), []

    def ask(self):
        return Variant(a=self._points.pop(0)) if self._points else None

    def tell(self, variant, ratio):
        self.told.append((variant.a, round(ratio, 9)))


def test_a_point_that_is_asked_for_again_is_told_again_and_measured_once(tmp_path):
    log = tmp_path / "runs"

    def run(variant):
        with log.open("a") as file:
            file.write(f"{variant.a}\n")
        return 1.0 + variant.a

    def search(points, budget):
        strategy = Listed(*points)
        with Executor(1, launcher="serial", journal=tmp_path / "j.db") as ex:
            table = Tuner(ex, run, **FEW).search({"a": range(9)}, strategy, budget)
        reported = tables(tmp_path / "j.db")[-1]
        assert [(row.variant, row.medians) for row in reported] == [(row.variant, row.medians) for row in table]
        return strategy.told, {row.variant.a for row in table}

    told, measured = search([0, 1, 1, 0, 2], 5)
    assert sorted(told) == [(0, 1.0), (0, 1.0), (1, 2.0), (1, 2.0), (2, 3.0)]
    assert measured == {0, 1, 2}
    before = len(lines(log))
    again, measured = search([0, 1, 1, 0, 2, 3], 6)
    assert sorted(again) == [*sorted(told), (3, 4.0)]
    assert measured == {0, 1, 2, 3}
    assert set(lines(log)[before:]) == {"0", "3"}  # beside its baseline


def test_a_point_whose_first_baseline_failed_is_measured_beside_another_and_once(tmp_path):
    log = tmp_path / "runs"

    def run(variant):
        with log.open("a") as file:
            file.write(f"{variant.a}\n")
        return {"seconds": max(0.0, variant.a - 1.0), "numbers": np.int64(variant.a)}  # 0 and 1 fail

    for _ in range(2):
        strategy = Listed(0, 5, 1, 3)
        with Executor(1, launcher="serial", journal=tmp_path / "j.db") as ex:
            table = Tuner(ex, run, **FEW).search({"a": range(9)}, strategy, 4)
        assert [told for told in strategy.told if told[1] == inf] == [(0, inf), (1, inf)]
        assert {number for number, ratio in strategy.told if ratio < inf} == {3, 5}
        assert table.best.variant == Variant(a=3)
        assert {row["metric_numbers"] for row in table.as_dicts() if row["status"] == "ok"} == {3, 5}
        ran = lines(log)
    assert lines(log) == ran


class Lost:
    def ask(self):
        return 3

    def tell(self, variant, ratio):
        """Nothing."""


def test_a_strategy_that_asks_for_nonsense_is_told(pool):
    with pytest.raises(TypeError, match=r"ask\(\) is to return a Variant, or None; it returned 3"):
        Tuner(pool, lambda variant: 1.0, **FEW).search({"a": (1, 2)}, Lost(), 3)


def test_a_search_of_what_is_known_not_to_build_ends_in_a_table(pool):
    tuner = Tuner(pool, run=["{artifact}"], build=Build(["sh", "-c", "exit {a}"], "k"), **FEW)
    table = tuner.search({"a": (1, 2), "b": range(200)}, "random", 150)
    assert {row.status for row in table} == {"build error"}
    assert len({row.variant for row in table}) == 150


def test_a_search_ends_where_its_baseline_fails(pool):
    tuner = Tuner(pool, lambda variant: 1.0 if variant.a else 0.0, baseline=Variant(a=0), **FEW)
    table = tuner.search({"a": range(1, 9)}, "random", 8)
    assert 0 < sum(row.is_baseline for row in table) < 8
    assert {row.status for row in table if row.is_baseline} == {"error"}


def test_a_report_tells_of_what_could_not_be_brought_to_the_journal_too(tmp_path):
    def run(variant):
        return {"seconds": 1.0, "lock": threading.Lock()} if variant.x else 1.0

    with Executor(1, launcher="serial", journal=tmp_path / "j.db") as ex:
        live = Tuner(ex, run, **FEW).measure([Variant(x=x) for x in range(2)])
    (reported,) = tables(tmp_path / "j.db")
    assert [row.status for row in live] == ["ok", "error"]
    assert [(row.variant, row.status, row.medians, row.message) for row in reported] == [
        (row.variant, row.status, row.medians, row.message) for row in live
    ]


def test_a_report_tells_of_each_build_that_failed_by_its_own_words(tmp_path):
    build = Build(["cc", "-fno-such-{flag}", "k.c", "-o", "k"], "k", {"k.c": "int main(void) { return 0; }"})
    with Executor(1, launcher="serial", journal=tmp_path / "j.db") as ex:
        live = Tuner(ex, ["{artifact}"], build=build, **FEW).measure([Variant(flag=flag) for flag in ("a", "b")])
    (reported,) = tables(tmp_path / "j.db")  # both left the same files

    def told(table):
        return {row.variant.flag: (row.message, row.command.split(" && ")[-1]) for row in table}

    assert told(reported) == told(live)
    assert "-fno-such-b" in told(live)["b"][0]
    assert "-fno-such-b" in told(live)["b"][1]


def test_it_says_where_it_ran_and_that_too_few_nodes_took_part(pool):
    said: list[str] = []
    Tuner(pool, print, log=said.append)
    pool.wait_ready()
    host = pool.workers[0].host
    assert said[0] == "nodes: 1 allocated, 1 took part; kinds: 1"
    assert said[1].startswith(f"{host}: ")
    assert "calibration" in said[1]
    with pytest.raises(TooFewNodes, match=rf"nodes=2 were asked for, and 1 took part \({host}\)"):
        Tuner(pool, print, nodes=2)
    with pytest.raises(TypeError, match="run is a function"):
        Tuner(pool, "prog")


FILE = """
from mainstay.tune import Build, Variant

build = Build(["cc", "-O{opt}", "k.c", "-o", "k"], "k", {"k.c": "int main(void) { return @code@; }"})
run = ["{artifact}"]
variants = [Variant(opt=opt, code=code) for opt in (0, 1) for code in (0, 1)] + [Variant(opt=0, code="two words=wrong")]
baseline = Variant(opt=0, code=0)
options = {"rounds": (6, 7), "repeats": 1, "warmups": 0, "slower": 1e9}
"""


SLOW = """
import time
from mainstay.tune import Variant

def run(variant):
    with open({log!r}, "a") as file:
        file.write("x\\n")
    time.sleep(0.02)
    return 1.0

variants = [Variant(x=x) for x in range(4)]
options = {{"rounds": (6, 6), "repeats": 1, "warmups": 0}}
"""


def test_the_command_measures_what_a_file_tells_and_reports_it_from_the_journal(tmp_path):
    pytest.importorskip("rich")
    file = tmp_path / "kernels.py"
    file.write_text(FILE)

    def tune(*words):
        command = [sys.executable, "-c", MAIN, "tune", *map(str, words)]
        environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache of mine")}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100, env=environ
        )

    done = tune(file, "--launcher", "local", "--workers", 2, "--csv", "rows.csv", "--plot", "rows.png")
    assert done.returncode == 0, done.stderr
    assert "fastest on" in done.stdout
    assert "took part" in done.stderr
    reported = tune("report", "kernels.db")
    assert reported.stdout == done.stdout
    rows = json.loads(tune("report", "kernels.db", "--json").stdout)
    failed = [(row["code"], row["opt"], row["status"]) for row in rows if "error" in row["status"]]
    assert sorted(failed, key=str) == [("two words=wrong", 0, "build error"), (1, 0, "error"), (1, 1, "error")]
    assert sum(row["status"] in ("ok", "unstable") for row in rows) == 2
    with (tmp_path / "rows.csv").open() as file:
        for row in (row for row in csv.DictReader(file) if row["command"]):  # it repeats what happened, after the run
            again = subprocess.run(row["command"], shell=True, capture_output=True, text=True, check=False, cwd="/")
            assert again.returncode
            assert again.stderr.strip() == row["message"].strip()
            assert "wrong" in again.stderr
            assert row["command"] in [one["command"] for one in rows]
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert [len(table) for table in tables(tmp_path / "kernels.db")] == [5]
    for name, text in [
        ("raises", "import sys\nraise KeyError('mine')"),
        ("leaves", "import sys\nsys.exit('no compiler')"),
        ("both", "run = print\nvariants = []\nspace = {}"),
        ("options", "run = print\nvariants = []\noptions = 3"),
    ]:
        (tmp_path / f"{name}.py").write_text(text)
    for words, told in [
        (["raises.py"], "raises.py, line 2: KeyError: 'mine'"),
        (["leaves.py"], "leaves.py, line 2: SystemExit: no compiler"),
        (["both.py"], "either `variants` or `space`"),
        (["options.py"], "options is a dict of what a Tuner takes"),
        ([file, "--plot", "nowhere/x.png"], "there is no directory nowhere"),
        (["nothing.py"], "'nothing.py' is no Python file"),
        (["report", "nothing.db"], "nothing.db"),
        (["report"], "report wants one journal"),
    ]:
        wrong = tune(*words)
        assert wrong.returncode == 2
        assert told in wrong.stderr


@pytest.mark.parametrize(
    ("name", "less"),
    [("gemm", "variants = variants[:2]"), ("stencil", 'strategy, budget = "random", 2')],
    ids=["gemm", "stencil"],
)
def test_the_examples_are_measured(tmp_path, name, less):
    pytest.importorskip("rich")
    text = (EXAMPLES / f"tune_{name}.py").read_text()
    (tmp_path / f"{name}.py").write_text(f'{text}\n{less}\noptions["rounds"] = (1, 2)\n')
    command = [sys.executable, "-c", MAIN, "tune", f"{name}.py", "--launcher", "local", "--workers", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) > 1
    assert {row["status"] for row in rows} <= {"ok", "unstable"}, rows


def test_the_command_is_interrupted_and_goes_on(tmp_path):
    pytest.importorskip("rich")
    file, log = tmp_path / "slow.py", tmp_path / "log"
    file.write_text(SLOW.format(log=str(log)))
    command = [sys.executable, "-c", MAIN, "tune", "slow.py", "--launcher", "local", "--workers", "2"]
    others = {process.pid for process in agents()}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as interrupted:
        wait_until(lambda: len(lines(log)) > 8)
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "interrupted; what was measured is in slow.db: `mainstay tune report slow.db` shows it" in said
    assert "Traceback" not in said
    wait_until(lambda: {process.pid for process in agents()} <= others)
    begun, kept = len(lines(log)), visits(tmp_path / "slow.db")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert again.returncode == 0, again.stderr
    assert kept
    assert len(lines(log)) - begun == visits(tmp_path / "slow.db") - kept == 4 * 6 - kept


REPORTED = """
import sys
from mainstay import Executor
from mainstay.tune import Build, Tuner, Variant

def run(artifact):
    with open(sys.argv[2], "a") as file:
        file.write("x\\n")
    return 1.0 if b"fast" in open(artifact, "rb").read() else 1.1

def told(table):
    return [(str(row.variant), row.host, row.status, row.is_baseline, sorted(row.medians.items()), table.ratio(row))
            for row in table] + [row["compiler_version"] for row in table.as_dicts()]

script = {"make": "test $1 -lt 3 && echo $2 > k"}
some = [Variant(a=a, code=code) for a in (1, 3) for code in ("fast", "slow")]
more = [*some, Variant(a=2, code="fast"), Variant(a=4, code="fast"), Variant(a=1, code="fast", unused=True)]
with Executor(2, launcher="local", journal=sys.argv[1]) as ex:
    for variants, baseline, rounds in [
        (some, None, 6), (more, more[0], 6), (some, some[0], 6), (some, None, 8), (some, None, 7)
    ]:
        build = Build(["sh", "make", "{a}", "{code}"], "k", script)
        tuner = Tuner(ex, run, build=build, baseline=baseline, repeats=1, warmups=0, rounds=(rounds, rounds))
        print(told(tuner.measure(variants)))
    print(told(tuner.search({"a": (1, 2), "code": ("fast", "slow")}, "random", 4)))
if len(sys.argv) > 3:
    from mainstay.tune.report import tables
    for table in tables(sys.argv[1]):
        print(told(table))
"""


def test_a_report_tells_of_each_sweep_and_search_what_its_table_told(tmp_path):
    script, log = tmp_path / "sweeps.py", tmp_path / "runs"
    script.write_text(REPORTED)

    def start(*more):
        words = [sys.executable, script, tmp_path / "j.db", log, *more]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=100).stdout.splitlines()

    some, larger, beside, more_rounds, fewer_rounds, searched = start()
    runs = len(lines(log))
    again = start("report")
    assert again[:6] == [some, larger, beside, more_rounds, fewer_rounds, searched]
    assert len(lines(log)) == runs  # with each of them, only what is not there is measured
    assert again[6:] == [larger, beside, fewer_rounds, searched]  # rounds of one sweep, which was run last with 7
    assert "build error" in larger
    assert some != more_rounds != fewer_rounds


def test_a_serial_pool_tunes_too():
    with Executor(launcher="serial") as executor:
        table = Tuner(executor, lambda variant: 1.0 + variant.a, **FEW).measure([Variant(a=1), Variant(a=2)])
        assert table.best.variant == Variant(a=1)


def test_a_build_that_used_more_than_words_is_repeated_with_it_and_one_that_overran_leaves_nothing(pool, tmp_path):
    mark = str(tmp_path / "pid")

    def build(variant, directory):
        (directory / "empty").mkdir()
        if variant.how == "env":
            call(["sh", "-c", 'echo "$GREETING" $(ulimit -v) >&2; exit 3'], directory / "empty",
                 env={"GREETING": "it's me"}, memory=1 << 30)  # fmt: skip
        if variant.how == "subprocess":
            subprocess.run("echo plain words >&2; exit 4", shell=True, check=True, cwd=directory, capture_output=True)
        call(["sh", "-c", f"sleep 600 & echo $! > {mark}; wait"], timeout=0.2)

    table = Tuner(pool, print, build=build, artifacts=tmp_path / "a b", **FEW).measure(
        [Variant(how=how) for how in ("env", "subprocess", "overrun")]
    )
    rows = {row.variant.how: row for row in table}
    assert {how: row.status for how, row in rows.items()} == {
        "env": "build error", "subprocess": "build error", "overrun": "timeout",
    }  # fmt: skip
    for how, code, said in (("env", 3, f"it's me {(1 << 30) // 1024}"), ("subprocess", 4, "plain words")):
        assert said in rows[how].message
        again = subprocess.run(rows[how].command, shell=True, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr.strip()) == (code, said)
    assert "timeout of 0.2 s" in rows["overrun"].message
    wait_until(lambda: not psutil.pid_exists(int(Path(mark).read_text())))
