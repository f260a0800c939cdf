"""Jobs that end before their work does, and hosts that are lost."""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path

import pytest

from cluster.bed import Cluster

JOB = """
import json, logging, os, socket, sys, time, mainstay

logging.basicConfig(level=logging.INFO)
options = json.loads(sys.argv[1])
calls, seconds = options.pop("calls"), options.pop("seconds")

def work(x):
    with open("effects", "a") as file:  # one write of one line, so lines stay whole
        file.write(f"{x} {socket.gethostname()}\\n")
    time.sleep(seconds)
    return x

with mainstay.Executor(**options) as executor:
    futures = [executor.submit(work, x) for x in range(calls)]
    done, told = 0, ""
    for future in futures:
        try:
            future.result()
            done += 1
        except mainstay.AllocationEnding as error:
            told = f"; {error.done} done, {error.left} left"
    print(f"{done} of {calls}{told}", flush=True)
"""


def script(cluster: Cluster, folder: Path, **options: object) -> str:
    """Return a batch script whose program does `calls` calls of `seconds` each; `options` are the executor's."""
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(JOB)
    return f"cd {folder}\nexec {sys.executable} job.py '{json.dumps(options)}'"


def effects(folder: Path) -> collections.Counter[int]:
    """Return how often each call began."""
    return collections.Counter(int(line.split()[0]) for line in (folder / "effects").read_text().splitlines())


def test_a_job_that_ends_too_soon_is_gone_on_with(cluster):
    folder = cluster.shared / "limit"
    text = script(cluster, folder, calls=60, seconds=0.5, journal="calls.db", drain=5)
    job = cluster.submit(text, "-N3", "-n6", "--time=5")
    cluster.wait_running(job)
    cluster.end_at(job, 9)
    first = cluster.wait(job)
    assert first.state == "COMPLETED"
    assert " left" in first.output
    done = int(first.output.split(" of 60")[0].split()[-1])
    assert 0 < done < 60
    second = cluster.wait(cluster.submit(text, "-N3", "-n6", "--time=5"))
    assert "60 of 60" in second.output
    assert effects(folder) == dict.fromkeys(range(60), 1)  # what would not have ended was not begun


def test_a_job_is_queued_again_by_itself(cluster):
    folder = cluster.shared / "requeue"
    text = script(cluster, folder, calls=40, seconds=0.5, journal="calls.db", drain=5, requeue=True)
    job = cluster.submit(text, "-N3", "-n6", "--time=5", "--requeue", "--open-mode=append")
    cluster.wait_running(job)
    cluster.end_at(job, 8)
    cluster.until(lambda: cluster.job(job)[0]["JobState"] == "PENDING", 60, "it waits again")
    cluster.run(["scontrol", "update", f"jobid={job}", "starttime=now+2", "timelimit=5"])  # Slurm would take 2 minutes
    ended = cluster.wait(job)
    assert (ended.state, "40 of 40" in ended.output) == ("COMPLETED", True), ended.output
    assert effects(folder) == dict.fromkeys(range(40), 1)


@pytest.mark.parametrize(("number", "state"), [("USR1", "COMPLETED"), ("TERM", "COMPLETED")])
def test_a_signal_ends_it_in_good_order(cluster, number, state):
    folder = cluster.shared / f"signal-{number}"
    job = cluster.submit(script(cluster, folder, calls=200, seconds=0.5, journal="calls.db"), "-N3", "-n6", "--time=5")
    cluster.wait_running(job)
    cluster.until(lambda: (folder / "effects").exists(), 30, "calls run")
    cluster.run(["scancel", "--batch", f"--signal={number}", str(job)])
    ended = cluster.wait(job)
    assert ended.state == state
    assert " left" in ended.output
    done = int(ended.output.split(" of 200")[0].split()[-1])
    assert effects(folder).total() == done  # each that began has ended


def test_two_of_three_hosts_are_lost(cluster):
    folder = cluster.shared / "lost"
    text = script(cluster, folder, calls=1000, seconds=0.05, journal="calls.db", node_timeout=3)
    job = cluster.submit(text, "-N3", "-n12", "--no-kill", "--time=5")
    for host in ("n2", "n3"):
        cluster.until(lambda host=host: f" {host}\n" in _read(folder / "effects"), 30, f"calls run on {host}")
        cluster.stop(host)
    ended = cluster.wait(job, 120)
    assert "1000 of 1000" in ended.output, ended.output
    assert "the agent on n2 has said nothing for 3 s" in ended.output
    for host in ("n2", "n3"):
        cluster.start(host)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
