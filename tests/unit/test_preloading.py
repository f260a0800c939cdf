"""What `preload=` and `stagger=` may say, what is remembered, whose turn it is."""

from __future__ import annotations

import json
import re

import pytest

import mainstay
from mainstay.launch.process import AGENT, staggered
from mainstay.node.inherited import gpu
from mainstay.node.preload import Report
from mainstay.preloading import ALWAYS, Memory, Preloading, checked
from mainstay.report import Description, Preloaded
from mainstay.turns import Turns


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"preload": "numpy"}, ValueError, "preload='numpy' is a str; allowed: a list of modules' names"),
        ({"preload": 5}, TypeError, "preload=5 is no list; allowed"),
        ({"preload": [5]}, TypeError, "preload has 5, which is no name of a module"),
        ({"preload": ["my model"]}, ValueError, "preload has 'my model', which cannot be the name of a module"),
        ({"preload": ["numpy", ""]}, ValueError, "preload has '', which cannot be"),
        ({"preload": [".relative"]}, ValueError, "preload has '.relative', which cannot be"),
        ({"stagger": 0}, ValueError, "stagger=0 would let no node begin; allowed: None"),
        ({"stagger": 2.5}, TypeError, "stagger=2.5 is no number of nodes; allowed: None"),
        ({"stagger": True}, TypeError, "stagger=True is no number of nodes"),
    ],
)
def test_nonsense_is_refused_at_once(given, error, words):
    with pytest.raises(error, match=re.escape(words)):
        mainstay.Executor(launcher="local", **given)


def test_what_may_be_given():
    assert checked("auto") == "auto"
    assert checked(["numpy", "scipy.optimize"]) == ("numpy", "scipy.optimize")
    assert checked(()) == ()


class Lines(list):
    def __call__(self, level, line):
        self.append(line)


def test_nothing_is_wanted_where_nothing_was_given():
    assert Preloading((), Lines()).wanted is None


def test_what_workers_always_come_to_need_goes_with_what_was_given():
    assert Preloading(("numpy",), Lines()).wanted.names == [*ALWAYS, "numpy"]


def test_the_slowest_node_counts_and_what_all_nodes_say_is_said_once():
    lines = Lines()
    told = Preloading(("numpy",), lines)
    assert told.told() is None
    for host, seconds in [("n1", 0.5), ("n2", 2.0), ("n3", 1.0)]:
        told.reported(host, Report(["numpy"], seconds, ["careful"], {}))
    assert told.told() == Preloaded(["numpy"], 2.0)
    assert lines == ["preload on n1: careful"]


def test_the_start_line_tells_what_was_preloaded():
    names = ["numpy", "mymodel"]
    line = str(Description("local", {"vm": 2}, 2, 2, 0.5, [], 2, Preloaded(names, 0.42)))
    assert line == "launcher local; workers: 2 on vm after 0.50 s; preloaded numpy, mymodel once per node (0.4 s)"
    assert str(Preloaded([f"m{i}" for i in range(9)], 3.0)) == (
        "preloaded m0, m1, m2, m3, m4, m5 and 3 more once per node (3.0 s)"
    )


# -- what is remembered


def memory(tmp_path, key="job.py"):
    return Memory(str(tmp_path / "cache" / "file.json"), key)


def test_what_workers_imported_is_known_to_the_next_run(tmp_path):
    first = Preloading("auto", Lines(), memory(tmp_path))
    assert first.wanted.names == list(ALWAYS)
    first.seen(["numpy", "numpy.linalg", "mymodel"])
    first.save()
    second = Preloading("auto", Lines(), memory(tmp_path))
    assert second.wanted.names == [*ALWAYS, "numpy", "numpy.linalg", "mymodel"]
    assert Preloading("auto", Lines(), memory(tmp_path, "other.py")).wanted.names == list(ALWAYS)


def test_what_came_along_with_others_is_forgotten_and_what_does_harm_is_left_out(tmp_path):
    first = memory(tmp_path)
    first.add(["numpy", "numpy.linalg", "threads", "late"])
    first.save()
    lines = Lines()
    second = Preloading("auto", lines, memory(tmp_path))
    second.seen(["late", "more"])
    second.reported("n1", Report([*ALWAYS, "numpy", "late"], 1.0, [], {"threads": "it starts threads"}))
    second.seen(["threads", "threads.inner", "threadsafe"])
    second.save()
    third = memory(tmp_path)
    assert list(third.modules) == ["numpy", "late", "more", "threadsafe"]
    assert third.left_out == {"threads": "it starts threads"}
    assert lines == ["preload='auto' leaves threads out: it starts threads"]
    assert second.told().names == ["numpy", "late"]


def test_nothing_is_written_where_nothing_is_new(tmp_path):
    memory(tmp_path).save()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "found", ["", "no json", "[1]", "null", json.dumps({"job.py": 5}), '{"job.py": {"modules": 5}}']
)
def test_a_file_that_is_broken_counts_as_none(tmp_path, found):
    path = tmp_path / "file.json"
    path.write_text(found)
    broken = Memory(str(path), "job.py")
    assert list(broken.modules) == []
    broken.add(["numpy"])
    broken.save()
    assert list(Memory(str(path), "job.py").modules) == ["numpy"]


def test_what_cannot_be_remembered_is_told(tmp_path):
    (tmp_path / "cache").touch()
    lines = Lines()
    preloading = Preloading("auto", lines, memory(tmp_path))
    preloading.seen(["numpy"])
    preloading.save()
    assert len(lines) == 1
    assert lines[0].startswith("preload='auto' cannot remember what was imported: ")


# -- what a fork would inherit broken


@pytest.mark.parametrize(
    ("libraries", "files", "name"),
    [
        ({"/usr/lib/libcuda.so.535.1"}, {"/dev/nvidiactl", "/dev/null"}, "CUDA"),
        ({"/opt/rocm/lib/libamdhip64.so.6"}, {"/dev/kfd"}, "ROCm"),
        ({"/usr/lib/libcuda.so.1"}, {"/dev/null"}, None),
        ({"/usr/lib/libcudart.so.12"}, {"/dev/nvidia0"}, None),
        (set(), {"/dev/nvidia0"}, None),
    ],
)
def test_a_gpu_is_in_use_where_its_library_has_its_device_open(libraries, files, name):
    said = gpu(libraries, files)
    assert said is None if name is None else f"it initialises {name}" in said


# -- whose turn it is


def test_turns_are_given_in_order_and_no_more_than_allowed():
    turns = Turns(2, longest=60)
    for name in "abcde":
        turns.came(name)
    assert turns.next(0) == ["a", "b"]
    assert turns.next(0) == []
    turns.done("d")  # is gone
    turns.done("a")
    turns.done("a")
    assert turns.next(1) == ["c"]
    turns.done("c")
    turns.done("b")
    assert turns.next(2) == ["e"]


def test_all_begin_at_once_where_nothing_is_staggered():
    turns = Turns(None, longest=60)
    for name in "abc":
        turns.came(name)
    assert turns.next(0) == ["a", "b", "c"]


def test_one_that_hangs_holds_the_others_back_for_so_long_only():
    turns = Turns(1, longest=60)
    turns.came("a")
    turns.came("b")
    assert turns.next(10) == ["a"]
    assert turns.next_deadline() == 70
    turns.tick(69)
    assert turns.next(69) == []
    turns.tick(70)
    assert turns.next(70) == ["b"]
    assert turns.next_deadline() is None


def test_an_agent_waits_in_line_only_where_that_was_asked_for():
    assert staggered(None) == list(AGENT)
    command = staggered(4)
    assert command[0] == "/bin/sh"
    assert command[-len(AGENT) - 1 :] == ["4", *AGENT]
