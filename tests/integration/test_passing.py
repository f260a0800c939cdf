"""How a packed environment goes from host to host: in which order, and what is kept of what comes."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import stagework
from conftest import wait_until
from mainstay.launch import passing
from mainstay.launch.passing import Passing
from mainstay.stage.bootstrap import Bootstrap
from mainstay.stage.head import Manifest

DIGEST = "d" * 64
CONTENT = os.urandom(3_000_000)
# In place of ssh: a host is a folder, in which its disk is. Notes who called whom.
SHELL = """\
#!/bin/sh
source=${MAINSTAY_TEST_HOST:-client}
echo "$source $1" >>"$MAINSTAY_TEST/calls"
[ $source = client ] || [ ! -e "$MAINSTAY_TEST/one-way" ] || { echo "$source is not let in" >&2; exit 255; }
cd "$MAINSTAY_TEST/$1" 2>/dev/null || { echo "$1 is down" >&2; exit 255; }
export MAINSTAY_TEST_HOST="$1"
echo "Welcome to $1" >&2
shift
exec /bin/sh -c "$*"
"""
LATE = """#!/bin/sh
exec cat "$MAINSTAY_TEST/never" "$MAINSTAY_TEST/never"
"""


class Begun:
    """What is launched when copies are where they can be."""

    nodes = 1

    def __init__(self, place, tree):
        self.place, self.tree = place, tree

    def wait(self):
        return f"began with {self.place}"

    def end(self):
        pass


class Hosts:
    """Hosts of which each has a disk of its own, and a client with a packed environment."""

    def __init__(self, folder: Path, *names: str):
        self._folder, self.names = folder, names
        (folder / "shell").write_text(SHELL)
        (folder / "shell").chmod(0o755)
        (folder / "calls").touch()
        (folder / "env.tar.gz").write_bytes(CONTENT)
        for name in names:
            (folder / name).mkdir()

    def passing(self, *more: str, **how: Any) -> Passing:
        manifest = Manifest("3.11.0", "any", "", "/env", [], "", 1, 1, 1, DIGEST)
        stage = Bootstrap(str(self._folder / "env.tar.gz"), manifest, 0, "gzip", len(CONTENT))
        return Passing(stage, [*self.names, *more], [str(self._folder / "shell")], Begun, **how)

    def home(self, name: str) -> Path:
        return self._folder / name / f"mainstay-stage-{os.getuid()}"

    def copies(self, place: str) -> set[str]:
        """Return the hosts that have a copy there, and that is whole."""
        files = {name: self.home(name) / os.path.basename(place) for name in self.names}
        return {name for name, file in files.items() if file.exists() and file.read_bytes() == CONTENT}

    def calls(self) -> list[list[str]]:
        return [line.split() for line in (self._folder / "calls").read_text().splitlines()]


@pytest.fixture
def lay(tmp_path, monkeypatch):
    monkeypatch.setenv("MAINSTAY_TEST", str(tmp_path))
    monkeypatch.setattr(passing, "places", lambda environ: ["."])  # each has its own
    monkeypatch.delenv("MAINSTAY_TEST_HOST", raising=False)
    return lambda *names: Hosts(tmp_path, *names)


def sent(passing: Passing) -> str:
    """Send; return where."""
    return passing.wait().removeprefix("began with ")


def test_each_host_gets_a_copy_and_those_that_have_one_send_it_on(lay):
    hosts = lay(*"abcdefg")
    passing = hosts.passing()
    place = sent(passing)
    assert hosts.copies(place) == set("abcdefg")
    assert passing.unsent == {}
    assert passing.nodes == 7
    calls = Counter(source for source, _ in hosts.calls())
    told = sum(calls.values()) - 7  # calls of the client's by which others are told to send
    assert calls["client"] - told == 3  # so many copies are of its own, in as many steps
    assert stat.S_IMODE(hosts.home("a").stat().st_mode) == 0o700


def test_where_hosts_do_not_reach_each_other_all_comes_from_the_client(lay, tmp_path):
    hosts = lay(*"abcde")
    (tmp_path / "one-way").touch()
    passing = hosts.passing()
    assert hosts.copies(sent(passing)) == set("abcde")
    assert passing.unsent == {}


def test_a_host_that_is_down_is_told_of_and_the_others_get_theirs(lay):
    hosts = lay(*"abc")
    passing = hosts.passing("down")
    assert hosts.copies(sent(passing)) == set("abc")
    assert passing.unsent == {"down": "ended with exit code 255; it printed: down is down"}


def test_a_host_that_has_the_environment_is_sent_nothing(lay):
    hosts = lay(*"abc")
    (hosts.home("a") / DIGEST).mkdir(parents=True)
    passing = hosts.passing()
    assert hosts.copies(sent(passing)) == set("bc")
    assert passing.unsent == {}
    assert not [host for source, host in hosts.calls() if source == "a"]


def test_what_is_cut_short_is_not_kept(lay, tmp_path):
    hosts = lay("a")
    one = hosts.passing()
    os.truncate(tmp_path / "env.tar.gz", 1000)
    sent(one)
    assert list(one.unsent) == ["a"]
    assert os.listdir(hosts.home("a")) == []


def test_where_the_file_is_gone_nobody_is_sent_any(lay, tmp_path):
    hosts = lay("a", "b")
    one = hosts.passing()
    (tmp_path / "env.tar.gz").unlink()
    assert sent(one)
    assert list(one.unsent) == ["a", "b"]
    assert hosts.calls() == []


def test_the_clients_own_host_is_reached_without_a_shell(lay, tmp_path, monkeypatch):
    hosts = lay("a", "b")
    monkeypatch.setattr(passing, "places", lambda environ: [str(tmp_path / "b")])  # one for all
    (tmp_path / "shell").write_text("#!/bin/sh\nexit 255\n")
    one = hosts.passing("localhost")
    assert hosts.copies(sent(one)) == {"b"}
    assert sorted(one.unsent) == ["a", "b"]


def test_a_directory_of_another_is_not_written_to(lay, tmp_path):
    hosts = lay("a")
    (tmp_path / "other").mkdir()
    hosts.home("a").symlink_to(tmp_path / "other")
    one = hosts.passing()
    sent(one)
    assert "is not ours" in one.unsent["a"]
    assert os.listdir(tmp_path / "other") == []


# In place of Python: says what would be asked of it.
TELLS = """\
#!/bin/sh
case $* in *look) exit ;; esac
echo "Welcome"; echo "mainstay-tree $MAINSTAY_STAGE_TREE $MAINSTAY_STAGE_TOOK ${MAINSTAY_STAGE_SENT:--}"
"""


@pytest.mark.parametrize("room", [1_000_000, 1 << 60])
def test_hosts_may_be_told_to_unpack_before_agents_are_started(lay, tmp_path, monkeypatch, room):
    hosts = lay("a", "b")
    disk = tmp_path / "disk"  # one for all
    disk.mkdir()
    monkeypatch.setenv("MAINSTAY_STAGE_DIR", str(disk))
    monkeypatch.setattr(passing, "places", lambda environ: [str(disk)])
    stage = stagework.archive(tmp_path / "whole.tar.gz", TELLS, room=room)
    begun: list[str] = []
    one = Passing(stage, hosts.names, [str(tmp_path / "shell")], lambda *told: begun.extend(told) or Begun(*told), True)
    one.wait()
    _, tree = begun
    if room == 1_000_000:
        assert tree == str(disk / f"mainstay-stage-{os.getuid()}" / stage.manifest.digest)
        assert os.path.exists(f"{tree}/lib/data")
        assert len(one.unpacked) <= 1  # by which of the hosts, or by our own, is chance
    else:
        assert (tree, one.unpacked) == ("", [])
    assert not [name for name in os.listdir(disk / f"mainstay-stage-{os.getuid()}") if name.startswith("sent-")]


@pytest.fixture
def late(lay, tmp_path):
    """A host that does not answer, and the pipe that is read there."""
    hosts = lay("a")
    (tmp_path / "shell").write_text(LATE)
    os.mkfifo(tmp_path / "never")
    return hosts.passing(), tmp_path / "never"


def test_a_host_that_does_not_answer_is_given_up(late, monkeypatch):
    one, _ = late
    monkeypatch.setattr(passing, "PATIENCE", 0.0)
    monkeypatch.setattr(passing, "SLOWEST", 10 * len(CONTENT))
    assert sent(one)
    assert one.unsent == {"a": "ended by signal 9"}


def test_when_the_time_for_it_is_over_agents_are_started_without(lay, tmp_path):
    hosts = lay("a", "b", "c")
    (tmp_path / "shell").write_text(LATE)
    os.mkfifo(tmp_path / "never")
    one = hosts.passing(patience=0.1)
    assert sent(one)
    assert set(one.unsent) == set("abc")
    assert set(one.unsent.values()) <= {"ended by signal 9", "there was no time left"}


def test_what_is_ended_while_it_sends_begins_nothing(late):
    one, pipe = late
    said: list[str] = []
    waiting = threading.Thread(target=lambda: said.append(one.wait()))
    waiting.start()
    with pipe.open("wb"):  # it is being read
        one.end()
        waiting.join()
    assert said == ["was ended before it began"]


def test_a_client_that_is_killed_while_it_sends_leaves_nothing(late, tmp_path):
    _, pipe = late
    stage = stagework.archive(tmp_path / "whole.tar.gz")
    code = "import mainstay; from mainstay.launch.mpiexec import MpiExec; "
    code += f"mainstay.Executor(launcher=MpiExec(['one', 'other']), stage={stage.path!r}); input()"
    environ = os.environ | {
        "MAINSTAY_STAGE_DIR": str(tmp_path),
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": str(tmp_path / "shell"),
    }
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE) as client:
        with pipe.open("wb") as end:  # it is being read
            client.kill()
            wait_until(lambda: nobody_reads(end.fileno()))


def nobody_reads(pipe: int) -> bool:
    with select.epoll() as poller:
        poller.register(pipe, 0)
        return any(events & select.EPOLLERR for _, events in poller.poll(0))
