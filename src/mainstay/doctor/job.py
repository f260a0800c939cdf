"""Slurm and the allocation, be it of PBS or LSF: what it is, how it is read, and how long it lasts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from mainstay import slurm
from mainstay.doctor.check import QUICK, Case, Check, State, amount, last_line, listed
from mainstay.launch import lsf, pbs
from mainstay.launch.hosted import Hosted
from mainstay.origin import present
from mainstay.slurm import Allocation

SOON = 600.0  # seconds that are little for a job
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def examine(case: Case) -> list[Check]:
    checks = [_slurm(case), reading(case.environ)]
    here = case.allocation
    return checks if here is None else [*checks, _time_left(case, here.job)]


def _slurm(case: Case) -> Check:
    if shutil.which("srun", path=case.environ.get("PATH")) is None:
        return without_srun(case.environ)
    version = case.ask(["srun", "--version"])
    if version.problem:
        found = f"{version.problem}: {last_line(version.errors)}".removesuffix(": ")
        return Check("Slurm", State.BAD if "SLURM_JOB_ID" in case.environ and not case.quick else State.NONE, found)
    ping = case.ask(["scontrol", "ping"])
    return controller(version.text.strip(), last_line(ping.text), ping.problem)


def without_srun(environ: Mapping[str, str]) -> Check:
    if "SLURM_JOB_ID" not in environ:
        return Check("Slurm", State.NONE, "no srun on PATH")
    advice = "Add Slurm's directory to PATH, or load its module: without srun, no other node can be reached"
    return Check("Slurm", State.BAD, f"in job {environ['SLURM_JOB_ID']}, but there is no srun on PATH", advice)


def controller(version: str, answer: str, problem: str) -> Check:
    """Judge what `scontrol ping` said."""
    if problem or "DOWN" in answer:
        advice = "Slurm starts nothing until its controller is back: wait, or ask the administrators"
        return Check("Slurm", State.BAD, f"{version}; {answer or problem}", advice)
    return Check("Slurm", State.GOOD, f"{version}, its controller answers")


def reading(environ: Mapping[str, str]) -> Check:
    """Tell how Mainstay reads the allocation."""
    try:
        here = slurm.allocation(present(environ))
    except ValueError as error:
        advice = "Something has changed Slurm's variables: look in the job's script and in your shell's start files"
        return Check("Allocation", State.BAD, str(error), advice)
    if here is None:
        other = next((system for system in (pbs.LAUNCHER, lsf.LAUNCHER) if system.job(environ)), None)
        missing = "not in a Slurm job (SLURM_JOB_ID is not set), nor in one of PBS or LSF"
        return Check("Allocation", State.NONE, missing) if other is None else of_another_system(other, environ)
    found = told(here)
    if len(here.nodes) > 1 and "SLURM_STEP_ID" not in environ and not here.has_tasks:
        advice = (
            f"Mainstay goes by CPUs then; mpiexec and srun go by tasks, and may start all on one node: "
            f"add -n {max(len(here.nodes), sum(here.workers))} or --ntasks-per-node to -N {len(here.nodes)}"
        )
        return Check("Allocation", State.ODD, f"{found}; no number of tasks was asked for", advice)
    return Check("Allocation", State.GOOD, found)


def of_another_system(system: Hosted, environ: Mapping[str, str]) -> Check:
    """Tell how Mainstay reads an allocation of PBS or LSF, and how it would reach the hosts."""
    name = system.name.upper()
    try:
        slots = system.slots(environ)
    except (OSError, ValueError) as error:
        advice = f"Start the program from the job's script, on a host of the job; {name} sets these variables there"
        return Check("Allocation", State.BAD, str(error), advice)
    each = ", ".join(map(str, list(slots.values())[:8])) + (", …" if len(slots) > 8 else "")
    found = (
        f"{name} job {system.job(environ)}: {amount(len(slots), 'node')} ({listed(list(slots))}); "
        f"{amount(sum(slots.values()), 'worker')} ({each}); not tried on a real system"
    )
    if len(slots) > 1 and shutil.which(system.shell, path=environ.get("PATH")) is None:
        advice = f"Without {system.shell} on PATH, mpiexec reaches the nodes as it is used to, mostly by ssh"
        return Check("Allocation", State.ODD, f"{found}; no {system.shell} on PATH", advice)
    return Check("Allocation", State.GOOD, found)


def told(here: Allocation) -> str:
    nodes = f"{amount(len(here.nodes), 'node')} ({listed([node.name for node in here.nodes])})"
    each = ", ".join(map(str, here.workers[:8])) + (", …" if len(here.workers) > 8 else "")
    cpus = amount(sum(node.cpus for node in here.nodes), "CPU")
    by = "tasks" if here.has_tasks else "CPUs"
    return f"job {here.job}: {nodes}, {cpus}; {amount(sum(here.workers), 'worker')} by {by} ({each})"


def _time_left(case: Case, job: str) -> Check:
    said = case.ask(["squeue", "--noheader", f"--jobs={job}", "--format=%L"])
    if said.problem:
        advice = "" if said.problem == QUICK else "Without squeue a pool cannot stop in time: have it on PATH"
        return Check("Time left", State.NONE, said.problem, advice)
    return time_left(said.text.strip())


def time_left(text: str) -> Check:
    """Judge what squeue tells of the time left."""
    if text == "UNLIMITED":
        return Check("Time left", State.GOOD, "no limit")
    seconds = seconds_of(text)
    if seconds is None:
        return Check("Time left", State.NONE, f"squeue said {text!r}")
    if seconds < SOON:
        advice = (
            "What is not done by then is lost, but for what a journal keeps: Executor(journal='calls.db'), "
            "and a longer --time for the next job"
        )
        return Check("Time left", State.ODD, f"{spoken(seconds)}, then Slurm ends the job", advice)
    return Check("Time left", State.GOOD, spoken(seconds))


def seconds_of(text: str) -> float | None:
    """Return the seconds of Slurm's `days-hours:minutes:seconds`, of which the first may be missing."""
    days, _, clock = text.rpartition("-")
    try:
        numbers = [int(word) for word in clock.split(":")]
        whole = int(days or 0)
    except ValueError:
        return None
    seconds = 0
    for number in numbers:
        seconds = seconds * 60 + number
    return float(whole * 86400 + seconds) if len(numbers) > 1 else None


def spoken(seconds: float) -> str:
    """Return a time in its two largest units: 1 h 59 min."""
    words: list[str] = []
    rest = int(seconds)
    for unit, length in UNITS:
        if rest >= length or words or unit == "s":
            words.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(word for word in words[:2] if not word.startswith("0 ") or len(words) == 1)
