"""Agents on another host: a network namespace, where only TCP reaches the client, and not at each of its addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import mainstay
from mainstay.launch.mpiexec import MpiExec
from mainstay.launch.process import AGENT, Process

NAME = f"mainstay{os.getpid()}"
OUTSIDE, INSIDE, OTHER, END = (f"ms{os.getpid()}{letter}" for letter in "abcd")


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def namespace():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and iproute2")
    try:
        ip("netns", "add", NAME)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    inside = ("-n", NAME)
    try:
        ip("link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", NAME)
        ip("address", "add", "10.203.7.1/24", "dev", OUTSIDE)
        ip("link", "set", OUTSIDE, "up")
        ip("link", "add", OTHER, "type", "veth", "peer", "name", END)
        ip("address", "add", "10.203.8.1/24", "dev", OTHER)
        ip("link", "set", OTHER, "up")
        ip(*inside, "address", "add", "10.203.7.2/24", "dev", INSIDE)
        ip(*inside, "link", "set", INSIDE, "up")
        ip(*inside, "route", "add", "10.203.8.0/24", "via", "10.203.7.99")  # nobody is there: packets vanish
        yield NAME
    finally:
        for link in (OUTSIDE, OTHER):
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)
        ip("netns", "delete", NAME)


class Elsewhere:
    """Starts an agent in the namespace."""

    name = "elsewhere"
    most_workers = None

    def __init__(self, namespace):
        self._namespace = namespace

    def why_not(self):
        return None

    def start(self, invitation):
        return Process(["ip", "netns", "exec", self._namespace, *AGENT], invitation.environment())


def test_an_agent_on_another_host_finds_the_client(namespace):
    with mainstay.Executor(2, launcher=Elsewhere(namespace), start_timeout=20) as executor:
        links = executor.submit(lambda: Path("/proc/net/dev").read_text()).result(30)
        assert INSIDE in links
        assert list(executor.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
        assert len(executor.submit(bytes, 5_000_000).result(30)) == 5_000_000


@pytest.mark.parametrize("hosts", [["localhost", "127.0.0.1"]])
def test_an_agent_for_each_host_that_mpiexec_is_given(hosts):
    with mainstay.Executor(3, launcher=MpiExec(hosts)) as executor:
        assert executor.wait_ready(timeout=30).workers == 3
        agents = {agent.connection for agent in executor._broker.roster.agents}
        assert len(agents) == 2


def test_a_host_file_gives_the_hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# two names of this machine\nlocalhost slots=2\n127.0.0.1:4\nlocalhost\n")
    with mainstay.Executor(2, launcher=MpiExec(hostfile=file)) as executor:
        assert executor.wait_ready(timeout=30).workers == 2
        assert len(executor._broker.roster.agents) == 2


class LateAgent:
    """Two agents; the second comes when the pool has all of its workers."""

    name, most_workers = "late", None

    def why_not(self):
        return None

    def start(self, invitation):
        command = ["sh", "-c", '"$@" & sleep 1; "$@"; wait', "sh", *AGENT]
        return Process(command, invitation.environment() | {"MAINSTAY_SLOTS": "1"}, nodes=2)


def test_an_agent_without_a_worker_keeps_nobody_waiting():
    with mainstay.Executor(1, launcher=LateAgent()) as executor:
        assert executor.wait_ready(1, timeout=30).workers == 1
        assert executor.wait_ready(timeout=10).seconds is not None
