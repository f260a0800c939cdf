"""How this program was started: alone, as a batch script, as ranks of a world, or in a step inside of a step.

What the environment says is held against the processes above this one: they were there when it was made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mainstay import world
from mainstay.doctor.check import QUICK, Case, Check, State, amount, listed
from mainstay.origin import Origin, origin
from mainstay.slurm import Allocation
from mainstay.world import Place

OWN_STEPS = ("mainstay-pool", "mainstay-doctor")  # how pools, and the doctor, name their steps
INHERITED = ("SLURM_STEP", "PMI", "OMPI_COMM_WORLD")
LOOKS = 2  # at the steps: those of others may begin a little later
PAUSE = 0.7  # seconds between them


def examine(case: Case) -> list[Check]:
    above, here = origin(os.getpid()), case.allocation
    place, told = world.place(case.environ, above=above), world.told(case.environ, os.getpid())
    if place is None and told is not None:
        first = misread(case.environ, told, above)
    else:
        first = start(case.environ, place, above)
    checks = [first]
    if here is not None:
        checks += [*ranks(here, place), *_steps(case, here.job, above), *stuck(case.environ, above)]
    return checks


# -- alone, or a rank


def misread(environ: Mapping[str, str], place: Place, above: Origin) -> Check:
    """Tell of a world that is not there."""
    names = sorted((name for name in environ if name.startswith(INHERITED)), key=lambda name: "RANK" not in name)
    found = (
        f"{_where(above)}, but its environment tells of rank {place.rank} of {place.size}: "
        f"{listed(names, 2)}, inherited from where the job was submitted"
    )
    advice = (
        "MPI programs wait for ranks that do not exist; Mainstay does not. Put this first into the script: "
        'unset "${!SLURM_STEP@}" "${!PMI@}" "${!OMPI_COMM_WORLD@}"; or submit with sbatch --export=NONE'
    )
    return Check("Started as", State.BAD, found, advice)


def start(environ: Mapping[str, str], place: Place | None, above: Origin) -> Check:
    """Tell how this program was started."""
    if place is not None:
        return _rank(place, above)
    tasks = environ.get("SLURM_NTASKS", "1")
    if above.is_batch and tasks != "1":
        found = f"the batch script: one process, no world (SLURM_NTASKS={tasks} is what the job may start)"
        return Check("Started as", State.GOOD, found)
    return Check("Started as", State.GOOD, _where(above) if above.step or above.manager else _alone(environ))


def _where(above: Origin) -> str:
    if above.is_batch:
        return "the batch script: one process"
    step = f"in step {above.step}" if above.step else "outside of any step"
    return f"one process, by {above.manager}, {step}" if above.manager else f"one process {step}"


def _alone(environ: Mapping[str, str]) -> str:
    return "a process outside of any step" if "SLURM_JOB_ID" in environ else "a single process"


def _rank(place: Place, above: Origin) -> Check:
    by = above.manager or (f"srun, step {above.step}" if above.step else "an MPI launcher")
    found = f"rank {place.rank} of {place.size} (by {by}): {place.size} doctors were started, only rank 0 speaks"
    advice = (
        f"A plain script would run {place.size} times: start it once, without {by.split(',')[0]}, "
        "or by `mainstay run`, which runs it on rank 0"
    )
    return Check("Started as", State.ODD, found, advice)


def ranks(here: Allocation, place: Place | None) -> list[Check]:
    """Tell where the ranks are, as far as this one knows."""
    if place is None:
        return []
    count, nodes = place.size, len(here.nodes)
    if nodes > 1 and place.is_on_one_host:
        found = f"all {count} on one node of {nodes}: {amount(nodes - 1, 'node')} idle"
        total = max(nodes, sum(here.workers))
        advice = (
            f"Ask for tasks, sbatch -N {nodes} -n {total}, and start as many: srun -n {total}, or mpiexec -n {total}; "
            f"or one on each node: mpiexec -ppn 1 -n {nodes}"
        )
        return [Check("Ranks", State.BAD, found, advice)]
    return [Check("Ranks", State.GOOD, f"{place.local_size} of {count} on this node")]


# -- steps


def _steps(case: Case, job: str, above: Origin) -> list[Check]:
    """Look at the steps of the job, more than once, since those of other ranks may begin a little later."""
    seen: dict[str, str] = {}
    for look in range(LOOKS):
        time.sleep(PAUSE if look and above.step else 0)
        said = case.ask(["squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i|%j"])
        if said.problem:
            return [] if said.problem == QUICK else [Check("Steps", State.NONE, said.problem)]
        seen |= dict(line.strip().split("|", 1) for line in said.text.splitlines() if "|" in line)
    return [steps(seen, above)]


def steps(seen: Mapping[str, str], above: Origin) -> Check:
    """Judge the steps that run, given as id: name; this process is in one of them, or in none."""
    named = {step: name for step, name in seen.items() if _counts(step, name)}
    own = named.get(above.step)
    twins = sorted(step for step, name in named.items() if name == own)
    if len(twins) > 1:
        found = f"{len(twins)} steps run the same, {own!r}, at once: {listed(twins)}; is it an srun inside of an srun?"
        advice = (
            f"Everything is done {len(twins)} times. Call srun or mpiexec once: "
            "in a script that srun starts, run the program itself"
        )
        return Check("Steps", State.BAD, found, advice)
    return Check("Steps", State.GOOD, f"{listed(sorted(named))} running" if named else "none running")


def _counts(step: str, name: str) -> bool:
    return step.rpartition(".")[2].isdigit() and name not in OWN_STEPS


def stuck(environ: Mapping[str, str], above: Origin) -> list[Check]:
    """Tell whether an mpiexec that is started here would wait for the CPUs of the step that it is in."""
    if not above.is_step or above.manager or environ.get("SLURM_STEP_NUM_TASKS") != "1":
        return []
    if "SLURM_OVERLAP" in environ:
        return [Check("mpiexec here", State.GOOD, "its steps overlap with this one (SLURM_OVERLAP)")]
    found = f"it may hang: step {above.step} holds its CPUs, and mpiexec starts by an srun that waits for them"
    return [Check("mpiexec here", State.ODD, found, "Type export SLURM_OVERLAP=1 before mpiexec")]
