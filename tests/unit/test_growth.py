"""What gangs are told of a pool that could not grow, and when it is taken back."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from mainstay.elastic import Elastic
from mainstay.growing import Growth
from mainstay.orders import Ranks
from mainstay.resizing import Resizing
from mainstay.scheduler import Scheduler


@pytest.fixture
def resizing() -> Resizing:
    """Of an elastic pool of one worker that could have four, by further jobs that end at once."""
    scheduler, worker = Scheduler(), Mock(is_leaving=False)
    scheduler.joined(0, 0.0, "n0")
    scheduler.gangs.kept = {"n0": 1}
    roster = Mock(agents=[worker.agent], workers={0: worker}, of_launch=lambda number: [])
    worker.agent.configure_mock(workers={0: worker}, cores=1, room=1, host="n0")
    launches = Mock(start_timeout=120.0, attempt=lambda number: None)
    launches.current.launcher.further.return_value = None
    one = Resizing(Mock(scheduler=scheduler, roster=roster, launches=launches), Mock(), Mock(), Mock())
    one.follow_load(Elastic(1, 4, 60.0), ["--time=1:00"])
    return one


def lose(resizing: Resizing) -> None:
    """What was launched last to bring more is refused."""
    resizing._pool.launches.begin_further.call_args.args[2]("salloc: refused")


def test_a_gang_is_short_of_workers_from_a_growth_that_failed_until_one_that_did_not(resizing):
    gangs = resizing._pool.scheduler.gangs
    resizing._grow_by_load(2)
    assert gangs.shortage(Ranks(3, 3)) == ""
    lose(resizing)
    assert "the pool has 1 now" in gangs.shortage(Ranks(3, 3))
    assert gangs.may_grow
    resizing._grow_by_load(2)
    assert gangs.shortage(Ranks(3, 3)), "to try once more is not to have grown"
    lose(resizing)
    growth = Growth(1, 120.0)
    growth.numbers.add(0)
    resizing.growing.under_way.append(growth)
    resizing.growing.look()
    assert gangs.shortage(Ranks(3, 3)) == ""


def test_a_worker_that_is_replaced_leaves_no_room(resizing):
    gangs = resizing._pool.scheduler.gangs
    (worker,) = resizing._pool.roster.workers.values()
    gangs.is_full = True
    resizing.left(worker)
    assert gangs.is_full
    worker.is_leaving = True
    resizing.left(worker)
    assert not gangs.is_full
    worker.is_leaving, gangs.is_full, resizing._pool.roster.agents = False, True, []
    resizing.left(worker)
    assert not gangs.is_full
