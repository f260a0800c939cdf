"""How the workers of a pool are spread over hosts, and what becomes of hosts that a launch leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import wait_until
from mainstay.launch import Invitation, spread
from mainstay.launch.mpiexec import would_wait
from mainstay.launch.srun import lost_nodes, srun_argv, threads
from mainstay.launches import REJOIN, Launches
from mainstay.origin import Origin
from mainstay.slurm import Allocation, Node

HERE = Allocation("7", (Node("n1", 4, 4), Node("n2", 1, 1), Node("n3", 1, 1)), 1, True, None)


@pytest.mark.parametrize(
    ("room", "most", "shares"),
    [
        ([4, 4, 4], None, [4, 4, 4]),
        ([4, 4, 4], 3, [1, 1, 1]),
        ([4, 4, 4], 7, [3, 2, 2]),
        ([4, 1, 1], 3, [1, 1, 1]),
        ([4, 1, 1], 5, [3, 1, 1]),
        ([1, 4], 4, [1, 3]),
        ([4, 4, 4], 2, [1, 1, 0]),
        ([2, 2], 9, [2, 2]),
    ],
)
def test_an_even_share(room, most, shares):
    assert spread(room, most) == shares


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 99))
def test_no_host_gets_more_than_it_has_room_for_nor_than_its_share(room, most):
    shares = spread(room, most)
    assert sum(shares) == min(most, sum(room))
    assert all(share <= has for share, has in zip(shares, room, strict=True))
    with_room = [share for share, has in zip(shares, room, strict=True) if share < has]
    assert max(shares) <= min(with_room, default=max(room)) + 1


def test_agents_are_told_their_share():
    assert Invitation("", "", 1, most=3).slots({"n1": 4, "n2": 1}) == {
        "MAINSTAY_SLOTS": "n1=2,n2=1",
        "MAINSTAY_ROOM": "n1=4,n2=1",
    }


def test_openmp_gets_the_cpus_of_a_worker():
    assert threads(HERE, [4, 1, 1]) == {"MAINSTAY_THREADS": "n1=1,n2=1,n3=1"}
    assert threads(HERE, [1, 1, 0]) == {"MAINSTAY_THREADS": "n1=4,n2=1,n3=1"}
    assert threads(HERE._replace(cpus_per_task=2), [4, 1, 1]) == {"MAINSTAY_THREADS": "n1=2,n2=2,n3=2"}


def test_an_mpiexec_that_would_wait_for_its_own_step_says_so():
    assert "launcher='srun'" in would_wait({}, Origin("7.0"))
    assert "export SLURM_OVERLAP=1" in would_wait({}, Origin("7.0"))
    for above in (Origin("7.batch"), Origin("7.0", "mpiexec"), Origin()):
        assert would_wait({}, above) is None
    assert would_wait({"SLURM_OVERLAP": "1"}, Origin("7.0")) is None


SRUN = """\
ended with exit code 233; it printed: srun: error: Task launch for StepId=7.1 failed on node n3: Connection failure
srun: error: Application launch failed: Connection failure
"""


def test_srun_tells_which_node_does_not_answer(monkeypatch):
    monkeypatch.setattr("mainstay.launch.srun.nodes_of", lambda job: [])
    assert lost_nodes(HERE, SRUN) == {"n3": "Connection failure"}
    assert lost_nodes(HERE, "ended with exit code 1") == {}  # squeue does not answer


def test_squeue_tells_which_node_the_job_has_lost(monkeypatch):
    monkeypatch.setattr("mainstay.launch.srun.nodes_of", lambda job: ["n1", "n3"])
    assert lost_nodes(HERE, "srun: error: Unable to create step: Requested node configuration is not available") == {
        "n2": "the job has lost it"
    }
    left = HERE.without({"n2"})
    assert (len(left.nodes), left.workers) == (2, [4, 1])
    argv = srun_argv("srun", left, (22, 5), ["agent"])
    assert {"--nodelist=n1,n3", "--nodes=2", "--ntasks=2"} <= set(argv)
    assert not any("immediate" in word for word in argv)


class Launch:
    """A launch without n2, and a launcher for it that notes the hosts on which it is to start an agent again."""

    name, most_workers, nodes, absent = "fake", None, 1, {"n2": "no answer"}

    def __init__(self):
        self.again = []

    def why_not(self):
        return None

    def start(self, invitation):
        return self

    def rejoin(self, invitation, host):
        self.again.append(host)
        return self

    def wait(self):
        return "ended"

    def end(self):
        pass


def test_a_host_that_was_left_out_is_told_once_and_asked_again():
    launcher, log = Launch(), []
    launches = Launches(
        [launcher], 60.0, Invitation("", "", 0), lambda call: None, lambda level, line: log.append(line)
    )
    launches.begin()
    wait_until(lambda: launches.current.absent)
    launches.came(launches.current, "n1", 100.0)
    launches.came(launches.current, "n3", 100.0)
    assert log == ["node n2 is left out: no answer"]
    launches.tick(100.0 + REJOIN)
    wait_until(lambda: launcher.again == ["n2"])
    launches.came(launches.current, "n2", 200.0)
    assert launches.next_deadline() == launches.deadline  # nothing is missing any more
