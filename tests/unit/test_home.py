"""The pool's directory on a node: where it is made, who holds it, who removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import wait_until
from mainstay.errors import ScratchError
from mainstay.node import home
from mainstay.node.home import Home


def pools(base: Path) -> list[str]:
    return [path.name for path in base.iterdir() if path.name.startswith("mainstay-")]


def test_the_first_directory_that_serves_is_taken(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a"))
    assert home.choose(None) == str(tmp_path / "a")
    monkeypatch.setattr(home, "is_local", lambda path: path == "/tmp")
    assert home.choose(None) == "/tmp"
    monkeypatch.setattr(home, "is_local", lambda path: False)
    assert home.choose(None) == str(tmp_path / "a")


def test_a_base_may_name_the_nodes_own_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("DISK", str(tmp_path))
    assert home.choose("$DISK") == str(tmp_path)


@pytest.mark.parametrize("base", ["/no/such/place", "relative", "$NO_SUCH_VARIABLE/x"])
def test_a_base_that_does_not_serve_is_told_when_it_is_wanted(base):
    ours = Home(base, "n1")
    with pytest.raises(ScratchError, match=f"no scratch directory on host n1: scratch='{base.replace('$', '.')}'"):
        ours.require()
    ours.remove()


def test_the_mount_tells_what_is_local():
    assert home.is_local("/proc/self")
    assert {"nfs", "lustre"} < home.NETWORK


def test_it_is_the_users_own_and_removed(tmp_path):
    ours = Home(str(tmp_path), "n1")
    assert os.stat(ours.path).st_mode & 0o777 == 0o700
    deep = Path(ours.path) / "1" / "deep"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (deep / "link").symlink_to(tmp_path)
    deep.chmod(0o500)
    ours.remove()
    assert pools(tmp_path) == []
    assert tmp_path.exists()


@pytest.fixture
def agent(tmp_path):
    """A process that holds a directory with a file in it, and leaves when its stdin ends."""
    code = f"""
import os, sys
from mainstay.node.home import Home
ours = Home({str(tmp_path)!r}, "n1", os.getpid())
open(ours.path + "/file", "w").close()
ours.guard()
print("ready", flush=True)
sys.stdin.read()
ours.remove()
"""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_it_is_gone_when_its_agent_has_ended(agent, tmp_path):
    agent.communicate(timeout=30)
    assert pools(tmp_path) == []


def test_a_killed_agents_directory_is_removed_by_the_janitor(agent, tmp_path):
    assert len(pools(tmp_path)) == 1
    agent.kill()
    wait_until(lambda: pools(tmp_path) == [])


def test_what_a_killed_agent_left_is_removed_by_the_next_one_on_that_host_only(tmp_path):
    living = Home(str(tmp_path), "n1")
    dead = [Home(str(tmp_path), host) for host in ("n1", "n1-b")]
    for one in dead:
        Path(one.path, "file").touch()
        one.let_go()  # as the kernel does for a process that is killed
    (tmp_path / "mainstay-0-n1-x").mkdir()  # somebody else's idea of a name
    after = Home(str(tmp_path), "n1")
    assert {Path(path).name for path in (living.path, dead[1].path, after.path)} | {"mainstay-0-n1-x"} == set(
        pools(tmp_path)
    )
    for one in (living, after):
        one.remove()


def test_what_another_process_removes_at_the_same_time_stops_nobody(monkeypatch, tmp_path):
    (tmp_path / "pool" / "1" / "worker").mkdir(parents=True)
    (tmp_path / "pool" / "2").mkdir()
    walk = os.walk

    def while_another_removes(top, topdown=True):
        found = list(walk(top, topdown=topdown))
        if not topdown:
            shutil.rmtree(tmp_path / "pool" / "1")
        return found

    monkeypatch.setattr(os, "walk", while_another_removes)
    home.remove(str(tmp_path / "pool"))
    assert not (tmp_path / "pool").exists()
