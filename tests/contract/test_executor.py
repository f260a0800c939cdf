"""What a `concurrent.futures` executor does, by behaviour, over every launcher."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import re
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import mainstay


@pytest.fixture(scope="module")
def pool(launcher):
    with mainstay.Executor(2, launcher=launcher) as executor:
        yield executor


@pytest.fixture
def processes(pool):
    """The pool, where its workers are processes: in serial, a task that ends its process ends the client."""
    if pool.submit(os.getpid).result(30) == os.getpid():
        pytest.skip("a serial worker is a thread of the client")
    return pool


def test_results_come_back(pool):
    assert pool.submit(pow, 2, 5).result(30) == 32
    assert pool.submit(int, "ff", base=16).result(30) == 255


def test_lambdas_and_closures_work(pool):
    a = 3
    assert list(pool.map(lambda x: a * x, range(5))) == [0, 3, 6, 9, 12]


def test_many_at_once(pool):
    futures = [pool.submit(abs, -i) for i in range(5000)]
    assert [future.result(30) for future in futures] == list(range(5000))


def test_an_exception_keeps_its_type_and_tells_where(pool):
    def fail():
        raise KeyError("what")

    with pytest.raises(KeyError, match="what") as caught:
        pool.submit(fail).result(30)
    cause = caught.value.__cause__
    assert isinstance(cause, mainstay.RemoteTraceback)
    assert 'raise KeyError("what")' in cause.tb


def test_an_exception_that_cannot_be_rebuilt_is_named(pool):
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__("odd one")

    def fail():
        raise Odd(1, 2)

    with pytest.raises(mainstay.RemoteError, match=r"Odd: odd one"):
        pool.submit(fail).result(30)


def test_a_result_that_cannot_be_pickled_is_an_error(pool):
    with pytest.raises(TypeError, match="pickle"):
        pool.submit(threading.Lock).result(30)
    assert pool.submit(abs, -1).result(30) == 1


def test_an_argument_that_cannot_be_pickled_is_an_error_at_once(pool):
    with pytest.raises(TypeError, match="pickle"):
        pool.submit(abs, threading.Lock())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_leaving_a_task_does_not_end_its_worker(pool, error):
    def leave():
        raise error

    before = pool.submit(abs, 1).result(30)
    assert isinstance(pool.submit(leave).exception(30), type(error))
    assert before == pool.submit(abs, 1).result(30)


@pytest.mark.parametrize("count", [0, 1, 1000, 1 << 20, 3 << 20])
def test_arrays_go_there_and_back(pool, count):
    array = np.arange(count, dtype=float)
    back = pool.submit(lambda x: x + 1, array).result(60)
    assert np.array_equal(back, array + 1)
    assert back.flags.writeable


def test_a_queued_call_can_be_cancelled(pool):
    running = [pool.submit(time.sleep, 0.05) for _ in range(2)]
    queued = [pool.submit(time.sleep, 0) for _ in range(50)]
    assert queued[-1].cancel()
    concurrent.futures.wait(running + queued, timeout=30)
    assert queued[-1].cancelled()
    assert queued[0].result(30) is None


def test_callbacks_run(pool):
    called = threading.Event()
    pool.submit(abs, -1).add_done_callback(lambda future: called.set())
    assert called.wait(30)


def test_map_keeps_order_over_many_cheap_items(pool):
    assert list(pool.map(lambda x: x * x, range(20_000))) == [x * x for x in range(20_000)]


def test_map_takes_several_iterables_and_chunks(pool):
    assert list(pool.map(pow, [2, 3, 4], [2, 2, 2, 9], chunksize=2)) == [4, 9, 16]


def test_map_delivers_what_came_before_the_exception(pool):
    results = pool.map(lambda x: 1 // (7 - x), range(50))
    assert [next(results) for _ in range(7)] == [1 // (7 - x) for x in range(7)]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert isinstance(caught.value.__cause__, mainstay.RemoteTraceback)


def test_what_map_was_given_is_done_even_if_the_pool_is_closed_meanwhile(launcher):
    with mainstay.Executor(2, launcher=launcher) as executor:
        results = executor.map(lambda x: x * x, range(50_000))
        slow = executor.map(time.sleep, [0.001] * 100, chunksize=1)
    assert list(results) == [x * x for x in range(50_000)]
    assert list(slow) == [None] * 100


def test_what_is_cancelled_of_a_map_is_told(launcher):
    executor = mainstay.Executor(1, launcher=launcher)
    results = executor.map(time.sleep, [0.01] * 1000)
    next(results)
    executor.shutdown(cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)


def test_map_has_a_timeout(pool):
    with pytest.raises(concurrent.futures.TimeoutError):
        list(pool.map(time.sleep, [0, 0, 0.7], timeout=0.2))


def test_map_takes_no_more_than_its_buffer(pool):
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = pool.map(abs, items(), buffersize=5)
    assert len(taken) == 5
    assert next(results) == 0
    assert len(taken) <= 6
    assert list(results) == list(range(1, 1000))


@pytest.mark.parametrize(("buffersize", "total"), [(None, 5), (2, None)])
def test_map_tells_of_its_progress(pool, buffersize, total):
    told = []
    results = pool.map(abs, range(5), buffersize=buffersize, progress=lambda done, total: told.append((done, total)))
    assert list(results) == list(range(5))
    assert told == [(done, total) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("given", "error"),
    [({"chunksize": 0}, ValueError), ({"buffersize": 0}, ValueError), ({"buffersize": "a"}, TypeError)],
)
def test_map_refuses_nonsense_at_once(pool, given, error):
    with pytest.raises(error):
        pool.map(abs, [1], **given)


def test_a_task_knows_itself(pool):
    info = pool.options(label="mine").submit(mainstay.task).result(30)
    assert (info.attempt, info.label) == (0, "mine")


def test_a_failing_task_is_retried(pool):
    def flaky():
        attempt = mainstay.task().attempt
        if attempt < 2:
            raise OSError("not yet")
        return attempt

    assert pool.options(retries=2).submit(flaky).result(30) == 2
    with pytest.raises(OSError, match="not yet"):
        pool.options(retries=1).submit(flaky).result(30)


def test_a_task_that_overruns_is_ended(pool):
    with pytest.raises(mainstay.TaskTimeout, match=r"timeout=0\.2"):
        pool.options(timeout=0.2).submit(time.sleep, 5).result(30)
    assert pool.submit(abs, -1).result(30) == 1


def test_an_unknown_option_names_the_valid_ones(pool):
    with pytest.raises(TypeError, match=r"unknown option 'timout'; allowed.*timeout=None"):
        pool.options(timout=3)


def test_wait_and_as_completed(pool):
    futures = {pool.submit(abs, -i) for i in range(20)}
    assert {future.result() for future in concurrent.futures.as_completed(futures, timeout=30)} == set(range(20))
    done, pending = concurrent.futures.wait(futures, timeout=30)
    assert done == futures
    assert not pending


def test_a_task_that_kills_its_worker_is_given_up_and_the_others_go_on(processes):
    others = [processes.submit(abs, -i) for i in range(100)]
    killer = processes.submit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    more = [processes.submit(abs, -i) for i in range(100)]
    with pytest.raises(mainstay.WorkerDied) as caught:
        killer.result(60)
    assert caught.value.signal == signal.SIGKILL
    assert [f.result(60) for f in others + more] == [*range(100), *range(100)]


def test_the_last_words_of_a_worker_are_told(processes):
    def crash():
        os.write(2, b"something is wrong\n")
        os._exit(7)

    with pytest.raises(mainstay.WorkerDied, match="something is wrong") as caught:
        processes.submit(crash).result(60)
    assert caught.value.exitcode == 7


def test_tasks_that_wait_for_each_other_get_workers_of_their_own(processes, tmp_path):
    """Short tasks are sent ahead; if one of them then waits for the next, the next is recalled."""
    flag = tmp_path / "flag"

    def step(kind):
        deadline = time.monotonic() + 20
        while kind == "wait" and not flag.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if kind == "set":
            flag.touch()
        return kind

    assert [f.result(60) for f in [processes.submit(step, "fast") for _ in range(300)]] == ["fast"] * 300
    futures = [processes.submit(step, "wait"), processes.submit(step, "fast"), processes.submit(step, "set")]
    assert [future.result(60) for future in futures] == ["wait", "fast", "set"]


def test_a_task_that_closes_its_descriptors_does_not_hang(processes):
    with pytest.raises((mainstay.WorkerDied, OSError)):
        processes.submit(os.closerange, 3, 4096).result(60)
    assert processes.submit(abs, -1).result(60) == 1


def test_a_child_that_a_task_forks_does_not_answer(pool):
    assert pool.submit(lambda: os.fork() and 5).result(60) == 5
    assert pool.submit(abs, -1).result(60) == 1


def test_initializer(launcher):
    def begin(value):
        os.environ["BEGUN"] = value

    with mainstay.Executor(2, launcher=launcher, initializer=begin, initargs=("yes",)) as executor:
        assert executor.submit(os.getenv, "BEGUN").result(30) == "yes"


def test_a_failing_initializer_breaks_the_pool(launcher):
    with mainstay.Executor(1, launcher=launcher, initializer=divmod, initargs=(1, 0)) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
            executor.submit(abs, 1).result(30)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(abs, 1)


def test_shutdown(launcher):
    executor = mainstay.Executor(2, launcher=launcher)
    futures = [executor.submit(abs, -i) for i in range(100)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == list(range(100))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_shutdown_can_cancel_what_waits(launcher):
    executor = mainstay.Executor(1, launcher=launcher)
    assert executor.submit(abs, 1).result(30) == 1
    futures = [executor.submit(time.sleep, 0.05) for _ in range(50)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "4"}, TypeError, "max_workers must be None or an int; given: '4'"),
        ({"launcher": "mpirun"}, ValueError, "launcher='mpirun' is not known; allowed: 'auto', 'world'"),
        ({"launcher": 5}, TypeError, "launcher=5 is none; a Launcher has name"),
        ({"launcher": []}, ValueError, "names none"),
        ({"initializer": 5}, TypeError, "initializer must be a callable"),
        ({"start_timeout": 0}, ValueError, "start_timeout must be a number of seconds > 0"),
        ({"retries": -1}, ValueError, "retries must be an int >= 0"),
        ({"log": 5}, TypeError, "log must be None"),
    ],
)
def test_nonsense_is_refused_at_once(given, error, words):
    with pytest.raises(error, match=re.escape(words)):
        mainstay.Executor(**given)


def test_a_result_does_not_wait_for_the_task_after_it(pool, tmp_path):
    """With one worker, the second call ends only when the client has seen the result of the first."""
    flag = tmp_path / "flag"

    def wait_for_flag(is_quick):
        deadline = time.monotonic() + 20
        while not is_quick and not flag.exists():
            assert time.monotonic() < deadline, "the client did not get the result before"
            time.sleep(0.001)

    for future in [pool.submit(wait_for_flag, True) for _ in range(200)]:
        future.result(30)
    futures = [pool.submit(wait_for_flag, True) for _ in range(50)] + [pool.submit(wait_for_flag, False)]
    for future in futures[:-1]:
        future.result(30)
    flag.touch()
    assert futures[-1].result(30) is None


def test_asyncio_runs_in_it(pool):
    async def several():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(pool, abs, -i) for i in range(20)))

    assert asyncio.run(several()) == list(range(20))


def test_a_callback_may_want_a_lock_that_the_submitting_thread_holds(pool):
    """A thread that submits may receive results meanwhile, but must not run callbacks."""
    lock = threading.Lock()
    called = threading.Event()

    def callback(future):
        with lock:
            called.set()

    slow = pool.submit(time.sleep, 0.05)
    slow.add_done_callback(callback)
    with lock:
        others = []
        while not slow.done():
            others.append(pool.submit(abs, -1))
    assert called.wait(30)
    assert {future.result(30) for future in others} <= {1}


def test_a_callback_may_submit(pool):
    done = threading.Event()
    seen = []

    def again(future):
        seen.append(future.result())
        if len(seen) < 50:
            pool.submit(abs, -len(seen)).add_done_callback(again)
        else:
            done.set()

    pool.submit(abs, 0).add_done_callback(again)
    assert done.wait(30)
    assert seen == list(range(50))


def test_many_threads_share_a_pool(pool):
    def work(i):
        return [pool.submit(abs, -i).result(30) for _ in range(50)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(16))) == [[i] * 50 for i in range(16)]


def test_an_executor_that_is_let_go_ends(launcher):
    executor = mainstay.Executor(1, launcher=launcher)
    future = executor.submit(abs, -1)
    broker = weakref.ref(executor._broker)
    thread = executor._broker._thread
    del executor
    assert future.result(30) == 1
    thread.join(30)
    assert not thread.is_alive()
    del future
    gc.collect()
    assert broker() is None


def test_nothing_is_kept_of_a_result_that_was_let_go(pool):
    class Mark:
        pass

    result = pool.submit(Mark).result(30)
    mark = weakref.ref(result)
    del result
    gc.collect()
    assert mark() is None
