"""`salloc`: a Slurm job of its own, whose agents join the pool; it ends with them.

    this process ── stdin ──▶ salloc ──▶ sh: its environment ──▶ stdout: which nodes ──▶ a step on these, as `srun` does
                                          └─ then waits for the end of its stdin

The job belongs to `salloc`, and ends with it: when its shell reads the end of its stdin, and when it gets SIGHUP, which
the kernel also sends at this process's death, and so while the job still waits for its turn. It is that signal, because
a salloc whose shell another of its threads has waited for, as its job ended, waits for it for ever, at 100 % of a core,
and only that ends it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mainstay.launch import Invitation, ranks
from mainstay.launch.process import RANK_VARIABLES, Process, tether
from mainstay.launch.srun import PATIENCE, Steps, give_back, overlap, start_step, version_of
from mainstay.node.context import Places
from mainstay.slurm import Allocation, allocation, environment

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders

END = b"\0END\0"
SHELL = r"env -0; printf 'END\0'; exec cat"  # what runs inside of the job: tells of it, and waits
JOB = re.compile(r"job allocation (\d+)")
MOST_SAID = 1 << 16  # bytes of what salloc says
OURS = ("SLURM_",)  # what a job inherits of this program's own job would lead it astray
KEPT = "SLURM_CONF"


class Salloc:
    """Asks Slurm for a job.

    Args:
        flags: of `salloc`, as `["--nodes=2", "--time=1:00:00"]`.
    """

    name = "salloc"
    has_its_own_job = True
    most_workers: int | None = None

    def __init__(self, flags: Sequence[str]) -> None:
        self.flags = list(flags)
        self._job: Job | None = None

    def why_not(self) -> str | None:
        missing = [program for program in ("salloc", "srun") if shutil.which(program) is None]
        return f"there is no {missing[0]} on PATH" if missing else None

    def start(self, invitation: Invitation) -> Job:
        self._job = Job(self.flags, invitation)
        return self._job

    def rejoin(self, invitation: Invitation, host: str) -> Process:
        """Start an agent on one node, which was lost."""
        return start_step(invitation, self._here(), _srun(), lost=host.partition(".")[0])

    def joins(self) -> bool:
        """Whether the ranks of separate launches can be joined, as far as can be told before."""
        return ranks.joins()

    def start_slots(self, slots: Lenders, places: Mapping[str, int]) -> Process:
        """Start as many MPI ranks on each host as are told."""
        here = self._here()
        assert self._job is not None
        told = self._job.environment | environment(here)  # which may have become smaller
        return ranks.start_ranks(here, _srun(), overlap(version_of(_srun())), slots, places, told)

    def places(self, places: Mapping[str, int]) -> Places:
        """Return what starts a program's ranks, as many on each host as are told: mpiexec if there is one; srun."""
        return ranks.places(self._here(), _srun(), overlap(version_of(_srun())), places)

    def give_back(self, host: str) -> None:
        """Take a node out of the job, if that is not over. Raises `OSError`."""
        assert self._job is not None
        if self._job.is_over:
            return
        give_back(self._here(), host.partition(".")[0])
        self._job.here = self._here().without({host.partition(".")[0]})

    def _here(self) -> Allocation:
        if self._job is None or self._job.here is None:
            raise FileNotFoundError("the job has not begun")
        return self._job.here

    def state(self) -> str:
        """Return what Slurm says of the job, in words."""
        return "salloc was not started" if self._job is None else self._job.state()

    def __repr__(self) -> str:
        return f"Salloc({self.flags!r})"


class Job:
    """A job under way: `salloc`, and the step in it once it has begun."""

    def __init__(self, flags: Sequence[str], invitation: Invitation) -> None:
        self._invitation = invitation
        argv = [*tether(shutil.which("setpriv"), signal.SIGHUP), str(os.getpid()), shutil.which("salloc") or "salloc"]
        argv += ["--job-name=mainstay-pool", *flags, "/bin/sh", "-c", SHELL]
        hidden = (*RANK_VARIABLES, *OURS)
        inherited = {name: value for name, value in os.environ.items() if name == KEPT or not name.startswith(hidden)}
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  no pipe: salloc writes for ever to one that nobody reads
        self._salloc = subprocess.Popen(  # noqa: S603  argv is ours, and the user's flags
            argv,
            env=inherited,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,
        )
        self._steps: Steps | None = None
        self._ended = False
        self.here: Allocation | None = None
        self.environment: dict[str, str] = {}  # what Slurm tells of the job inside of it

    @property
    def _said(self) -> list[str]:
        """What salloc has written so far."""
        return os.pread(self._words.fileno(), MOST_SAID, 0).decode(errors="replace").splitlines()

    def wait(self) -> str:
        """Start the agents when the job begins, and block until they, and then the job, have ended; return why."""
        told = self._told()
        self.here = allocation(told)
        self.environment = {name: value for name, value in told.items() if name.startswith(OURS)}
        if self.here is None:
            code = self._salloc.wait()
            return f"salloc ended with exit code {code}; it said: {'; '.join(self._said) or 'nothing'}"
        self._steps = Steps(self._invitation, self.here, _srun())
        if self._ended:
            self._steps.end()
        reason = self._steps.wait()
        self.end()
        self._salloc.wait()
        return f"{reason} ({self.state()})"

    def _told(self) -> dict[str, str]:
        """Return the environment inside of the job, when it begins; empty if it does not."""
        assert self._salloc.stdout is not None
        told = b""
        while not told.endswith(END):
            piece = os.read(self._salloc.stdout.fileno(), 1 << 16)
            if not piece:
                return {}
            told += piece
        words = (word.partition("=") for word in told.decode(errors="replace").split("\0"))
        return {name: value for name, _, value in words}

    @property
    def nodes(self) -> int:
        return 1 if self._steps is None else self._steps.nodes

    @property
    def absent(self) -> dict[str, str]:
        return {} if self._steps is None else self._steps.absent

    def end(self) -> None:
        """End the job; returns at once."""
        self._ended = True
        if self._steps is not None:
            self._steps.end()
        if self._salloc.poll() is None:
            self._salloc.send_signal(signal.SIGHUP)
            assert self._salloc.stdin is not None
            self._salloc.stdin.close()

    @property
    def is_over(self) -> bool:
        """Whether the job is given back, or on its way."""
        return self._ended

    @property
    def number(self) -> str:
        """The job's id; empty while Slurm has not given it one."""
        found = [match[1] for line in self._said if (match := JOB.search(line))]
        return found[-1] if found else ""

    def state(self) -> str:
        """Return what Slurm says of the job, in words."""
        if not self.number:
            return f"salloc said: {'; '.join(self._said) or 'nothing'}"
        command = ["squeue", "--noheader", f"--jobs={self.number}", "--states=all", "--format=%T (%r)"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"of job {self.number}, squeue does not tell: {error}"
        return f"Slurm job {self.number} is {done.stdout.strip() or 'over'}"


def _srun() -> str:
    return shutil.which("srun") or "srun"
