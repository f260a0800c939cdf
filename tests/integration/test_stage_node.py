"""What a node's shell does with a packed environment (`stage/node.sh`); a script stands in for its Python."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import slowmount
from conftest import wait_until
from slowmount import Cache, SlowMount
from stagework import FAKE, Node, archive

KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}"))
    for kind, program in [("tar.zst", "zstd"), ("tar.gz", "gzip")]
]
OLD = 8 * 24 * 3600  # seconds


@pytest.fixture
def node(tmp_path) -> Node:
    return Node(tmp_path / "disk", TMPDIR="", LD_LIBRARY_PATH="/shared/lib")


@pytest.fixture
def stage(tmp_path):
    return archive(tmp_path / "env.tar.gz")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_unpacked_once_and_found_by_the_next(tmp_path, node, kind):
    stage = archive(tmp_path / f"env.{kind}")
    first = node.run(stage)
    assert first["tree"] == str(node.home / stage.manifest.digest)
    assert float(first["took"]) > 0
    assert first["cwd"].startswith(f"{node.home}/work-")
    assert first["home"] == str(node.home / "home")
    assert first["libraries"] == ""
    assert first["path"].startswith(f"{first['tree']}/bin:")
    os.unlink(stage.path)  # the next does not so much as look at it
    second = node.run(stage)
    assert (second["tree"], second["took"]) == (first["tree"], "0")


@pytest.mark.skipif(shutil.which("sqfstar") is None, reason="no squashfs-tools")
@pytest.mark.parametrize("way", ["kernel", "squashfuse"])
def test_an_image_is_mounted_as_long_as_the_agent_lives(tmp_path, way):
    node = Node(tmp_path / "disk", "mount -t squashfs" if way == "squashfuse" else "setpriv")
    stage = archive(tmp_path / "env.sqfs")
    for _ in range(2):
        with node.start(stage) as shell:
            told = node.told(shell)
            if "squashfuse" in told["why"]:
                pytest.skip(told["why"])  # this machine cannot mount in that way
            assert told["tree"] == f"{Path(told['cwd']).parent}/image"
            shell.kill()
        wait_until(lambda: str(node.home) not in Path("/proc/mounts").read_text())
    assert len([name for name in os.listdir(node.home) if name.startswith("work-")]) == 1
    archive(Path(stage.path), FAKE + "# packed anew since the pool looked\n")
    assert "is not what it was" in node.run(stage)["why"]
    os.truncate(stage.path, os.path.getsize(stage.path) - 4096)  # that much is filled up
    assert "could not mount" in node.run(stage)["why"]


@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
@pytest.mark.parametrize(
    ("kind", "program", "most"), [("tar.gz", "gzip", 5), ("tar.zst", "zstd", 5), ("sqfs", "squashfuse", 4)]
)
def test_a_node_asks_the_shared_file_system_for_one_file(tmp_path, node, kind, program, most):
    if shutil.which(program) is None or (kind == "sqfs" and shutil.which("sqfstar") is None):
        pytest.skip(f"no {program}")
    with SlowMount(tmp_path, cache=Cache.NONE) as mount:
        (mount.behind / "two" / "deep").mkdir(parents=True)
        stage = archive(mount.behind / "two" / "deep" / f"env.{kind}")
        told = node.run(stage._replace(path=str(mount.path / "two" / "deep" / f"env.{kind}")))
        if kind == "sqfs" and "squashfuse" in told["why"]:
            pytest.skip(told["why"])  # this machine cannot mount in that way
        assert told["tree"]
        assert mount.counts().total() == most, mount.operations()


def test_those_that_come_together_unpack_once(node, stage):
    shells = [node.start(stage) for _ in range(6)]
    took = [float(node.told(shell)["took"]) for shell in shells]
    assert sum(seconds > 0 for seconds in took) == 1
    for shell in shells:
        shell.communicate("go\n")


def test_a_copy_that_was_sent_is_used_and_removed(tmp_path, node, stage):
    sent = tmp_path / "sent"
    os.rename(stage.path, sent)
    told = node.run(stage, str(sent))
    assert (told["tree"], told["sent"]) == (str(node.home / stage.manifest.digest), "yes")
    assert not sent.exists()


@pytest.mark.parametrize("harm", ["changed", "truncated", "missing"])
def test_where_a_copy_that_was_sent_is_not_whole_the_node_reads_the_file(tmp_path, node, stage, harm):
    sent, data = tmp_path / "sent", Path(stage.path).read_bytes()
    if harm != "missing":
        sent.write_bytes(data[:-12] + bytes([data[-12] ^ 1]) + data[-11:] if harm == "changed" else data[:-100])
    told = node.run(stage, str(sent))
    assert (told["tree"], told["sent"]) == (str(node.home / stage.manifest.digest), "")
    assert not sent.exists()


def test_copies_that_nobody_came_for_are_removed(node, stage):
    node.run(stage)
    for name, age in (("sent-old", 7200), ("sent-new", 0)):
        (node.home / name).touch()
        os.utime(node.home / name, (time.time() - age,) * 2)
    node.run(stage)
    assert [name for name in os.listdir(node.home) if name.startswith("sent-")] == ["sent-new"]


@pytest.mark.parametrize("harm", ["changed", "truncated", "other", "missing"])
def test_what_is_not_as_it_was_packed_is_never_used(tmp_path, node, stage, harm):
    path = Path(stage.path)
    data = path.read_bytes()
    if harm == "changed":
        path.write_bytes(data[:-12] + bytes([data[-12] ^ 1]) + data[-11:])
    elif harm == "truncated":
        path.write_bytes(data[:-100])
    elif harm == "other":
        path.unlink()
        archive(path, FAKE + "# packed anew since the pool looked\n")
    else:
        path.unlink()
    assert "did not unpack whole" in node.run(stage)["why"]
    assert not [name for name in os.listdir(node.home) if not name.endswith((".lock", ".make"))]


def test_one_that_was_killed_leaves_nothing_that_is_used(tmp_path, node, stage):
    whole = Path(stage.path).rename(tmp_path / "whole")
    os.mkfifo(stage.path)
    shell = node.start(stage)
    with open(stage.path, "wb") as pipe:  # it waits for more
        pipe.write(whole.read_bytes()[:-100])
        pipe.flush()
        wait_until(lambda: (node.home / f"{stage.manifest.digest}.new").exists())
        shell.send_signal(signal.SIGKILL)
    shell.communicate()  # what it had started has ended
    os.unlink(stage.path)
    whole.rename(stage.path)
    assert float(node.run(stage)["took"]) > 0


def test_a_damaged_tree_is_unpacked_anew_but_not_under_those_who_use_it(node, stage):
    with node.start(stage) as shell:
        tree = Path(node.told(shell)["tree"])
        (tree / "lib" / "data").unlink()
        assert "is damaged, and in use" in node.run(stage)["why"]
        shell.communicate("go\n")
    assert float(node.run(stage)["took"]) > 0
    assert (tree / "lib" / "data").exists()


def test_where_there_is_no_room_it_runs_from_the_shared_environment(tmp_path, node):
    stage = archive(tmp_path / "env.tar.gz", room=1 << 60)
    told = node.run(stage)
    assert "no room for 1152921504606 MB" in told["why"]
    assert told["cwd"] == "/"


def test_a_program_that_is_missing_is_named(node, stage):
    assert node.run(stage._replace(program="no-such-zstd"))["why"] == "there is no program no-such-zstd on this node"


def test_a_python_that_does_not_run_here_is_not_used(tmp_path, node):
    stage = archive(tmp_path / "env.tar.gz", "#!/bin/sh\necho GLIBC_9.99 not found >&2\nexit 1\n")
    assert node.run(stage)["why"] == "its Python does not run on this node: GLIBC_9.99 not found"
    assert not (node.home / stage.manifest.digest).exists()


def test_what_was_not_used_for_a_week_is_removed_unless_it_is_in_use(tmp_path, node):
    stages = [archive(tmp_path / f"{name}.tar.gz", f"{FAKE}# {name}\n") for name in ("old", "used", "new")]
    old, used = ([node.home / f"{stage.manifest.digest}{end}" for end in ("", ".lock")] for stage in stages[:2])
    for stage in stages[:2]:
        node.run(stage)
    for _, lock in (old, used):
        os.utime(lock, (time.time() - OLD,) * 2)
    with used[1].open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        node.run(stages[2])
    assert not old[0].exists()
    assert used[0].exists()


def test_files_that_tasks_left_are_kept_for_a_week(node, stage):
    kept = Path(node.run(stage)["cwd"])
    (kept / "result").touch()
    empty = Path(node.run(stage)["cwd"])
    node.run(stage)
    assert kept.exists()
    assert not empty.parent.exists()
    os.utime(kept.parent, (time.time() - OLD,) * 2)
    node.run(stage)
    assert not kept.parent.exists()


def test_another_users_directory_is_not_trusted(tmp_path, node, stage):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    node.home.symlink_to(elsewhere)
    assert "no room" in node.run(stage)["why"]
    assert not os.listdir(elsewhere)
