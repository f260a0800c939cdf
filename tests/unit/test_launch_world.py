"""When the world serves, and what it says where it does not."""

from __future__ import annotations

import pytest

from mainstay.launch import world

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def step(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_step_on_one_host_serves(step):
    assert world.LAUNCHER.why_not() is None
    step.setenv("SLURM_PROCID", "1")
    assert world.LAUNCHER.why_not() == "this is rank 1; only rank 0 of a world holds the pool"


def test_several_hosts_are_for_the_batch_system(step):
    step.setenv("SLURM_STEP_TASKS_PER_NODE", "3,1")
    assert "only 3 are on this one; the batch system's launcher reaches them all" in world.LAUNCHER.why_not()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_of_a_step_has_no_other_ranks(step, terminal):
    step.setenv("SLURM_PTY_PORT", "1234")  # steps that are started in that terminal inherit it
    step.setattr(world, "_has_terminal", lambda: terminal)
    assert ("in the terminal of `srun --pty`" in (world.LAUNCHER.why_not() or "")) == terminal
