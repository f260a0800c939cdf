"""The execution strategy, as a calibration framework uses it."""

from __future__ import annotations

import os
import time

import pytest

import mainstay
from mainstay.strategy import PersistentStrategy


@pytest.fixture(scope="module")
def strategy():
    with PersistentStrategy(launcher="local") as strategy:
        yield strategy


def score(task):
    if task["x"] == 3:
        raise ValueError("bad parameters")
    return {"individual_id": task["individual_id"], "score": task["x"] ** 2}


def tasks(count):
    return [{"individual_id": i, "x": i} for i in range(count)]


def test_it_says_what_it_is(strategy):
    assert strategy.is_persistent
    assert strategy.name == "mainstay"


def test_results_come_in_the_order_of_the_tasks_and_an_error_is_one_result(strategy):
    results = strategy.execute(tasks(20), score, 2)
    assert [result["individual_id"] for result in results] == list(range(20))
    assert results[3]["score"] is None
    assert results[3]["error"] == "ValueError: bad parameters"
    assert [result["score"] for result in results if result["score"] is not None] == [
        i * i for i in range(20) if i != 3
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(strategy, count):
    assert strategy.execute(tasks(count), score, 2) == [{"individual_id": 0, "score": 0}][:count]


def test_another_function_just_works_on_the_same_workers(strategy):
    one = {pid for pid, _ in strategy.execute([{}] * 20, lambda task: (os.getpid(), time.sleep(0.005)), 2)}
    other = {pid for pid, _ in strategy.execute([{}] * 20, lambda task: (os.getpid(), time.sleep(0.006)), 2)}
    assert one == other


def test_no_more_at_once_than_max_workers(strategy, tmp_path):
    def alone(task):
        (tmp_path / "here").mkdir()  # fails if another is at work
        time.sleep(0.005)
        (tmp_path / "here").rmdir()
        return True

    assert strategy.execute([{}] * 10, alone, 1) == [True] * 10


def test_after_shutdown_the_next_call_starts_anew():
    strategy = PersistentStrategy(launcher="local")
    first = strategy.execute([{}], lambda task: os.getpid(), 1)
    strategy.shutdown()
    assert strategy.execute([{}], lambda task: os.getpid(), 1) != first
    strategy.shutdown()
    strategy.shutdown()


def test_a_pool_that_cannot_start_is_an_error_not_a_result():
    strategy = PersistentStrategy(launcher="local", initializer=divmod, initargs=(1, 0))
    with pytest.raises(mainstay.InitializerFailed):
        strategy.execute([{}], lambda task: 1, 1)
    strategy.shutdown()
