"""Nothing is left on the disk, and what tasks left is brought back, whoever is killed."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import pytest

import mainstay
from conftest import wait_until
from mainstay.files import Files
from mainstay.wire.frames import Frame, Kind, encode

JOB = """
import mainstay, os, sys, time
base, out = sys.argv[1:3]
def work(number):
    (mainstay.scratch() / "kept").touch()
    here = mainstay.scratch(per="task")
    (here / f"{number}.csv").write_text("begun")
    (here / "begun").touch()
    time.sleep(60 if number else 0)
with mainstay.Executor(2, launcher=sys.argv[3], scratch=base) as ex:
    view = ex.options(stage_in=[__file__], stage_out={"*.csv": out})
    futures = [view.submit(work, number) for number in range(3)]
    futures[0].result(30)
    print("running", flush=True)
    futures[1].result()
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def begun(base):
    return len(list(base.glob("*/*/task-*/begun")))


@pytest.fixture(params=["local", "mpiexec"])
def client(request, tmp_path, base, out):
    """A program in whose pool two tasks run."""
    script = tmp_path / "job.py"
    script.write_text(JOB)
    argv = [sys.executable, str(script), str(base), str(out), request.param]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"running\n"
        wait_until(lambda: begun(base) == 2)
        yield client
        client.kill()


def test_a_killed_client_leaves_nothing_on_the_disk(client, base):
    client.kill()
    wait_until(lambda: os.listdir(base) == [], 5)


def test_after_ctrl_c_what_finished_is_there_and_what_did_not_is_partial(client, base, out):
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=15)
    assert {path.name for path in out.iterdir()} == {"0.csv", "1.csv.partial", "2.csv.partial"}
    assert os.listdir(base) == []


def leave(names, seconds=0.0):
    for name in names:
        (mainstay.scratch(per="task") / name).write_text("text")
    (mainstay.scratch() / "kept").touch()
    time.sleep(seconds)
    return os.getpid(), os.getppid()


def test_a_killed_workers_task_runs_again_and_its_own_part_is_cleared(base, out):
    with mainstay.Executor(1, launcher="local", scratch=base) as executor:
        victim, _ = executor.submit(leave, []).result(30)
        future = executor.options(stage_out={"*.csv": out}).submit(leave, ["a.csv"], 0.5)
        wait_until(lambda: bool(list(base.glob("*/*/task-*/a.csv"))))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: (out / "a.csv.partial").exists())
        assert future.result(30)[0] != victim
        assert [path.name for path in out.iterdir()] == ["a.csv"]
        wait_until(lambda: len(list(base.glob("*/*/worker"))) == 1)
    assert os.listdir(base) == []


def test_what_a_task_left_that_killed_its_worker_is_there_when_its_future_is(base, out):
    def crash():
        leave(["a.csv", "b.csv"])
        (mainstay.scratch(per="task") / "large.csv").write_bytes(bytes(50_000_000))
        os._exit(7)

    with mainstay.Executor(1, launcher="local", scratch=base, worker_retries=0) as executor:
        with pytest.raises(mainstay.WorkerDied) as caught:
            executor.options(stage_out={"*.csv": out}).submit(crash).result(60)
        assert caught.value.exitcode == 7
        assert (out / "large.csv.partial").stat().st_size == 50_000_000
        assert len(list(out.iterdir())) == 3


def test_the_next_agent_clears_up_after_one_that_was_killed(base):
    with mainstay.Executor(1, launcher="local", scratch=base) as executor:
        _, agent = executor.submit(leave, ["a"]).result(30)
        before = set(os.listdir(base))
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: executor.submit(leave, ["b"]).result(30)[1] != agent)  # its workers live a moment longer
        assert not before & set(os.listdir(base))
    assert os.listdir(base) == []


def test_a_worker_that_is_killed_as_it_fetches_leaves_it_to_the_next(base, tmp_path):
    source = tmp_path / "large"
    source.write_bytes(bytes(300_000_000))
    with mainstay.Executor(1, launcher="local", scratch=base) as executor:
        worker = executor.submit(os.getpid).result(30)
        future = executor.options(stage_in=[source]).submit(lambda: mainstay.staged(source).stat().st_size)
        wait_until(lambda: bool(list(base.glob("*/inputs/new/*/large"))))
        os.kill(worker, signal.SIGKILL)
        assert future.result(60) == 300_000_000
        assert not list(base.glob("*/inputs/new"))


def test_what_a_lost_host_was_bringing_leaves_nothing_beside_the_results(tmp_path):
    """Its file has come whole, but not the word that all has come, and none of its host's will."""
    files = Files(lambda level, line: None)
    here, there = socket.socketpair()
    errand = {"task": 1, "state": "done", "label": "f", "outputs": {"*": str(tmp_path)}}
    try:
        files.serve(here, Frame(Kind.BRING, 0, 0, 0, pickle.dumps(errand), []))
        entry = pickle.dumps((str(tmp_path / "0.csv"), 0o644, 0, False))
        there.sendall(b"".join([*encode(Kind.FILE, entry), *encode(Kind.PIECE, b"0")]))
        wait_until(lambda: os.listdir(tmp_path))
        files.close()
        assert not files.busy
        assert os.listdir(tmp_path) == []
        late, its_peer = socket.socketpair()
        files.serve(late, Frame(Kind.BRING, 0, 0, 0, pickle.dumps(errand), []))
        assert its_peer.recv(1) == b""  # it comes to a pool that is closed
    finally:
        there.close()


@pytest.fixture
def small_disk(tmp_path):
    """Four megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("launcher", ["local", "serial"])
def test_a_full_disk_is_told(small_disk, tmp_path, launcher):
    source = tmp_path / "large"
    source.write_bytes(bytes(10_000_000))

    def fill():
        (mainstay.scratch(per="task") / "large").write_bytes(bytes(10_000_000))

    def fill_and_stage():
        (mainstay.scratch() / "large").write_bytes(bytes(3_500_000))

    with mainstay.Executor(1, launcher=launcher, scratch=small_disk) as executor:
        with pytest.raises(mainstay.ScratchFull, match=r"on host .* 4.\d* MB free, 10 MB needed.*Executor\(scratch="):
            executor.options(stage_in=[source]).submit(abs, -1).result(30)
        with pytest.raises(OSError, match="No space left") as caught:
            executor.submit(fill).result(30)
        assert "ScratchFull: no room for scratch files in" in caught.value.__cause__.tb
        executor.submit(fill_and_stage).result(30)  # the other was removed with its task
        assert not list(small_disk.glob("*/*/task-*"))
        os.truncate(source, 1_000_000)
        with pytest.raises(mainstay.ScratchFull) as caught:
            executor.options(stage_in=[source]).submit(abs, -1).result(30)
        assert caught.value.free < caught.value.needed == 1_000_000
    assert os.listdir(small_disk) == []


def test_inputs_that_no_task_uses_make_way_for_others(small_disk, tmp_path):
    sources = [tmp_path / name for name in "abc"]
    for source in sources:
        source.write_bytes(bytes(1_800_000))

    def use(*names):
        return [mainstay.staged(name).stat().st_size for name in names]

    with mainstay.Executor(1, launcher="local", scratch=small_disk) as executor:
        for names in (sources[:1], sources[:2], sources[1:], sources[:1]):
            assert executor.options(stage_in=names).submit(use, *names).result(30) == [1_800_000] * len(names)
        with pytest.raises(mainstay.ScratchFull):
            executor.options(stage_in=sources).submit(use).result(30)
        assert executor.options(stage_in=sources[:1]).submit(use, sources[0]).result(30) == [1_800_000]
