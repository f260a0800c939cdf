"""Process sets on real workers: named, watched, asked for by tasks, and run on; with PMIx where there is Open MPI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mainstay
from conftest import HAS_OPENMPI, mpiexec_of, wait_until
from mainstay.launch.mpiexec import MpiExec
from mainstay.process_sets import HOST, NAMESPACE, SELF, WORLD, Define, Delete, Invalidate, Process

HERE = HOST + os.uname().nodename


@pytest.fixture
def pool():
    with mainstay.Executor(3, launcher="local", log=lambda line: None) as executor:
        executor.wait_ready(timeout=60)
        yield executor


def kill(executor, worker):
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: len(executor.psets[WORLD].members) == 3 and worker not in known(executor), 60)


def known(executor):
    return [worker for worker in executor.workers if worker.pid and worker.state != "starting"]


def processes(workers):
    return tuple(sorted(Process(worker.namespace, worker.rank) for worker in workers))


def test_sets_are_listed_defined_and_deleted(pool):
    workers = sorted(pool.workers)
    assert list(pool.psets) == [WORLD, HERE, NAMESPACE + "local-1"]
    assert len(pool.psets) == len(pool.psets.versions()) == 3
    world = pool.psets[WORLD]
    assert (world.members, world.size, world.valid, world.source) == (processes(workers), 3, True, "mpi")
    by_info = pool.psets.define("info", workers[:2])
    assert by_info.members == processes(workers[:2])
    assert pool.psets.define("id", [workers[0].id]).members == processes(workers[:1])
    assert pool.psets.define("process", [("local-1", workers[1].rank)]).members == processes(workers[1:2])
    assert pool.psets.define("set", by_info).members == by_info.members
    assert pool.psets.define("asked", lambda worker: worker.id != workers[0].id).members == processes(workers[1:])
    pool.psets.delete("set")
    assert "set" not in pool.psets
    assert [one.valid for one in pool.psets.versions("set")] == [False]


def test_wrong_use_says_what_to_do(pool):
    with pytest.raises(ValueError, match=r"does not begin with 'mpi://' or 'mainstay://'.*given: 'mpi://MINE'"):
        pool.psets.define("mpi://MINE", pool.workers)
    for nobody in (3, None, "12"):
        with pytest.raises(TypeError, match=r"define wants workers: some of ex.workers.*given: "):
            pool.psets.define("c", nobody)
    assert pool.psets.define("first", min(pool.workers)).size == 1
    with pytest.raises(TypeError, match="watch wants a function"):
        pool.psets.watch(3)
    with pytest.raises(KeyError, match="no process set 3"):
        pool.psets.delete(3)
    with pytest.raises(KeyError, match=r"is the process of a task: mainstay\.psets"):
        pool.psets[SELF]
    with pytest.raises(ValueError, match="there is a process set 'a'; give another name, or delete"):
        [pool.psets.define("a", pool.workers) for _ in range(2)]
    with pytest.raises(mainstay.ProcessSetError, match=r"99 is no worker that stands; ex.workers has"):
        pool.psets.define("b", [99])
    with pytest.raises(mainstay.ProcessSetError, match="no worker belongs to 'b', of the 3 that stand"):
        pool.psets.define("b", lambda worker: False)
    with pytest.raises(KeyError, match="there are: 'mpi://WORLD', "):
        pool.psets["gpu"]
    with pytest.raises(KeyError, match="no process set 'gpu'"):
        pool.psets.delete("gpu")
    with pytest.raises(ValueError, match="the pool's own set"):
        pool.psets.delete(WORLD)
    with pytest.raises(mainstay.ProcessSetError, match="there is no such process set; there are 'mpi://WORLD'"):
        pool.options(on="gpu").submit(abs, 1)
    with pytest.raises(mainstay.ProcessSetError, match="names the process of a task itself"):
        pool.options(on=SELF).submit(abs, 1)
    with pytest.raises(ValueError, match="on must be None, a process set or its name"):
        pool.options(on=1)
    pool.psets.define("two", sorted(pool.workers)[:2])
    with pytest.raises(mainstay.ProcessSetError, match="3 of its members are wanted, and the set has 2"):
        pool.options(on="two", ranks=(3, 8)).submit(abs, 1)
    with pytest.raises(RuntimeError, match="where no task runs"):
        mainstay.psets()


def test_calls_and_gangs_run_on_the_workers_of_a_set(pool):
    workers = sorted(pool.workers)
    two = pool.psets.define("two", workers[1:])
    assert set(pool.options(on="two").map(lambda _: os.getpid(), range(100), chunksize=1)) <= {
        worker.pid for worker in workers[1:]
    }
    assert pool.options(on=WORLD).submit(abs, -1).result(60) == 1
    pids = pool.options(on=two, ranks="all").submit(os.getpid).result(60)
    assert sorted(pids) == sorted(worker.pid for worker in workers[1:])
    assert pool.psets["two"].valid, "its workers are ranks now, and the set was defined anew"
    assert [member.namespace for member in pool.psets["two"].members] == ["mpi-1", "mpi-1"]
    assert pool.options(on=two, ranks=2).submit(os.getpid).result(60) == pids


def test_what_users_raise_in_the_thread_of_a_pool_does_not_end_it(pool):
    def leave(_):
        raise SystemExit("of a callback")

    heard, first = threading.Event(), min(pool.workers)
    pool.submit(abs, -1).add_done_callback(leave)
    pool.psets.define("odd", lambda worker: bool(worker.id > 3 and leave(worker)), living=True)
    with pool.psets.watch(leave), pool.psets.watch(lambda event: heard.set()):
        pool.psets.define("one", [first])
        assert heard.wait(60)
        kill(pool, first)
    assert pool.submit(abs, -1).result(60) == 1
    assert "odd" not in pool.psets


def test_what_waits_for_a_set_that_loses_its_last_member_fails_and_a_living_set_is_waited_for(pool):
    def end():
        os.kill(os.getpid(), signal.SIGKILL)

    first = min(pool.workers)
    pool.psets.define("one", [first])
    one = pool.options(on="one", worker_retries=0)
    ends, waiting = one.submit(end), [one.submit(abs, -1) for _ in range(3)]
    gang = pool.options(on="one", ranks=1).submit(abs, -1)
    with pytest.raises(mainstay.WorkerDied):
        ends.result(60)
    for future in [*waiting, gang]:
        with pytest.raises(mainstay.ProcessSetError, match="'one': it wants 1 of its members, and none is there"):
            future.result(60)
    with pytest.raises(mainstay.ProcessSetError, match=r"invalid, since \('local-1', \d\) has gone; define it anew"):
        one.submit(abs, 1)
    assert pool.submit(abs, -1).result(60) == 1

    here = pool.options(on=HERE)
    fatal = [here.options(worker_retries=0).submit(end) for _ in range(3)]
    futures = [here.submit(abs, -1) for _ in range(6)]
    assert [future.result(60) for future in futures] == [1] * 6
    for future in fatal:
        with pytest.raises(mainstay.WorkerDied):
            future.result(60)
    deleted = pool.psets.define("brief", pool.psets[WORLD])
    hold = [pool.options(worker_retries=0).submit(signal.pause) for _ in range(3)]
    wait_until(lambda: all(future.running() for future in hold))
    waits = pool.options(on=deleted).submit(abs, 1)
    pool.psets.delete("brief")
    with pytest.raises(mainstay.ProcessSetError, match="cannot run on 'brief'"):
        waits.result(60)
    for worker in pool.workers:
        os.kill(worker.pid, signal.SIGKILL)


def test_a_living_set_follows_its_predicate_and_events_come_in_their_order(pool):
    events, threads = [], set()

    def hear(event):
        threads.add(threading.current_thread().name)
        assert WORLD in pool.psets, "no lock is held"
        events.append(event)
        if len(events) == 1:
            raise LookupError("of a callback")

    first = min(pool.workers)
    with pool.psets.watch(hear):
        odd = pool.psets.define("odd", lambda worker: worker.id % 2, living=True)
        assert odd.members == processes(worker for worker in pool.workers if worker.id % 2)
        still = pool.psets.define("still", [first])
        pool.psets.define("raises", lambda worker: worker.id < 4 or 1 / 0, living=True)
        kill(pool, first)
        assert pool.psets["raises"].size == 2
        expected = {worker.id for worker in pool.workers if worker.id % 2}
        wait_until(lambda: {member.rank for member in pool.psets["odd"].members} == {number - 1 for number in expected})
        pool.psets.delete("odd")
        wait_until(lambda: any(isinstance(event, Delete) for event in events))
    heard = len(events)
    pool.psets.define("after", pool.workers)
    assert pool.submit(abs, -1).result(60) == 1
    assert len(events) == heard, "it was stopped"
    assert threads == {"mainstay-broker"}
    listing = [event.place for event in events if isinstance(event, Define)]
    assert listing == sorted(listing)
    assert not pool.psets["still"].valid
    assert pool.psets["still"].members == still.members
    told = [type(event) for event in events if event.set.name == "still"]
    assert told == [Define, Invalidate]


def watching(step):
    """Say what a task sees; wait for an event after that."""
    sets = mainstay.psets()
    seen = dict(sets), sets.news()
    return (*seen, sets.news(timeout=60), step in sets, sets.versions(step))


@pytest.mark.parametrize("launcher", ["local", "serial"])
def test_a_task_sees_the_same_and_hears_of_events(launcher):
    with mainstay.Executor(1, launcher=launcher) as executor:
        executor.wait_ready(timeout=60)
        executor.psets.define("mine", executor.workers)
        task = executor.submit(watching, "later")
        wait_until(lambda: executor._broker.registrar.lines._waiting)
        executor.psets.define("later", executor.workers)
        seen, nothing, news, is_there, versions = task.result(60)
        me = processes(executor.workers)
        assert seen.pop(SELF).members == me
        assert seen == {name: one for name, one in executor.psets.items() if name != "later"}
        assert nothing == []
        assert [(type(event), event.set) for event in news] == [(Define, executor.psets["later"])]
        assert is_there
        assert versions == executor.psets.versions("later")
        seen, *_ = executor.submit(lambda: (dict(mainstay.psets()), mainstay.psets().news(0.01))).result(60)
        assert "later" in seen


@pytest.fixture
def with_pmix(monkeypatch):
    launcher = mpiexec_of("openmpi", monkeypatch, rank_flags=["--pset", "ocean"])
    with mainstay.Executor(3, launcher=launcher, mpi=True) as executor:
        executor.wait_ready(timeout=60)
        yield executor


def define_outside(name, *ranks):
    from mainstay.node.pmix import Pmix

    pmix = Pmix()
    return pmix.define(name, tuple((pmix.namespace, rank) for rank in ranks))


def listen():
    """Have PMIx tell this process of sets; it tells each process once."""
    import queue

    from mainstay.node import pmix

    pmix.heard = queue.SimpleQueue()
    pmix.Pmix().listen(lambda *told: pmix.heard.put(told))


def told_by_pmix(name):
    """Return the ranks of the members of a set of which PMIx has told this process, or will."""
    from mainstay.node import pmix

    while True:
        told, members = pmix.heard.get(timeout=60)
        if told == name:
            return [rank for _, rank in members]


@HAS_OPENMPI
def test_sets_go_to_pmix_and_come_from_it_and_another_rank_takes_over(with_pmix):
    executor = with_pmix
    wait_until(lambda: "ocean" in executor.psets, 60)
    assert executor.psets["ocean"].members == tuple(Process("mpi-1", rank) for rank in range(3))
    assert executor.psets["ocean"].source == "pmix"
    assert "PMIx: OpenPMIx" in str(executor.describe())
    executor.psets.define("last", lambda worker: worker.rank == 2)
    last = executor.options(on="last")
    last.submit(listen).result(60)

    executor.psets.define("coast", lambda worker: worker.rank != 1)
    assert last.submit(told_by_pmix, "coast").result(60) == [0, 2]
    assert last.submit(define_outside, "ice", 1, 2).result(60) is None
    wait_until(lambda: "ice" in executor.psets, 60)
    assert executor.psets["ice"].members == (Process("mpi-1", 1), Process("mpi-1", 2))
    assert last.submit(define_outside, "coast", 1).result(60) is None

    between = next(worker for worker in executor.workers if (worker.namespace, worker.rank) == ("mpi-1", 0))
    kill(executor, between)
    assert not executor.psets["ocean"].valid
    assert [one.version for one in executor.psets.versions("ice")] == [1]
    executor.psets.define("late", lambda worker: worker.namespace == "mpi-1")
    assert last.submit(told_by_pmix, "late").result(60) == [1, 2]
    assert last.submit(define_outside, "polar", 2).result(60) is None
    wait_until(lambda: "polar" in executor.psets, 60)
    assert executor.psets["coast"].source == "user", "its own is kept"


def test_the_worked_example_prints_what_the_docs_show():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "examples" / "process_sets.py"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert f"```\n{done.stdout.rstrip()}\n```" in (root / "docs" / "psets.md").read_text()


def test_without_pmix_everything_else_works_and_describe_says_so():
    with mainstay.Executor(2, launcher=MpiExec(), mpi=True) as executor:
        executor.options(ranks=2).submit(abs, 1).result(60)
        assert executor.describe().pmix.startswith("none: the launcher of the ranks has none")
        assert executor.psets[NAMESPACE + "mpi-1"].size == 2
