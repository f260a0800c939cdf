"""A journal whose clients, workers and agents are killed: clients 1,000 times, at random points."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from killing import examine, square

import mainstay

PROGRAM = Path(__file__).with_name("killing.py")


@pytest.mark.parametrize(
    ("kills", "launcher", "sync"),
    [(800, "serial", "each"), (150, "serial", "group"), (50, "local", "group")],
)
def test_a_client_may_be_killed_at_any_instant(tmp_path, kills, launcher, sync):
    command = [sys.executable, str(PROGRAM), str(tmp_path / "calls.db"), str(kills), launcher, sync]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == kills
    assert counts["promised"] > 0


def slow_square(x: int) -> tuple[int, int, bytes]:
    time.sleep(0.005)
    return square(x)


def test_workers_and_agents_may_be_killed(tmp_path):
    journal = tmp_path / "calls.db"
    with mainstay.Executor(2, launcher="local", journal=journal, worker_retries=1000) as executor:
        futures = [executor.submit(slow_square, x) for x in range(400)]
        for x, future in enumerate(futures):
            assert future.result(60) == square(x)
            if x % 20 == 10:
                executor.wait_ready(1, 30)
                pid = next(worker.pid for worker in executor.workers if worker.state != "starting")
                with suppress(psutil.Error):  # it may have ended already
                    victim = psutil.Process(pid)
                    (victim.parent() if x in (110, 290) else victim).kill()
    assert examine(str(journal)) == dict.fromkeys(range(400), 1)


def test_what_a_killed_client_has_done_is_not_done_again(tmp_path):
    script = """
import mainstay, os, sys, time
def note(x):
    os.write(1, b"ran %d\\n" % x)
    time.sleep(0.01)
    return x
with mainstay.Executor(2, launcher="serial", journal="calls.db", journal_sync="each") as executor:
    for x in executor.map(note, range(100)):
        os.write(2, b"%d\\n" % x)
"""
    client = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with closing(client.stdout), closing(client.stderr):
        told = [int(client.stderr.readline()) for _ in range(20)]
        client.kill()
        client.wait()
    again = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert [int(line) for line in again.stderr.split()] == list(range(100))
    ran = {int(line.split()[1]) for line in again.stdout.splitlines()}
    assert not ran & set(told)
    assert len(ran) <= 80
