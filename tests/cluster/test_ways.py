"""Each way to start a program under Slurm gives workers on every node, as many as the job has there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import psutil
import pytest

from conftest import HAS_OPENMPI, OPENMPI, wait_until

BIN = Path(sys.executable).parent
PYTHON, RUN = f"{BIN}/python job.py", f"{BIN}/mainstay run job.py"
JOB = """\
import json, os, socket, sys, time
import mainstay

def where(_):
    time.sleep(0.05)
    return socket.gethostname(), os.getpid()

def look(pool):
    told = pool.wait_ready(timeout=30)
    ran = [host for host, _ in set(pool.map(where, range(3 * told.workers), chunksize=1))]
    print(json.dumps([told.launcher, told.hosts, {host: ran.count(host) for host in ran}]), flush=True)
    print("threads", pool.submit(os.getenv, "OMP_NUM_THREADS").result(), flush=True)

if __name__ == "__main__":
    os.write(1, b"began\\n")  # in one piece: ranks share the terminal
    with mainstay.Executor(**json.loads((sys.argv[1:] or ["{}"])[0])) as pool:
        look(pool)
"""
SEVERAL = """\
import mainstay
from job import look

for _ in range(2):
    with mainstay.Executor() as pool:
        look(pool)
with mainstay.Executor() as one, mainstay.Executor() as other:
    look(one)
    look(other)
"""
HOLD = """\
import os, time, mainstay

with mainstay.Executor(log=lambda line: print(line, flush=True)) as pool:
    told = pool.wait_ready(timeout=30)
    tasks = [pool.submit(time.sleep, 600) for _ in range(told.workers)]
    open("holds", "w").write(str(told.workers))
    tasks[0].result()
"""
LISTENER = """\
import signal, sys

print(sys.argv[1:], flush=True)
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
signal.pause()
"""
SIX = ["-N3", "-n6"]
UNLIKE = {"n1": 4, "n2": 1, "n3": 1}  # what Slurm makes of them on idle nodes of four CPUs
# A line of shell, and how often it begins the program: `mainstay run` does it once.
LINES = {
    "python": (PYTHON, 1),
    "srun-run": (f"srun -n 6 {RUN}", 1),
    "srun-pmi2-python": (f"srun --mpi=pmi2 -n 6 {PYTHON}", 6),
    "srun-pmix-run": (f"srun --mpi=pmix -n 6 {RUN}", 1),
    "srun-none-python": (f"srun --mpi=none -n 6 {PYTHON}", 6),
    "mpich-run": (f"{BIN}/mpiexec -n 6 {RUN}", 1),
    "mpich-python": (f"{BIN}/mpirun -n 6 {PYTHON}", 6),
    "openmpi-run": (f"{OPENMPI}/bin/mpiexec -n 6 {RUN}", 1),
    "openmpi-python": (f"{OPENMPI}/bin/mpirun -n 6 {PYTHON}", 6),
}


@pytest.fixture(scope="module")
def bed(cluster):
    for name, text in (("job", JOB), ("several", SEVERAL), ("hold", HOLD), ("listener", LISTENER)):
        (cluster.shared / f"{name}.py").write_text(text)
    return cluster


@pytest.fixture
def idle(bed):
    """The cluster, with all CPUs free."""
    wait_idle(bed)
    return bed


def wait_idle(bed):
    bed.until(lambda: set(bed.states().values()) == {"idle"}, 20, "all hosts are idle")


@pytest.fixture(scope="module", params=["sbatch", "salloc"])
def said(request, bed):
    """What each of LINES said, one after another in one job."""
    wait_idle(bed)
    lines = [f"{line} > {request.param}-{name} 2>&1" for name, (line, _) in LINES.items()]
    script = "\n".join(["export PATH=$PATH", *lines])
    if request.param == "sbatch":
        bed.wait(bed.submit(script, *SIX), 60)
    else:
        bed.run(["salloc", *SIX, "sh", "-c", script], timeout=60)
    return {name: (bed.shared / f"{request.param}-{name}").read_text() for name in LINES}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=HAS_OPENMPI) if "openmpi" in name else name for name in LINES]
)
def test_a_line_in_a_batch_script_or_in_the_shell_of_salloc(said, name):
    assert said[name].count("began") == LINES[name][1], said[name]
    check(said[name], UNLIKE)


def pools(output):
    """What each pool said: launcher, workers that stood, workers that ran something, by host."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("[")]


def check(output, *expected):
    """Each pool has the workers that are expected, and each worker has run something."""
    assert pools(output) == [["srun", hosts, hosts] for hosts in expected], output


@pytest.mark.parametrize(
    ("flags", "expected", "threads"),
    [
        ("-N3", {"n1": 1, "n2": 1, "n3": 1}, 1),
        ("-n5", {"n1": 4, "n2": 1}, 1),
        ("-N3 --ntasks-per-node=2", {"n1": 2, "n2": 2, "n3": 2}, 1),
        ("-n3 -c2", {"n1": 2, "n2": 1}, 2),
        ("-N2 --exclusive", {"n1": 4, "n2": 4}, 1),
        ("-N2 -c2 --exclusive", {"n1": 2, "n2": 2}, 2),
    ],
)
def test_flags_give_as_many_workers_as_they_mean(idle, flags, expected, threads):
    said = idle.wait(idle.submit(f"unset OMP_NUM_THREADS; {PYTHON}", *flags.split()), 30).output
    check(said, expected)
    assert f"threads {threads}\n" in said


def test_tasks_of_an_array_are_jobs_of_their_own(idle):
    ended = idle.wait(idle.submit(PYTHON, "-N3", "-n3", "--array=1-2"), 30)
    check(ended.output, *[{"n1": 1, "n2": 1, "n3": 1}] * 2)


@pytest.mark.parametrize("flags", ["-N3 -n6", "-N1 -n4", "-N1 -n1"])
def test_in_a_shell_on_a_node(idle, flags):
    """`srun --pty bash` in an allocation: a step of the whole of it, or of a part."""
    shell = f"salloc {shlex.join(SIX)} srun {flags} --pty bash --norc --noediting"
    lines = f"""{PYTHON}\n{PYTHON} '{{"launcher": "mpiexec"}}'\nexit 0\n"""
    said = idle.run(["script", "-qec", shell, "/dev/null"], input=lines, timeout=30).stdout
    check(said, UNLIKE)
    assert "whose CPUs mpiexec would wait for; launcher='srun' does not wait" in said


def test_a_step_that_is_started_in_a_shell_on_a_node(idle):
    line = f"srun --overlap -n 6 {RUN}"
    shell = f"salloc {shlex.join(SIX)} srun --overlap -N1 -n1 --pty bash --norc --noediting"
    check(idle.run(["script", "-qec", shell, "/dev/null"], input=f"{line}; exit\n", timeout=30).stdout, UNLIKE)


@pytest.mark.parametrize(
    "submit",
    [
        "mpiexec -n 6 bash -c '[ $PMI_RANK != 1 ] || sbatch NEXT'",
        "srun --mpi=none -n 6 bash -c '[ $SLURM_PROCID != 1 ] || sbatch NEXT'",
        "script -qec \"srun -N1 -n4 --pty bash -c 'sbatch NEXT'\" /dev/null",
    ],
    ids=["a rank of mpiexec", "a rank of srun", "a shell on a node"],
)
def test_a_job_that_is_submitted_from_inside_of_a_step(idle, submit):
    """It inherits the variables of ranks and of a step that are not its own; no line may take them for true."""
    lines = [PYTHON, f"srun --mpi=none -n 3 {RUN}", f"{BIN}/mpiexec -n 3 {RUN}"]
    (idle.shared / "next.sh").write_text("\n".join(["#!/bin/bash", *lines]))
    said = idle.wait(
        idle.submit(submit.replace("NEXT", "-N3 --ntasks-per-node=1 -o next-%j.out next.sh"), *SIX), 30
    ).output
    (job,) = re.findall(r"Submitted batch job (\d+)", said)
    check(idle.wait(int(job), 60).output, *[{"n1": 1, "n2": 1, "n3": 1}] * 3)


def test_pools_one_after_another_and_at_once(idle):
    check(idle.wait(idle.submit(f"{BIN}/python several.py", *SIX), 30).output, *[UNLIKE] * 4)


def test_fewer_workers_than_the_allocation_has_room_for(idle):
    ended = idle.wait(idle.submit(f"""{PYTHON} '{{"max_workers": 3, "launcher": "srun"}}'""", *SIX), 30)
    check(ended.output, {"n1": 1, "n2": 1, "n3": 1})


def test_a_client_that_is_killed_leaves_nothing(idle):
    job = hold(idle, f"{BIN}/python hold.py & wait; sleep 600")  # the job goes on
    next(process for process in ours(idle) if "python hold.py" in command(process)).kill()
    wait_until(lambda: not ours(idle), 5)
    idle.run(["scancel", job])


def test_a_job_that_is_cancelled_leaves_nothing(idle):
    idle.run(["scancel", hold(idle, f"exec {BIN}/python hold.py")])
    wait_until(lambda: not ours(idle))  # the pool drains on SIGTERM, until Slurm kills it after KillWait


def hold(bed, script):
    """Submit a job with a busy pool."""
    (bed.shared / "holds").unlink(missing_ok=True)
    job = bed.submit(script, *SIX)
    wait_until(lambda: (bed.shared / "holds").exists(), 20)
    assert len(ours(bed)) >= 6 + 3 + 2  # workers, agents, the client and its srun
    return job


def ours(bed):
    return [process for process in bed.processes() if re.search(r"mainstay\.node|hold\.py|srun", command(process))]


def command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_nodes_begin_in_turn(idle):
    """Agents wait in line for their start, and then for leave to import."""
    options = json.dumps({"preload": ["wave"], "stagger": 1})
    output = idle.wait(idle.submit(f"{PYTHON} {shlex.quote(options)}", *SIX), 60).output
    check(output, UNLIKE)


def test_mainstay_sbatch(idle):
    said = idle.run([f"{BIN}/mainstay", "sbatch", "job.py", *SIX, "--time=5", "--comment=a 'b' # c", "-J", "six"])
    job = re.match(r"Submitted batch job (\d+)\n", said.stdout)[1]
    assert idle.wait(int(job), 30).state == "COMPLETED"
    assert f"tail -F six-{job}.out" in said.stdout
    check((idle.shared / f"six-{job}.out").read_text(), UNLIKE)
    assert idle.job(int(job))[0]["TimeLimit"] == "00:05:00"


def test_mainstay_sbatch_lets_python_hear_the_signal(idle):
    command = [f"{BIN}/mainstay", "sbatch", "--parsable", "listener.py", "-n1", "--time=5", "--setup", "A='two words'"]
    job = idle.run([*command, "--", "--seed", "two words"]).stdout.strip()
    output = idle.shared / f"listener-{job}.out"
    wait_until(lambda: output.exists() and "seed" in output.read_text())
    idle.run(["scancel", "--batch", "--signal=USR1", job])
    assert idle.wait(int(job), 20).output == "['--seed', 'two words']\nheard\n"


def test_mainstay_sbatch_lets_the_pool_hear_the_signal(idle):
    (idle.shared / "holds").unlink(missing_ok=True)
    job = idle.run([f"{BIN}/mainstay", "sbatch", "--parsable", "hold.py", "-n2", "--time=5"]).stdout.strip()
    wait_until(lambda: (idle.shared / "holds").exists(), 20)
    idle.run(["scancel", "--batch", "--signal=USR1", job])
    wait_until(lambda: "SIGUSR1 came" in (idle.shared / f"hold-{job}.out").read_text())
    idle.run(["scancel", job])


def test_mainstay_sbatch_passes_a_refusal_on(idle):
    done = idle.run([f"{BIN}/mainstay", "sbatch", "job.py", "-n1", "--partition=none"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "invalid partition" in done.stderr


@pytest.mark.parametrize(
    ("launcher", "shell", "told"),
    [
        ("pbs", "pbs_tmrsh", "PBS_JOBID=7 PBS_NODEFILE=$PWD/hosts"),
        ("lsf", "blaunch", "LSB_JOBID=7 LSB_MCPU_HOSTS='n1 2 n2 1 n3 1'"),
    ],
)
def test_hosts_of_another_batch_system(idle, launcher, shell, told):
    """Slurm plays the part of PBS or LSF, and one of its steps that of their remote shell."""
    (idle.shared / "hosts").write_text("n1\nn1\nn2\nn3\n")
    program = idle.shared / shell
    program.write_text('#!/bin/sh\nhost=$1; shift; exec srun --overlap -N1 -n1 -w "$host" sh -c "$*"\n')
    program.chmod(0o755)
    line = f"""PATH=$PWD:$PATH {told} {PYTHON} '{{"launcher": "{launcher}"}}'"""
    hosts = {"n1": 2, "n2": 1, "n3": 1}
    assert pools(idle.wait(idle.submit(line, *SIX), 30).output) == [[launcher, hosts, hosts]]
