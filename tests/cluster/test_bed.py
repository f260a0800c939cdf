"""The bed itself: hosts that are hosts, a Slurm that is a Slurm, and no trace when it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from cluster.bed import Cluster
from cluster.mounts import REPOSITORY
from cluster.namespaces import BedError
from conftest import HAS_OPENMPI, OPENMPI, wait_until

PYTHON = sys.executable
HELLO = """\
import socket
from mpi4py import MPI
world = MPI.COMM_WORLD
hosts = world.gather(socket.gethostname())
if world.rank == 0:
    print(world.size, *sorted(set(hosts)), MPI.Get_library_version().split()[0])
"""
IDLER = "trap 'echo got USR1' USR1; echo begun; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def limited(cluster):
    """A job that is told of its end, and one whose time is over: Slurm looks only every 30 s, so they begin early."""
    warned = cluster.submit(IDLER, "-w", "n3", "-n1", "--time=1", "--signal=B:USR1@60")
    ended = cluster.submit(IDLER, "-w", "n3", "-n1", "--time=10")
    cluster.end_at(ended, 1)
    cluster.wait_running(warned)
    return warned, ended


@pytest.fixture(scope="module")
def hello(cluster):
    path = cluster.shared / "hello.py"
    path.write_text(HELLO)
    return path


@pytest.mark.usefixtures("limited")
def test_srun_reaches_every_host(cluster):
    said = cluster.run(["srun", "-N3", "-l", "hostname"]).stdout
    assert sorted(said.splitlines()) == ["0: n1", "1: n2", "2: n3"]


def test_a_host_has_an_address_and_a_link_of_its_own(cluster):
    addresses = {cluster.on(name, ["hostname", "-i"]).stdout.strip() for name in cluster.names}
    assert addresses == {"10.42.0.1", "10.42.0.2", "10.42.0.3"}
    assert "10.42.0.1/24" in cluster.on("n1", ["ip", "address", "show", "eth0"]).stdout
    assert "n1" not in Path("/etc/hosts").read_text().split()


@pytest.mark.parametrize("directory", ["/tmp", "/dev/shm"])
def test_a_host_has_temporary_files_of_its_own(cluster, directory):
    name = f"{directory}/mainstay-{os.getpid()}"
    cluster.on("n1", ["touch", name])
    assert cluster.on("n1", ["ls", name]).stdout.strip() == name
    assert cluster.on("n2", ["ls", name], check=False).returncode != 0
    assert not Path(name).exists()


def test_the_shared_directory_is_seen_by_all(cluster):
    cluster.on("n2", ["sh", "-c", "hostname > of-n2"])
    assert (cluster.shared / "of-n2").read_text() == "n2\n"
    assert cluster.on("n3", ["cat", cluster.shared / "of-n2"]).stdout == "n2\n"


def test_a_host_sees_its_own_processes_only(cluster):
    assert cluster.on("n1", ["sh", "-c", "ps -e | grep -c slurmd$"]).stdout == "1\n"
    with cluster.popen(["sleep", "600"], "n2") as sleeper:
        wait_until(lambda: [process.name() for process in cluster.processes("n2")] == ["sleep"])
        cluster.processes("n2")[0].kill()
        assert sleeper.wait(10) == -signal.SIGKILL
    assert cluster.processes("n1") == []


def test_the_interpreter_of_the_tests_runs_on_the_hosts(cluster):
    said = cluster.run(["srun", "-N3", PYTHON, "-c", "import mainstay; print(mainstay.__file__)"]).stdout
    assert len(said.splitlines()) == 3


def test_a_failing_command_says_what_it_wrote(cluster):
    with pytest.raises(BedError, match="no host 'n9'; there are n1, n2, n3"):
        cluster.on("n9", ["true"])
    with pytest.raises(BedError, match=r"sh -c 'echo why >&2; exit 3' ended with 3:\n\nwhy"):
        cluster.run(["sh", "-c", "echo why >&2; exit 3"])
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run(["sleep", "60"], timeout=0.2)


def test_a_batch_job_and_what_it_wrote(cluster):
    ended = cluster.wait(cluster.submit("srun hostname", "-N2", "--ntasks-per-node=2"))
    assert ended.state == "COMPLETED"
    assert set(Counter(ended.output.split()).values()) == {2}
    assert cluster.wait(cluster.submit("echo no; exit 7")).state == "FAILED"


def test_an_allocation_of_unlike_nodes(cluster):
    ended = cluster.wait(cluster.submit("echo $SLURM_TASKS_PER_NODE; srun hostname", "-N3", "-n6"))
    assert ended.output.splitlines()[0] == "4,1(x2)"
    assert Counter(ended.output.split()[1:]) == {"n1": 4, "n2": 1, "n3": 1}


def test_a_job_array(cluster):
    ended = cluster.wait(cluster.submit("echo $SLURM_ARRAY_TASK_ID", "--array=1-3"))
    assert (ended.state, ended.output) == ("COMPLETED", "1\n2\n3\n")


def test_a_step_waits_for_the_cpus_of_another_unless_they_overlap(cluster):
    script = """
        srun sh -c '> begun; exec sleep 60' & until [ -e begun ]; do sleep 0.05; done
        srun --immediate=1 hostname || echo refused
        srun --overlap hostname
        kill %1
    """
    ended = cluster.wait(cluster.submit(script, "-w", "n1", "-n1"))
    assert [line for line in ended.output.splitlines() if line in ("refused", "n1")] == ["refused", "n1"]


def test_salloc_a_terminal_and_sbcast(cluster):
    assert set(cluster.run(["salloc", "-N2", "srun", "hostname"]).stdout.split()) == {"n1", "n2"}
    terminal = cluster.run(["script", "-qec", "srun --pty sh -c 'tty && hostname'", "/dev/null"]).stdout
    assert "/dev/pts/" in terminal
    assert any(name in terminal for name in cluster.names)
    (cluster.shared / "cast").write_text("cast\n")
    ended = cluster.wait(cluster.submit("sbcast cast /tmp/cast; srun cat /tmp/cast; srun rm /tmp/cast", "-N3"))
    assert ended.output == "cast\n" * 3


def test_an_urgent_job_takes_the_node_and_the_other_is_requeued(cluster):
    job = cluster.submit("sleep 60", "-w", "n2", "-n4")
    cluster.wait_running(job)
    ended = cluster.wait(cluster.submit("hostname", "-w", "n2", "-n4", "-p", "urgent"))
    assert ended.output == "n2\n"
    assert cluster.job(job)[0]["Restarts"] == "1"
    cluster.run(["scancel", job])


def test_mpich_by_srun(cluster, hello):
    said = cluster.run(["srun", "--mpi=pmi2", "-N3", "-n6", PYTHON, hello]).stdout
    assert said.startswith("6 n1 n2 n3 MPICH")


def test_mpich_by_mpiexec_in_a_batch_job(cluster, hello):
    ended = cluster.wait(cluster.submit(f"mpiexec -n 6 {PYTHON} {hello}", "-N3", "-n6"))
    assert ended.output.startswith("6 n1 n2 n3 MPICH")


@HAS_OPENMPI
@pytest.mark.parametrize("launcher", [f"{OPENMPI}/bin/mpiexec -n 6", "srun --mpi=pmix"])
def test_open_mpi_in_a_batch_job(cluster, hello, launcher):
    if "pmix" in launcher and cluster.run(["srun", "--mpi=pmix", "true"], check=False).returncode != 0:
        pytest.skip("this Slurm has no PMIx")
    library = next(OPENMPI.glob("lib/libmpi.so.*"))
    script = f"export MPI4PY_LIBMPI={library}; {launcher} {PYTHON} {hello}"
    ended = cluster.wait(cluster.submit(script, "-N3", "-n6"))
    assert ended.output.endswith("6 n1 n2 n3 Open\n")


def test_hosts_that_lose_power_or_network_are_down_and_come_back(cluster):
    cluster.stop("n1")
    cluster.cut("n2")
    assert cluster.processes("n1") == []
    with pytest.raises(BedError, match="host n1 is off"):
        cluster.on("n1", ["true"])
    assert not answers(cluster, "n2")
    assert cluster.on("n2", ["hostname"]).stdout == "n2\n"
    cluster.until(lambda: both(cluster) == ["down*"] * 2, 60, "n1 and n2 are down")
    cluster.start("n1")
    cluster.mend("n2")
    cluster.until(lambda: both(cluster) == ["idle"] * 2, 60, "n1 and n2 are idle")
    assert answers(cluster, "n2")
    assert len(cluster.run(["srun", "-N3", "hostname"]).stdout.split()) == 3


def test_a_host_that_was_off_is_reached_at_once_by_those_who_know_its_card():
    """They may go on to send to the address that it had for half a minute, if nobody tells them of another."""
    with Cluster(nodes=2, cpus=1) as other:
        card = ["sh", "-c", "ip -o link show eth0 | grep -o 'link/ether [0-9a-f:]*'"]
        before = other.on("n2", card).stdout
        other.stop("n2")
        other.start("n2")
        assert before
        assert other.on("n2", card).stdout == before != other.on("n1", card).stdout


def test_a_job_is_told_of_its_end_and_another_is_ended(cluster, limited):
    warned, ended = limited
    assert cluster.wait(ended, 60).state == "TIMEOUT"
    output = Path(cluster.job(warned)[0]["StdOut"])
    wait_until(lambda: "got USR1" in output.read_text(), 60)
    cluster.run(["scancel", warned])


@pytest.mark.usefixtures("cluster")
def test_nothing_is_left_of_a_bed_that_stood_beside_another():
    with Cluster(nodes=2, cpus=1) as other:
        assert sorted(other.run(["srun", "-N2", "-l", "hostname"]).stdout.splitlines()) == ["0: n1", "1: n2"]
        other.popen(["sleep", "600"], "n1")
        other.wait_running(other.submit("sleep 600", "-N2"))
        directory = other.layout.directory
        inits = [other.login.pid, *(other.host(name).namespaces.pid for name in other.names)]
        places = namespaces(inits)
        assert len(places) == 5 * len(inits)
        assert left(places)
    assert not directory.exists()
    assert not left(places)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("end", ["end-of-file", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_the_holder_ends(end):
    with hold() as holder:
        directory = directory_of(holder)
        places = namespaces(process.pid for process in psutil.Process(holder.pid).children(recursive=True))
        assert directory.is_dir()
        assert left(places)
        holder.stdin.close() if end == "end-of-file" else holder.send_signal(getattr(signal, end))
        assert holder.wait(20) == (-signal.SIGKILL if end == "SIGKILL" else 0)
    wait_until(lambda: not directory.exists())
    wait_until(lambda: not left(places))


@pytest.mark.usefixtures("cluster")
def test_nothing_is_left_when_the_guardian_is_killed():
    with hold() as holder:
        directory = directory_of(holder)
        places = namespaces(process.pid for process in psutil.Process(holder.pid).children(recursive=True))
        psutil.Process(holder.pid).children()[0].kill()
        wait_until(lambda: not left(places))
        holder.stdin.close()
        holder.wait(20)
    assert not directory.exists()


def test_make_cluster_is_a_shell_in_which_slurm_works(cluster):
    inside = "sinfo -hN -p batch; exit\n"
    command = f"{PYTHON} -m cluster --nodes 2"
    shell = subprocess.run(
        ["script", "-qec", command, "/dev/null"], env=environment(), input=inside, capture_output=True, text=True
    )
    assert "idle" in shell.stdout, shell


def answers(cluster, host):
    """Whether slurmd can be connected to from the login host."""
    connect = f"import socket; socket.create_connection(('{host}', 6818), 1)"
    return cluster.run([PYTHON, "-c", connect], check=False).returncode == 0


def both(cluster):
    return [cluster.states()[name] for name in ("n1", "n2")]


def hold():
    """`make cluster` without a terminal: a program that holds a bed until it is told to end."""
    command = [PYTHON, "-m", "cluster", "--nodes", "1"]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def directory_of(holder):
    shared = next(line for line in holder.stdout if "/shared " in line).split()[0]
    return Path(shared).parent


def environment():
    return os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}


def namespaces(pids):
    """The namespaces in which these processes are, without those of the machine."""
    return {place for pid in pids for place in _places(pid)} - _places(os.getpid())


def left(places):
    """The processes that are in one of these namespaces, and the mounts and control groups of a bed."""
    inside = [pid for pid in psutil.pids() if _places(pid) & places]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "mainstay-cluster" in line]
    return [*inside, *mounts, *Path("/sys/fs/cgroup").rglob("*slurm*")]


def _places(pid):
    found = set()
    for kind in ("net", "mnt", "pid", "uts", "ipc"):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            pass  # it has ended
    return found
