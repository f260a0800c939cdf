"""A function is known by what it computes; or by what its user says."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import importlib
import itertools
import linecache
import random
import sys
import threading
import types

import pytest

import mainstay
from mainstay.errors import UnreliableKey
from mainstay.journal.keys import call_key, explicit_key, function_key, memo, version_of
from mainstay.journal.reach import Reach

KEY = bytes(16)


@dataclasses.dataclass
class Point:
    x: float

    def norm(self):
        return abs(self.x)


# -- functions

_count = itertools.count()


def made(words, **names):
    """Run source text as a module that has a file of its own name, as a notebook's cell has."""
    name = f"<cell {next(_count)}>"
    linecache.cache[name] = (len(words), None, words.splitlines(keepends=True), name)
    space = {"__name__": "cell", **names}
    exec(compile(words, name, "exec", dont_inherit=True), space)
    return space


def key_of(words, **names):
    return function_key(made(words, **names)["f"])


SAME = {
    "comments and layout": ("def f(x):\n    return x+1\n", "# why\n\ndef f( x ):  # so\n    return (x\n   + 1)\n"),
    "docstring": ("def f(x):\n    return x\n", "def f(x):\n    'Doc.'\n    return x\n"),
    "annotations": ("def f(x):\n    y = x\n    return y\n", "def f(x: int) -> int:\n    y: int = x\n    return y\n"),
    "own name": ("def f(x): return x", "def g(x): return x\nf = g"),
    "elsewhere": ("a = 1\ndef f(x): return x", "b = 2\ndef h(): pass\ndef f(x): return x"),
    "strings": ("def f(): return 'ab' f'c{1}'", "def f(): return f'abc{1}'"),
    "written default": ("def f(x=2): return x", "n = 2\ndef f(x=n): return x"),
    "order of a global dict": ("d={1:2,3:4}\ndef f(): return d", "d={3:4,1:2}\ndef f(): return d"),
    "a global's docstring": (
        "def g(): return 1\ndef f(): return g()",
        "def g():\n  'D'\n  return 1\ndef f(): return g()",
    ),
    "unused method": ("def f(x): return x\nclass A: pass", "def f(x): return x\nclass A:\n  def m(self): pass"),
}
OTHER = {
    "code": ("def f(x): return x+1", "def f(x): return x+2"),
    "type of a constant": ("def f(x): return 1", "def f(x): return 1.0"),
    "sign of a zero": ("def f(x): return 0.0", "def f(x): return -0.0"),
    "operator": ("def f(x): return x+1", "def f(x): return x-1"),
    "default": ("def f(x=1): return x", "def f(x=2): return x"),
    "keyword default": ("def f(*, x=1): return x", "def f(*, x=2): return x"),
    "kind of parameter": ("def f(x, y): return x", "def f(x, *, y): return x"),
    "global": ("n = 1\ndef f(): return n", "n = 2\ndef f(): return n"),
    "global list": ("n = [1]\ndef f(): return n", "n = [2]\ndef f(): return n"),
    "function it calls": ("def g(): return 1\ndef f(): return g()", "def g(): return 2\ndef f(): return g()"),
    "function called by that": (
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def h(): return 2\ndef g(): return h()\ndef f(): return g()",
    ),
    "global of a nested function": (
        "n = 1\ndef f():\n  def g(): return n\n  return g",
        "n = 2\ndef f():\n  def g(): return n\n  return g",
    ),
    "global of a comprehension": ("n = 1\ndef f(): return [n for _ in 'a']", "n = 2\ndef f(): return [n for _ in 'a']"),
    "builtin replaced": ("def f(): return len('a')", "len = abs\ndef f(): return len('a')"),
    "method": (
        "class A:\n  def m(self): return 1\ndef f(): return A().m()",
        "class A:\n  def m(self): return 2\ndef f(): return A().m()",
    ),
    "inherited method": (
        "class B:\n  def m(self): return 1\nclass A(B): pass\ndef f(): return A().m()",
        "class B:\n  def m(self): return 2\nclass A(B): pass\ndef f(): return A().m()",
    ),
    "class attribute": ("class A:\n  k = 1\ndef f(): return A.k", "class A:\n  k = 2\ndef f(): return A.k"),
    "property": (
        "class A:\n  @property\n  def p(self): return 1\ndef f(): return A().p",
        "class A:\n  @property\n  def p(self): return 2\ndef f(): return A().p",
    ),
    "class of a global instance": (
        "class A:\n  def m(self): return 1\na = A()\ndef f(): return a.m()",
        "class A:\n  def m(self): return 2\na = A()\ndef f(): return a.m()",
    ),
    "decorator's argument": tuple(
        f"import functools\ndef times(n):\n  def wrap(g):\n    @functools.wraps(g)\n    def inner(x): return n * g(x)\n"
        f"    return inner\n  return wrap\n@times({n})\ndef f(x): return x"
        for n in (1, 2)
    ),
    "under lru_cache": tuple(f"import functools\n@functools.lru_cache\ndef f(x): return x + {n}" for n in (1, 2)),
    "under contextmanager": tuple(
        f"import contextlib\n@contextlib.contextmanager\ndef f(x): yield {n}" for n in (1, 2)
    ),
    "singledispatch": tuple(
        f"import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return {n}"
        for n in (1, 2)
    ),
    "attribute of the function": ("def f(): return f.n\nf.n = 1", "def f(): return f.n\nf.n = 2"),
    "name under mangling": (
        "class A:\n  def m(self): return self.__x\nf = A.m",
        "class B:\n  def m(self): return self.__x\nf = B.m",
    ),
    "dataclass field's default": tuple(
        f"import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: int = {n}\ndef f(): return A()" for n in (1, 2)
    ),
    "enum's member": tuple(f"import enum\nclass A(enum.Enum):\n  X = {n}\ndef f(): return A.X" for n in (1, 2)),
    "enum's method": tuple(
        f"import enum\nclass A(enum.Enum):\n  X = 1\n  def m(self): return {n}\ndef f(): return A.X" for n in (1, 2)
    ),
    "partial": tuple(f"from functools import partial\ndef g(a, b): return a\nf = partial(g, {n})" for n in (1, 2)),
    "instance that is called": tuple(f"class A:\n  def __call__(self): return {n}\nf = A()" for n in (1, 2)),
    "own docstring": tuple(f"def f():\n  '{words}'\n  return f.__doc__" for words in "ab"),
    "docstring of what it calls": tuple(
        f"def g():\n  '{words}'\ndef h(x): return x.__doc__\ndef f(): return h(g)" for words in "ab"
    ),
    "docstring of a class": tuple(
        f"import inspect\nclass A:\n  '{words}'\ndef f(): return inspect.getdoc(A)" for words in "ab"
    ),
    "docstring of a nested function": tuple(
        f"def f():\n  def g():\n    '{words}'\n  return getattr(g, '__doc__')" for words in "ab"
    ),
    "name": tuple(f"def {name}(): return 1\ng = {name}\ndef f(): return g.__name__" for name in "ab"),
    "annotations": tuple(
        f"import typing\ndef g(x: {kind}): pass\ndef f(): return typing.get_type_hints(g)" for kind in ("int", "str")
    ),
    "subclass hook": tuple(
        f"import abc\nclass A(abc.ABC):\n  @classmethod\n  def __subclasshook__(cls, one): return {answer}\n"
        "def f(x): return isinstance(x, A)"
        for answer in (True, False)
    ),
    "installed function": ("import math\ndef f(x): return math.sin(x)", "import math\ndef f(x): return math.cos(x)"),
    "where it comes from": (
        "from math import sin\ndef f(x): return sin(x)",
        "from cmath import sin\ndef f(x): return sin(x)",
    ),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_computes_the_same_has_the_same_key(one, other, monkeypatch):
    monkeypatch.setitem(sys.modules, "cell", types.ModuleType("cell"))
    assert key_of(one) == key_of(one) == key_of(other)


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_what_computes_something_else_has_another_key(one, other, monkeypatch):
    monkeypatch.setitem(sys.modules, "cell", types.ModuleType("cell"))
    assert key_of(one) == key_of(one) != key_of(other)


def test_the_docstring_of_an_argument_counts_where_it_is_asked_for():
    def called(words, code):
        reach = Reach()
        key = function_key(made(code)["f"], reach)
        argument = made(f"def g():\n  '{words}'")["g"]
        return call_key(key, (argument,), {}, None, Reach(told=reach.told))

    assert called("a", "def f(x): return x.__doc__") != called("b", "def f(x): return x.__doc__")
    assert called("a", "def f(x): return x") == called("b", "def f(x): return x")


def test_what_is_in_the_way_of_a_function_is_told():
    lock = "LOCK = __import__('threading').Lock()"
    with pytest.raises(UnreliableKey, match=r"call of 'f' .* global 'g' -> global 'LOCK'") as caught:
        key_of(f"{lock}\ndef g(): return LOCK\ndef f(): return g()")
    assert caught.value.function == "f"


def test_lambdas_of_one_line_are_told_apart():
    fs = made("fs = [lambda x: x + 1, lambda x: x + 2, lambda x: x + 1, lambda x: x + (1 + 1)]")["fs"]
    one, two, one_again, two_folded = map(function_key, fs)
    assert one == one_again == key_of("f = lambda x: x + 1")
    assert one != two
    assert two_folded != one


def test_closures_of_a_loop():
    early = [lambda x, i=i: x + i for i in range(3)]
    late = [lambda x: x + i for i in range(3)]  # noqa: B023
    assert len({function_key(f) for f in early}) == 3
    assert len({function_key(f) for f in late}) == 1

    def adds(n):
        return lambda x: x + n

    assert function_key(adds(1)) == function_key(adds(1)) != function_key(adds(2))


def test_a_closure_that_is_not_filled_yet():
    def outer():
        def inner():
            return later

        key = function_key(inner)
        later = 1
        return key, function_key(inner)

    empty, filled = outer()
    assert empty != filled


def test_recursion_ends():
    words = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - {})\n"
    space, same, other = made(words.format(1)), made(words.format(1)), made(words.format(2))
    assert function_key(space["even"]) == function_key(same["even"]) != function_key(other["even"])
    assert function_key(space["odd"]) == function_key(same["odd"])


def test_a_source_that_was_edited_after_its_import_is_not_believed():
    space = made("def f(x): return x + 1\n")
    name = space["f"].__code__.co_filename
    linecache.cache[name] = (0, None, ["def f(x): return x + 2\n"], name)
    assert function_key(space["f"]) not in (key_of("def f(x): return x + 1"), key_of("def f(x): return x + 2"))


def test_without_source_the_bytecode_tells():
    def blind(words):
        space = {"__name__": "cell"}
        exec(words, space)
        return function_key(space["f"])

    assert blind("def f(x): return x + 1") == blind("\n\ndef f(x): return x+1")
    assert len({blind(f"def f(x): return [x + {n} for y in x]") for n in (1, 2, 3)}) == 3


def test_methods_count_their_instance():
    assert function_key(Point(1.0).norm) == function_key(Point(1.0).norm) != function_key(Point(2.0).norm)
    assert function_key(random.random) == function_key(random.random)
    assert function_key(random.Random(1).random) != function_key(random.Random(2).random)


def test_a_class_whose_instances_were_pickled_is_the_same():
    cls = made("class C: pass")["C"]
    before = function_key(cls)
    cls().__reduce_ex__(5)
    assert copyreg._slotnames(cls) == []
    assert "__slotnames__" in vars(cls)
    assert function_key(cls) == before


def test_modules_are_followed_as_far_as_code_reaches(monkeypatch):
    model = types.ModuleType("model")
    monkeypatch.setitem(sys.modules, "model", model)
    words = "def f(x): return model.sub.run(x)"
    model.sub = types.ModuleType("model.sub")
    model.sub.run = made("def run(x): return 1")["run"]
    before = key_of(words, model=model)
    model.other = 1
    assert key_of(words, model=model) == before
    model.sub.run = made("def run(x): return 2")["run"]
    assert key_of(words, model=model) != before


def test_a_module_that_makes_its_attributes_up_counts_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def key(answer):
        (tmp_path / "inventive.py").write_text(f"def __getattr__(name): return {answer}")
        sys.modules.pop("inventive", None)
        importlib.invalidate_caches()
        return key_of("def f(): return inventive.anything", inventive=importlib.import_module("inventive"))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert key(3) == key(3) != key(40)


# -- what the user says


def test_a_key_of_the_user_is_another_kind_of_key():
    assert explicit_key("run-17") == explicit_key("run-17") != explicit_key("run-18")
    with pytest.raises(TypeError, match="run-17"):
        explicit_key(17)
    with pytest.raises(ValueError, match="empty"):
        explicit_key("")


def test_memo_stands_for_the_code():
    one, other = (made(f"def f(x): return x + {n}")["f"] for n in (1, 2))
    one.__module__ = other.__module__ = "cell"
    assert memo(version="1")(one) is one
    mainstay.memo(version="1")(other)
    assert function_key(one) == function_key(other)
    assert version_of(one) == "1"
    memo(version="2")(other)
    assert function_key(one) != function_key(other)


def test_memo_counts_what_a_function_captured():
    def adds(n):
        return memo(version="1")(lambda x: x + n)

    assert function_key(adds(1)) != function_key(adds(2))


def test_a_wrapper_does_not_take_the_mark_over():
    def times(n):
        def wrap(f):
            @functools.wraps(f)
            def inner(x):
                return n * f(x)

            return inner

        return wrap

    marked = memo(version="1")(made("def f(x): return x")["f"])
    assert function_key(times(2)(marked)) != function_key(times(3)(marked))
    assert version_of(times(2)(marked)) == ""
    assert function_key(functools.lru_cache(marked)) != function_key(marked)


def test_ignored_parameters_do_not_count():
    @memo(version="1", ignore=["verbose", "log"])
    def f(a, verbose=False, b=0, *rest, log=None, **more):
        return a

    def key(*args, **kwargs):
        return call_key(KEY, args, kwargs, f)

    assert key(1) == key(1, True) == key(1, verbose=threading.Lock()) == key(1, log=3) == key(a=1)
    assert key(1, True, 2) == key(1, b=2) == key(1, False, 2, log=1)
    assert len({key(1), key(2), key(1, b=2), key(1, c=2), key(1, 2, 3, 4), key(1, 2, 3, 5)}) == 6
    assert key(1, a=2) != key(2)  # an error, which must not find a result


class Solver:
    @memo(version="1", ignore=["self"])
    def solve(self, x, verbose=False):
        return x


def test_a_method_may_ignore_its_instance():
    one, other = Solver(), Solver()
    other.lock = threading.Lock()
    assert function_key(one.solve) == function_key(other.solve)
    assert call_key(KEY, (1,), {}, one.solve) == call_key(KEY, (), {"x": 1}, one.solve)


@pytest.mark.parametrize(
    ("misuse", "said"),
    [
        (lambda: memo(len), 'version="1"'),
        (lambda: memo(), "version must be given"),
        (lambda: memo(version=1), 'version="1"'),
        (lambda: memo(version="1", ignore="x"), r'ignore=\["verbose"\]'),
        (lambda: memo(version="1", ignore=["z"])(lambda x: x), "no parameter 'z' to ignore; it has: x"),
        (lambda: memo(version="1")(Point), "functions"),
        (lambda: memo(version="1")(len), "Wrap it in a def"),
    ],
)
def test_misuse_is_told(misuse, said):
    with pytest.raises((TypeError, ValueError), match=said):
        misuse()


def test_a_wrapper_that_calls_what_it_wraps_by_its_attribute_is_known_by_that():
    words = (
        "import functools\n"
        "def deco(f):\n"
        "    @functools.wraps(f)\n"
        "    def wrapper(*args):\n"
        "        return wrapper.__wrapped__(*args)\n"
        "    return wrapper\n"
        "@deco\n"
        "def f(x):\n"
        "    return x + 1\n"
    )
    one, same, other = (made(text)["f"] for text in (words, words, words.replace("+ 1", "+ 2")))
    assert function_key(one) == function_key(same) != function_key(other)
