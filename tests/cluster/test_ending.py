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
    text = script(cluster, folder, calls=100, seconds=0.5, journal="calls.db", drain=5)
    job = cluster.submit(text, "-N3", "-n6", "--time=5")
    cluster.wait_running(job)
    cluster.end_at(job, 9)
    first = cluster.wait(job)
    assert first.state == "COMPLETED"
    assert " left" in first.output
    done = int(first.output.split(" of 100")[0].split()[-1])
    assert 0 < done < 100
    second = cluster.wait(cluster.submit(text, "-N3", "-n6", "--time=5"))
    assert "100 of 100" in second.output
    assert effects(folder) == dict.fromkeys(range(100), 1)  # what would not have ended was not begun


def test_a_job_is_queued_again_by_itself(cluster):
    folder = cluster.shared / "requeue"
    text = script(cluster, folder, calls=80, seconds=0.5, journal="calls.db", drain=5, requeue=True)
    job = cluster.submit(text, "-N3", "-n6", "--time=5", "--requeue", "--open-mode=append")
    cluster.wait_running(job)
    cluster.end_at(job, 8)
    cluster.until(lambda: cluster.job(job)[0]["JobState"] == "PENDING", 60, "it waits again")
    cluster.run(["scontrol", "update", f"jobid={job}", "starttime=now+2", "timelimit=5"])  # Slurm would take 2 minutes
    ended = cluster.wait(job)
    assert (ended.state, "80 of 80" in ended.output) == ("COMPLETED", True), ended.output
    assert effects(folder) == dict.fromkeys(range(80), 1)


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


def test_a_host_that_is_lost_before_the_start_is_left_out(cluster):
    """At first Slurm has not noticed, and then the job has lost the host for good."""
    folder = cluster.shared / "absent"
    text = script(cluster, folder, calls=20, seconds=0)
    first, command = text.split("exec ")
    waits = [f"until [ -e {word} ]; do sleep 0.1; done; {command}" for word in ("cut", "down")]
    job = cluster.submit("\n".join([first, *waits]), "-N3", "-n6", "--no-kill", "--time=5")
    cluster.wait_running(job)
    cluster.cut("n2")
    (folder / "cut").touch()
    cluster.until(lambda: cluster.states()["n2"].startswith("down"), 60, "n2 is down")
    (folder / "down").touch()
    ended = cluster.wait(job)
    cluster.mend("n2")
    assert ended.output.count("20 of 20") == 2, ended.output
    assert ended.output.count("node n2 is left out: ") == 2, ended.output
    assert ended.output.count("workers: 4 on n1, 1 on n3 ") == 2, ended.output


def test_a_host_that_comes_back_is_taken_back(cluster):
    folder = cluster.shared / "back"
    text = script(cluster, folder, calls=1500, seconds=0.1, node_timeout=3)
    job = cluster.submit(text, "-N3", "-n6", "--no-kill", "--time=5")
    cluster.until(lambda: " n3\n" in _read(folder / "effects"), 30, "calls run on n3")
    cluster.cut("n3")
    out = cluster.shared / f"slurm-{job}.out"
    cluster.until(lambda: "the agent on n3 has said nothing" in _read(out), 30, "n3 is missed")
    before = _read(folder / "effects").count(" n3\n")
    cluster.mend("n3")
    cluster.until(lambda: _read(folder / "effects").count(" n3\n") > before + 5, 60, "calls run on n3 again")
    cluster.run(["scancel", str(job)])
    cluster.wait(job)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
