"""A cached function is used again only while all that it captured is the same."""

from __future__ import annotations

import math
import sys
import types

import pytest

from mainstay.wire.functions import FunctionTable
from mainstay.wire.payload import load


def closure(value):
    return lambda: value


def test_the_same_function_gets_the_same_number():
    table = FunctionTable()
    assert table.lookup(math.sqrt) == table.lookup(math.sqrt)
    assert table.lookup(closure(1)).number == table.lookup(closure(1)).number
    assert table.lookup(closure(1)).number != table.lookup(closure(2)).number


def test_a_function_is_looked_up_while_another_thread_imports_cloudpickle(monkeypatch):
    half_done = types.ModuleType("cloudpickle.cloudpickle")
    monkeypatch.setitem(sys.modules, half_done.__name__, half_done)
    assert load(*FunctionTable().lookup(math.sqrt).payload) is math.sqrt


@pytest.mark.parametrize(("before", "after"), [(1, 2), ([1], [2])])
def test_a_changed_closure_is_seen(before, after):
    value = before

    def read():
        return value

    table = FunctionTable()
    first = table.lookup(read)
    value = after
    second = table.lookup(read)
    assert load(*first.payload)() == before
    assert load(*second.payload)() == after


def test_a_value_changed_in_place_is_seen():
    values = [1]
    read = closure(values)
    table = FunctionTable()
    first = table.lookup(read)
    values.append(2)
    assert load(*table.lookup(read).payload)() == [1, 2]
    assert load(*first.payload)() == [1]


def test_the_table_does_not_keep_bound_objects_alive():
    import gc
    import weakref

    class Thing:
        def method(self):
            return 1

    thing = Thing()
    gone = weakref.ref(thing)
    table = FunctionTable()
    table.lookup(thing.method)
    del thing
    gc.collect()
    assert gone() is None
