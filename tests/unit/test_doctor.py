"""What the doctor makes of what it finds; the environments and outputs are as Slurm 22.05 and the MPIs wrote them."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import pytest

from mainstay.doctor import check, files, job, left, limits, mpi, nodes, probe, rounds, started, table
from mainstay.doctor.check import Case, Check, Said, State, amount, ask, listed
from mainstay.doctor.mpi import Offer, Program
from mainstay.errors import size
from mainstay.origin import Origin
from mainstay.slurm import allocation
from mainstay.world import place, told

MPICH = Program("MPICH", "5.0.2", "/venv/lib/libmpi.so.12")
OPENMPI = Program("Open MPI", "5.0.11", "/opt/lib/libmpi.so.40")
LISTING = """\
MPI plugin types are...
\tpmix
\tnone
\tcray_shasta
\tpmi2
specific pmix plugin versions available: pmix_v4
"""
CONFIG = "MinJobAge               = 3600 sec\nMpiDefault              = pmi2\nMpiParams               = (null)\n"
HYDRA = "HYDRA build details:\n    Version:                                 5.0.2\n    Release Date:  Fri Sep 25\n"


def environ(**more):
    """The environment of a job of three nodes."""
    told = {"JOB_ID": "7", "JOB_NODELIST": "n[1-3]", "JOB_CPUS_PER_NODE": "4,1(x2)"} | more
    return {name if name.startswith("PMI") else f"SLURM_{name}": value for name, value in told.items()}


BATCH = environ(TASKS_PER_NODE="4,1(x2)", NTASKS="6", PROCID="0", NODEID="0", LOCALID="0")
STEP = {"STEP_ID": "0", "STEP_NUM_TASKS": "3", "STEP_TASKS_PER_NODE": "1(x3)"}


def report(node, **more):
    return {
        "node": node,
        "host": f"n{node + 1}",
        "cores": 4,
        "python": "3.11.7 in /venv",
        "package": {"version": "1.0", "file": "/venv/mainstay"},
        "addresses": {"10.0.0.1": "", "127.0.0.1": "Connection refused"},
        "paths": {"the script": True},
        "lock": "held",
        "scratch": {"path": "/tmp", "free": 5e9, "kind": "xfs"},
        "left_scratch": [],
        "own_files": [],
        "processes": [],
    } | more


def reports(**third):
    return [report(0), report(1), report(2, **third)]


def says(check, state, *words):
    assert check.state is state, check
    for word in words:
        assert word in f"{check.found} -> {check.advice}"
    return True


# -- the allocation of another batch system


def test_an_allocation_of_pbs_or_lsf(tmp_path):
    (tmp_path / "hosts").write_text("n1\nn1\nn2\nn3\n")
    pbs = {"PBS_JOBID": "7.server", "PBS_NODEFILE": str(tmp_path / "hosts"), "PATH": str(tmp_path)}
    words = "PBS job 7.server: 3 nodes (n1, n2, n3); 4 workers (2, 1, 1); not tried on a real system"
    assert says(job.reading(pbs), State.ODD, words, "no pbs_tmrsh on PATH", "mostly by ssh")
    (tmp_path / "pbs_tmrsh").touch(0o755)
    assert says(job.reading(pbs), State.GOOD, words)
    assert says(job.reading({"PBS_JOBID": "7"}), State.BAD, "PBS_NODEFILE is not set", "from the job's script")
    lsf = {"LSB_JOBID": "9", "LSB_MCPU_HOSTS": "n1 4"}
    assert says(job.reading(lsf), State.GOOD, "LSF job 9: 1 node (n1); 4 workers (4)")


# -- the causes of most hangs and idle nodes


def test_nodes_without_a_number_of_tasks():
    check = job.reading(environ(JOB_CPUS_PER_NODE="1(x3)", TASKS_PER_NODE="1(x3)"))
    assert says(check, State.ODD, "3 nodes", "no number of tasks", "add -n 3")
    assert says(job.reading(BATCH), State.GOOD, "6 workers by tasks (4, 1, 1)")


def test_all_ranks_on_one_node():
    ranks = {"PMI_RANK": "0", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "3"}
    (check,) = started.ranks(allocation(BATCH), place(BATCH | ranks))
    assert says(check, State.BAD, "all 3 on one node of 3", "2 nodes idle", "mpiexec -n 6")
    (check,) = started.ranks(allocation(BATCH), place(BATCH | ranks | {"MPI_LOCALNRANKS": "1"}))
    assert says(check, State.GOOD, "1 of 3 on this node")


def test_an_srun_inside_of_an_srun():
    seen = {"7.0": "bash", "7.1": "mainstay", "7.2": "mainstay", "7.3": "mainstay", "7.batch": "batch"}
    assert says(started.steps(seen, Origin("7.2")), State.BAD, "3 steps", "7.1, 7.2, 7.3", "Call srun or mpiexec once")
    assert says(started.steps(seen, Origin("7.batch")), State.GOOD, "running")
    pools = {"7.1": "mainstay", "7.2": "mainstay-pool", "7.3": "mainstay-pool", "7.4": "mainstay-doctor"}
    assert says(started.steps(pools, Origin("7.1")), State.GOOD)


def test_every_rank_started_a_doctor():
    here = place(BATCH | environ(**STEP))
    assert says(started.start(BATCH, here, Origin("7.0")), State.ODD, "rank 0 of 3", "only rank 0 speaks", "3 times")


def test_a_batch_script_that_takes_itself_for_a_world():
    inherited = BATCH | environ(**STEP, PMI_RANK="0", PMI_SIZE="3")
    check = started.misread(inherited, told(inherited, os.getpid()), Origin("7.batch"))
    assert says(check, State.BAD, "the batch script", "rank 0 of 3", "PMI_RANK", "unset")


def test_a_batch_script_of_six_tasks_is_no_world():
    assert place(BATCH) is None
    check = started.start(BATCH, None, Origin("7.batch"))
    assert says(check, State.GOOD, "batch script", "no world", "SLURM_NTASKS=6")


def test_spawn_asserts():
    (check,) = mpi.spawn(MPICH, allocation(BATCH))
    assert says(check, State.ODD, "MPI_Comm_spawn", "assertion", "MPIPoolExecutor")
    assert mpi.spawn(OPENMPI, allocation(BATCH)) == []
    assert mpi.spawn(MPICH, allocation(environ(JOB_NODELIST="n1", JOB_CPUS_PER_NODE="4"))) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("9:59", 599), ("0:00", 0), ("1:00:00", 3600), ("2-03:04:05", 183845), ("INVALID", None), ("", None), ("7", None)],
)
def test_the_time_that_squeue_tells(text, seconds):
    assert job.seconds_of(text) == seconds


def test_little_time_is_left():
    assert says(job.time_left("9:59"), State.ODD, "9 min 59 s", "journal")
    assert says(job.time_left("1-00:05:00"), State.GOOD, "1 d")
    assert says(job.time_left("UNLIMITED"), State.GOOD, "no limit")
    assert says(job.time_left("INVALID"), State.NONE, "INVALID")


def test_scratch_that_nobody_brought_back():
    (processes, scratch, own) = left.examine(
        reports(
            left_scratch=["/tmp/mainstay-0-n3-17-ab"],
            own_files=["/tmp/result"],
            processes=[{"pid": 41, "what": "agent", "alive": False}, {"pid": 42, "what": "agent", "alive": True}],
        ),
        True,
    )
    assert says(scratch, State.ODD, "n3:/tmp/mainstay-0-n3-17-ab", "not brought back")
    assert says(own, State.ODD, "n3:/tmp/result", "shared directory")
    assert says(processes, State.ODD, "1 process of", "agent 41 on n3", "kill")
    assert all(check.state is State.GOOD for check in left.examine(reports(), True))


def test_scratch_without_room_or_on_the_network_or_not_there():
    full = {"path": "/tmp", "free": 1e6, "kind": "xfs"}
    assert says(left.scratch(reports(scratch=full)), State.ODD, "1 MB free", "Little room")
    shared = {"path": "/lustre/tmp", "free": 1e12, "kind": "lustre"}
    assert says(left.scratch([report(0, scratch=shared)]), State.ODD, "on the network")
    missing = report(0, scratch=None, errors=["scratch: FileNotFoundError: /no"])
    assert says(left.scratch([missing]), State.BAD, "FileNotFoundError", "TMPDIR")


def test_an_mpiexec_in_a_terminal_step_would_hang():
    step = environ(STEP_ID="0", STEP_NUM_TASKS="1")
    (check,) = started.stuck(step, Origin("7.0"))
    assert says(check, State.ODD, "may hang", "SLURM_OVERLAP=1")
    (check,) = started.stuck(step | {"SLURM_OVERLAP": "1"}, Origin("7.0"))
    assert check.state is State.GOOD
    assert started.stuck(step, Origin("7.0", "mpiexec")) == []
    assert started.stuck(BATCH, Origin("7.batch")) == []


# -- Slurm


def test_variables_that_slurm_did_not_write():
    assert says(job.reading(environ(JOB_CPUS_PER_NODE="many")), State.BAD, "SLURM_JOB_CPUS_PER_NODE='many'")
    assert says(job.reading({}), State.NONE, "not in a Slurm job")


def test_slurm_is_not_there_or_its_controller_is_down():
    assert job.without_srun({}).state is State.NONE
    assert says(job.without_srun(BATCH), State.BAD, "in job 7", "PATH")
    assert job.controller("slurm 22.05.8", "Slurmctld(primary) at login is UP", "").state is State.GOOD
    assert says(job.controller("slurm 22.05.8", "Slurmctld(primary) at login is DOWN", ""), State.BAD, "DOWN")


# -- MPI


def binding(**told):
    return mpi.binding(Said(f"a warning\n{json.dumps(told)}\n", "", ""))


def test_the_library_that_mpi4py_loads():
    library, check = binding(mpi4py="4.1.2", library="MPICH Version:      5.0.2\nMPICH ABI: 18", file=MPICH.path)
    assert library == MPICH
    assert says(check, State.GOOD, "4.1.2 loads MPICH 5.0.2")
    library, check = binding(mpi4py="4.1.2", error="RuntimeError: cannot load MPI library")
    assert library is None
    assert says(check, State.BAD, "cannot load", "mainstay[mpich]")
    assert binding(error="ModuleNotFoundError: No module named 'mpi4py'")[1].state is State.NONE
    assert says(mpi.binding(Said("", "Abort(1)\n", "it hangs"))[1], State.BAD, "Abort(1)")


@pytest.mark.parametrize(
    ("text", "kind", "version"),
    [
        (HYDRA, "MPICH", "5.0.2"),
        ("mpiexec (Open MPI) 5.0.11\n", "Open MPI", "5.0.11"),
        ("Open MPI v5.0.11, package: Open MPI user@localhost", "Open MPI", "5.0.11"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307", "Intel MPI", "2021.9"),
        ("MPI VERSION    : CRAY MPICH version 8.1.27.26 (ANL base 3.4a2)", "Cray MPICH", "8.1.27.26"),
        ("prterun (PRRTE) 3.0.2", "PRRTE", "3.0.2"),
        ("what?", "", ""),
    ],
)
def test_what_libraries_and_launchers_say_of_themselves(text, kind, version):
    assert mpi.recognized(text, "/x") == Program(kind, version, "/x")


def test_the_launcher_is_held_against_the_library():
    hydra, prrte = MPICH._replace(path="/venv/bin/mpiexec"), OPENMPI._replace(path="/usr/bin/mpiexec")
    assert mpi.launcher(MPICH, hydra, hydra).state is State.GOOD
    assert says(mpi.launcher(MPICH, prrte, prrte), State.BAD, "but mpi4py loads MPICH", "world of its own")
    assert says(mpi.launcher(MPICH, hydra, prrte), State.ODD, "typed it is Open MPI", "/venv/bin/mpiexec")
    assert says(mpi.launcher(MPICH, hydra._replace(version="4.3.0"), None), State.ODD, "Mixed versions")
    assert mpi.launcher(MPICH, None, None).state is State.ODD
    assert mpi.launcher(None, None, None).state is State.NONE


def test_what_srun_offers():
    offer = mpi.offered(LISTING, CONFIG)
    assert offer == Offer(("pmix", "none", "cray_shasta", "pmi2"), "pmi2")
    assert mpi.offered("srun: MPI types are...\nsrun: none\nsrun: pmi2\n", "").kinds == ("none", "pmi2")
    assert mpi.offered(LISTING, "", "pmix").default == "pmix"
    assert mpi.pmi(MPICH, offer).state is State.GOOD
    assert says(mpi.pmi(OPENMPI, offer), State.ODD, "unasked pmi2", "srun --mpi=pmix")
    assert says(mpi.pmi(OPENMPI, Offer(("none", "pmi2"), "pmi2")), State.ODD, "by mpiexec")
    assert mpi.pmi(None, offer).state is State.NONE


def test_worlds_of_one():
    offer = Offer(("pmi2", "pmix"), "pmi2")
    one = mpi.world(OPENMPI, offer, Said("size 1 n1\nsize 1 n2\n", "", ""))
    assert says(one, State.BAD, "two worlds of one", "srun --mpi=pmix")
    assert says(mpi.world(MPICH, offer, Said("size 2 n2\nsize 2 n1\n", "", "")), State.GOOD, "n1, n2")
    late = mpi.world(MPICH, offer, Said("", "srun: error: no\n", "srun gave no answer in 20 s"))
    assert says(late, State.BAD, "no answer in 20 s", "srun: error: no")


# -- the nodes


def tour(found, problem="", clocks=None, said=("n1", "n2", "n3")):
    return nodes.Tour(found, list(said), 0.4, problem, clocks or {})


def test_nodes_that_do_not_answer():
    here = allocation(BATCH)
    assert says(nodes.reached(here, tour(reports())), State.GOOD, "3 of 3 reached")
    absent = nodes.reached(here, tour(reports()[:2], "srun gave no answer in 60 s", said=("n1.site", "n2.site")))
    assert says(absent, State.BAD, "2 of 3", "not n3", "no answer in 60 s", "sinfo -R -n n3")
    no_python = nodes.reached(here, tour(reports()[:1], "sh: not found"))
    assert says(no_python, State.BAD, "no Python runs", "sh: not found", sys.executable)
    assert nodes.judge(Case(BATCH), here, tour([]))[0].state is State.BAD


def test_nodes_with_other_software():
    assert says(nodes.same_software(reports()), State.GOOD, "the same on all")
    assert says(nodes.same_software(reports(python="3.9.2 in /usr")), State.BAD, "n3: Python 3.9.2")
    missing = {"error": "ModuleNotFoundError: No module named 'mainstay'"}
    assert says(nodes.same_software(reports(package=missing)), State.BAD, "on n3", "No module")


def test_a_node_that_does_not_reach_the_client():
    assert says(nodes.addresses(reports()), State.GOOD, "10.0.0.1")
    shut = {"10.0.0.1": "timed out", "127.0.0.1": "Connection refused"}
    assert says(nodes.addresses(reports(addresses=shut)), State.BAD, "n3 cannot reach", "10.0.0.1: timed out")
    assert says(nodes.addresses(reports(addresses={"10.1.0.1": ""})), State.GOOD, "different addresses")
    assert nodes.addresses(reports(addresses=None)).state is State.BAD


def test_clocks_that_are_apart():
    assert nodes.clocks(tour(reports(), clocks={0: 0.0, 2: -0.2})).state is State.GOOD
    assert says(nodes.clocks(tour(reports(), clocks={0: 0.0, 2: -90.5})), State.ODD, "n3 is 90.5 s behind")
    assert nodes.clocks(tour(reports())).state is State.NONE


def test_more_workers_than_cores():
    assert nodes.cores(allocation(BATCH), reports()).state is State.GOOD
    assert says(nodes.cores(allocation(BATCH), [report(0, cores=1)]), State.ODD, "n1 (4 on 1 core)")


def test_what_the_nodes_do_not_see():
    assert nodes.in_view(["the script"], reports()).state is State.GOOD
    assert says(nodes.in_view(["the script"], reports(paths={"the script": False})), State.ODD, "the script: not on n3")


def test_a_lock_that_keeps_nobody_out():
    assert nodes.lock_reaches(reports()).state is State.GOOD
    assert says(nodes.lock_reaches(reports(lock="free")), State.BAD, "n3", "flock")
    assert says(nodes.lock_reaches(reports(lock="missing")), State.ODD, "not seen on n3")
    assert nodes.lock_reaches([report(0, lock="")]).state is State.NONE


def test_reports_come_in_pieces_that_are_mixed():
    text = json.dumps(report(0)), json.dumps(report(1))
    lines = [
        f"{probe.MARK} {node} {place} 2 {whole[at : at + 300]}"
        for place, at in ((0, 0), (1, 300))
        for node, whole in enumerate(text)
    ]
    assert probe.assembled("\n".join(["noise", *lines])) == [report(0), report(1)]
    assert probe.assembled("\n".join(lines[:-1])) == [report(0)]


# -- files and limits

LUSTRE = (
    "745 27 0:52 / /lustre/my\\040project rw,nosuid shared:399 master:1 - lustre 10.0.0.9@o2ib:/fs rw,flock,lazystatfs"
)


def test_a_line_of_mounts():
    point, kind, options = probe.mount(LUSTRE)
    assert (point, kind) == ("/lustre/my project", "lustre")
    assert "flock" in options


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "fuse.sshfs", "ceph", "fuse.glusterfs"])
def test_file_systems_of_other_hosts(kind):
    assert probe.is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "fuse.squashfuse", ""])
def test_file_systems_of_this_host(kind):
    assert not probe.is_network(kind)


def place_on(kind, free=1e12):
    return files.Place("/x", kind, "/", int(free))


def test_where_things_are_stored():
    assert says(files.stored("Environment", place_on("lustre")), State.GOOD, "lustre on / (shared)")
    assert says(files.stored("TMPDIR", place_on("nfs"), is_temporary=True), State.ODD, "slow")
    assert says(files.stored("TMPDIR", place_on("ext4", 1e6), is_temporary=True), State.BAD, "full")
    assert says(files.stored("HOME", place_on("tmpfs")), State.GOOD, "memory")


def test_where_a_journal_is():
    assert files.journal_at(place_on("lustre"), "").state is State.GOOD
    assert says(files.journal_at(place_on("tmpfs"), ""), State.ODD, "directory that lasts")
    assert says(files.journal_at(place_on("nfs"), "no locks"), State.ODD, "no locks", "take care")
    assert says(files.journal_at(place_on("nfs"), "no file can be made there: x"), State.BAD, "make room")
    assert files.journal_at(place_on("nfs", 1e6), "").state is State.BAD
    assert says(files.journal_at(place_on("nfs", 5e8), "", "in use by process 7"), State.ODD, "process 7", "Little")


def test_a_journal_that_was_left_by_a_killed_process(tmp_path):
    path = tmp_path / "calls.db"
    (tmp_path / "calls.db.lock").write_text(json.dumps({"host": "n1", "pid": 7, "since": 0}))
    (check,) = [check for check in files.examine(Case({}, journal=str(path))) if check.name == "Journal"]
    assert "left by process 7 on host n1" in check.found  # its state tells how much room this machine's disk has
    (check,) = [check for check in files.examine(Case({}, journal="/no/where.db")) if check.name == "Journal"]
    assert says(check, State.BAD, "/no", "mkdir")


def test_what_lies_on_a_nodes_disk_and_is_neither_an_environment_nor_a_launchers(tmp_path):
    for name in (probe.STAGED, f"mainstay-{os.getuid()}-n1-7-ab", "ompi.9", "prte.n1", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "out.csv").touch()
    assert probe._entries(str(tmp_path)) == [str(tmp_path / "out.csv"), str(tmp_path / "results")]


def test_limits():
    plenty = {"files": 4096, "processes": -1, "locked": 65536}
    assert says(limits.judge(plenty, 100, 10, has_fabric=False), State.GOOD, "4096", "unlimited", "65.5 kB")
    assert says(limits.judge(plenty, 100, 10, has_fabric=True), State.ODD, "ulimit -l of unlimited")
    assert says(limits.judge(plenty, 5000, 50, has_fabric=False), State.ODD, "5000 workers", "ulimit -n of 5256")
    assert limits.memory(None).state is limits.memory(1 << 20).state is State.ODD
    assert limits.memory(1 << 30).state is State.GOOD


# -- the rounds and the table


def fails(case):
    raise RuntimeError("no such thing")


def test_a_check_that_fails_or_hangs_is_a_finding():
    over = threading.Event()

    def hangs(case):
        over.wait(60)
        return []

    subjects = (rounds.Subject("Good", 60, lambda case: [Check("Good", State.GOOD, "")]),)
    subjects += (rounds.Subject("Bad", 60, fails), rounds.Subject("Late", 0.05, hangs))
    good, bad, late = rounds.rounds(Case({}), subjects)
    over.set()
    assert good.state is State.GOOD
    assert says(bad, State.BAD, "RuntimeError: no such thing")
    assert says(late, State.BAD, "no answer in 0.05 s")


def test_commands_never_raise_and_never_hang(monkeypatch):
    monkeypatch.setattr(check, "MERCY", 0.1)
    assert ask(["true"], 5, os.environ) == Said("", "", "")
    assert ask(["no-such-program"], 5, os.environ).problem == "no no-such-program on PATH"
    assert ask(["sh", "-c", "echo x; echo y >&2; exit 3"], 5, os.environ) == Said(
        "x\n", "y\n", "sh ended with exit code 3"
    )
    begun = time.monotonic()
    said = ask(["sh", "-c", "echo first; sleep 60 & sleep 60"], 0.3, os.environ)
    assert (said.text, said.problem) == ("first\n", "sh gave no answer in 0.3 s")
    assert time.monotonic() - begun < 10


def test_the_table_fits_and_tells_the_advice():
    long = "word " * 60
    text = list(
        table.lines([Check("One", State.ODD, long, long), Check("Two", State.GOOD, "x\ny"), Check("", State.NONE, "")])
    )
    assert all(len(line) <= table.WIDTH for line in text)
    assert text[0].startswith("One             odd  word word")
    assert sum(line.strip().startswith("-> word") for line in text) == 1
    assert any(line.startswith("Two             good x y") for line in text)
    assert text[-1] == "1 good, 1 odd, 0 bad, 1 cannot be told here"
    assert "\033[33m" in next(table.lines([Check("One", State.ODD, "")], colour=True))


def test_json_has_the_same():
    told = json.loads(table.as_json([Check("One", State.BAD, "x", "do y")]))
    assert told == [{"name": "One", "state": "bad", "found": "x", "advice": "do y"}]


def test_words():
    assert (amount(1, "node"), amount(2, "process")) == ("1 node", "2 processes")
    assert listed(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"
    assert (size(999), size(999.7), size(1e6), size(2.5e12)) == ("999 B", "1 kB", "1 MB", "2.5 TB")
