"""Jobs that end before their work does, and hosts that are lost."""

from __future__ import annotations

import collections
import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cluster.bed import Cluster
from mainstay.journal import sqlite

JOB = """
import json, logging, os, socket, sys, time, mainstay
from mainstay import ending, launches

logging.basicConfig(level=logging.INFO)
launches.REJOIN = ending.ASK = 1.0
options = json.loads(sys.argv[1])
calls, seconds = options.pop("calls"), options.pop("seconds")

def work(x):
    with open("effects", "a") as file:  # one write of one line, so lines stay whole
        file.write(f"{x} {socket.gethostname()}\\n")
    (mainstay.scratch(per="task") / f"{x}.csv").write_text(str(x))
    time.sleep(seconds)
    return x * x

with mainstay.Executor(**options) as executor:
    view = executor.options(stage_out={"*.csv": "results"})
    futures = [view.submit(work, x) for x in range(calls)]
    done, told = 0, ""
    for x, future in enumerate(futures):
        try:
            done += future.result() == x * x
        except mainstay.AllocationEnding as error:
            told = f"; {error.done} done, {error.left} left"
    print(f"{done} of {calls}{told}", flush=True)
"""

ABSENT = """
import mainstay

with mainstay.Executor(log=lambda line: print(line, flush=True)) as executor:
    told = executor.wait_ready(timeout=60)
    print(dict(sorted(told.hosts.items())), sum(executor.map(abs, range(5))), flush=True)
"""


def script(cluster: Cluster, folder: Path, **options: object) -> str:
    """Return a batch script whose program does `calls` calls of `seconds` each; `options` are the executor's."""
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(JOB)
    return f"cd {folder}\nexec {sys.executable} job.py '{json.dumps(options)}'"


def effects(folder: Path) -> collections.Counter[int]:
    """Return how often each call began."""
    return collections.Counter(int(line.split()[0]) for line in (folder / "effects").read_text().splitlines())


def ends_in(cluster: Cluster, job: int, folder: Path, seconds: float, begun: int = 1) -> None:
    """Set a job's time limit to end in so many seconds, when so many calls have begun."""
    cluster.until(lambda: _read(folder / "effects").count("\n") >= begun, 60, "calls run")
    cluster.end_at(job, seconds)


def check_all_done(folder: Path, calls: int) -> None:
    """Each call's result is in the journal once, and its file has been brought."""
    with closing(sqlite.Store(str(folder / "calls.db"), write=False)) as store:
        rows = list(store.calls())
    assert len(rows) == len({row.key for row in rows}) == calls
    assert {row.state for row in rows} == {"done"}
    files = {path.name: path.read_text() for path in (folder / "results").iterdir()}
    assert files == {f"{x}.csv": str(x) for x in range(calls)}


def left(cluster: Cluster) -> list[str]:
    """What pools have left on the hosts' own disks."""
    find = ["find", "/tmp", "-maxdepth", "1", "-name", "mainstay-0-*"]
    return [line for name in cluster.names for line in cluster.on(name, find).stdout.splitlines()]


def test_a_job_that_ends_too_soon_is_gone_on_with(cluster):
    folder = cluster.shared / "limit"
    text = script(cluster, folder, calls=100, seconds=0.5, journal="calls.db", drain=5)
    job = cluster.submit(text, "-N3", "-n6", "--time=5")
    ends_in(cluster, job, folder, 9)
    first = cluster.wait(job)
    assert first.state == "COMPLETED"
    assert " left" in first.output
    done = int(first.output.split(" of 100")[0].split()[-1])
    assert 0 < done < 100
    assert len(list((folder / "results").glob("*.csv"))) == done  # all that was begun has been brought
    assert left(cluster) == []
    second = cluster.wait(cluster.submit(text, "-N3", "-n6", "--time=5"))
    assert "100 of 100" in second.output
    assert effects(folder) == dict.fromkeys(range(100), 1)  # what would not have ended was not begun
    check_all_done(folder, 100)


def test_a_job_that_ends_while_calls_run_brings_what_they_left(cluster):
    folder = cluster.shared / "cut-off"
    text = script(cluster, folder, calls=6, seconds=600)  # they are given up 5 s before the end
    job = cluster.submit(text, "-N3", "-n6", "--time=5")
    ends_in(cluster, job, folder, 9, begun=6)
    ended = cluster.wait(job)
    assert "0 of 6; 0 done, 6 left" in ended.output, ended.output
    assert {path.name for path in (folder / "results").iterdir()} == {f"{x}.csv.partial" for x in range(6)}
    assert left(cluster) == []


def test_a_job_that_is_killed_is_gone_on_with(cluster):
    """Only what ran, and what was not on disk for a moment yet, runs again."""
    folder = cluster.shared / "killed"
    text = script(cluster, folder, calls=100, seconds=0.3, journal="calls.db")
    job = cluster.submit(text, "-N3", "-n6", "--time=5")
    cluster.until(lambda: _read(folder / "effects").count("\n") > 40, 60, "calls run")
    cluster.run(["scancel", "--signal=KILL", "--full", str(job)])
    cluster.wait(job)
    assert "100 of 100" in cluster.wait(cluster.submit(text, "-N3", "-n6", "--time=5")).output
    often = effects(folder)
    assert set(often) == set(range(100))
    assert set(often.values()) <= {1, 2}
    assert often.total() - 100 <= 2 * 6
    check_all_done(folder, 100)
    cluster.until(lambda: left(cluster) == [], 15, "nothing is left")


def test_a_job_is_queued_again_by_itself(cluster):
    folder = cluster.shared / "requeue"
    text = script(cluster, folder, calls=80, seconds=0.5, journal="calls.db", drain=5, requeue=True)
    job = cluster.submit(text, "-N3", "-n6", "--time=5", "--requeue", "--open-mode=append")
    ends_in(cluster, job, folder, 10)
    cluster.until(lambda: cluster.job(job)[0]["JobState"] == "PENDING", 60, "it waits again")
    cluster.run(["scontrol", "update", f"jobid={job}", "starttime=now+2", "timelimit=5"])  # Slurm would take 2 minutes
    ended = cluster.wait(job)
    assert (ended.state, "80 of 80" in ended.output) == ("COMPLETED", True), ended.output
    assert effects(folder) == dict.fromkeys(range(80), 1)
    check_all_done(folder, 80)


@pytest.mark.parametrize(("number", "state"), [("USR1", "COMPLETED"), ("TERM", "COMPLETED")])
def test_a_signal_ends_it_in_good_order(cluster, number, state):
    folder = cluster.shared / f"signal-{number}"
    job = cluster.submit(script(cluster, folder, calls=200, seconds=0.5, journal="calls.db"), "-N3", "-n6", "--time=5")
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
    check_all_done(folder, 1000)
    for host in ("n2", "n3"):
        cluster.start(host)


def test_a_host_that_is_lost_before_the_start_is_left_out(cluster):
    """At first Slurm has not noticed, and then the job has lost the host for good."""
    (cluster.shared / "absent.py").write_text(ABSENT)
    waits = [f"until [ -e {word} ]; do sleep 0.1; done; {sys.executable} absent.py" for word in ("cut", "down")]
    job = cluster.submit("\n".join(waits), "-N3", "-n6", "--no-kill", "--time=5")
    cluster.wait_running(job)
    cluster.cut("n2")
    (cluster.shared / "cut").touch()
    cluster.until(lambda: cluster.states()["n2"].startswith("down"), 60, "n2 is down")
    (cluster.shared / "down").touch()
    ended = cluster.wait(job)
    cluster.mend("n2")
    told = [line for line in ended.output.splitlines() if line.startswith(("{", "node"))]
    assert [line.partition(":")[0] for line in told] == ["node n2 is left out", "{'n1'"] * 2, ended.output
    assert told[1] == told[3] == "{'n1': 4, 'n3': 1} 10"
    assert " idle" not in ended.output  # of which nobody need be told again


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
