"""Real processes, killed with real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import mainstay
from conftest import agents, wait_until
from mainstay.launch.process import AGENT, Process

JOB = """
import mainstay, os, threading
ex = mainstay.Executor(2, launcher="local")
ex.submit(abs, 1).result(30)
futures = [ex.submit(lambda: threading.Event().wait()) for _ in range(2)]
print("running", flush=True)
threading.Event().wait()
"""


def test_a_killed_client_leaves_nothing():
    before = {process.pid for process in agents()}
    client = subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert client.stdout is not None
    assert client.stdout.readline() == b"running\n"
    assert {process.pid for process in agents()} > before
    client.kill()
    client.wait()
    wait_until(lambda: {process.pid for process in agents()} <= before, 5)
    client.stdout.close()


def test_a_killed_agent_is_started_anew_and_every_result_comes_once():
    with mainstay.Executor(2, launcher="local") as executor:
        agent = executor.submit(os.getppid).result(30)
        futures = [executor.submit(lambda i: time.sleep(0.01) or i, i) for i in range(200)]
        wait_until(lambda: sum(future.done() for future in futures) > 20)
        os.kill(agent, signal.SIGKILL)
        assert [future.result(60) for future in futures] == list(range(200))


def test_an_agent_that_falls_silent_is_given_up():
    """As when a host loses its power: no end-of-file comes, only silence."""
    with mainstay.Executor(2, launcher="local", node_timeout=2) as executor:
        agent = executor.submit(os.getppid).result(30)
        os.kill(agent, signal.SIGSTOP)
        executor.options(worker_retries=0).submit(os.getpid).result(30)  # the workers still stand
        future = executor.submit(lambda: (os.kill(os.getpid(), signal.SIGSTOP) if os.getppid() == agent else 0, 7)[1])
        assert future.result(30) == 7


def test_killed_workers_are_replaced():
    with mainstay.Executor(2, launcher="local") as executor:
        futures = [executor.submit(lambda i: (time.sleep(0.01), i, os.getpid())[1:], i) for i in range(200)]
        wait_until(lambda: sum(future.done() for future in futures) > 20)
        victim = next(future.result()[1] for future in futures if future.done())
        os.kill(victim, signal.SIGKILL)
        results = [future.result(60) for future in futures]
        assert [i for i, _ in results] == list(range(200))


def test_a_launcher_that_cannot_start_is_told():
    class Nowhere:
        name = "nowhere"
        most_workers = None

        def why_not(self):
            return "there is nothing here"

        def start(self, invitation):
            raise AssertionError

    with mainstay.Executor(1, launcher=Nowhere()) as executor:
        with pytest.raises(mainstay.LaunchError, match="nowhere: there is nothing here"):
            executor.submit(abs, 1).result(30)


def test_the_loss_of_an_agent_counts_once_for_each_task(tmp_path):
    go = tmp_path / "go"

    def wait_for_it():
        while not go.exists():
            time.sleep(0.01)
        return 1

    with mainstay.Executor(4, launcher="local", worker_retries=1) as executor:
        executor.wait_ready(timeout=30)
        agent = executor.submit(os.getppid).result(30)
        futures = [executor.submit(wait_for_it) for _ in range(4)]
        wait_until(lambda: all(worker.state == "busy" for worker in executor.workers))
        os.kill(agent, signal.SIGKILL)
        go.touch()
        assert [future.result(30) for future in futures] == [1] * 4


class Dying:
    """Starts an agent whose tasks can tell that they are there."""

    name = "dying"
    most_workers = None

    def why_not(self):
        return None

    def start(self, invitation):
        return Process([*AGENT], invitation.environment() | {"DYING": "yes"})


def test_a_launcher_whose_launches_bear_nothing_makes_way_for_the_next():
    def kill_the_agent():
        if "DYING" in os.environ:
            os.kill(os.getppid(), signal.SIGKILL)
            threading.Event().wait()  # for the kernel to end this process too
        return "done"

    lines = []
    with mainstay.Executor(1, launcher=[Dying(), "local"], log=lines.append) as executor:
        assert executor.options(worker_retries=10).submit(kill_the_agent).result(60) == "done"
        assert executor.describe().launcher == "local"
    assert len([line for line in lines if "it is started again" in line]) == 2
