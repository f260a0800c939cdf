"""Equal arguments have equal keys, and others have others."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import pickle
import random
import re
import sys
import threading
import types
import uuid
import weakref
import zoneinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.errors import JournalError, UnreliableKey
from mainstay.journal.canon import encode
from mainstay.journal.keys import call_key, explicit_key

KEY = bytes(16)


def call(*args, **kwargs):
    return call_key(KEY, args, kwargs)


# -- values

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=5)
)
keys = st.one_of(st.integers(), st.text(max_size=3), st.tuples(st.integers(), st.booleans()))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
    ),
    max_leaves=12,
)


def told(value):
    """The value with its types and the signs of its zeros, as something that can be compared."""
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [told(item) for item in value]
    if isinstance(value, dict):
        return "dict", sorted((repr(told(key)), repr(told(item))) for key, item in value.items())
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(repr(told(item)) for item in value)
    return type(value).__name__, repr(value)


@given(values, values)
@settings(max_examples=400, deadline=None)
def test_two_values_have_one_key_if_and_only_if_they_are_equal(one, other):
    assert (encode(one) == encode(other)) == (told(one) == told(other))
    assert (call(one) == call(other)) == (told(one) == told(other))


@given(values)
@settings(max_examples=200, deadline=None)
def test_a_copy_has_the_same_key(value):
    assert call(value) == call(pickle.loads(pickle.dumps(value)))


@given(st.dictionaries(keys, values, max_size=5), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_a_dict_does_not_count(value, chance):
    entries = list(value.items())
    chance.shuffle(entries)
    assert call(value) == call(dict(entries)) == call_key(KEY, (value,), {})


DIFFERENT = [
    0, 0.0, -0.0, False, None, "", "0", b"", b"0", bytearray(b"0"), (), [], {}, set(), frozenset(), (0,), [0], {0},
    {0: 0},
    [[]], [()], ([],), 1, True, "1", 1 + 0j, 2**64, 10**5000, float("nan"), float("inf"), ..., NotImplemented,
    range(3), slice(3), decimal.Decimal("1.0"), decimal.Decimal("1.00"), fractions.Fraction(1, 2),
    uuid.UUID(int=1), re.compile("a"), re.compile("a", re.I), re.compile(b"a"), pathlib.PurePosixPath("a"),
    pathlib.Path("a"),
    datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, fold=1),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), datetime.time(1), datetime.timedelta(1),
    collections.OrderedDict([(1, 2), (3, 4)]), collections.OrderedDict([(3, 4), (1, 2)]), {1: 2, 3: 4},
    collections.defaultdict(int), collections.defaultdict(list), collections.Counter("ab"), collections.deque([1]),
    collections.deque([1], 2), list[int], list[str], int, float, len, abs, str.upper, [].append, [1].append,
    random.Random(1), random.Random(2), functools.partial(int, base=2), functools.partial(int), sys,
    types.SimpleNamespace(a=1),
    memoryview(b"0"), [1, 2], [1.0, 2.0], ["1", "2"], (1, 2), [(1, 2)], [1, [2]], "\ud800", "nan", ValueError("x"),
]  # fmt: skip


def test_no_two_of_many_kinds_have_one_key():
    found = collections.defaultdict(list)
    for value in DIFFERENT:
        found[call(value)].append(value)
        assert call(value) == call(value) == call_key(KEY, (value,), {})
    assert [same for same in found.values() if len(same) > 1] == []


def test_arguments_are_told_from_keywords_and_from_each_other():
    calls = [call(1, 2), call((1, 2)), call(1, b=2), call(a=1, b=2), call(a=2, b=1), call(), call([]), call([1], 2)]
    assert len(set(calls)) == len(calls)
    assert call(a=1, b=[2]) == call_key(KEY, (), {"b": [2], "a": 1})
    assert call_key(b"1" * 16, (1,), {}) != call_key(b"2" * 16, (1,), {})
    assert len(call(1)) == len(call([1])) == len(explicit_key("a")) == 16


def test_identity_does_not_count_for_what_cannot_be_changed():
    word, pair = "".join(["a", "b"]), tuple([1, "ab"])  # noqa: C409  made anew
    assert call([word, "ab"]) == call([word, word])
    assert call([pair, (1, "ab")]) == call([pair, pair])
    assert call([float("nan")] * 2) == call([float("nan"), float("nan")])


def test_a_list_that_occurs_twice_is_not_two_lists():
    one = [1]
    assert call([one, one]) != call([one, [1]])
    assert call([one, one]) == call(copy.deepcopy([one, one]))
    assert call((one,), (one,)) == call(*copy.deepcopy([(one,), (one,)]))


def test_cycles_end_and_tell():
    def ring(length):
        first = last = [0]
        for _ in range(length - 1):
            last.append([0])
            last = last[-1]
        last.append(first)
        return first

    assert call(ring(3)) == call(ring(3))
    assert len({call(ring(n)) for n in (1, 2, 3)}) == 3
    node = types.SimpleNamespace(items={"a": []})
    node.items["a"].append(node)
    assert call(node) == call(copy.deepcopy(node))


def test_what_is_shared_many_times_costs_once():
    nested = ()
    listed = []
    for _ in range(100):
        nested, listed = (nested, nested), [listed, listed]
    assert call(nested) != call(listed)


class Color(enum.Enum):
    RED = 1
    BLUE = "b"

    def name_twice(self):
        return self.name * 2


@dataclasses.dataclass
class Point:
    x: float
    y: list = dataclasses.field(default_factory=list)

    def norm(self):
        return abs(self.x)


class Slotted:
    __slots__ = ("a",)


Pair = collections.namedtuple("Pair", "a b")


def test_instances_are_told_by_class_and_state():
    one, other = Slotted(), Slotted()
    one.a, other.a = 1, 2
    found = [Color.RED, Color.BLUE, Color, Point(1.0), Point(2.0), Point(1.0, [1]), Point, one, other, Pair(1, 2), Pair]
    keys = [call(value) for value in found]
    assert len(set(keys)) == len(keys)
    assert call(Point(1.0)) == call(Point(1.0))
    assert call(Pair(1, 2)) != call((1, 2))
    assert call({Point: 1, Color: 2}) == call({Color: 2, Point: 1})
    assert call({Color.RED, Color.BLUE, 3}) == call({3, Color.BLUE, Color.RED})


def refused():
    yield "file", open(__file__), "cannot pickle"  # noqa: SIM115
    yield "lock", threading.Lock(), "lock"
    yield "thread", threading.Thread(), "cannot pickle"
    yield "generator", (i for i in ()), "used up"
    yield "iterator", iter([1]), "a list is not"
    yield "zip", zip(), "used up"
    yield "weakref", weakref.ref(Point), "weakref"
    yield "proxy", weakref.proxy(Point), "weak reference"
    yield "ctypes", __import__("ctypes").c_int(3), "memory elsewhere"
    yield "module", types.ModuleType("nowhere"), "no source"


@pytest.mark.parametrize(("value", "why"), [pytest.param(*rest, id=name) for name, *rest in refused()])
def test_what_cannot_be_told_is_refused_with_its_place(value, why):
    def f(x, model):
        return x

    f.__qualname__ = "f"
    model = types.SimpleNamespace(handle=[0, 1, 2, value])
    with pytest.raises(UnreliableKey, match=why) as caught:
        call_key(KEY, (1, model), {}, f)
    assert caught.value.path[:3] == ("argument 'model'", ".handle", "[3]")
    assert "the call of 'f' has no reliable key: argument 'model' -> .handle -> [3]" in str(caught.value)
    assert "journal=False" in str(caught.value)
    assert isinstance(caught.value, (JournalError, TypeError))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_fails_while_it_is_read_is_refused():
    class Broken:
        def __reduce__(self):
            raise OSError("gone")

    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(UnreliableKey, match="gone"):
        call(Broken())
    with pytest.raises(UnreliableKey, match="nested too deeply"):
        call(deep)


# -- classes that derive from NumPy's


def test_what_derives_from_a_class_of_numpy_is_told_by_its_class_and_all_that_it_holds():
    np = pytest.importorskip("numpy")

    class Metres(np.float64):
        pass

    class Feet(np.float64):
        def in_metres(self):
            return self * 0.3048

    class Slotted(np.ndarray):
        __slots__ = ("unit",)

    class Source(np.random.RandomState):
        pass

    def with_unit(obj, unit):
        obj.unit = unit
        return obj

    assert len({call(one) for one in (np.float64(1.0), Metres(1.0), Feet(1.0))}) == 3
    assert call(Metres(1.0)) == call(Metres(1.0)) != call(Metres(2.0))
    slotted = [with_unit(np.zeros(2).view(Slotted), unit) for unit in "mms"]
    assert call(slotted[0]) == call(slotted[1]) != call(slotted[2])
    assert call(Source(1)) == call(Source(1)) != call(np.random.RandomState(1))
