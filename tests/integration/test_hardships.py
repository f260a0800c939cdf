"""Loads and misdeeds: large payloads, long queues, floods of output, tasks that break their worker, strangers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import psutil
import pytest

import mainstay
from mainstay.wire.auth import Dialler

GIB = 1 << 30


@pytest.fixture(scope="module")
def pool():
    with mainstay.Executor(2, launcher="local") as executor:
        yield executor


def fresh_memory():
    return psutil.virtual_memory().available


@pytest.mark.skipif(fresh_memory() < 12 * GIB, reason="a payload of 2 GiB wants 12 GiB of free memory")
def test_two_gigabytes_go_there_and_back(pool):
    there = np.zeros(2 * GIB, dtype=np.uint8)
    assert pool.submit(len, there).result(120) == 2 * GIB
    del there
    assert pool.submit(np.zeros, 2 * GIB, np.uint8).result(120).nbytes == 2 * GIB


def test_a_hundred_thousand_queued_calls(pool):
    futures = [pool.submit(abs, -i) for i in range(100_000)]
    assert sum(future.result(60) for future in futures) == sum(range(100_000))


class Unloadable:
    """Can be pickled, and cannot be unpickled."""

    def __reduce__(self):
        return eval, ("1 / 0",)


def test_what_cannot_be_unpickled_is_an_error_on_either_side(pool):
    assert isinstance(pool.submit(abs, Unloadable()).exception(30), ZeroDivisionError)
    assert isinstance(pool.submit(lambda: Unloadable()).exception(30), ZeroDivisionError)


def test_a_segmentation_fault_is_told_by_its_name(pool):
    def crash():
        import ctypes

        ctypes.string_at(0)

    with pytest.raises(mainstay.WorkerDied, match="SIGSEGV"):
        pool.options(worker_retries=0).submit(crash).result(30)


@pytest.mark.parametrize("first", [0, 3])
def test_a_worker_without_descriptors_is_replaced(pool, first):
    with pytest.raises((mainstay.WorkerDied, OSError)):
        pool.submit(os.closerange, first, 4096).result(60)
    assert pool.submit(abs, -1).result(60) == 1


def test_a_process_that_a_task_leaves_behind_ends_with_its_worker():
    with mainstay.Executor(1, launcher="local") as executor:
        command = [sys.executable, "-c", "import signal; signal.pause()"]
        left = psutil.Process(executor.submit(lambda: subprocess.Popen(command).pid).result(30))
        assert left.is_running()
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


OUTPUT = """
import os, sys, warnings
import mainstay

def speak():
    print("hello")
    warnings.warn("careful")
    os.write(2, b"from C, without an end of line")

def flood():
    for _ in range(64):
        os.write(1, (b"x" * 1023 + b"\\n") * 1024)

with mainstay.Executor(2, launcher="local") as executor:
    executor.submit(speak).result()
    executor.submit(flood).result()
"""


def test_output_comes_in_whole_lines_with_host_and_worker_and_none_is_lost(tmp_path):
    script = tmp_path / "speak.py"
    script.write_text(OUTPUT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    name = rf"\[{re.escape(socket.gethostname())}/\d+\] "
    out, err = done.stdout.splitlines(), done.stderr.splitlines()
    assert re.fullmatch(name + "hello", out[0])
    assert len([line for line in out if re.fullmatch(name + "x{1023}", line)]) == 64 * 1024
    assert re.fullmatch(name + ".*UserWarning: careful", err[0])
    assert re.fullmatch(name + "from C, without an end of line", err[-1])


def test_half_of_the_workers_of_mpiexec_may_die():
    with mainstay.Executor(4, launcher="mpiexec") as executor:
        executor.wait_ready(timeout=30)
        futures = [executor.submit(lambda i: i, i) for i in range(1000)]
        for worker in executor.workers[:2]:
            os.kill(worker.pid, signal.SIGKILL)
        futures += [executor.submit(lambda i: i, i) for i in range(1000, 2000)]
        assert [future.result(60) for future in futures] == list(range(2000))
        assert executor.describe().launcher == "mpiexec"


def greet(address, words):
    """Connect to the pool and say something else than the proof; return what comes back until the end."""
    with socket.create_connection(address, timeout=20) as stranger:
        challenge = stranger.recv(32, socket.MSG_WAITALL)
        stranger.sendall(words(challenge))
        return stranger.recv(1)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(lambda challenge: Dialler(b"another key".ljust(32)).answer(challenge), id="wrong key"),
        pytest.param(lambda challenge: b"GET / HTTP/1.1\r\n\r\n".ljust(64), id="garbage"),
        pytest.param(lambda challenge: challenge * 2, id="its own words"),
    ],
)
def test_a_stranger_is_refused(pool, words):
    assert greet(pool._broker.door.addresses[-1], words) == b""
    assert pool.submit(abs, -1).result(30) == 1


def test_a_thousand_strangers_who_say_nothing_are_bounded(pool):
    address = pool._broker.door.addresses[-1]
    strangers = [socket.create_connection(address) for _ in range(500)]
    strangers[0].close()
    strangers += [socket.create_connection(address) for _ in range(500)]
    strangers[-1].sendall(b"half of a proof")
    assert pool.submit(abs, -1).result(30) == 1
    assert len(pool._broker.door.strangers) <= 256
    for stranger in strangers:
        stranger.close()
    assert pool.submit(abs, -1).result(30) == 1


OPENS_TOO_MUCH = """
import os, resource, socket, sys, time
from mainstay.door import Door
from mainstay.wire.poller import Poller

said = []
poller = Poller()
door = Door(poller, b"k" * 32, print, lambda level, text: said.append(text))
knocks = socket.socket(socket.AF_UNIX)
knocks.connect("\\0" + door.addresses[0][0][1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (100, int(sys.argv[1])))
taken = []
try:
    while True: taken.append(os.dup(0))
except OSError: pass
while poller.turn(): pass
print(len(door.strangers), *said)
os.close(taken[0])
while not door.strangers:
    poller.handle(poller.wait(max(0, (door.next_deadline() or 0) - time.monotonic())))
    door.tick(time.monotonic())
"""


@pytest.mark.parametrize(("hard", "says"), [(100, "0 a worker or agent waits at the door"), (200, "1\n")])
def test_a_client_that_may_open_no_more_files_says_so_and_waits(hard, says):
    command = [sys.executable, "-c", OPENS_TOO_MUCH, str(hard)]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30).stdout.startswith(says)
