"""A result is kept only where its worker computed with what the key tells of: both sides compare their modules."""

from __future__ import annotations

import importlib
import itertools
import os
import sys

import pytest

import mainstay
from conftest import wait_until

MODULE = """
import enum, functools, pathlib
from dataclasses import dataclass

A = 1
TABLE = {"a": 1}
CACHE = {}

def add(x):
    return x + A

def look(x):
    return x + TABLE["a"]

def remember(x):
    CACHE[x] = x
    return x

def hold(folder):
    pathlib.Path(folder, "begun").touch()
    while not pathlib.Path(folder, "go").exists():
        pass

def set_later(x, folder):
    hold(folder)
    return x + A

@functools.wraps(add)
def wrapped(x):
    return add(x)

class Colour(enum.Enum):
    RED = 1

@dataclass
class Model:
    weight: float = 2.0
    colours = {Colour.RED: 1}

    def run(self, x=1):
        return self.weight * x * self.scale()

    def scale(self):
        return 1

def everything(model, x):
    from pathlib import Path
    return model.run(x), Colour.RED.value, wrapped(x), Model().run(), Path("a").name
"""
_count = itertools.count()


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A module of the user's, under a name of its own."""
    name = f"usermod{next(_count)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    del sys.modules[name]


class Pool:
    def __init__(self, path, launcher):
        self.lines = []
        self.executor = mainstay.Executor(1, launcher=launcher, journal=path, log=self.lines.append)

    def __enter__(self):
        self.executor.wait_ready(timeout=60)
        return self

    def __exit__(self, *exception):
        self.executor.shutdown()

    def run(self, way, fn, *args):
        executor = self.executor
        return (
            executor.submit(fn, *args).result(60) if way == "submit" else next(executor.map(fn, *[[a] for a in args]))
        )

    @property
    def kept(self):
        journal = self.executor._keeper.journal
        return len(journal._done.keys() | journal._waiting.keys())

    @property
    def warnings(self):
        return [line for line in self.lines if "are not kept" in line]


WAYS = pytest.mark.parametrize("way", ["submit", "map"])
LAUNCHERS = pytest.mark.parametrize("launcher", ["serial", "local"])


def by_chain(user):
    return lambda x: x + user.A


def by_helper(user):
    helper = user.add
    return lambda x: helper(x)


def by_import(user):
    name = user.__name__
    space = {"__name__": "__main__"}
    exec(f"def f(x):\n    from {name} import A\n    return x + A", space)
    return space["f"]


@WAYS
@pytest.mark.parametrize("made", [lambda user: user.add, by_chain, by_helper, by_import], ids=[*"abcd"])
def test_a_constant_that_is_set_between_calls_of_one_process_is_seen(user, tmp_path, way, made):
    with Pool(tmp_path / "calls.db", "serial") as pool:
        fn = made(user)
        for value in (1, 5, 1, 5):
            user.A = value
            assert pool.run(way, fn, 1) == 1 + value
        assert pool.kept == 2
        assert not pool.warnings


@WAYS
def test_a_table_that_is_changed_in_place_between_calls_of_one_process_is_seen(user, tmp_path, way):
    with Pool(tmp_path / "calls.db", "serial") as pool:
        for value in (1, 5):
            user.TABLE["a"] = value
            assert pool.run(way, user.look, 1) == 1 + value
        assert pool.kept == 2


@pytest.mark.parametrize("when", ["waits", "runs"])
def test_what_is_set_while_a_call_of_one_process_waits_or_runs_leaves_it_unkept(user, tmp_path, when):
    with Pool(tmp_path / "calls.db", "serial") as pool:
        if when == "waits":
            pool.executor.options(journal=False).submit(user.hold, tmp_path)
            future = pool.executor.submit(user.add, 1)
        else:
            future = pool.executor.submit(user.set_later, 1, tmp_path)
        wait_until((tmp_path / "begun").exists)
        user.A = 7
        (tmp_path / "go").touch()
        assert future.result(60) == 8
        assert pool.kept == 0
        assert len(pool.warnings) == 1


@WAYS
@pytest.mark.parametrize("made", [lambda user: user.add, by_chain, by_helper, by_import], ids=[*"abcd"])
def test_what_only_the_client_has_set_is_not_kept_and_told_once(user, tmp_path, way, made):
    user.A = 5
    with Pool(tmp_path / "calls.db", "local") as pool:
        for _ in range(2):
            assert pool.run(way, made(user), 1) == 2
        assert pool.kept == 0
        (warning,) = pool.warnings
        assert f"{user.__name__}." in warning
        assert "ex.options(key=...)" in warning
        user.A = 1
        assert pool.run(way, made(user), 1) == 2
        assert pool.kept == 1


def edit(user, old, new):
    with open(user.__file__, "r+") as file:
        words = file.read()
        file.seek(0)
        file.truncate()
        file.write(words.replace(old, new))
    os.utime(user.__file__, (1, 1))  # so that no older bytecode is taken for it


@WAYS
@pytest.mark.parametrize(("old", "new"), [("x + A", "x + A + 10"), ("A = 1", "A = 11")])
def test_a_file_that_was_edited_after_the_clients_import_leaves_results_unkept(user, tmp_path, way, old, new):
    edit(user, old, new)
    with Pool(tmp_path / "calls.db", "local") as pool:
        assert pool.run(way, user.add, 1) == 12
        assert pool.kept == 0
        assert len(pool.warnings) == 1


@WAYS
def test_the_class_of_an_argument_counts_too(user, tmp_path, way):
    edit(user, "return 1\n", "return 3\n")
    with Pool(tmp_path / "calls.db", "local") as pool:
        assert pool.run(way, lambda model: model.run(), user.Model()) == 6
        assert pool.kept == 0
        assert len(pool.warnings) == 1


@WAYS
@LAUNCHERS
def test_where_both_sides_are_alike_every_result_is_kept(user, tmp_path, way, launcher):
    with Pool(tmp_path / "calls.db", launcher) as pool:
        for fn in (user.everything, lambda model, x: user.everything(model, x)):
            pool.run(way, fn, user.Model(3.0), 2)
        pool.run(way, user.Model(4.0).run, 2)
        pool.run(way, user.look, 2)
        assert pool.kept == 4
        assert not pool.warnings


def test_what_calls_do_to_their_module_is_theirs_in_a_process_and_told_of_in_this_one(user, tmp_path):
    with Pool(tmp_path / "local.db", "local") as pool:
        assert [pool.run("submit", user.remember, x) for x in range(3)] == [0, 1, 2]
        assert pool.kept == 3
    with Pool(tmp_path / "serial.db", "serial") as pool:
        assert [pool.run("submit", user.remember, x) for x in range(3)] == [0, 1, 2]
        assert pool.kept == 0
        assert len(pool.warnings) == 1


def test_a_module_that_is_registered_by_value_travels_with_its_values_as_they_are(user, tmp_path):
    import cloudpickle

    cloudpickle.register_pickle_by_value(user)
    try:
        with Pool(tmp_path / "calls.db", "local") as pool:
            for value in (5, 6):
                user.A = value
                assert pool.run("submit", user.add, 1) == 1 + value
            assert pool.kept == 2
    finally:
        cloudpickle.unregister_pickle_by_value(user)
