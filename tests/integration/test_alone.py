"""Calls that want a node, or cores of it, for themselves, on real workers."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mainstay import Executor, TaskTimeout, WorkerDied, task
from mainstay.timeline import Span, overlaps


def nap(seconds: float) -> str:
    threading.Event().wait(seconds)
    return task().worker


def seen() -> tuple[set[int], str | None, str | None]:
    return os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_PLACES")


@pytest.fixture(scope="module")
def pool():
    with Executor(3, launcher="local", timeline=True) as executor:
        executor.wait_ready()
        yield executor


def test_nothing_runs_beside_an_exclusive_call_whatever_comes_in_between(pool):
    alone = pool.options(exclusive=True, label="alone")
    futures = []
    for number in range(30):
        futures += [pool.submit(nap, 0.002) for _ in range(6)] + [alone.submit(nap, 0.004)]
        if number % 10 == 5:
            futures.append(alone.options(worker_retries=0).submit(os.kill, 0, signal.SIGKILL))
            futures.append(alone.options(timeout=0.05).submit(nap, 600))
    ends = [type(future.exception(60)) for future in futures]
    assert (ends.count(WorkerDied), ends.count(TaskTimeout)) == (3, 3)
    assert ends.count(type(None)) == len(futures) - 6
    spans = pool.timeline
    assert sum(span.exclusive and span.label == "alone" for span in spans) == 30
    assert len(spans) >= 7 * 30
    assert overlaps(spans) == []
    assert pool.submit(nap, 0).result(60)


def test_the_timeline_would_show_an_overlap():
    first = Span(1, "build", "n1", 1, 0.0, 2.0, False)
    alone = Span(2, "measure", "n1", 2, 1.0, 3.0, True)
    elsewhere = alone._replace(task=3, host="n2")
    assert overlaps([alone, first, elsewhere]) == [(first, alone)]
    assert overlaps([first, alone._replace(began=2.0)]) == []
    assert overlaps([alone, alone._replace(worker=3)]) == []  # of one gang


def test_a_call_with_cores_is_pinned_to_them_and_its_worker_is_free_again(pool):
    free = pool.submit(seen).result(60)
    core = min(free[0])
    assert pool.options(cores=1, exclusive=True).submit(seen).result(60) == ({core}, "1", f"{{{core}}}")
    together = [pool.options(cores=1).submit(seen) for _ in range(4)]
    assert all(len(future.result(60)[0]) == 1 for future in together)
    afterwards = [pool.submit(seen) for _ in range(12)]
    assert all(future.result(60) == free for future in afterwards)


def test_a_map_runs_each_item_alone(pool):
    assert list(pool.options(exclusive=True).map(abs, [-1, -2])) == [1, 2]


def test_a_serial_pool_pins_its_thread_and_no_other():
    here = os.sched_getaffinity(0)
    with Executor(launcher="serial") as executor:
        assert len(executor.options(exclusive=True, cores=1).submit(seen).result(60)[0]) == 1
        assert os.sched_getaffinity(0) == here
        assert executor.submit(seen).result(60)[0] == here


def test_what_can_never_be_is_refused_at_submit(pool):
    host = pool.workers[0].host
    most = len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match=f"wants cores={most + 1} of one node; there are {most} on {host}"):
        pool.options(cores=most + 1).submit(nap, 0)
    with pytest.raises(ValueError, match=f"wants to run on nowhere; the pool has {host}"):
        pool.options(exclusive=True, nodes="nowhere").submit(nap, 0)
    for wrong, told in [
        ({"cores": 0}, "cores must be None or an int >= 1; given: 0"),
        ({"exclusive": 1}, "exclusive must be True or False; given: 1"),
        ({"nodes": ["a"]}, "add cores=1"),
        ({"cores": 1, "nodes": []}, "nodes must be None, the name of a host or several"),
        ({"cores": 1, "ranks": 2}, "ranks='node' takes a node as a whole"),
    ]:
        with pytest.raises(ValueError, match=told):
            pool.options(**wrong)
