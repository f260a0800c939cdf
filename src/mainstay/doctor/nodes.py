"""The nodes: a process is started on each, as a pool would start its agents, and tells what it finds there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mainstay
from mainstay.doctor import left, probe
from mainstay.doctor.check import QUICK, Case, Check, Said, State, amount, last_line, listed
from mainstay.doctor.doorbell import Doorbell
from mainstay.launch.srun import srun_argv, version_of
from mainstay.slurm import Allocation

START = 60.0  # seconds until all nodes must have told
APART = 1.0  # seconds by which clocks may differ
GREETING = "mainstay-doctor-at:"
# Says that the node is reached, even where there is no Python.
SHELL = ("/bin/sh", "-c", f'echo "{GREETING} ${{SLURMD_NODENAME:-$(uname -n)}}"; exec "$@"', "sh")
HERE = "the working directory"
Report = dict[str, Any]


class Tour(NamedTuple):
    """What came back from the nodes.

    reached: their host names; clocks: seconds that a node is ahead, by its number.
    """

    reports: list[Report]
    reached: list[str]
    seconds: float
    problem: str
    clocks: Mapping[int, float]


def examine(case: Case) -> list[Check]:
    if case.quick:
        return [Check("Nodes", State.NONE, QUICK)]
    here = case.allocation
    if here is not None and shutil.which("srun", path=case.environ.get("PATH")) is None:
        return [Check("Nodes", State.BAD, "they cannot be reached without srun")]
    tour = travel(case, here)
    return judge(case, here, tour)


def judge(case: Case, here: Allocation | None, tour: Tour) -> list[Check]:
    """Judge what came back; a pure function."""
    checks = [reached(here, tour)]
    if not tour.reports:
        return checks
    seen = [*kept_in_view(case, tour.reports)] if here is not None else []
    return [
        *checks,
        same_software(tour.reports),
        addresses(tour.reports),
        clocks(tour),
        cores(here, tour.reports),
        *seen,
        *left.examine(tour.reports, here is not None),
    ]


# -- the tour


def travel(case: Case, here: Allocation | None) -> Tour:
    """Start a probe on each node of the allocation, or on this host."""
    bell = Doorbell()
    try:
        with _held(os.getcwd()) as mark, _held_beside(case.journal, mark) as lock:
            asked = _asked(case, bell, mark, lock)
            begun = time.monotonic()
            said = case.ask(_argv(here), START, MAINSTAY_DOCTOR=json.dumps(asked))
            seconds = time.monotonic() - begun
    finally:
        bell.close()
    greeted = [line.removeprefix(GREETING).strip() for line in said.text.splitlines() if line.startswith(GREETING)]
    return Tour(probe.assembled(said.text), greeted, seconds, _problem(said), bell.clocks)


def _argv(here: Allocation | None) -> list[str]:
    command = [*SHELL, sys.executable, "-c", Path(probe.__file__).read_text()]
    program = shutil.which("srun")
    if here is None or program is None:
        return command
    argv = srun_argv(program, here, version_of(program), command)
    return [word.replace("--job-name=mainstay-pool", "--job-name=mainstay-doctor") for word in argv]


def _asked(case: Case, bell: Doorbell, mark: str, lock: str) -> dict[str, Any]:
    places = _places(case)
    if mark:  # the directory may be there, and be another
        places[HERE] = mark
    return {
        "token": bell.token,
        "addresses": bell.addresses,
        "source": str(Path(mainstay.__file__).parents[1]),
        "paths": places,
        "lock": lock,
        "in_job": case.allocation is not None,
    }


def _places(case: Case) -> dict[str, str]:
    """Return what every node should see, by what it is called."""
    places = {HERE: os.getcwd(), "the environment": sys.prefix}
    if case.script is not None:
        places["the script"] = os.path.abspath(case.script)
    if case.journal is not None:
        places["the journal's directory"] = os.path.dirname(os.path.realpath(case.journal))
    return places


@contextmanager
def _held(directory: str) -> Iterator[str]:
    """Hold a lock on a file that is made in a directory; yield its path, empty where that cannot be."""
    path = os.path.join(directory, f".mainstay-doctor-{socket.gethostname()}-{os.getpid()}")
    try:
        file = open(path, "xb")  # noqa: SIM115
    except OSError:
        yield ""
        return
    try:
        _lock(file.fileno())
        yield path
    finally:
        os.unlink(path)
        file.close()


@contextmanager
def _held_beside(journal: str | None, mark: str) -> Iterator[str]:
    """Hold a lock in a journal's directory, which may be the one where `mark` is held already."""
    directory = os.path.dirname(os.path.realpath(journal)) if journal is not None else ""
    if not directory or directory == os.path.dirname(os.path.realpath(mark)):
        yield mark if directory else ""
        return
    with _held(directory) as path:
        yield path


def _lock(fd: int) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # the nodes will find it free


def _problem(said: Said) -> str:
    return f"{said.problem}: {last_line(said.errors)}".removesuffix(": ") if said.problem else ""


# -- judging


def reached(here: Allocation | None, tour: Tour) -> Check:
    """Judge whether a process came up on every node."""
    names = [str(report["host"]) for report in tour.reports]
    wanted = 1 if here is None else len(here.nodes)
    took = f"in {tour.seconds:.1f} s"
    if len(names) == wanted:
        where = "this host only, " if here is None else f"{len(names)} of {wanted} reached, "
        return Check("Nodes", State.GOOD, f"{where}{listed(names)}, {took}")
    absent = [] if here is None else [node.name for node in here.nodes if not _is_among(node.name, tour.reached)]
    found = f"{len(names)} of {wanted} answered {took}"
    if absent:
        advice = f"Look at {listed(absent)}: sinfo -R -n {','.join(absent)}; leave them out with sbatch --exclude"
        return Check("Nodes", State.BAD, f"{found}; not {listed(absent)}. {tour.problem}", advice)
    advice = f"{sys.executable} must be there on each node: put the environment into a directory that all see"
    return Check("Nodes", State.BAD, f"{found}: the others were reached, but no Python runs. {tour.problem}", advice)


def _is_among(name: str, hosts: Sequence[str]) -> bool:
    return any(host.split(".")[0] == name.split(".")[0] for host in hosts)


def same_software(reports: Sequence[Report]) -> Check:
    """Judge whether all nodes have this Python and this Mainstay."""
    failed = {report["host"]: package["error"] for report in reports if "error" in (package := report["package"] or {})}
    if failed:
        found = f"it cannot be imported on {listed(list(failed))}: {next(iter(failed.values()))}"
        return Check("Their Mainstay", State.BAD, found, "Install it where every node sees it, and not in /tmp")
    told = [f"Python {report['python']}, Mainstay {(report['package'] or {}).get('version')}" for report in reports]
    if len(set(told)) > 1:
        found = "; ".join(f"{listed(_hosts(reports, told, kind))}: {kind}" for kind in Counter(told))
        return Check("Their Mainstay", State.BAD, found, "Use one environment for all nodes")
    return Check("Their Mainstay", State.GOOD, f"{told[0]}" + (", the same on all" if len(reports) > 1 else ""))


def _hosts(reports: Sequence[Report], told: Sequence[str], kind: str) -> list[str]:
    return [report["host"] for report, one in zip(reports, told, strict=True) if one == kind]


def addresses(reports: Sequence[Report]) -> Check:
    """Judge whether each node reaches this host, and tell by which of its addresses."""
    cut_off = [report for report in reports if not _ways(report)]
    if cut_off:
        why = "; ".join(f"{ip}: {reason}" for ip, reason in (cut_off[0]["addresses"] or {}).items())
        found = f"{listed([report['host'] for report in cut_off])} cannot reach this host: {why or 'it has no address'}"
        advice = (
            "Workers there could not come: run the program on a node of the job, or have TCP between nodes let through"
        )
        return Check("Client reached", State.BAD, found, advice)
    common = [ip for ip in _ways(reports[0]) if all(ip in _ways(report) for report in reports)]
    by = f"at {listed(common, 2)}" if common else "at different addresses"
    return Check("Client reached", State.GOOD, f"{by}, from {listed([report['host'] for report in reports])}")


def _ways(report: Report) -> list[str]:
    """Return the addresses that answered; the loopback only where there is no other."""
    working = [ip for ip, reason in (report["addresses"] or {}).items() if not reason]
    return [ip for ip in working if not ip.startswith("127.")] or working


def clocks(tour: Tour) -> Check:
    """Judge how far the clocks are apart."""
    if not tour.clocks:
        return Check("Clocks", State.NONE, "no node called back")
    names = {report["node"]: report["host"] for report in tour.reports}
    node, ahead = max(tour.clocks.items(), key=lambda item: abs(item[1]))
    if abs(ahead) > APART:
        found = f"{names.get(node, node)} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host"
        advice = "Times in journals and of files will not fit together: tell the administrators"
        return Check("Clocks", State.ODD, found, advice)
    return Check("Clocks", State.GOOD, f"within {max(abs(ahead), 0.001):.3f} s of this host's")


def cores(here: Allocation | None, reports: Sequence[Report]) -> Check:
    """Judge whether any node gets more workers than cores."""
    have = [int(report["cores"] or 1) for report in reports]
    if here is None:
        return Check("Cores", State.GOOD, f"{have[0]}, and as many workers unless you say otherwise")
    wanted = [here.workers[report["node"]] for report in reports]
    crowded = [
        f"{report['host']} ({workers} on {amount(count, 'core')})"
        for report, workers, count in zip(reports, wanted, have, strict=True)
        if workers > count
    ]
    if crowded:
        advice = "Workers would take turns: ask for fewer tasks, or give Executor(max_workers=…)"
        return Check("Cores", State.ODD, f"more workers than cores on {listed(crowded)}", advice)
    return Check("Cores", State.GOOD, f"{amount(sum(wanted), 'worker')} on {amount(sum(have), 'core')}")


def kept_in_view(case: Case, reports: Sequence[Report]) -> list[Check]:
    """Judge whether all nodes see what they need, and whether a journal's lock reaches them."""
    checks = [in_view(list(_places(case)), reports)]
    if case.journal is not None:
        checks.append(lock_reaches(reports))
    return checks


def in_view(names: Sequence[str], reports: Sequence[Report]) -> Check:
    missing = {name: [r["host"] for r in reports if not (r["paths"] or {}).get(name)] for name in names}
    bad = [f"{name}: not on {listed(hosts)}" for name, hosts in missing.items() if hosts]
    if bad:
        advice = "Put them into a directory that all nodes share: there, tasks that name them would fail"
        return Check("Seen by nodes", State.ODD, "; ".join(bad), advice)
    return Check("Seen by nodes", State.GOOD, ", ".join(names))


def lock_reaches(reports: Sequence[Report]) -> Check:
    """Judge what the nodes said of the lock that was held on a file beside the journal."""
    said = {str(report["host"]): str(report["lock"]) for report in reports}
    if all(word == "held" for word in said.values()):
        return Check("Journal's lock", State.GOOD, "keeps all nodes out while one writes")
    if not any(said.values()):
        return Check("Journal's lock", State.NONE, "no file can be made beside the journal")
    free = [host for host, word in said.items() if word not in ("held", "missing", "")]
    if free:
        found = f"it does not keep {listed(free)} out ({said[free[0]]}): two programs could write at once"
        advice = (
            "Never run two programs with one journal; or put it on a file system with locks (Lustre: mount -o flock)"
        )
        return Check("Journal's lock", State.BAD, found, advice)
    absent = [host for host, word in said.items() if word != "held"]
    found = f"its directory is this node's own: not seen on {listed(absent)}"
    advice = "A later job on other nodes would not find the journal: put it into a shared directory"
    return Check("Journal's lock", State.ODD, found, advice)
