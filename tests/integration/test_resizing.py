"""Pools that grow and shrink, on real processes of this machine."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import mainstay
from conftest import wait_until
from mainstay.launch.local import Local
from mainstay.launch.process import Process


def states(executor):
    return Counter(worker.state for worker in executor.workers)


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)
    return os.getpid()


def meet(folder):
    """Return when another worker has come here too."""
    (folder / str(os.getpid())).touch()
    while len(os.listdir(folder)) < 2:
        time.sleep(0.01)


def test_a_pool_grows_and_shrinks(tmp_path):
    with mainstay.Executor(2, launcher="local") as executor:
        early = executor.grow(1)  # before it stands
        assert [worker.state for worker in early.result(60)] == ["idle"]
        assert [worker.id for worker in executor.grow(2).result(60)] == [4, 5]
        assert executor.describe().workers == executor.describe().wanted == executor.size == 5
        go = tmp_path / "go"
        futures = [executor.submit(wait_for, go) for _ in range(5)]
        wait_until(lambda: states(executor)["busy"] == 5)
        leaving = executor.shrink(3)
        assert states(executor) == {"busy": 2, "leaving": 3}
        assert not leaving.done()
        assert len(executor.grow(1).result(60)) == 1  # others come meanwhile
        go.touch()
        shrunk = leaving.result(60)
        pids = {worker.pid for worker in shrunk.workers}
        assert pids < {future.result(60) for future in futures}  # they have done what they had begun
        assert (shrunk.nodes, shrunk.kept) == ([], {})  # the client's own node stays
        wait_until(lambda: not any(map(psutil.pid_exists, pids)))
        assert executor.describe().workers == executor.describe().wanted == 3
        two = executor.psets.define("two", [worker.id for worker in executor.workers][:2])
        assert {(one.namespace, one.rank) for one in executor.shrink(two).result(60).workers} == set(two.members)
        wait_until(lambda: not executor.psets["two"].valid)


def test_workers_that_leave_at_once_give_their_tasks_back_without_blame(tmp_path):
    with mainstay.Executor(3, launcher="local") as executor:
        once = executor.options(worker_retries=0)
        futures = [once.submit(wait_for, tmp_path / "go") for _ in range(3)]
        wait_until(lambda: states(executor)["busy"] == 3)
        first, second, _ = executor.workers
        assert [worker.id for worker in executor.shrink([first, second.id], now=True).result(60).workers] == [1, 2]
        assert [worker.id for worker in executor.workers] == [3]
        (tmp_path / "go").touch()
        assert len({future.result(60) for future in futures}) == 1


def test_what_cannot_be_is_told_at_once():
    with mainstay.Executor(2, launcher="local") as executor:
        executor.wait_ready(timeout=60)
        with pytest.raises(
            ValueError, match=r"2 of 2 workers are to leave, and 1 must stay.*1 may go; ex.shutdown\(\)"
        ):
            executor.shrink(2)
        with pytest.raises(ValueError, match=r"shrink: 7 is no worker of this pool that stays; those are \[1, 2\]"):
            executor.shrink([7])
        for count in (0, True):
            with pytest.raises(ValueError, match="int >= 1"):
                executor.shrink(count)
        for nobody in (1.5, None, "ab", abs):
            with pytest.raises(TypeError, match=r"shrink wants workers: some of ex.workers, their ids.*given: "):
                executor.shrink(nobody)
        with pytest.raises(ValueError, match="say how many workers"):
            executor.grow()
        for flags in ("-N1", 3, [3], []):
            with pytest.raises(TypeError, match="list of flags"):
                executor.grow(1, allocate=flags)
        for seconds in (0, "long"):
            with pytest.raises(ValueError, match="timeout must be"):
                executor.grow(1, timeout=seconds)
        member = executor.workers[1]
        executor.shrink([(member.namespace, member.rank)]).result(60)
        assert [worker.id for worker in executor.workers] == [1]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.grow(1)


def test_where_there_is_no_room_it_says_so(monkeypatch):
    class Full(Local):
        def start(self, invitation):
            return Process(invitation.command(), invitation.environment() | {"MAINSTAY_SLOTS": "2"})

    monkeypatch.setenv("PATH", "/nowhere")
    with mainstay.Executor(2, launcher=Full()) as executor:
        executor.wait_ready(timeout=60)
        with pytest.raises(ValueError, match=r"grow\(1\): the pool has 2 workers, and there is room for 0 more"):
            executor.grow(1)
        with pytest.raises(mainstay.GrowError, match="0 of 1 new workers stand: there is no salloc on PATH"):
            executor.grow(1, allocate=["--nodes=1"]).result(60)
        assert executor.describe().wanted == 2
        assert executor.submit(abs, -1).result(60) == 1


class Nodes(Local):
    """Hosts of two cores, each an agent of this machine under another name; a further launch reaches what is left."""

    name = "nodes"

    def __init__(self, hosts, script):
        self.hosts, self._script, self.returned = hosts, script, []
        self.most_workers = 2 * len(hosts)

    def start(self, invitation):
        room = invitation.slots(dict.fromkeys(self.hosts, 2))
        argv = [
            "/bin/sh",
            "-c",
            f"for host in {' '.join(self.hosts)}; do {self._script} done; wait",
            "sh",
            *invitation.command(),
        ]
        return Process(argv, invitation.environment() | room, len(self.hosts))

    def further(self, used):
        left = [host for host in ("n1", "n2", "n3", "n4") if host not in used]
        further = Nodes(left, self._script) if left else None
        if further is not None:
            further.returned = self.returned
        return further

    def give_back(self, host):
        if host == "n3":
            raise OSError("n3 is not ours")
        self.returned.append(host)


AS_A_HOST = """unshare --uts sh -c 'hostname "$0"; exec "$@"' $host "$@" &"""


@pytest.fixture
def nodes():
    if os.geteuid() != 0:
        pytest.skip("wants root, to give hosts names")
    return Nodes(["n1", "n2"], AS_A_HOST)


def hosts(executor):
    return dict(sorted(Counter(worker.host for worker in executor.workers).items()))


def test_further_hosts_are_taken_and_empty_ones_are_given_back(nodes):
    with mainstay.Executor(3, launcher=nodes) as executor:
        executor.wait_ready(timeout=60)
        assert hosts(executor) == {"n1": 2, "n2": 1}
        executor.grow(4).result(60)  # one there, the others in a further launch
        assert hosts(executor) == {"n1": 2, "n2": 2, "n3": 2, "n4": 1}
        assert executor.describe().wanted == 7
        shrunk = executor.shrink(1).result(60)
        assert (len(shrunk.workers), shrunk.nodes, shrunk.kept) == (1, ["n4"], {})
        assert nodes.returned == ["n4"]
        executor.grow(1).result(60)
        assert hosts(executor) == {"n1": 2, "n2": 2, "n3": 2, "n4": 1}
        shrunk = executor.shrink([worker for worker in executor.workers if worker.host == "n3"]).result(60)
        assert (shrunk.nodes, shrunk.kept) == ([], {"n3": "n3 is not ours"})
        with pytest.raises(ValueError, match="there is room for 3 more"):
            executor.grow(9)
        shrunk = executor.shrink([worker for worker in executor.workers if worker.host in ("n1", "n2")]).result(60)
        assert sorted(shrunk.nodes) == ["n1", "n2"]  # the first launch is over
        assert executor.submit(os.uname).result(60).nodename == "n4"
        executor.grow(5).result(60)
        assert sum(hosts(executor).values()) == 6
        assert sorted(executor.map(abs, range(50))) == list(range(50))


def test_when_the_last_further_launch_is_lost_the_first_is_begun_again(nodes):
    with mainstay.Executor(2, launcher=nodes) as executor:
        executor.wait_ready(timeout=60)
        executor.grow(4).result(60)
        executor.shrink([worker for worker in executor.workers if worker.host in ("n1", "n2")]).result(60)
        futures = [executor.submit(time.sleep, 0.2) for _ in range(8)]
        for pid in {psutil.Process(worker.pid).ppid() for worker in executor.workers}:
            os.kill(pid, signal.SIGKILL)
        assert [future.result(60) for future in futures] == [None] * 8
        wait_until(lambda: hosts(executor) == {"n1": 1, "n2": 1})


def test_kills_while_a_pool_grows_and_shrinks_lose_nothing(nodes):
    chance = random.Random(6)
    with mainstay.Executor(3, launcher=nodes, log=lambda line: None) as executor:
        executor.wait_ready(timeout=60)
        futures = [executor.options(worker_retries=100).submit(lambda x: time.sleep(0.01) or x, x) for x in range(600)]
        changes = []
        for done in range(50, 550, 50):
            wait_until(lambda done=done: sum(future.done() for future in futures) >= done, 120)
            try:
                changes.append(
                    executor.grow(chance.randint(1, 3))
                    if chance.random() < 0.5
                    else executor.shrink(chance.randint(1, 3), now=chance.random() < 0.5)
                )
            except ValueError:
                pass  # there is no room, or too few would be left
            standing = [worker.pid for worker in executor.workers if worker.pid]
            victim = chance.choice(standing)
            try:
                os.kill(psutil.Process(victim).ppid() if chance.random() < 0.3 else victim, signal.SIGKILL)
            except (psutil.NoSuchProcess, ProcessLookupError):
                pass
        assert [future.result(120) for future in futures] == list(range(600))
        for change in changes:
            try:
                change.result(60)
            except mainstay.GrowError:
                pass  # it says that some ended as they started
        wait_until(lambda: not states(executor)["leaving"])
        wait_until(lambda: set(states(executor)) == {"idle"})


def test_a_pool_grows_for_gangs_and_says_when_it_cannot():
    class Full(Local):
        def start(self, invitation):
            return Process(invitation.command(), invitation.environment() | {"MAINSTAY_SLOTS": "3"})

    def size():
        return mainstay.comm().size

    with mainstay.Executor(8, launcher=Full(), min_workers=1, idle_timeout=600) as executor:
        executor.wait_ready(1, timeout=60)
        executor.psets.define("every", lambda worker: True, living=True)
        executor.psets.define("first", executor.workers, living=True)
        assert executor.options(ranks=2, on="every").submit(size).result(60) == [2, 2]
        with pytest.raises(mainstay.ProcessSetError, match="2 of its members are wanted, and the set has 1"):
            executor.options(ranks=2, on="first").submit(size)
        too_large = executor.options(ranks=4).submit(size)
        wait_until(lambda: len(executor.workers) == 3)  # as many as there is room for
        enrolments = executor._broker.enrolments
        patience, enrolments._patience = enrolments._patience, 0.1
        with pytest.raises(mainstay.GangError, match="wants 4 workers at least; the pool has 3 now, and no more have"):
            too_large.result(60)
        enrolments._patience = patience  # ranks are to stand within that time, too
        assert executor.options(ranks=3).submit(size).result(60) == [3, 3, 3]


def test_a_pool_grows_also_while_nobody_asks_for_a_result(tmp_path, monkeypatch):
    with mainstay.Executor(3, launcher="local", min_workers=1, idle_timeout=60) as executor:
        executor.wait_ready(timeout=60)
        first = executor.submit(wait_for, tmp_path / "go")
        wait_until(first.running)
        woken, reactor = [], executor._broker._reactor
        monkeypatch.setattr(reactor, "wake_by", lambda due, wake=reactor.wake_by: wake(woken.append(due) or due))
        second = executor.submit(abs, -2)
        assert 0.0 in woken  # or it would be looked at with the next heartbeat of an agent
        wait_until(second.done)
        assert len(executor.workers) > 1
        woken.clear()
        gang = executor.options(ranks=3).submit(abs, -3)
        assert 0.0 in woken
        (tmp_path / "go").touch()
        wait_until(gang.done, 60)
        assert gang.result() == [3, 3, 3]


def test_a_pool_that_was_shrunk_below_what_waits_grows_again(tmp_path):
    def meets():
        wait_for(tmp_path / "go")
        return mainstay.comm().size

    with mainstay.Executor(3, launcher="local", min_workers=1, idle_timeout=60, mpi=True) as executor:
        gangs = [executor.options(ranks=3).submit(meets) for _ in range(2)]
        wait_until(lambda: states(executor) == {"busy": 3}, 60)
        leaving = executor.shrink(1)
        (tmp_path / "go").touch()
        wait_until(lambda: all(gang.done() for gang in gangs), 60)
        assert [gang.result() for gang in gangs] == [[3] * 3] * 2
        assert len(leaving.result(60).workers) == 1


def test_a_pool_follows_its_load(tmp_path):
    with mainstay.Executor(3, launcher="local", min_workers=1, idle_timeout=0.2) as executor:
        executor.wait_ready(timeout=60)
        assert len(executor.workers) == 1
        with pytest.raises(ValueError, match=r"grow\(3\): the pool has 1 workers, and max_workers=3"):
            executor.grow(3)
        barrier = [executor.submit(time.sleep, 600) for _ in range(3)]
        wait_until(lambda: states(executor) == {"busy": 3})
        for worker in executor.workers:
            os.kill(worker.pid, signal.SIGKILL)  # and those that take their places
        executor.shrink(2, now=True).result(60)
        wait_until(lambda: states(executor) == {"busy": 3})
        del barrier
        executor.__exit__(KeyboardInterrupt, None, None)
    with mainstay.Executor(3, launcher="local", min_workers=1, idle_timeout=0.2) as executor:
        list(executor.map(meet, [tmp_path] * 6, chunksize=1))  # ends when the pool has grown
        wait_until(lambda: states(executor) == {"idle": 1})
