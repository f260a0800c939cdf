"""Scratch over three hosts, each with its own /tmp: inputs reach each once, and results come back from each."""

from __future__ import annotations

import signal
import sys

import psutil
import pytest

JOB = """
import glob, os, signal, socket, sys, time
import mainstay
from mainstay import files

given = []
give = files.Files._give
files.Files._give = lambda *words: given.append(1) or give(*words)

def meet(number):
    # until each worker has one of the first six
    open(f"{out}-{number}", "w").close()
    while len(glob.glob(f"{out}-*")) < 6:
        time.sleep(0.01)

def work(number):
    if number < 6:
        meet(number)
    here = mainstay.scratch(per="task")
    assert str(here).startswith("/tmp/mainstay-")
    (here / f"{number}.csv").write_text(socket.gethostname())
    (mainstay.scratch() / "kept").touch()
    if number >= 12:
        signal.pause()
    if number % 2:
        raise ValueError(number)
    return socket.gethostname(), mainstay.staged("params").joinpath("soil.txt").read_text()

os.makedirs("/tmp/inputs/params")  # on the first host only
os.chdir("/tmp/inputs")
open("params/soil.txt", "w").write("clay")
out = os.environ["SLURM_SUBMIT_DIR"] + "/" + sys.argv[1]
with mainstay.Executor(launcher="srun", drain=0) as ex:
    ex.wait_ready(timeout=60)
    view = ex.options(stage_in=["params"], stage_out={"*.csv": out + "/{host}"})
    futures = [view.submit(work, number) for number in range(12)]
    results = [future.result(60) for future in futures[::2]]
    print({soil for _, soil in results}, len(given), [type(f.exception(60)).__name__ for f in futures[1::2]][:1])
    if sys.argv[1] != "whole":
        running = [view.submit(work, number) for number in range(12, 18)]
        print("running", flush=True)
        running[0].exception()
"""
FLAGS = ("-N3", "--ntasks-per-node=2")


@pytest.fixture(scope="module")
def job(cluster):
    (cluster.shared / "job.py").write_text(JOB)
    yield lambda name: cluster.submit(f"rm -rf /tmp/inputs; exec {sys.executable} job.py {name}", *FLAGS)
    for host in cluster.names:
        cluster.on(host, ["rm", "-rf", "/tmp/inputs"])


def left(cluster):
    """What lies in the hosts' /tmp of any pool."""
    return [
        cluster.on(name, ["find", "/tmp", "-maxdepth", "1", "-name", "mainstay-0-*"]).stdout for name in cluster.names
    ]


def came(cluster, name):
    return sorted(str(path.relative_to(cluster.shared / name)) for path in (cluster.shared / name).glob("*/*"))


def test_inputs_reach_each_host_once_and_results_come_from_each(cluster, job):
    ended = cluster.wait(job("whole"))
    assert ended.state == "COMPLETED", ended.output
    assert "{'clay'} 3 ['ValueError']" in ended.output
    files = came(cluster, "whole")
    assert {file.partition("/")[0] for file in files} == {"n1", "n2", "n3"}
    assert {file.partition("/")[2] for file in files} == {f"{number}.csv" for number in range(12)}
    assert left(cluster) == ["", "", ""]


def begin(cluster, job, name):
    """Start a job whose first tasks are done, and two on each host run for long."""
    number = job(name)
    cluster.wait_running(number)
    cluster.until(lambda: "running" in output(cluster, number), 60, "its tasks run")
    count = ["sh", "-c", "ls /tmp/mainstay-0-*/*/task-*/*.csv | wc -l"]
    cluster.until(lambda: all(cluster.on(n, count).stdout == "2\n" for n in cluster.names), 30, "two run on each host")
    return number


def output(cluster, number):
    try:
        with open(cluster.job(number)[0]["StdOut"]) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def test_a_job_that_is_cancelled_leaves_nothing_on_its_hosts(cluster, job):
    number = begin(cluster, job, "cancelled")
    cluster.run(["scancel", str(number)])
    cluster.wait(number)
    cluster.until(lambda: left(cluster) == ["", "", ""], 15, "nothing is left")
    whole = [file for file in came(cluster, "cancelled") if not file.endswith(".partial")]
    assert {file.partition("/")[2] for file in whole} == {f"{number}.csv" for number in range(12)}


def test_a_client_that_is_killed_leaves_nothing_on_its_hosts(cluster, job):
    number = begin(cluster, job, "killed")
    clients = [process for process in cluster.processes("n1") if "job.py" in process.cmdline()]
    clients[0].send_signal(signal.SIGKILL)
    cluster.wait(number)
    cluster.until(lambda: left(cluster) == ["", "", ""], 15, "nothing is left")
    assert not any(psutil.pid_exists(client.pid) for client in clients)
