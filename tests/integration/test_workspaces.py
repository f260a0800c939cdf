"""A function that returns one and the same object each time: every result is as it was when it was returned."""

from __future__ import annotations

import numpy as np
import pytest

import mainstay

COUNT = 2000  # enough that results wait in the worker for others
_array = np.zeros(1024)
_list: list[int] = []


def in_an_array(x: int) -> np.ndarray:
    _array[:] = x
    return _array


def in_a_view(x: int) -> np.ndarray:
    _array[:] = x
    return _array[:1]


def in_a_list(x: int) -> list[int]:
    _list[:] = [x]
    return _list


def in_a_tuple(x: int) -> tuple[np.ndarray, int]:
    return in_an_array(x), x


@pytest.fixture(scope="module")
def pool():
    with mainstay.Executor(1, launcher="local") as executor:
        executor.wait_ready()
        yield executor


def first(result):
    return first(result[0]) if isinstance(result, (tuple, list, np.ndarray)) else int(result)


@pytest.mark.parametrize("function", [in_an_array, in_a_view, in_a_list, in_a_tuple])
def test_results_are_as_they_were_when_they_were_returned(pool, function):
    expected = list(range(COUNT))
    assert [first(result) for result in pool.map(function, expected)] == expected
    assert [first(result) for result in pool.map(function, expected, chunksize=50)] == expected
    assert [first(future.result()) for future in [pool.submit(function, x) for x in expected]] == expected


def test_results_of_one_map_are_objects_of_their_own_that_can_be_written(pool):
    one, other, *_ = pool.map(in_an_array, range(10), chunksize=10)
    one[:] = -1
    assert other[0] == 1
