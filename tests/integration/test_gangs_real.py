"""Gangs on real workers, with both MPIs: the same tests for each."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import mainstay
from conftest import BOTH_MPIS, mpiexec_of, wait_for_the_end_of, wait_until
from mainstay import communicators
from mainstay.launch.mpiexec import MpiExec

GANGS = int(os.environ.get("MAINSTAY_GANGS", "40"))  # under which workers are killed, one for each ten


@pytest.fixture(params=BOTH_MPIS)
def mpi(request, monkeypatch):
    """The arguments of a pool whose ranks are of one MPI or the other."""
    return {"launcher": mpiexec_of(request.param, monkeypatch)}


def together(x):
    comm = mainstay.comm()
    return comm.rank, comm.size, comm.allreduce(x)


def blocked(how):
    """Rank 1 ends as told while the others wait for it."""
    comm = mainstay.comm()
    if comm.rank == 1:
        if how == "raises":
            raise LookupError("of rank one")
        os.kill(os.getpid(), signal.SIGKILL)
    comm.barrier()


def test_gangs_and_single_tasks_on_one_pool(mpi):
    with mainstay.Executor(3, **mpi) as executor:
        three = executor.options(ranks=3).submit(together, 2)
        single = executor.submit(abs, -1)
        assert three.result(60) == [(0, 3, 6), (1, 3, 6), (2, 3, 6)]
        assert single.result(60) == 1
        assert executor.options(ranks=(2, 8)).submit(together, 1).result(60)[0][1] in (2, 3)
        assert executor.options(ranks="all", gather="root").submit(together, 1).result(60) == (0, 3, 3)
        assert executor.options(ranks="node").submit(together, 1).result(60)[2] == (2, 3, 3)
        assert executor.options(ranks=1).submit(together, 5).result(60) == [(0, 1, 5)]
        arrays = executor.options(ranks=2).submit(lambda n: np.full(n, mainstay.comm().rank), 10**5).result(60)
        assert [array.sum() for array in arrays] == [0, 10**5]
        arrays[1][0] = 7  # it may be written, as any result
        assert list(executor.options(ranks=2).map(together, [1, 2])) == [
            [(0, 2, 2), (1, 2, 2)],
            [(0, 2, 4), (1, 2, 4)],
        ]
        assert sorted((worker.namespace, worker.rank) for worker in executor.workers) == [
            ("mpi-1", rank) for rank in range(3)
        ]
        assert ", 3 ranks" in executor.describe().mpi
        with pytest.raises(RuntimeError, match=r"outside of a gang.*options\(ranks="):
            executor.submit(mainstay.comm).result(60)


def leaves():
    comm = mainstay.comm()
    if comm.rank == 0:
        comm.send("stale", dest=1)
    comm.barrier()
    return os.getpid()


def raises_everywhere():
    raise LookupError("in every rank")


def test_what_one_gang_left_unreceived_is_not_met_by_the_next(mpi):
    def receives():
        comm = mainstay.comm()
        return comm.sendrecv(comm.rank, 1 - comm.rank)

    with mainstay.Executor(2, **mpi) as executor:
        gang = executor.options(ranks=2)
        gang.submit(leaves).result(60)
        assert gang.submit(receives).result(60) == [1, 0]


def test_gangs_that_leave_messages_or_raise_never_use_up_what_mpi_has(monkeypatch):
    monkeypatch.setattr(communicators, "MOST_SPOILT", 10)
    with mainstay.Executor(2, launcher="local") as executor:
        gang = executor.options(ranks=2)
        seen = [tuple(gang.submit(leaves).result(60)) for _ in range(25)]
        assert {pids: seen.count(pids) for pids in seen} == dict(zip(dict.fromkeys(seen), (10, 10, 5), strict=True))
        for _ in range(5):
            with pytest.raises(LookupError):
                gang.submit(raises_everywhere).result(60)
        assert not {*gang.submit(leaves).result(60)} & {*seen[-1]}


def test_a_rank_that_raises_or_dies_or_overruns_ends_the_gang_and_the_pool_is_whole_again(mpi):
    with mainstay.Executor(3, **mpi) as executor:
        gang = executor.options(ranks=3, worker_retries=0, label="solve")
        assert gang.submit(together, 1).result(60)[0] == (0, 3, 3)
        first = {worker.pid for worker in executor.workers}
        with pytest.raises(LookupError, match="of rank one") as raised:
            gang.submit(blocked, "raises").result(60)
        assert "rank 1 of 3" in str(raised.value.__cause__)
        assert executor.submit(abs, -1).result(60) == 1
        assert gang.submit(together, 1).result(60)[0] == (0, 3, 3)
        with pytest.raises(mainstay.WorkerDied, match="'solve' as rank 1 of 3 ended: killed by signal 9"):
            gang.submit(blocked, "dies").result(60)
        with pytest.raises(mainstay.TaskTimeout):
            gang.options(timeout=0.5).submit(time.sleep, 600).result(60)
        assert gang.submit(together, 1).result(60)[0] == (0, 3, 3)
        assert not first & {worker.pid for worker in executor.workers}


def raises_and_is_killed_while_the_others_are_waited_for() -> None:
    comm = mainstay.comm()
    if comm.rank == 1:
        subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {os.getpid()}"])
        raise ValueError("rank 1 failed")
    comm.barrier()  # until the pool ends this, after a grace


def test_a_rank_whose_worker_dies_after_it_has_raised_is_told_by_what_it_raised(mpi):
    with mainstay.Executor(2, **mpi) as pool:
        with pytest.raises(ValueError, match="rank 1 failed"):
            pool.options(ranks=2).submit(raises_and_is_killed_while_the_others_are_waited_for).result(60)
        assert pool.options(ranks=2).submit(os.getpid).result(60)


@pytest.mark.timeout(150 + GANGS)
def test_kills_of_random_workers_change_no_result(mpi):
    chance, before = random.Random(4), children()
    with mainstay.Executor(3, worker_retries=50, **mpi) as executor:
        executor.wait_ready(timeout=60)
        for first in range(0, GANGS, 10):
            sizes = [chance.randint(1, 3) for _ in range(10)]
            futures = [executor.options(ranks=size).submit(together, first) for size in sizes]
            some = chance.randint(0, 9)
            wait_until(lambda futures=futures, some=some: sum(future.done() for future in futures) >= some, 120)
            os.kill(chance.choice([worker.pid for worker in executor.workers if worker.pid]), signal.SIGKILL)
            for size, future in zip(sizes, futures, strict=True):
                assert future.result(120) == [(rank, size, size * first) for rank in range(size)]
            whole = executor.options(ranks=3).submit(together, 1).result(120)
            assert whole == [(rank, 3, 3) for rank in range(3)]
        mine = children() - before
    wait_for_the_end_of(mine)


def children():
    """All processes below this one; some are a cluster's, that other tests have started."""
    return set(psutil.Process().children(recursive=True))


def is_slot(process):
    try:
        return any("slot.py" in word for word in process.cmdline())
    except psutil.Error:  # a child that has ended meanwhile
        return False


def names(executor):
    """The processes that stand, as MPI names them, by their ids."""
    return {worker.pid: (worker.namespace, worker.rank) for worker in executor.workers}


def test_a_new_worker_joins_the_others_and_nobody_is_replaced():
    with mainstay.Executor(3, launcher="local", worker_retries=0) as executor:
        gang = executor.options(ranks=3)
        assert gang.submit(together, 1).result(60)[0] == (0, 3, 3)
        before = names(executor)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in names(executor) and 0 not in names(executor))
        for _ in range(2):
            assert gang.submit(together, 2).result(60) == [(rank, 3, 6) for rank in range(3)]
        after = names(executor)
        new = [after.pop(pid) for pid in set(after) - set(before)]
        assert new == [("mpi-2", 0)]
        assert after == {pid: name for pid, name in before.items() if pid != victim}
        assert "3 ranks in 2 namespaces, joined by gangs that want it" in executor.describe().mpi
        assert executor.options(ranks=2).submit(together, 1).result(60)[0] == (0, 2, 2)
        with pytest.raises(mainstay.WorkerDied, match="as rank 1 of 3 ended: killed by signal 9"):
            gang.submit(blocked, "dies").result(60)
        assert gang.submit(together, 1).result(60)[0] == (0, 3, 3)
        assert not set(before) & set(names(executor))  # what it had joined is not trusted


def test_a_thousand_gangs_of_two_namespaces_leave_nothing_behind():
    def holdings():
        return len(os.listdir("/proc/self/fd")), int(Path("/proc/self/statm").read_text().split()[1])

    chance = random.Random(1)
    with mainstay.Executor(3, launcher="local") as executor:
        everyone = executor.options(ranks=3)
        assert everyone.submit(together, 1).result(60)[0] == (0, 3, 3)
        victim = min(names(executor))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in names(executor) and 0 not in names(executor))
        views = [executor.options(ranks=ranks) for ranks in (1, 2, 3)]
        held = []
        for count in (200, 1000):
            for _ in range(count):
                size = chance.randrange(3)
                assert views[size].submit(together, 1).result(60)[0] == (0, size + 1, size + 1)
            held.append(everyone.submit(holdings).result(60))
        for (fds, pages), (more_fds, more_pages) in zip(*held, strict=True):
            assert more_fds <= fds + 1
            assert more_pages - pages < 256


def shared():
    """Return what this rank shares with others of its node, and what of that has a name still."""
    mainstay.comm().barrier()
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split()[5] for line in lines if "mpich_shm_" in line}
    return mapped, {path for path in mapped if os.path.exists(path)}


def shared_alone():
    """The same for a task that makes a world of its own."""
    from mpi4py import MPI

    assert MPI.COMM_WORLD.size == 1
    return [line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if "mpich_shm_" in line]


def test_no_memory_is_left_on_a_node_by_ranks_that_do_not_finalize():
    with mainstay.Executor(2, launcher=MpiExec()) as executor:
        for mapped, named in executor.options(ranks=2).submit(shared).result(60):
            assert mapped
            assert named == set()
    with mainstay.Executor(1, launcher="local") as executor:
        mapped = executor.submit(shared_alone).result(60)
        worker = psutil.Process(executor.workers[0].pid)
    wait_for_the_end_of([worker])
    assert mapped
    assert not any(map(os.path.exists, mapped))


def test_nothing_is_left_of_a_namespace():
    before = children()
    with mainstay.Executor(2, launcher="local", mpi=True) as executor:
        executor.wait_ready(timeout=30)
        assert executor.options(ranks=2).submit(together, 1).result(60)[0] == (0, 2, 2)
        mine = children() - before
        assert any(map(is_slot, mine))
    wait_for_the_end_of(mine)


def test_an_idle_pool_of_ranks_sleeps():
    with mainstay.Executor(2, launcher="local") as executor:
        executor.options(ranks=2).submit(together, 1).result(60)
        workers = [psutil.Process(worker.pid) for worker in executor.workers]
        for _ in range(3):  # one that polls in MPI is hardly ever seen asleep
            wait_until(lambda: all(process.status() == psutil.STATUS_SLEEPING for process in workers))
            before = [sum(process.cpu_times()[:2]) for process in workers]
            executor.submit(time.sleep, 0.2).result(60)
        assert sum(sum(process.cpu_times()[:2]) for process in workers) - sum(before) < 0.2


def ranks_here(x):
    try:
        return x * mainstay.comm().size
    except RuntimeError:
        return x


def test_in_a_journal_a_call_of_other_ranks_is_another_call(tmp_path):
    ways = {
        "one": ({}, 3),
        "two": ({"ranks": 2}, [6, 6]),
        "three": ({"ranks": 3}, [9, 9, 9]),
        "root": ({"ranks": 3, "gather": "root"}, 9),
        "all": ({"ranks": "all"}, [9, 9, 9]),
    }
    echo = ["sh", "-c", "echo word"]
    for time_ in ("first", "again"):
        with mainstay.Executor(3, launcher="local", journal=tmp_path / "j.db") as executor:
            futures = {name: executor.options(**options).submit(ranks_here, 3) for name, (options, _) in ways.items()}
            assert {name: future.result(60) for name, future in futures.items()} == {
                name: result for name, (_, result) in ways.items()
            }
            assert list(executor.options(ranks=2).map(ranks_here, [1, 3])) == [[2, 2], [6, 6]]
            said = [executor.options(ranks=ranks).run(echo).result(60).stdout.count("word") for ranks in (1, 2, 3)]
            assert said == [1, 2, 3], time_
            assert executor.describe().mpi.count("ranks") == (time_ == "first")  # the second time, nothing ran


def test_wrong_use_is_told_at_submit(tmp_path):
    with mainstay.Executor(2, launcher="local") as executor:
        with pytest.raises(ValueError, match=r"wants 3 workers at least, and the pool has 2.*Executor\(3\)"):
            executor.options(ranks=3).submit(abs, 1)
        with pytest.raises(ValueError, match="ranks must be None, an int >= 1"):
            executor.options(ranks=0)
        with pytest.raises(ValueError, match="gather must be 'all' or 'root'"):
            executor.options(gather="none")
    with mainstay.Executor(2, launcher="local", mpi=False) as executor:
        with pytest.raises(mainstay.GangError, match="mpi=False"):
            executor.options(ranks=2).submit(abs, 1)
    with mainstay.Executor(1, launcher="serial") as executor:
        early = executor.options(ranks=1).submit(abs, 1)  # it is not known yet that there are no processes
        executor.submit(abs, -1).result(30)
        with pytest.raises(mainstay.GangError, match="no processes"):
            early.result(30)
        with pytest.raises(mainstay.GangError, match="no processes"):
            executor.options(ranks=1).submit(abs, 1)
    with pytest.raises(ValueError, match="mpi must be"):
        mainstay.Executor(1, mpi="openmpi")


def test_where_ranks_cannot_be_started_every_gang_says_why(monkeypatch):
    class Broken(MpiExec):
        def start_slots(self, slots, places):
            raise FileNotFoundError("no such program")

    with mainstay.Executor(2, launcher=Broken()) as executor:
        with pytest.raises(mainstay.GangError, match="no such program"):
            executor.options(ranks=2).submit(abs, 1).result(60)
        assert executor.submit(abs, -1).result(60) == 1
        with pytest.raises(mainstay.GangError, match="no such program"):
            executor.options(ranks=2).submit(abs, 1)
        assert "none: " in executor.describe().mpi
