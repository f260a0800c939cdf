"""How large a pool is to be, where new workers go, and who leaves."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.elastic import PATIENCE, RETRY, Candidate, Change, Elastic, Load, Place, idle_cores, leavers, placed
from mainstay.settings import elastic

BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be
QUIET = Load(4, 0, 0, {})


def test_new_workers_go_to_idle_cores_and_then_where_one_may_have_as_many_as_one_likes():
    assert placed(3, [Place(2, 4, 4), Place(4, 4, 4), Place(0, 4, 2)]) == [2, 0, 1]
    assert placed(9, [Place(2, 4, 4), Place(4, 4, 4)]) == [2, 0]  # there is no more room
    assert placed(5, [Place(1, 2, None), Place(2, 2, None)]) == [3, 2]
    assert idle_cores([Place(3, 2, None), Place(1, 8, 2)]) == [0, 1]


@BUSY
@given(
    count=st.integers(0, 30),
    places=st.lists(
        st.builds(Place, st.integers(0, 8), st.integers(1, 8), st.none() | st.integers(0, 8)), min_size=1, max_size=5
    ),
)
def test_nobody_is_placed_where_there_is_no_room(count, places):
    more = placed(count, places)
    assert min(more) >= 0
    assert sum(more) <= count
    assert all(
        place.room is None or place.workers + new <= max(place.room, place.workers)
        for place, new in zip(places, more, strict=True)
    )
    if any(place.room is None for place in places):
        assert sum(more) == count


def on(node: int, *workers: int, busy: bool = False, launch: int = 1, at_home: bool = False) -> list[Candidate]:
    return [Candidate(worker, node, launch, busy, at_home) for worker in workers]


@pytest.mark.parametrize(
    ("count", "candidates", "leave"),
    [
        (1, on(0, 1, 2) + on(1, 3, 4, 5), {2}),  # of the node that has the fewest, the latest
        (2, on(0, 1, 2, at_home=True) + on(1, 3, 4), {3, 4}),  # a whole node, but not the client's own
        (3, on(0, 1, 2) + on(1, 3, 4, 5), {1, 2, 5}),
        (2, on(0, 1, 2, busy=True) + on(1, 3, 4), {3, 4}),  # that idles
        (2, on(0, 1, 2) + on(1, 3, 4, launch=2), {3, 4}),  # of the latest launch
        (1, on(0, 1, busy=True) + on(0, 2) + on(1, 3, 4, busy=True), {2}),
        (3, on(0, 1, 2, 3, at_home=True), {1, 2, 3}),
    ],
)
def test_who_leaves(count, candidates, leave):
    workers = {node: sum(one.node == node for one in candidates) for node in {one.node for one in candidates}}
    assert {*leavers(count, candidates, workers)} == leave


@BUSY
@given(
    nodes=st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=5),
    count=st.integers(0, 20),
    staying=st.integers(0, 2),
)
def test_as_many_leave_as_are_to_and_each_once(nodes, count, staying):
    """`staying` more workers of each node are no candidates."""
    candidates = [
        Candidate(10 * node + rank, node, 1, busy, False)
        for node, mine in enumerate(nodes)
        for rank, busy in enumerate(mine)
    ]
    leave = leavers(count, candidates, {node: len(mine) + staying for node, mine in enumerate(nodes)})
    assert len(leave) == len({*leave}) == min(count, len(candidates))


def test_it_grows_when_tasks_have_waited_for_a_while():
    policy = Elastic(1, 8, 60.0)
    waits = Load(2, 0, 4, {})
    assert policy.look(waits, 0.0) == Change()
    assert policy.next_look(waits, 0.0) == PATIENCE
    assert policy.look(waits, PATIENCE) == Change(4)
    assert policy.look(Load(6, 4, 4, {}), 2 * PATIENCE) == Change()  # they are starting
    assert policy.next_look(Load(6, 4, 4, {}), 2 * PATIENCE) == 3 * PATIENCE
    assert policy.next_look(Load(policy.most, 0, 4, {}), 2 * PATIENCE) == 3 * PATIENCE  # some may leave
    assert policy.look(Load(6, 0, 9, {}), 3 * PATIENCE) == Change()
    assert policy.look(Load(6, 0, 9, {}), 4 * PATIENCE) == Change(2)  # no more than the most


def test_a_gang_that_wants_more_than_idle_lets_it_grow():
    policy = Elastic(1, 8, 0.1)
    waits = Load(3, 0, 5, {1: 0.0, 2: 0.0, 3: 0.0})
    policy.look(waits, 1.0)
    assert policy.look(waits, 1.0 + PATIENCE) == Change(2)


def test_it_is_tried_again_later_where_it_could_not_grow():
    policy = Elastic(1, 8, 60.0)
    waits = Load(2, 0, 4, {})
    policy.look(waits, 0.0)
    policy.could_not_grow(0.0)
    assert policy.look(waits, PATIENCE) == Change()
    assert policy.next_look(waits, PATIENCE) == RETRY
    assert policy.look(waits, RETRY) == Change(4)


def test_those_that_have_idled_for_so_long_leave_down_to_the_least():
    policy = Elastic(2, 8, 10.0)
    idle = Load(4, 0, 0, {1: 0.0, 2: 1.0, 3: 5.0, 4: 5.0})
    assert policy.look(idle, 9.0) == Change()
    assert policy.next_look(idle, 9.0) == 10.0
    assert policy.look(idle, 11.0) == Change(0, 2, (1, 2))
    assert policy.look(idle, 20.0) == Change(0, 2, (1, 2, 3, 4))
    assert policy.next_look(Load(2, 0, 0, {3: 5.0}), 11.0) is None
    assert policy.next_look(QUIET, 11.0) == 21.0  # all are busy


@BUSY
@given(
    bounds=st.tuples(st.integers(1, 5), st.integers(0, 20)),
    tasks=st.lists(st.tuples(st.floats(0, 300), st.floats(0.001, 50)), max_size=60),
    idle_timeout=st.sampled_from([0.5, 5.0, 60.0]),
    starts_in=st.sampled_from([0.0, 0.05, 2.0]),
)
def test_a_pool_follows_its_load(bounds, tasks, idle_timeout, starts_in):
    """Tasks (when, how long) under a fake clock, which moves from one event to the next."""
    least, most = bounds[0], sum(bounds)
    policy = Elastic(least, most, idle_timeout)
    arrive = sorted(tasks)
    idle = dict.fromkeys(range(least), 0.0)
    starting: list[float] = []
    ends: list[tuple[float, int]] = []
    queue: list[float] = []
    now, number = 0.0, least
    over = 300 + sum(long for _, long in tasks)  # even where one does all of them
    for _ in range(20 * len(tasks) + 200 + int(over / PATIENCE)):  # it looks so often while some wait
        while arrive and arrive[0][0] <= now:
            queue.append(arrive.pop(0)[1])
        for end, worker in [one for one in ends if one[0] <= now]:
            ends.remove((end, worker))
            idle[worker] = now
        for at in [at for at in starting if at <= now]:
            starting.remove(at)
            idle[number], number = now, number + 1
        while queue and idle:
            worker, _ = idle.popitem()
            ends.append((now + queue.pop(0), worker))
        load = Load(len(idle) + len(ends) + len(starting), len(starting), len(queue), dict(idle))
        assert least <= load.workers <= most
        change = policy.look(load, now)
        assert change.fewer <= len(change.idlers)
        for worker in change.idlers[: change.fewer]:
            assert idle.pop(worker) + idle_timeout <= now
        starting += [now + starts_in] * change.more
        load = Load(load.workers + change.more - change.fewer, len(starting), len(queue), dict(idle))
        look = policy.next_look(load, now)
        times = [end for end, _ in ends] + starting + [at for at, _ in arrive[:1]] + ([] if look is None else [look])
        if not times:
            break
        now = max(now, min(times))
    assert not queue
    assert not ends
    assert len(idle) == least, "it did not become as small as it may be"


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ((2, None, None, None), "wants max_workers="),
        ((0, 4, None, None), "from 1 to max_workers=4; given: 0"),
        ((5, 4, None, None), "from 1 to max_workers=4; given: 5"),
        ((None, 4, 0, None), "idle_timeout must be"),
        ((None, 4, None, ["-N1"]), "allocate= is for a pool that grows by load"),
    ],
)
def test_bounds_that_cannot_be(given_, told):
    with pytest.raises(ValueError, match=told):
        elastic(*given_)
