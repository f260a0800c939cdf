"""When malleable gangs change their size, and to which."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gangs import Pool, how, resize, wait

from mainstay.malleable import CALM, IN_VAIN, LOOK, RENEWAL, Malleability, size
from mainstay.node.context import Point
from mainstay.node.malleable import World, _look
from mainstay.options import Options
from mainstay.orders import Assemble, Disband, Leave, Members, Ranks, Task
from mainstay.scheduler import Scheduler

BOUNDS = Ranks(2, 8)


@pytest.mark.parametrize(
    ("now", "lacking", "spare", "leaving", "then"),
    [
        (4, 0, 0, 0, 4),
        (4, 0, 3, 0, 7),
        (4, 0, 9, 0, 8),  # no more than the most
        (4, 1, 0, 0, 3),
        (4, 9, 0, 0, 2),  # no fewer than the least
        (4, 0, 3, 1, 3),
        (4, 2, 0, 1, 2),
    ],
)
def test_to_which_size(now, lacking, spare, leaving, then):
    assert size(BOUNDS, now, lacking, spare, leaving) == then


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 8), st.integers(0, 20), st.integers(0, 20), st.integers(0, 8))
def test_a_size_is_within_its_bounds(now, waiting, idle, leaving):
    assert BOUNDS.least <= size(BOUNDS, now, waiting, idle, leaving) <= BOUNDS.most


def with_a_gang(workers: int) -> tuple[Scheduler, Task, list]:
    """Return a scheduler on whose workers a malleable gang runs, and what is to pause."""
    scheduler = Scheduler()
    scheduler.gangs.kept = {"": workers}
    for number in range(workers):
        scheduler.joined(number, 0.0)
    scheduler.enrolled(list(range(workers)), "mpi-1", 0.0)
    task = Task(1, 1, gang=BOUNDS, malleable=BOUNDS)
    assert [action for action in scheduler.submit(task, 0.0) if isinstance(action, Assemble)]
    return scheduler, task, []


def look(watcher: Malleability, now: float) -> float:
    watcher.tick(now)
    return now + LOOK


def look_when_it_has_begun_again(watcher: Malleability, task: Task, attempt: int, now: float) -> float:
    task.attempt, task.pausing = attempt, False
    return look(watcher, look(watcher, now) + CALM)


def test_a_gang_makes_room_for_those_who_wait_and_takes_those_who_idle():
    scheduler, task, told = with_a_gang(4)
    watcher = Malleability(scheduler, lambda task: told.append(task.gang))
    now = look(watcher, 0.0)
    scheduler.submit(Task(2, 1), now)
    now = look(watcher, now)
    assert told == []  # it has just begun
    now = look(watcher, now + CALM)
    assert told == [Ranks(2, 3)]
    now = look(watcher, now + CALM)
    assert len(told) == 1  # it has not come to a point yet
    for worker in range(4):
        scheduler.finished(worker, [(1, 1.0)], now)
        ended = scheduler.gangs.parts.ended(task, worker, "returned", now)
    scheduler.released(ended, now)
    task.attempt, task.pausing = 1, False
    scheduler.submit(task, now)
    assert [len(workers) for _, workers in scheduler.gangs.parts.malleable()] == [3]
    busy = next(worker for worker in scheduler.workers.values() if 2 in worker.hand)
    now = look(watcher, now)
    scheduler.finished(busy.id, [(2, 1.0)], now)
    look(watcher, now + CALM)
    assert told[1:] == [Ranks(2, 4)]


def test_one_that_could_not_grow_waits_before_it_tries_again():
    scheduler, task, told = with_a_gang(2)
    watcher = Malleability(scheduler, lambda task: told.append(task))
    scheduler.joined(9, 0.0)
    scheduler.enrolled([9], "mpi-2", 0.0)  # of no use to it
    now = look(watcher, look(watcher, 0.0) + CALM)
    assert len(told) == 1
    now = look_when_it_has_begun_again(watcher, task, 1, now)  # and is no larger
    assert len(told) == 1
    look(watcher, now + IN_VAIN)
    assert len(told) == 2


def test_one_that_was_to_have_workers_without_ranks_grows_when_they_have_some():
    scheduler, task, told = with_a_gang(2)
    watcher = Malleability(scheduler, lambda task: told.append(task))
    scheduler.joined(9, 0.0)
    now = look(watcher, look(watcher, 0.0) + CALM)
    scheduler.enrolled([9], "mpi-2", now)
    look_when_it_has_begun_again(watcher, task, 1, now)  # at once, while worker 9 enrolled
    assert len(told) == 2


def test_one_with_a_worker_that_is_to_leave_lets_it_go():
    scheduler, _, told = with_a_gang(4)
    watcher = Malleability(scheduler, lambda task: told.append(task.gang))
    now = look(watcher, 0.0)
    assert not [action for action in scheduler.retire([3], now) if isinstance(action, Leave)]
    look(watcher, now + CALM)
    assert told == [Ranks(2, 3)]


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"malleable": "yes", "ranks": (1, 2)}, "malleable must be True, False or a function"),
        ({"malleable": True}, r"malleable= wants ranks=\(least, most\)"),
        ({"malleable": True, "ranks": 4}, r"malleable= wants ranks=\(least, most\); given: ranks=4"),
    ],
)
def test_what_cannot_be(given_, told):
    with pytest.raises(ValueError, match=told):
        Options().changed(given_)


def test_it_looks_at_no_worker_that_it_cannot_have_and_at_who_waits_for_its_own():
    ours, others = Members("ours", range(4)), Members("others", {4, 5})
    bounds = Ranks(2, 4, on=ours)
    scheduler = Scheduler()
    scheduler.gangs.kept, scheduler.gangs.joins = {"": 8}, True
    for number in range(4):
        scheduler.joined(number, 0.0)
    scheduler.enrolled(list(range(4)), "mpi-1", 0.0)
    assert scheduler.submit(Task(1, 1, gang=Ranks(3, 3, on=ours), malleable=bounds), 0.0)
    told: list[Task] = []
    watcher = Malleability(scheduler, told.append)
    scheduler.retire([3], 0.0)
    scheduler.joined(9, 0.0)  # it idles, but not in the set
    now = look(watcher, look(watcher, 0.0) + CALM)
    assert told == []
    for task, on in ((Task(2, 1, on=others), others), (Task(3, 1, gang=Ranks(2, 2, on=others)), others)):
        assert on is others
        scheduler.submit(task, now)
    now = look(watcher, now + CALM)
    assert told == []  # these would get nothing of it
    scheduler.submit(Task(4, 1, on=ours), now)
    look(watcher, now + CALM)
    assert [task.gang.most for task in told] == [2]


def test_who_idles_elsewhere_does_nothing_for_those_who_wait_for_its_own():
    ours = Members("ours", {0})
    scheduler, _, told = with_a_gang(4)
    watcher = Malleability(scheduler, lambda task: told.append(task.gang.most))
    now = look(watcher, 0.0)
    scheduler.gangs.kept = {"": 6}
    bounds = scheduler.gangs.parts.malleable()[0][0]
    bounds.malleable = Ranks(2, 4)  # at its most
    for number in (8, 9):
        scheduler.joined(number, now)
    scheduler.submit(Task(2, 1, on=ours), now)
    look(watcher, now + CALM)
    assert told == [3]


def test_workers_that_could_not_become_ranks_are_tried_once():
    scheduler, task, told = with_a_gang(2)
    watcher = Malleability(scheduler, told.append)
    scheduler.joined(9, 0.0)
    now = look(watcher, look(watcher, 0.0) + CALM)
    for attempt in (1, 2):
        now = look_when_it_has_begun_again(watcher, task, attempt, now)  # and worker 9 still has no rank
    assert len(told) == 2
    look(watcher, now + IN_VAIN)
    assert len(told) == 3


def paused(scheduler: Scheduler, task: Task, members: int, now: float) -> list[int]:
    """Let a gang of the first workers hand over; return those that are to be replaced."""
    ended = []
    for worker in range(members):
        scheduler.finished(worker, [(task.id, 1.0)], now)
        ended = scheduler.gangs.parts.ended(task, worker, "returned", now)
    scheduler.released(ended, now)
    scheduler.gangs.renew(task, list(range(members)), scheduler.workers, 0.0)
    return sorted(worker.id for worker in scheduler.workers.values() if worker.stale)


def apart(scheduler: Scheduler, *others: tuple[int, str, int]) -> Scheduler:
    """Have more workers idle, each of a namespace (or none) and a job, where MPI cannot join launches."""
    scheduler.gangs.joins = False
    for number, namespace, site in others:
        scheduler.joined(number, 0.0, site=site)
        if namespace:
            scheduler.enrolled([number], namespace, 0.0)
    return scheduler


def test_where_namespaces_cannot_be_joined_it_grows_by_new_ranks_for_all_and_not_often():
    scheduler, task, told = with_a_gang(2)
    apart(scheduler, (8, "mpi-2", 0), (9, "", 0), (10, "", 1))
    watcher = Malleability(scheduler, told.append)
    now = look(watcher, 0.0)
    for _ in range(3):
        now = look(watcher, now + CALM)
    assert told == []
    now = look(watcher, RENEWAL)
    assert [task.gang.most for task in told] == [4]  # worker 10 is of a job where none of its launches reaches
    assert not any(worker.stale for worker in scheduler.workers.values())  # it may end, and not pause
    assert paused(scheduler, task, 2, now) == [0, 1, 8]


def test_it_takes_first_who_has_no_rank_and_no_more_than_it_may_have():
    scheduler, task, told = with_a_gang(2)
    task.malleable = Ranks(2, 3)
    apart(scheduler, (7, "mpi-2", 0), (8, "mpi-2", 0), (9, "", 0))
    watcher = Malleability(scheduler, told.append)
    now = look(watcher, look(watcher, 0.0) + RENEWAL)
    assert paused(scheduler, task, 2, now) == [0, 1]


def test_new_ranks_are_not_made_for_one_while_others_wait_or_where_that_fails_or_spoils_its_set():
    scheduler, task, told = with_a_gang(2)
    apart(scheduler, (8, "", 0))
    watcher = Malleability(scheduler, told.append)
    now = look(watcher, look(watcher, 0.0) + RENEWAL)
    assert told == [task]
    scheduler.submit(Task(2, 1, gang=Ranks(4, 4)), now)
    assert paused(scheduler, task, 2, now) == []
    for spoil in ("fails", "is listed"):
        scheduler, task, told = with_a_gang(2)
        apart(scheduler, (8, "", 0))
        if spoil == "fails":
            scheduler.gangs.renewal.is_hopeful = False
        else:
            task.malleable = Ranks(2, 8, on=Members("mine", (0, 1, 8)))
        watcher = Malleability(scheduler, told.append)
        look(watcher, look(watcher, 0.0) + RENEWAL)
        assert told == []


def test_one_that_would_not_begin_again_before_the_end_does_not_pause():
    scheduler, task, told = with_a_gang(2)
    task.timeout = 100.0
    scheduler.gangs.joins = True
    scheduler.joined(9, 0.0)
    scheduler.closes(120.0, 0.0)
    watcher = Malleability(scheduler, told.append)
    look(watcher, look(watcher, 60.0) + CALM)
    assert told == []
    scheduler.closes(1000.0, 0.0)
    look(watcher, 62.0)
    assert told == [task]


def test_where_some_of_its_own_ranks_idle_it_grows_by_these_at_once():
    scheduler, _, told = with_a_gang(4)
    scheduler.gangs.joins = False
    watcher = Malleability(scheduler, told.append)
    scheduler.gangs.parts.malleable()[0][1].remove(3)
    scheduler.joined(9, 0.0)
    scheduler.workers[3].hand.clear()
    scheduler.workers[3].idle = True
    look(watcher, look(watcher, 0.0) + CALM)
    assert [task.gang.most for task in told] == [4]
    assert not any(worker.stale for worker in scheduler.workers.values())


def test_a_program_that_does_not_look_from_what_it_goes_on_is_told():
    point = Point(lambda: None, lambda states: False)
    comm = SimpleNamespace(rank=1, size=2)
    beginning, later = World(comm, None), World(comm, 7)  # type: ignore[arg-type]
    assert (beginning.is_known, later.is_known) == (True, False)
    with pytest.raises(RuntimeError, match=r"did not read world\.state"):
        _look(point, [(False, 1, later.is_known), (False, 1, False)])
    assert later.state == 7
    assert _look(point, [(False, 1, later.is_known), (False, 1, False)]) == (False, [])  # one may tell the others


class Solvers(Pool):
    """A simulated pool for malleable programs, whose `state` is how many points they have to come to."""

    STEP = 0.02  # seconds between two points

    def __init__(self, nodes: int, joins: bool) -> None:
        super().__init__(4, nodes, joins=joins)
        self._malleability = Malleability(self.scheduler, lambda task: None)
        self.sizes: dict[int, list[int]] = {}  # of each program, whenever it began

    def solver(self, least: int, most: int, points: int) -> Task:
        bounds = Ranks(least, most)
        return self.gang(bounds, [(inf, "blocked")], malleable=bounds, state=points, function=9, worker_retries=9)

    def next_tick(self) -> float | None:
        ticks = [super().next_tick(), self._malleability.next_deadline()]
        return min((tick for tick in ticks if tick is not None), default=None)

    def tick(self) -> None:
        super().tick()
        self._malleability.tick(self.now)

    def act(self, actions) -> None:
        for action in list(actions):
            if isinstance(action, Assemble) and action.task.malleable is not None:
                action.task.pausing = False
                self.sizes.setdefault(action.task.id, []).append(len(action.workers))
                self._later(self.STEP, self._point, action.task, action.task.attempt, action.workers)
        super().act(actions)

    def _point(self, task: Task, attempt: int, members: list[int]) -> None:
        run = [worker for worker in members if self._running.get(worker, (None, 0))[0] is task]
        if task.attempt != attempt or run != members:
            return  # the others are blocked
        task.state -= 1
        if task.state and not task.pausing:
            self._later(self.STEP, self._point, task, attempt, members)
            return
        for worker in members:
            del self._running[worker]
            self.act(self.scheduler.finished(worker, [(task.id, self.STEP)], self.now)[1])
            ended = self.scheduler.gangs.parts.ended(task, worker, "returned", self.now)
            self.act(self.scheduler.released(ended, self.now))

    def _disband(self, action: Disband) -> None:
        task = action.task
        if action.how != "returned" or not task.state or task.malleable is None:
            super()._disband(action)
            return
        task.attempt += 1
        members = [member.id for member in self._members[task.id]]
        self.scheduler.gangs.renew(task, members, self.scheduler.workers, self.now)
        self.act(self.scheduler.submit(task, self.now))


def test_a_program_whose_workers_get_new_ranks_waits_for_these_and_does_not_begin_with_who_is_left():
    pool = Solvers(1, joins=False)
    pool.submit(1e-3)
    for _ in range(3):
        pool.grow()
    pool.gang(3)
    pool.run()
    pool.gang(4)
    pool.run()
    launches = {worker.namespace for worker in pool.scheduler.workers.values()}
    assert len(launches) == 2  # of three workers and of four, and a program may have six
    program = pool.solver(1, 6, 600)
    pool.run()
    assert pool.sizes[program.id] == [4, 6]


SECONDS = st.sampled_from([1e-3, 0.02, 0.5])
STEP = st.one_of(
    st.tuples(st.just("solver"), st.tuples(st.integers(1, 3), st.integers(0, 3)), st.sampled_from([1, 30, 600])),
    st.tuples(st.just("single"), SECONDS, st.integers(1, 3)),
    st.tuples(st.just("gang"), st.integers(1, 4), SECONDS),
    st.tuples(st.just("wait"), st.sampled_from([1e-3, 0.1, 0.4, 3.0, 11.0]), st.none()),
    st.tuples(st.just("kill"), st.integers(0, 3), st.none()),
    st.tuples(st.just("shrink"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("grow"), st.none(), st.none()),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 2), joins=st.booleans(), steps=st.lists(STEP, max_size=30))
def test_whatever_comes_and_goes_malleable_programs_end_and_take_what_is_free(nodes, joins, steps):
    pool = Solvers(nodes, joins)
    tasks: list[Task] = []
    for kind, one, other in steps:
        if kind == "solver":
            tasks.append(pool.solver(one[0], sum(one), other))
        elif kind == "single":
            tasks.append(pool.submit(one, function=other))
        elif kind == "gang":
            tasks.append(pool.gang(one, other, function=3 + one, worker_retries=9))
        elif kind == "wait":
            wait(pool, one)
        else:
            resize(pool, kind, one, other)
    while sum(pool.scheduler.gangs.kept.values()) < 6:
        pool.grow()
    pool.run()
    tasks.append(pool.solver(1, 6, 700))
    pool.run()
    assert pool.sizes[tasks[-1].id][-1] == 6, "it could have had all"
    assert sorted(how(pool)) == sorted(task.id for task in tasks)
    for task in tasks:
        if task.malleable is not None and how(pool)[task.id] == "done":
            assert task.state == 0
            assert all(task.malleable.least <= size <= task.malleable.most for size in pool.sizes[task.id])
