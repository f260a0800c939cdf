"""Exclusive tasks and tasks with cores by behaviour: single decisions, then whole runs of a simulated pool."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import LATENCY, in_hand
from test_gangs import Pool, how, resize, wait

from mainstay.gangs import ROUNDS
from mainstay.orders import Hold, Ranks, Task
from mainstay.scheduler import Scheduler

EXCLUSIVE = Ranks(scope="node", alone=True)


def cores(count: int, **more) -> Ranks:
    return Ranks(scope="cores", alone=True, cores=count, **more)


def on(*nodes: str) -> Ranks:
    return Ranks(scope="node", alone=True, nodes=frozenset(nodes))


def scheduler(*nodes: str, **cores_of: int) -> Scheduler:
    """Return one with a worker on each of these nodes."""
    made = Scheduler()
    made.gangs.kept, made.gangs.holds.cores = dict(Counter(nodes)), cores_of
    for number, node in enumerate(nodes):
        made.joined(number, 0.0, node)
    return made


def node_of(pool: Pool, task: Task) -> str:
    (worker,) = [number for number, (one, _) in pool._running.items() if one is task]
    return pool.scheduler.workers[worker].node


def test_an_exclusive_task_holds_its_node_and_nobody_elses():
    one = scheduler("n0", "n0", "n1", "n1")
    (hold,) = one.submit(Task(10, 1, gang=EXCLUSIVE), 0.0)
    assert isinstance(hold, Hold)
    node = one.workers[hold.workers[0]].node
    sends = [action for number in range(3) for action in one.submit(Task(20 + number, 1), 0.0)]
    assert [one.workers[send.worker].node for send in sends] == [{"n0": "n1", "n1": "n0"}[node]] * 2
    _, actions = one.finished(hold.workers[0], [(10, 0.1)], 1.0)
    assert [one.workers[send.worker].node for send in actions] == [node]
    assert in_hand(one) == 3


def test_it_needs_no_mpi_and_does_not_wait_for_the_pool_to_stand():
    one = scheduler("n0")
    assert one.submit(Task(1, 1, gang=EXCLUSIVE), 0.0) == [Hold(one.workers[0].hand[1], [0])]


def test_it_waits_for_the_worker_that_starts_in_a_dead_ones_place():
    one = scheduler("n0", "n0")
    one.left(0, 0.0)
    assert one.submit(Task(1, 1, gang=EXCLUSIVE), 0.0) == []
    assert one.joined(5, 1.0, "n0") != []


def test_a_worker_that_comes_to_its_node_meanwhile_is_held_too():
    pool = Pool(4, nodes=2)
    measured = pool.submit(1.0, gang=on("n0"))
    wait(pool, 0.1)
    held = next(n for n, w in pool.scheduler.workers.items() if w.node == "n0" and n not in pool._running)
    pool.kill(held)
    beside = [pool.submit(0.01) for _ in range(8)]
    pool.run()
    assert set(how(pool).values()) == {"done"}
    assert len(pool.began[measured.id]) == 1
    assert len(beside) == 8


@pytest.mark.parametrize(("payload", "options", "end"), [(-0.1, {}, "died"), (9.0, {"timeout": 0.1}, "timeout")])
def test_it_ends_as_a_single_task_does_and_lets_its_node_go(payload, options, end):
    pool = Pool(2)
    task = pool.submit(payload, gang=EXCLUSIVE, worker_retries=1, **options)
    after = pool.submit(0.1)
    pool.run()
    assert how(pool) == {task.id: end, after.id: "done"}
    assert len(pool.began[task.id]) == (2 if end == "died" else 1)
    assert pool.scheduler.is_at_rest


def test_a_cancelled_one_lets_its_node_go():
    one = scheduler("n0", "n0")
    one.submit(Task(1, 1, gang=EXCLUSIVE), 0.0)
    one.submit(Task(2, 1), 0.0)
    assert [type(action).__name__ for action in one.dropped(0, [1], 0.0)] == ["Send"]
    assert in_hand(one) == 1


def test_a_retry_runs_alone_again():
    one = scheduler("n0", "n0")
    (hold,) = one.submit(Task(1, 1, gang=EXCLUSIVE, retries=1), 0.0)
    (task,), _ = one.finished(hold.workers[0], [(1, 0.1)], 0.1)
    assert one.retry(task, 0.1) == [hold]


def test_a_worker_in_the_place_of_one_that_cores_held_is_held_too():
    one = scheduler("n0", "n0", n0=4)
    (hold,) = one.submit(Task(1, 1, gang=cores(3)), 0.0)
    assert len(hold.workers) == 2
    one.left(hold.workers[1], 0.1)
    assert one.joined(5, 0.2, "n0") == []
    assert one.submit(Task(2, 1, gang=cores(2)), 0.3) == []
    _, actions = one.finished(hold.workers[0], [(1, 0.4)], 0.4)
    assert [type(action) for action in actions] == [Hold]


def test_where_more_workers_come_cores_hold_more_of_them():
    one = scheduler("n0", "n0", n0=4)
    (first,) = one.submit(Task(1, 1, gang=cores(2)), 0.0)
    one.gangs.kept = {"n0": 4}
    one.joined(5, 0.1, "n0")
    assert [number for number, worker in one.workers.items() if 1 in worker.hand] == [*first.workers, 5]
    one.joined(6, 0.1, "n0")
    assert one.submit(Task(2, 1, gang=cores(3)), 0.2) == []
    (second,) = one.submit(Task(3, 1, gang=cores(2)), 0.2)
    assert not {*first.workers, 5} & {*second.workers}


def test_a_task_that_overran_is_tried_again_while_its_old_process_ends():
    one = scheduler("n0", "n0", "n1", "n1")
    task = Task(1, 1, gang=EXCLUSIVE, timeout=1.0, retries=1)
    (first,) = one.submit(task, 0.0)
    one.tick(1.0)
    (second,) = one.retry(task, 1.0)
    assert not {*first.workers} & {*second.workers}
    for number in (first.workers[1], second.workers[1], first.workers[0]):
        assert one.left(number, 1.1, blame=False) == []
    assert one.finished(second.workers[0], [(1, 0.5)], 1.5)[0] == [task]


def test_the_cores_of_an_old_process_are_taken_until_it_has_ended():
    one = scheduler(*["n0"] * 4, n0=4)
    task = Task(1, 1, gang=cores(2), timeout=1.0, retries=1)
    (first,) = one.submit(task, 0.0)
    one.tick(1.0)
    one.retry(task, 1.0)
    assert (first.task.pinned, one.submit(Task(2, 1, gang=cores(1)), 1.0)) == ((2, 3), [])


PROGRAM = Ranks(3, 3, alone=True, is_program=True)


def test_where_a_worker_of_a_program_dies_its_rank_still_has_the_place():
    one = scheduler("n0", "n0", "n1", "n1")
    (program,) = one.submit(Task(1, 1, gang=PROGRAM), 0.0)
    lone = program.workers[2]
    node = one.workers[lone].node
    one.left(lone, 0.1)
    assert one.submit(Task(2, 1, gang=on(node)), 0.1) == []
    assert one.joined(5, 0.2, node) == []
    assert 1 in one.workers[5].hand
    _, actions = one.finished(program.workers[0], [(1, 0.3)], 0.3)
    assert [type(action) for action in actions] == [Hold]


def test_nothing_is_exclusive_beside_a_rank_whose_worker_was_taken_away():
    one = scheduler("n0", "n0", "n1", "n1")
    (program,) = one.submit(Task(1, 1, gang=PROGRAM), 0.0)
    lone = program.workers[2]
    one.gangs.kept[one.workers[lone].node] = 1
    one.left(lone, 0.1, blame=False)
    assert one.submit(Task(2, 1, gang=EXCLUSIVE), 0.2) == []
    _, actions = one.finished(program.workers[0], [(1, 0.3)], 0.3)
    assert [type(action) for action in actions] == [Hold]


def test_while_a_worker_leaves_short_tasks_pass_an_exclusive_one():
    pool = Pool(4)
    long = pool.submit(1000.0)
    wait(pool, LATENCY * 2)
    (busy,) = pool._running
    pool.shrink(busy, at_once=False)
    pool.submit(1.0, gang=EXCLUSIVE)
    short = [pool.submit(0.01, function=2) for _ in range(200)]
    pool.run(until=900.0)
    assert all(task.id in how(pool) for task in short)
    pool.run()
    assert how(pool)[long.id] == "done"


def test_an_exclusive_task_waits_for_a_worker_of_its_node_that_leaves_after_its_own():
    one = scheduler("n0", "n0")
    (send,) = one.submit(Task(1, 1), 0.0)
    one.gangs.kept = {"n0": 1}
    one.retire([send.worker], 0.1)
    assert one.submit(Task(2, 1, gang=EXCLUSIVE), 0.1) == []
    one.finished(send.worker, [(1, 0.2)], 0.2)
    assert [type(action) for action in one.left(send.worker, 0.3, blame=False)] == [Hold]


def test_cores_of_a_task_whose_workers_leave_are_its_own_until_it_has_ended():
    one = scheduler(*["n0"] * 4, n0=4)
    (first,) = one.submit(Task(1, 1, gang=cores(2)), 0.0)
    one.gangs.kept = {"n0": 2}
    one.retire(first.workers, 0.1)
    assert one.submit(Task(2, 1, gang=cores(3)), 0.1) == []  # one of the two cores would be this one's
    _, actions = one.finished(first.workers[0], [(1, 0.2)], 0.2)
    assert [action.task.pinned for action in actions if isinstance(action, Hold)] == [(0, 1, 2)]


def test_cores_hold_as_many_workers_as_stand_for_them_and_are_nobody_elses():
    one = scheduler("n0", "n0", "n0", "n0", n0=8)
    first, second = Task(1, 1, gang=cores(3)), Task(2, 1, gang=cores(4))
    holds = [one.submit(task, 0.0)[0] for task in (first, second)]
    assert [len(hold.workers) for hold in holds] == [2, 2]
    assert (first.pinned, second.pinned) == ((0, 1, 2), (3, 4, 5, 6))
    one.finished(holds[0].workers[0], [(1, 0.1)], 1.0)
    third = Task(3, 1, gang=cores(2))
    one.submit(third, 1.0)
    assert third.pinned == (0, 1)
    assert one.submit(Task(4, 1), 1.0) != []


def test_where_workers_are_more_than_cores_several_stand_for_one():
    one = scheduler("n0", "n0", "n0", "n0", n0=2)
    (hold,) = one.submit(Task(1, 1, gang=cores(1)), 0.0)
    assert len(hold.workers) == 2


def test_what_no_node_has_cores_for_holds_nobody_up():
    one = scheduler("n0", "n0", n0=2)
    assert one.submit(Task(1, 1, gang=cores(3)), 0.0) == []
    assert one.submit(Task(2, 1, gang=Ranks(scope="node", alone=True, cores=3)), 0.0) == []
    assert one.submit(Task(3, 1), 0.0) != []


def test_tasks_for_different_nodes_do_not_wait_for_each_other():
    pool = Pool(6, nodes=3)
    pool.submit(10.0, gang=on("n0"))
    behind = pool.submit(1.0, gang=on("n0"))
    others = [pool.submit(1.0, gang=on(node)) for node in ("n1", "n2")]
    single = [pool.submit(0.1) for _ in range(100)]
    pool.run(until=2.0)
    assert all(task.id in how(pool) for task in others)
    pool.run()
    assert pool.began[behind.id] > max(pool.began[task.id] for task in single)
    assert set(how(pool).values()) == {"done"}


@pytest.mark.parametrize("seconds", [1e-3, 0.1])
def test_a_stream_of_single_tasks_does_not_starve_an_exclusive_one(seconds):
    pool = Pool(4, nodes=2)
    for _ in range(4):
        pool.submit(seconds * 0.7)
    task = pool.submit(seconds, gang=on("n0"))
    later = []
    while task.id not in pool.began:
        later += [pool.submit(seconds) for _ in range(2)]
        wait(pool, seconds / 3)
    assert node_of(pool, task) == "n0"
    assert sum(one.id in pool.began for one in later) > 4 * ROUNDS  # the other node went on
    assert pool.now < seconds * 4 * ROUNDS


def test_a_stream_of_exclusive_tasks_does_not_starve_a_single_one():
    pool = Pool(4, nodes=2)
    for _ in range(8):
        pool.submit(0.1, gang=EXCLUSIVE)
    single = pool.submit(0.1)
    while single.id not in pool.began:
        pool.submit(0.1, gang=EXCLUSIVE)
        wait(pool, 0.05)
    assert pool.now < 1.0


def test_measurements_and_builds_share_three_nodes_well():
    pool = Pool(6, nodes=3, checked=False)
    for number in range(60):
        pool.submit(0.1, function=1)
        pool.submit(0.05, gang=on(f"n{number % 3}"), function=2)
    pool.run()
    best = (60 * 0.1 + 60 * 0.05 * 2) / 6
    assert pool.ended_at < 1.25 * best


SECONDS = st.sampled_from([1e-4, 0.02, 0.5, -0.02])
STEP = st.one_of(
    st.tuples(st.just("single"), SECONDS, st.integers(1, 3)),
    st.tuples(st.just("exclusive"), SECONDS, st.sampled_from([None, "n0", "n1"])),
    st.tuples(st.just("cores"), SECONDS, st.integers(1, 4)),
    st.tuples(st.just("both"), SECONDS, st.integers(1, 3)),
    st.tuples(st.just("timed"), SECONDS, SECONDS.map(abs)),
    st.tuples(st.just("gang"), st.sampled_from([1, 2, 4]), st.just(0.02)),
    st.tuples(st.just("wait"), st.floats(1e-5, 0.3), st.none()),
    st.tuples(st.just("kill"), st.integers(0, 3), st.none()),
    st.tuples(st.just("shrink"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("grow"), st.none(), st.none()),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(nodes=st.integers(1, 2), steps=st.lists(STEP, max_size=40))
def test_nothing_overlaps_where_a_task_is_alone_and_everything_ends(nodes, steps):
    """The simulation asserts the first half whenever a task begins (`check_quiet`)."""
    pool = Pool(4, nodes)
    pool.scheduler.gangs.holds.cores = {"n0": 3, "n1": 4}
    tasks: list[Task] = []
    for kind, one, other in steps:
        if kind == "single":
            tasks.append(pool.submit(one, function=other))
        elif kind == "exclusive":
            where = None if other is None else frozenset([other if nodes == 2 else "n0"])
            tasks.append(pool.submit(one, gang=Ranks(scope="node", alone=True, nodes=where), function=4))
        elif kind == "cores":
            tasks.append(pool.submit(one, gang=cores(min(other, 3)), function=5))
        elif kind == "both":
            tasks.append(pool.submit(one, gang=Ranks(scope="node", alone=True, cores=other), function=6))
        elif kind == "timed":
            tasks.append(pool.submit(one, gang=EXCLUSIVE, timeout=other, retries=1, function=7))
        elif kind == "gang":
            tasks.append(pool.gang(one, other, function=8))
        elif kind == "wait":
            wait(pool, one)
        else:
            resize(pool, kind, one, other)
    while sum(pool.scheduler.gangs.kept.values()) < 4:
        pool.grow()
    pool.run()
    assert set(how(pool)) == {task.id for task in tasks}
    assert in_hand(pool.scheduler) == pool.scheduler.queued == 0
    assert not pool.scheduler.gangs.holds._running
    assert len(pool.scheduler._idle) == sum(pool.scheduler.gangs.kept.values())


def test_what_is_held_counts_as_busy():
    pool = Pool(2)
    pool.submit(1.0, gang=EXCLUSIVE)
    wait(pool, 2 * LATENCY)
    assert all(worker.hand and not worker.idle for worker in pool.scheduler.workers.values())
