"""`srun`: one step with one agent per node of the Slurm allocation; each agent forks its node's workers.

The step overlaps with whatever runs already: the batch script, the step of `srun --pty bash`, a world of ranks. It is
told everything on its command line, since what it inherits from a step (`SLURM_NTASKS`, …) it would take for options.
Of MPI ranks, which are steps too, `ranks` tells.

Slurm ends a step as it starts when one of its nodes does not answer, and starts none on nodes that the job has lost.
So a step that fails is started again without those.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mainstay.launch import Invitation, ranks, spread
from mainstay.launch.process import RANK_VARIABLES, Process
from mainstay.launch.world import not_rank_0, open_gates
from mainstay.node.context import Places
from mainstay.origin import present
from mainstay.slurm import OPTIONS, Allocation, allocation, environment, hosts

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders
    from mainstay.stage.bootstrap import Bootstrap

IMMEDIATE = 5  # seconds that a step waits for a node that may not be back
SENDING = 300.0  # seconds for a packed environment to be on all nodes
PATIENCE = 20.0  # seconds for an answer of Slurm's
NO_ANSWER = re.compile(r"Task launch for .* failed on node ([^\s:]+): (.*)")
OVERLAP_SINCE = (20, 11)  # before, steps overlapped unasked


_resizing = threading.Lock()
_sent: set[str] = set()  # jobs and packed environments that their nodes have been given


class Srun:
    """Uses the nodes of the allocation that this program is in, or those among them that are given."""

    name = "srun"

    def __init__(self, nodes: Collection[str] = ()) -> None:
        self._nodes = nodes

    @property
    def most_workers(self) -> int | None:
        try:
            here = self._here()
        except ValueError:
            return None
        return None if here is None else sum(here.workers)

    def why_not(self) -> str | None:
        try:
            here = self._here()
        except ValueError as error:
            return str(error)
        if here is None:
            return "not in a Slurm allocation (SLURM_JOB_ID is not set)"
        if shutil.which("srun") is None:
            return f"in Slurm job {here.job}, but there is no srun on PATH"
        return not_rank_0()

    def start(self, invitation: Invitation) -> Steps:
        return Steps(invitation, *self._found())

    def rejoin(self, invitation: Invitation, host: str) -> Process:
        """Start an agent on one node, which was lost; the step ends at once where the node is not back."""
        return start_step(invitation, *self._found(), lost=host.partition(".")[0])

    def joins(self) -> bool:
        """Whether the ranks of separate launches can be joined, as far as can be told before."""
        return ranks.joins()

    def start_slots(self, slots: Lenders, places: Mapping[str, int]) -> Process:
        """Start as many MPI ranks on each host as are told."""
        here, program = self._found()
        return ranks.start_ranks(here, program, overlap(version_of(program)), slots, places)

    def places(self, places: Mapping[str, int]) -> Places:
        """Return what starts a program's ranks, as many on each host as are told: mpiexec if there is one; srun."""
        here, program = self._found()
        return ranks.places(here, program, overlap(version_of(program)), places)

    def further(self, used: Collection[str]) -> Srun | None:
        """Return a launcher for those nodes of the allocation that are not used; None if there are none."""
        here, names = self._here(), {name.partition(".")[0] for name in used}
        nodes = [] if here is None else [node.name for node in here.nodes if node.name not in names]
        return Srun(nodes) if nodes else None

    def give_back(self, host: str) -> None:
        """Take a node out of this job. Raises `OSError` where Slurm does not do that, as for the job's first node."""
        with _resizing:
            here = allocation(present())
            if here is not None:
                os.environ.update(give_back(here, host.partition(".")[0]))

    def _here(self) -> Allocation | None:
        here = allocation(present())
        if here is None or not self._nodes:
            return here
        return here.without({node.name for node in here.nodes} - set(self._nodes))

    def _found(self) -> tuple[Allocation, str]:
        here, program = self._here(), shutil.which("srun")
        if here is None or program is None:
            raise FileNotFoundError(self.why_not())
        return here, program


class Steps:
    """A step on all nodes of an allocation; where that fails for some of them, another on the rest.

    absent: the nodes that are left out, and why.
    """

    def __init__(self, invitation: Invitation, here: Allocation, program: str) -> None:
        self._invitation, self._here, self._program = invitation, here, program
        self.absent: dict[str, str] = {}
        self._ended = False
        self._step = start_step(invitation, here, program)

    @property
    def nodes(self) -> int:
        return len(self._here.nodes)

    def wait(self) -> str:
        """Block until the last step has ended; return why."""
        while True:
            said = self._step.wait()
            lost = {} if self._ended or not self._step.failed else lost_nodes(self._here, said)
            if not 0 < len(lost) < self.nodes:
                return said
            self.absent |= lost
            self._here = self._here.without(lost)
            self._step = start_step(self._invitation, self._here, self._program)
            if self._ended:
                self._step.end()

    def end(self) -> None:
        self._ended = True
        self._step.end()


def start_step(invitation: Invitation, here: Allocation, program: str, lost: str | None = None) -> Process:
    """Start a step on the nodes of an allocation, or on one of them that was lost."""
    sent = "" if lost or invitation.stage is None else send(invitation.stage, here)
    command = [*([f"--chdir={invitation.directory}"] if invitation.directory else []), *invitation.command(sent)]
    argv = srun_argv(program, here, version_of(program), command, lost)
    told = invitation.slots({node.name: room for node, room in zip(here.nodes, here.workers, strict=True)})
    told |= threads(here, spread(here.workers, invitation.most))
    environment = invitation.environment() | told | open_gates()
    hidden = (*RANK_VARIABLES, *OPTIONS, *invitation.hidden)
    if os.environ.get("SLURM_JOB_ID") not in (None, here.job):  # srun would take its nodes to be this program's
        hidden += ("SLURM_",)
        environment |= {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    return Process(argv, environment, len(here.nodes), tethered=True, hidden=hidden, directory=invitation.directory)


def send(stage: Bootstrap, here: Allocation) -> str:
    """Have Slurm bring the packed environment to each node, from which one has read it; return where it is there.

    Empty where there is one node, where it was sent before, or where that fails, and for an image: nodes read it
    themselves then.
    """
    key = f"{here.job}-{stage.manifest.digest[:16]}"
    program = shutil.which("sbcast")
    if not stage.travels or len(here.nodes) < 2 or program is None or key in _sent:
        return ""
    place = f"/tmp/mainstay-{key}-{os.urandom(4).hex()}"  # noqa: S108  a name that nobody can foresee
    command = [program, f"--jobid={here.job}", "--force", stage.path, place]
    try:
        subprocess.run(command, capture_output=True, timeout=SENDING, check=True, cwd="/")  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    _sent.add(key)
    return place


def threads(here: Allocation, shares: Sequence[int]) -> dict[str, str]:
    """Return the variable that tells agents how many threads a worker may have, given how many workers each forks.

    A task of srun is bound to its CPUs, and OpenMP goes by that; workers are not bound, since any may idle.
    """
    each = (
        f"{node.name}={max(here.cpus_per_task, node.cpus // max(share, 1))}"
        for node, share in zip(here.nodes, shares, strict=True)
    )
    return {"MAINSTAY_THREADS": ",".join(each)}


def lost_nodes(here: Allocation, said: str) -> dict[str, str]:
    """Return the nodes on which a step could not be started, as srun or squeue tells, and why."""
    names = [node.name for node in here.nodes]
    failed = {name: why for name, why in NO_ANSWER.findall(said) if name in names}
    if failed:
        return failed
    left = nodes_of(here.job)
    return {name: "the job has lost it" for name in names if left and name not in left}


def nodes_of(job: str) -> list[str]:
    """Return the nodes that a job has now; none if Slurm does not tell."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%N"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)  # noqa: S603
        return hosts(done.stdout.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def give_back(here: Allocation, node: str) -> dict[str, str]:
    """Take a node out of a job; return the variables that tell of the job as it is then. Raises `OSError`.

    Slurm writes scripts that would set these into the working directory; steps on the other nodes go on.
    """
    smaller = here.without({node})
    if smaller == here:
        return {}
    rest = ",".join(left.name for left in smaller.nodes)
    with tempfile.TemporaryDirectory() as directory:
        command = ["scontrol", "update", f"JobId={here.job}", f"NodeList={rest}"]
        try:
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, text=True, cwd=directory)  # noqa: S603
        except subprocess.CalledProcessError as error:
            raise OSError(f"`{' '.join(command)}`: {error.stderr.strip()}") from None
        except subprocess.TimeoutExpired as error:
            raise OSError(str(error)) from None
    return environment(smaller)


def srun_argv(
    program: str,
    here: Allocation,
    version: tuple[int, int],
    command: Sequence[str],
    lost: str | None = None,
) -> list[str]:
    """Return srun's command line: an agent per node, or on one; not bound to a core, and none ends with another.

    The nodes are named: for a mere number of them, srun waits for ever where the job has lost one.
    `command` is the agent's, perhaps with further flags of srun before it.
    """
    names = [lost] if lost else [node.name for node in here.nodes]
    return [
        program,
        *overlap(version),
        f"--jobid={here.job}",
        f"--nodelist={','.join(names)}",
        *([f"--immediate={IMMEDIATE}"] if lost else []),
        f"--nodes={len(names)}",
        f"--ntasks={len(names)}",
        "--ntasks-per-node=1",
        "--mpi=none",
        *ranks.ALONE,
        "--job-name=mainstay-pool",
        *command,
    ]


def overlap(version: tuple[int, int]) -> list[str]:
    """Return what tells a version of srun to share the CPUs of other steps."""
    return ["--overlap"] if version >= OVERLAP_SINCE else []


@functools.cache
def version_of(program: str) -> tuple[int, int]:
    """Return Slurm's version, as (22, 5); (0, 0) if it does not tell."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


LAUNCHER = Srun()
