"""Gangs by behaviour: single decisions, then whole runs of a simulated pool."""

from __future__ import annotations

import random
from collections import Counter, deque
from itertools import groupby
from math import inf
from queue import Queue
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import LATENCY, Cluster, in_hand

from mainstay.enrolment import MOST_FAILURES, Enrolments
from mainstay.errors import GangError
from mainstay.gangs import ROUNDS
from mainstay.launch import starters
from mainstay.launch.local import Local
from mainstay.orders import Assemble, Disband, Enrol, Leave, Members, Ranks, Replace, Send, Task, Worker
from mainstay.outcomes import End
from mainstay.parts import GRACE
from mainstay.peers import WorkerState
from mainstay.renewal import PATIENCE
from mainstay.scheduler import Scheduler

TOO_SMALL = "it wants 2 workers at least; the pool has 1 now, and no more have come"
ENROLLING = 0.1  # seconds that workers take to become ranks
STARTING = 0.03  # seconds that workers take to come


class Pool(Cluster):
    """A simulated pool whose workers can be ranks. A gang's payload says of a rank how long it takes, and its end.

    Its MPI joins namespaces, which are then of one node each, or not; what a broken gang joined is lost.
    """

    def __init__(self, workers: int, nodes: int = 1, checked: bool = True, joins: bool = False) -> None:
        self._nodes, self._namespaces, self._joins = nodes, 0, joins
        self._lost: set[int] = set()  # workers that can take part in no further gang
        self._missing: str | None = None  # the node of a worker that comes: it is being replaced, or one more
        self._leaving: set[int] = set()  # workers that nobody replaces
        self.two = Members("two", refills=True)  # workers, of whom there are two where as many stand
        self.enrolments: list[int] = []
        self._members: dict[int, list[Worker]] = {}  # of each gang, as it began last
        super().__init__(workers, checked)
        self.act(self.scheduler.enrolled([], "", self.now))

    def join(self) -> int:
        worker = next(self._ids)
        if self._missing is None:
            self._missing = f"n{len(self._inbox) % self._nodes}"
            self._keep(self._missing, 1)
        node, self._missing = self._missing, None
        self._inbox[worker] = deque()
        self.act(self.scheduler.joined(worker, self.now, node))
        self._fill_two()
        return worker

    def _fill_two(self) -> None:
        others = sorted({*self._inbox} - self._leaving - self.two.numbers)
        self.two.numbers.update(others[: 2 - len(self.two)])

    def _keep(self, node: str, more: int) -> None:
        gangs = self.scheduler.gangs
        gangs.kept[node] = gangs.berths[node, 0] = gangs.kept.get(node, 0) + more

    def grow(self) -> None:
        """One more worker is to come, to the node that has the fewest."""
        kept = self.scheduler.gangs.kept
        node = min(sorted(kept), key=kept.__getitem__)
        self._keep(node, 1)
        self._later(STARTING, self._grown, node)

    def _grown(self, node: str) -> None:
        self._missing = node
        self.join()

    def shrink(self, worker: int, at_once: bool) -> None:
        """A worker leaves: when its task has ended, or now."""
        if worker not in self._leaving:
            self._leaving.add(worker)
            self._keep(self.scheduler.workers[worker].node, -1)
            self.act(self.scheduler.retire([worker], self.now))
        if at_once:
            self._end(worker)

    def act(self, actions) -> None:
        for action in list(actions):
            if isinstance(action, Assemble):
                assert len(set(action.workers)) == len(action.workers)
                workers = [self.scheduler.workers[worker] for worker in action.workers]
                assert all(worker.namespace for worker in workers)
                assert self._joins or len({worker.namespace for worker in workers}) == 1
                runs = [key for key, _ in groupby(workers, key=lambda worker: worker.namespace)]
                assert len(runs) == len(set(runs)), "the ranks of a namespace stand apart"
                assert not self._lost & set(action.workers)
                gang = action.task.gang
                assert gang.on is None or all(worker in gang.on for worker in action.workers)
                self._members[action.task.id] = workers
                self.began.setdefault(action.task.id, []).append(self.now)
                for rank, worker in enumerate(action.workers):
                    run = next(self._ids)
                    self._running[worker] = (action.task, run)
                    seconds, how = plan(action.task, rank)
                    if seconds < inf:
                        self._later(LATENCY + seconds, self._part_done, worker, run, how)
            elif isinstance(action, Enrol):
                self.enrolments.append(len(action.workers))
                self._enrol(action.workers)
            elif isinstance(action, (Replace, Leave)):
                self._later(LATENCY, self._end, action.worker)
            elif isinstance(action, Disband):
                self._disband(action)
        super().act(actions)

    def _enrol(self, workers) -> None:
        together: dict[str, list[int]] = {}
        for worker in workers:
            together.setdefault(self.scheduler.workers[worker].node if self._joins else "", []).append(worker)
        for some in together.values():
            self._namespaces += 1
            self._later(ENROLLING, self._enrolled, some, f"mpi-{self._namespaces}")

    def _enrolled(self, workers, namespace) -> None:
        self.scheduler.gangs.joins = self._joins
        self.act(self.scheduler.enrolled(workers, namespace, self.now))

    def _part_done(self, worker, run, how) -> None:
        if self._running.get(worker, (None, None))[1] != run:
            return
        task, _ = self._running.pop(worker)
        if how == "dies":
            self._end(worker, blame=True)
            return
        tasks, actions = self.scheduler.finished(worker, [(task.id, plan(task, 0)[0])], self.now)
        self.act(actions)
        ended = self.scheduler.gangs.parts.ended(task, worker, how, self.now) if tasks else []
        self.act(self.scheduler.released(ended, self.now))

    def _disband(self, action: Disband) -> None:
        if action.how == "raised" and action.task.retries:
            self.act(self.scheduler.retry(action.task, self.now))
        else:
            self._settle(action.task, {"returned": "done"}.get(action.how, action.how))

    def _end(self, worker, blame=False) -> None:
        if worker in self._inbox:
            task, _ = self._running.pop(worker, (None, 0))
            if task is not None and task.gang is not None:
                members = self._members.get(task.id, ())  # none where it was alone
                ids = {member.id for member in members}  # of its last attempt; this may be the end of one before
                if worker in ids and len({member.namespace for member in members}) > 1:
                    self._lost |= ids
            self.two.numbers.discard(worker)
            if worker in self._leaving:
                del self._inbox[worker]
                self._fill_two()
                self.act(self.scheduler.left(worker, self.now, blame=blame))
            else:
                self._missing = self.scheduler.workers[worker].node
                super()._end(worker, blame)

    def gang(self, ranks, payload=0.01, **options) -> Task:
        gang = ranks if isinstance(ranks, Ranks) else Ranks(ranks, ranks)
        return self.submit(payload, gang=gang, **options)


def plan(task: Task, rank: int) -> tuple[float, str]:
    """Return how long a rank takes, and how it ends."""
    if task.gang is None:
        return abs(task.payload), "returned"
    plans = task.payload if isinstance(task.payload, list) else [(task.payload, "returned")]
    return plans[rank % len(plans)]


def wait(pool: Pool, seconds: float) -> None:
    until = pool.now + seconds
    pool.run(until)
    pool.now = until


def resize(pool: Pool, kind: str, which: int, at_once: bool) -> None:
    """Kill a worker that stands, or have one leave or come; two stay, or are to come."""
    workers = sorted(pool.scheduler.workers)
    if kind == "grow" or not workers:
        pool.grow()
    elif kind == "kill":
        pool.kill(workers[which % len(workers)])
    elif sum(pool.scheduler.gangs.kept.values()) > 2:
        pool.shrink(workers[which % len(workers)], at_once)


def how(pool: Pool) -> dict[int, str]:
    return dict(pool.outcomes)


def test_workers_enrol_when_a_gang_would_take_them_all_at_once():
    pool = Pool(4)
    task = pool.gang(2)
    pool.run()
    assert pool.enrolments == [4]
    assert how(pool) == {task.id: "done"}
    pool.gang(4)
    pool.run()
    assert pool.enrolments == [4]


def test_nobody_enrols_before_the_pool_stands():
    scheduler = Scheduler()
    scheduler.joined(0, 0.0)
    assert scheduler.submit(Task(1, 1, gang=Ranks(1, 1)), 0.0) == []
    assert scheduler.joined(1, 0.0) == []
    assert scheduler.enrolled([], "", 0.0) == [Enrol([0, 1])]


def test_a_gang_takes_as_many_as_are_free_within_its_bounds():
    pool = Pool(4)
    pool.gang(4)
    pool.run()
    pool.submit(1.0)
    (first,) = [a for a in pool.scheduler.submit(Task(900, 7, gang=Ranks(2, 8)), pool.now) if isinstance(a, Assemble)]
    assert len(first.workers) == 3


def test_a_gang_of_a_node_gets_all_of_one_node_and_all_means_all():
    pool = Pool(6, nodes=2)
    whole = pool.gang(Ranks(scope="node"))
    everyone = pool.gang(Ranks(scope="all"))
    sizes = {}
    begin = pool.scheduler.gangs._begin

    def noted(task, members, *rest):
        sizes[task.id] = sorted({worker.node for worker in members}), len(members)
        return begin(task, members, *rest)

    pool.scheduler.gangs._begin = noted
    pool.run()
    assert sizes == {whole.id: (sizes[whole.id][0], 3), everyone.id: (["n0", "n1"], 6)}
    assert len(sizes[whole.id][0]) == 1
    assert set(how(pool).values()) == {"done"}


def test_a_gang_stays_within_the_set_that_it_is_for():
    pool = Pool(4)
    allowed = frozenset(list(pool.scheduler.workers)[1:3])
    task = pool.gang(Ranks(2, 2, on=allowed))
    pool.run(until=ENROLLING * 1.05)
    assert {worker for worker, (one, _) in pool._running.items() if one is task} == allowed


def test_when_one_rank_raises_the_blocked_ones_are_replaced_after_a_grace():
    pool = Pool(3)
    before = set(pool.scheduler.workers)
    task = pool.gang(3, [(0.01, "raised"), (0.02, "returned"), (inf, "blocked")])
    pool.run()
    assert how(pool) == {task.id: "raised"}
    assert len(before - set(pool.scheduler.workers)) == 1
    assert GRACE < pool.ended_at < GRACE + 0.2
    assert all(not worker.hand for worker in pool.scheduler.workers.values())


def test_a_gang_that_lost_a_worker_runs_again_and_is_given_up_in_the_end():
    pool = Pool(3)
    task = pool.gang(2, [(0.01, "dies"), (inf, "blocked")], worker_retries=2)
    pool.run()
    assert how(pool) == {task.id: "died"}
    assert len(pool.began[task.id]) == 3
    assert task.deaths == 3


def test_a_gang_that_overruns_loses_all_its_workers():
    pool = Pool(3)
    before = set(pool.scheduler.workers)
    task = pool.gang(2, inf, timeout=1.0)
    pool.run()
    assert how(pool) == {task.id: "overran"}
    assert len(before & set(pool.scheduler.workers)) == 1


def test_after_a_death_the_pool_is_whole_again_for_a_gang_of_all():
    pool = Pool(4)
    pool.gang(4)
    pool.run()
    pool.kill(min(pool.scheduler.workers))
    small = pool.gang(3)
    pool.run()
    assert pool.enrolments == [4]  # those that are left can do that
    large = pool.gang(4)
    pool.run()
    assert pool.enrolments == [4, 4]
    assert {how(pool)[small.id], how(pool)[large.id]} == {"done"}


def test_where_namespaces_cannot_be_joined_a_gang_waits_for_workers_that_start_before_it_has_ranks_made():
    pool = Pool(4)
    task = pool.gang(Ranks(1, 4), [(0.01, "dies"), (inf, "")], worker_retries=0)
    pool.run()
    assert how(pool) == {task.id: "died"}  # and three were blocked, and are replaced
    again = pool.gang(Ranks(1, 4))
    pool.run()
    assert pool.enrolments == [4, 4]
    assert len(pool._members[again.id]) == 4


def test_a_gang_waits_not_for_ever_for_a_worker_that_starts_nor_for_one_that_no_launch_would_reach():
    pool = Pool(3)
    pool.gang(3)
    pool.run()
    for worker in [*pool.scheduler.workers]:
        pool.kill(worker)
    pool.scheduler.gangs.berths["n0", 0] += 1  # which does not come
    pool.scheduler.gangs.kept["n0"] += 1
    begun = pool.now
    task = pool.gang(Ranks(2, 4))
    pool.run()
    assert how(pool)[task.id] == "done"
    assert begun + PATIENCE <= pool.began[task.id][0] < begun + PATIENCE + 1
    pool.scheduler.gangs.berths["n0", 0] -= 1
    pool.scheduler.gangs.berths["n0", 1] = 1  # it is in another job
    for worker in [*pool.scheduler.workers]:
        pool.kill(worker)
    begun = pool.now
    task = pool.gang(Ranks(2, 4))
    pool.run()
    assert pool.began[task.id][0] < begun + PATIENCE


def test_no_workers_of_a_listed_set_are_replaced_since_others_would_not_be_of_it():
    pool = Pool(4)
    pool.gang(4)
    pool.run()
    pool.kill(min(pool.scheduler.workers))
    listed = Members("mine", pool.scheduler.workers)
    before = set(pool.scheduler.workers)
    for least in (3, 4):
        pool.gang(Ranks(least, 4, on=listed))
    pool.run()
    assert sorted(how(pool).values()) == ["done", "done"]  # the first of all, and that of 3
    assert set(pool.scheduler.workers) == before
    gangs, living = pool.scheduler.gangs, pool.scheduler.workers.values()
    assert "the members of 'mine' are ranks of several launches" in gangs.division(Ranks(4, 4, on=listed), living)
    assert "the members of 'mine'" in gangs.division(Ranks(scope="all", on=listed), living)
    assert gangs.division(Ranks(3, 4, on=listed), living) == ""
    living = [*living]
    living[0].stale = True
    assert gangs.division(Ranks(4, 4, on=listed), living) == ""
    living[0].stale, listed.refills = False, True
    assert gangs.division(Ranks(4, 4, on=listed), living) == ""


def test_where_namespaces_can_be_joined_a_new_worker_enrols_alone_and_nobody_is_replaced():
    pool = Pool(4, joins=True)
    pool.gang(4)
    pool.run()
    pool.kill(min(pool.scheduler.workers))
    others = set(pool.scheduler.workers)
    small = pool.gang(3)
    pool.run()
    assert pool.enrolments == [4]  # those that are left can do that
    large = pool.gang(4)
    pool.run()
    wide = pool.gang(Ranks(2, 8))
    pool.run()
    assert pool.enrolments == [4, 1]
    assert others <= set(pool.scheduler.workers)
    assert {how(pool)[task.id] for task in (small, large, wide)} == {"done"}
    assert len(pool._members[wide.id]) == 4


def test_a_gang_waits_for_a_worker_that_starts_and_replaces_nobody_for_it():
    pool = Pool(3, joins=True)
    pool.gang(3)
    pool.run()
    scheduler = pool.scheduler
    scheduler.gangs.kept = {"n0": 4}
    assert scheduler.submit(Task(900, 1, gang=Ranks(4, 4)), pool.now) == []
    assert [type(action) for action in scheduler.joined(77, pool.now, "n0")] == [Enrol]
    assert [type(action) for action in scheduler.enrolled([77], "mpi-9", pool.now)] == [Assemble]


def test_a_gang_that_wants_what_idles_begins_while_a_new_worker_enrols():
    pool = Pool(3, joins=True)
    pool.gang(3)
    pool.run()
    pool.join()
    first = pool.scheduler.submit(Task(900, 1, gang=Ranks(2, 8)), pool.now)
    assert [type(action) for action in first] == [Enrol, Assemble]


def test_a_gang_is_of_few_nodes_and_few_namespaces():
    pool = Pool(6, nodes=2, joins=True)
    pool.gang(6)
    pool.run()
    pool.kill(min(pool.scheduler.workers))  # of three in n0, one will be of a namespace of its own
    pool.gang(6)
    pool.run()
    for ranks in (2, 3):
        task = pool.gang(ranks)
        pool.run()
        assert len({worker.node for worker in pool._members[task.id]}) == 1
        assert ranks == 3 or len({worker.namespace for worker in pool._members[task.id]}) == 1


def test_of_a_gang_of_several_namespaces_that_lost_a_worker_all_are_replaced():
    pool = Pool(4, nodes=2, joins=True)
    first = pool.gang(4, [(0.01, "raised"), (0.01, "returned")])
    pool.run()
    before = set(pool.scheduler.workers)
    assert how(pool) == {first.id: "raised"}  # and each part ended by itself: nothing is broken
    pool.gang(4, [(0.01, "returned"), (0.02, "raised"), (0.01, "returned"), (inf, "blocked")])
    pool.run()
    assert not before & set(pool.scheduler.workers)
    again = pool.gang(4)
    pool.run()
    assert how(pool)[again.id] == "done"


def test_a_gang_that_the_pool_cannot_form_holds_nobody_up():
    pool = Pool(2)
    waits = pool.gang(3)
    others = [pool.submit(0.1) for _ in range(100)] + [pool.gang(2) for _ in range(20)]
    pool.run()
    assert {task.id for task in others} == set(how(pool))
    pool.join()
    pool.run()
    assert how(pool)[waits.id] == "done"


def test_single_tasks_that_stand_before_a_gang_go_before_it():
    pool = Pool(2)
    singles = [pool.submit(0.1) for _ in range(10)]
    gang = pool.gang(2, 0.1)
    pool.run()
    assert pool.began[gang.id][0] >= max(pool.began[task.id][0] for task in singles)


@pytest.mark.parametrize("seconds", [1e-5, 0.01, 3600.0])
def test_a_stream_of_single_tasks_does_not_starve_a_gang_of_all(seconds):
    pool = Pool(4)
    pool.gang(4)
    pool.run()
    for _ in range(4):
        pool.submit(seconds * 0.7)
    gang = pool.gang(4, seconds)
    later = []
    while gang.id not in pool.began:
        later.append(pool.submit(seconds))
        wait(pool, seconds / 5)
    assert sum(task.id in pool.began for task in later) <= 4 * ROUNDS + 4


def test_a_stream_of_gangs_does_not_starve_a_single_task():
    pool = Pool(4)
    for _ in range(8):
        pool.gang(4, 0.1)
    single = pool.submit(0.1)
    while single.id not in pool.began:
        pool.gang(random.choice([2, 4]), 0.1)
        wait(pool, 0.05)
    assert pool.now < 4.0


def test_a_later_task_is_let_through_when_it_ends_before_the_first_gang_could_begin():
    pool = Pool(2)
    pool.gang(2)
    pool.run()
    for function, seconds in ((1, 10.0), (2, 1.0), (3, 30.0)):
        pool.submit(seconds, function=function)
        pool.run()
    pool.submit(10.0, function=1)
    wait(pool, 1.0)
    gang = pool.gang(2, 1.0, function=4)
    gang.overtaken = 1000  # it has waited enough
    short, long = pool.submit(1.0, function=2), pool.submit(30.0, function=3)
    pool.run()
    assert pool.began[short.id] < pool.began[gang.id] < pool.began[long.id]


def mixed(pool: Pool, count: int, chance: random.Random, seconds) -> float:
    """Submit tasks of 1 to 4 ranks; return how long the best packing takes at least (s)."""
    area = 0.0
    for _ in range(count):
        ranks, each = chance.randint(1, 4), seconds()
        area += ranks * each
        if ranks == 1:
            pool.submit(each, function=1)
        else:
            pool.gang(ranks, each, function=ranks)
    return area / 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", ["equal", "uniform", "wide"])
def test_a_thousand_mixed_tasks_keep_four_workers_busy(seed, spread):
    chance = random.Random(seed)
    draw = {
        "equal": lambda: 0.01,
        "uniform": lambda: chance.uniform(0.005, 0.015),
        "wide": lambda: chance.choice([0.002, 0.01, 0.05]),
    }[spread]
    pool = Pool(4, checked=False)
    best = mixed(pool, 1000, chance, draw)
    pool.run()
    assert len(pool.outcomes) == 1000
    assert best / (pool.ended_at - ENROLLING) > 0.9


SECONDS = st.sampled_from([1e-5, 1e-3, 0.02, 0.5])
PART = st.tuples(SECONDS, st.sampled_from(["returned", "returned", "returned", "raised", "dies"]))
STEP = st.one_of(
    st.tuples(st.just("single"), SECONDS, st.integers(1, 3)),
    st.tuples(st.just("gang"), st.integers(1, 4), st.lists(PART, min_size=1, max_size=4)),
    st.tuples(st.just("blocked"), st.integers(2, 4), st.sampled_from(["raised", "dies"])),
    st.tuples(st.just("timed"), st.integers(1, 4), SECONDS),
    st.tuples(st.just("scope"), st.sampled_from(["node", "all"]), SECONDS),
    st.tuples(st.just("among"), st.integers(0, 2), SECONDS),
    st.tuples(st.just("wait"), st.floats(1e-5, 0.3), st.none()),
    st.tuples(st.just("kill"), st.integers(0, 3), st.none()),
    st.tuples(st.just("shrink"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("grow"), st.none(), st.none()),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 2), joins=st.booleans(), steps=st.lists(STEP, max_size=40))
def test_every_gang_ends_once_and_for_a_good_reason(nodes, joins, steps):
    pool = Pool(4, nodes, joins=joins)
    tasks: list[Task] = []
    for kind, one, other in steps:
        if kind == "single":
            tasks.append(pool.submit(one, function=other))
        elif kind == "gang":
            tasks.append(pool.gang(one, other, function=3 + one))
        elif kind == "blocked":
            tasks.append(pool.gang(one, [(0.01, other), (inf, "blocked")]))
        elif kind == "timed":
            tasks.append(pool.gang(one, [(other, "returned"), (inf, "blocked")], timeout=0.1, retries=1))
        elif kind == "scope":
            tasks.append(pool.gang(Ranks(scope=one), other))
        elif kind == "among" and one == 0:
            tasks.append(pool.submit(other, on=pool.two))
        elif kind == "among":
            tasks.append(pool.gang(Ranks(one, one, on=pool.two), other))
        elif kind == "wait":
            wait(pool, one)
        else:
            resize(pool, kind, one, other)
    while sum(pool.scheduler.gangs.kept.values()) < 4:
        pool.grow()
    pool.run()
    assert sorted(how(pool)) == sorted(task.id for task in tasks)
    for task in tasks:
        if how(pool)[task.id] == "died":
            assert task.deaths > task.worker_retries
        if how(pool)[task.id] == "raised":
            assert any(end == "raised" for _, end in task.payload)
    assert in_hand(pool.scheduler) == pool.scheduler.queued == 0
    assert not pool.scheduler.gangs.parts._running
    assert not pool.scheduler.gangs.parts._timed


def test_a_gang_that_the_pool_has_become_too_small_for_is_given_up_after_a_while():
    class Lessened:
        scheduler, roster = Scheduler(), None
        resolved: ClassVar = []

        def resolve(self, task, error):
            self.resolved.append((task.id, str(error)))

    pool = Lessened()
    pool.scheduler.gangs.kept = {"n0": 1}
    pool.scheduler.joined(0, 0.0, "n0")
    pool.scheduler.submit(Task(7, 1, gang=Ranks(2, 2)), 0.0)
    enrolments = Enrolments(pool, "auto", lambda: None, 120.0, None, None)
    enrolments.tick(1.0)
    assert enrolments.next_deadline() == 121.0
    enrolments.tick(120.0)
    assert pool.resolved == []
    enrolments.tick(121.0)
    assert pool.resolved == [(7, f"the gang cannot run: {TOO_SMALL}; ex.grow(1) would bring them, or ask for fewer")]
    assert not pool.scheduler.gangs.waiting
    enrolments.tick(122.0)
    assert enrolments.next_deadline() is None


class Deciding:
    """A pool that says which calls it has given up, and why."""

    def __init__(self, scheduler):
        self.scheduler, self.roster, self.told = scheduler, Mock(is_complete=lambda: True), {}
        self.enrolments = Enrolments(self, "auto", Mock(), 120.0, None, None)

    def resolve(self, task, error):
        self.told[task.id] = str(error)


def test_all_gangs_that_can_never_run_are_refused_at_once_together():
    pool = Deciding(of_two_jobs(None))
    pool.scheduler.workers[1].dying = True  # so that they wait
    for number in range(3):
        pool.scheduler.submit(Task(number, 1, gang=Ranks(5, 5)), 0.0)
    pool.enrolments.tick(1.0)
    assert pool.told == {}
    pool.scheduler.gangs.joins = False
    pool.enrolments.tick(2.0)
    assert list(pool.told) == [0, 1, 2]
    assert not pool.scheduler.gangs.waiting


@pytest.mark.parametrize("is_full", [False, True])
def test_a_gang_that_no_job_is_large_enough_for_waits_in_full_for_the_pool_to_grow_there(is_full):
    pool = Deciding(of_two_jobs(False))
    gangs = pool.scheduler.gangs
    gangs.ceiling, gangs.is_full = 16, is_full
    pool.scheduler.submit(Task(1, 1, gang=Ranks(4, 4)), 0.0)
    pool.enrolments.tick(0.0)
    pool.scheduler.submit(Task(2, 1, gang=Ranks(5, 5)), 100.0)
    pool.enrolments.tick(100.0)
    assert pool.told == {}
    assert pool.enrolments.next_deadline() == 120.0
    pool.enrolments.tick(120.0)
    assert list(pool.told) == [1]
    assert "none has more than 3" in pool.told[1]
    gangs.berths["n3", 7] += 2
    pool.enrolments.tick(220.0)
    assert list(pool.told) == [1]
    assert pool.enrolments.next_deadline() is None


def test_a_gang_that_is_submitted_again_when_it_was_given_up_waits_in_full_again():
    pool = Deciding(of_two_jobs(True))
    for number, (submitted, given_up) in enumerate([(0.0, []), (120.0, [0]), (240.0, [0, 1])]):
        pool.enrolments.tick(submitted)
        assert list(pool.told) == given_up
        pool.scheduler.submit(Task(number, 1, gang=Ranks(6, 6)), submitted)
        pool.enrolments.tick(submitted)
        assert list(pool.told) == given_up


class Recorded:
    """A launcher of ranks, and the launches that have it: says what it is asked for, and starts nothing."""

    name, current = "recorded", None

    def __init__(self, joins):
        self.joins, self.asked, self.launcher, self.launched = joins, Queue(), self, 0

    def standing(self):
        return self

    def attempt(self, number):
        return self

    def start_slots(self, slots, places):
        self.asked.put(dict(places))
        raise OSError("starts nothing")


TOGETHER = [{"n1": 2, "n2": 1}]


@pytest.mark.parametrize(
    ("joins", "expected"),
    [(lambda: True, [{"n1": 2}, {"n2": 1}]), (lambda: False, TOGETHER), (lambda: 1 / 0, TOGETHER)],
    ids=["it can", "it cannot", "nobody knows"],
)
def test_where_namespaces_can_be_joined_each_node_has_its_own(joins, expected):
    agents = [Mock(host=host, launch=1, namespace="", site=0) for host in ("n1", "n2")]
    workers = {number: WorkerState(number, agents[number // 3], number) for number in (1, 2, 3)}
    pool = SimpleNamespace(roster=SimpleNamespace(workers=workers), scheduler=Scheduler())
    posted, launches = Queue(), Recorded(joins)
    enrolments = Enrolments(pool, "auto", launches, 120.0, posted.put, None)
    enrolments.begin([1, 2, 3])
    posted.get(timeout=30)()  # what was asked is told
    assert sorted((launches.asked.get(timeout=30) for _ in expected), key=str) == expected


@pytest.mark.parametrize("taken", [True, False])
def test_a_worker_that_was_taken_away_as_it_became_a_rank_is_no_failure_of_mpi(taken):
    agent, log = Mock(host="n1", launch=1, namespace="", site=0), Mock()
    pool = SimpleNamespace(scheduler=Scheduler(), roster=Mock(workers={}), act=Mock(), resolve=Mock())
    enrolments = Enrolments(pool, "auto", Recorded(lambda: False), 120.0, Mock(), log)
    for number in range(MOST_FAILURES):
        worker = WorkerState(number, agent, number)
        worker.is_taken = taken
        pool.roster.workers[number] = worker
        enrolments.begin([number])
        enrolments.worker_left(worker, End(signal=9))
    assert bool(enrolments.refused) == (not taken)
    assert pool.scheduler.gangs.renewal.is_hopeful == taken


def of_two_jobs(joins):
    """Return a scheduler with workers 1 and 2 in one job, and 3 to 5 in another; one node is of both."""
    scheduler = Scheduler()
    gangs, places = scheduler.gangs, [("n1", 0), ("n2", 0), ("n2", 7), ("n2", 7), ("n3", 7)]
    gangs.may_enrol, gangs.joins = True, joins
    gangs.kept, gangs.berths = Counter(node for node, _ in places), Counter(places)
    for number, (node, site) in enumerate(places, 1):
        scheduler.joined(number, 0.0, node, site)
        scheduler.workers[number].namespace = f"mpi-{node if joins else site}"
    return scheduler


@pytest.mark.parametrize("joins", [True, False, None])
@pytest.mark.parametrize("is_program", [True, False])
def test_a_program_and_a_gang_that_cannot_be_joined_stay_in_one_job(joins, is_program):
    stays = is_program or joins is False
    for bounds in ({"least": 2, "most": 2}, {"least": 3, "most": 5}, {"scope": "node"}, {"least": 5, "most": 5}):
        gang, scheduler = Ranks(**bounds, alone=is_program, is_program=is_program), of_two_jobs(joins)
        is_divided = scheduler.gangs.division(gang, scheduler.workers.values()) != ""
        assert is_divided == (stays and gang.least == 5)
        actions = scheduler.submit(Task(1, 1, gang=gang), 0.0)
        if is_divided:
            assert actions == []
            assert not any(worker.stale for worker in scheduler.workers.values())
        elif stays:
            members = [scheduler.workers[number] for number in actions[0].workers]
            (site,) = {worker.site for worker in members}
            of_node = scheduler.gangs.berths[members[0].node, site]
            assert len(members) == (of_node if gang.scope == "node" else gang.least)
        elif joins:
            assert len(actions[0].workers) >= gang.least


def test_a_divided_gang_on_a_set_is_told_by_its_members():
    scheduler = of_two_jobs(False)
    on = Members("some", [1, 2, 3])
    told = scheduler.gangs.division(Ranks(3, 3, on=on), scheduler.workers.values())
    assert "it wants 3 workers, ranks of this MPI" in told
    assert "none has more than 2" in told
    assert scheduler.gangs.division(Ranks(2, 2, on=on), scheduler.workers.values()) == ""


def test_a_cancelled_gang_lets_its_workers_go():
    pool = Pool(2)
    pool.gang(2)
    pool.run()
    task = Task(900, 1, gang=Ranks(2, 2))
    assert isinstance(pool.scheduler.submit(task, pool.now)[0], Assemble)
    pool.scheduler.submit(Task(901, 1), pool.now)
    pool.scheduler.gangs.parts.unassembled(task)
    assert [type(action) for action in pool.scheduler.released([], pool.now)] == [Send]


def test_a_gang_whose_worker_is_taken_away_runs_again_without_blame():
    pool = Pool(4)
    task = pool.gang(4, 1.0, worker_retries=0)
    wait(pool, 0.5)
    pool.join()
    pool.act(pool.scheduler.left(next(iter(pool._running)), pool.now, blame=False))
    pool.run()
    assert how(pool) == {task.id: "done"}
    assert task.deaths == 0


def test_a_worker_of_a_gang_leaves_after_it():
    pool = Pool(3)
    task = pool.gang(2, 1.0)
    wait(pool, 0.5)
    leaves = next(iter(pool._running))
    told = pool.scheduler.retire([leaves], pool.now)
    assert told == []
    ended = []
    act, pool.act = pool.act, lambda actions: (ended.extend(actions), act(actions))
    pool.run()
    assert how(pool) == {task.id: "done"}
    assert Leave(leaves) in ended


def on_two_nodes(joins: bool) -> Scheduler:
    """Return a scheduler of eight workers, four on each of two nodes, all busy."""
    scheduler = Scheduler()
    scheduler.gangs.joins, scheduler.gangs.kept = joins, {"a": 4, "b": 4}
    for number in range(8):
        scheduler.joined(number, 0.0, "ab"[number // 4])
    scheduler.enrolled(list(range(8)), "mpi-1", 0.0)
    for number in range(8):
        scheduler.submit(Task(number, 1), 0.0)
    return scheduler


def end(scheduler: Scheduler, task: Task, workers: list[int]) -> list:
    for worker in workers:
        scheduler.finished(worker, [(task.id, 0.01)], 1.0)
        ended = scheduler.gangs.parts.ended(task, worker, "returned", 1.0)
    return scheduler.released(ended, 1.0)


@pytest.mark.parametrize("joins", [False, True])
def test_a_gang_like_the_last_gets_its_workers_only_where_none_are_better(joins):
    scheduler = on_two_nodes(joins)
    first = Task(10, 1, gang=Ranks(4, 4))
    scheduler.submit(first, 0.0)
    held = {worker.id: next(iter(worker.hand)) for worker in scheduler.workers.values()}
    began = [action for one in (0, 1, 4, 5) for action in scheduler.finished(one, [(held[one], 0.01)], 0.5)[1]]
    assert [sorted(action.workers) for action in began] == [[0, 1, 4, 5]]  # over both nodes: those that idled
    for one in (2, 3, 6, 7):
        scheduler.finished(one, [(held[one], 0.01)], 0.6)
    end(scheduler, first, [0, 1, 4, 5])
    for number in (11, 12):
        task = Task(number, 1, gang=Ranks(4, 4))
        (began,) = scheduler.submit(task, 2.0)
        assert len({scheduler.workers[worker].node for worker in began.workers}) == 1
        end(scheduler, task, began.workers)


def test_a_single_task_that_stands_between_two_gangs_goes_between_them():
    pool = Pool(4)
    pool.gang(4)
    pool.run()
    blocking = pool.gang(4, 0.1)
    later = pool.gang(2, priority=0)
    single = pool.submit(0.01, priority=5)
    first = pool.gang(2, priority=9)
    wide = pool.gang(2, priority=0)
    pool.run()
    began = pool.began
    assert began[blocking.id] < began[first.id]
    assert how(pool)[single.id] == "done"
    order = [task for task, _ in pool.outcomes]
    assert order.index(single.id) <= order.index(later.id) < order.index(wide.id)


def test_a_gang_within_bounds_gets_as_many_as_it_can_have_of_namespaces_that_cannot_be_joined():
    scheduler = Scheduler()
    scheduler.gangs.joins, scheduler.gangs.kept = False, {"n0": 8}
    for number in range(8):
        scheduler.joined(number, 0.0, "n0")
    scheduler.enrolled([0, 1], "mpi-1", 0.0)
    scheduler.enrolled(list(range(2, 8)), "mpi-2", 0.0)
    for number, (least, most, members) in enumerate([(2, 8, range(2, 8)), (2, 4, range(2, 6)), (1, 2, (0, 1))]):
        task = Task(number, 1, gang=Ranks(least, most))
        (began,) = scheduler.submit(task, 1.0)
        assert began.workers == list(members)
        end(scheduler, task, began.workers)


def test_a_gang_is_refused_at_once_where_there_is_no_mpi(monkeypatch):
    pool = Mock()
    pool.roster.workers, pool.roster.agents = {0: None, 1: None}, []
    launches = SimpleNamespace(standing=lambda: Local())
    enrolments = Enrolments(pool, "auto", launches, 1.0, None, None)
    monkeypatch.setattr(starters, "find_spec", lambda name: None)
    with pytest.raises(GangError, match=r"mpi4py is not installed; `pip install 'mainstay\[mpich\]'`"):
        enrolments.check(Ranks(2, 2), 2)
    enrolments.check(Ranks(2, 2, alone=True, is_program=True), 2)  # a program brings its own
    pool.roster.agents = [SimpleNamespace(stage={"tree": "/elsewhere"})]
    enrolments.check(Ranks(2, 2), 2)  # from another environment, which may have it
    enrolments._is_there, pool.roster.agents = False, []
    monkeypatch.setattr(starters, "find_spec", lambda name: name)
    monkeypatch.setattr(starters.MpiExec, "why_not", lambda self: "no mpiexec on PATH")
    with pytest.raises(GangError, match="no mpiexec on PATH"):
        enrolments.check(Ranks(2, 2), 2)
    monkeypatch.setattr(starters.MpiExec, "why_not", lambda self: None)
    enrolments.check(Ranks(2, 2), 2)


def test_gangs_and_single_tasks_by_turns_however_many():
    scheduler = Scheduler()
    scheduler.gangs.joins, scheduler.gangs.kept = True, {"n0": 3000}
    everyone = Task(0, 1, gang=Ranks(scope="all"))
    for number in range(3000):
        scheduler.joined(number, 0.0, "n0")
    scheduler.enrolled(list(range(3000)), "mpi-1", 0.0)
    (began,) = scheduler.submit(everyone, 0.0)
    for number in range(1, 2001):
        scheduler.submit(Task(number, 1, gang=Ranks(1, 1) if number % 2 else None), 0.0)
    for worker in began.workers:
        scheduler.finished(worker, [(0, 0.01)], 1.0)
        ended = scheduler.gangs.parts.ended(everyone, worker, "returned", 1.0)
    actions = scheduler.released(ended, 1.0)
    assert Counter(type(action) for action in actions) == {Disband: 1, Assemble: 1000, Send: 1000}
