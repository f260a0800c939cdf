"""`mpiexec`: one agent per host, by the MPI launcher that is found. MPICH's Hydra and Open MPI's PRRTE are known."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mainstay.launch import LIBRARIES, Invitation, Launched
from mainstay.launch.process import RANK_VARIABLES, Process
from mainstay.node.context import Places
from mainstay.origin import Origin, origin

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders

NO_BATCH = "^slurm,pbs,lsf,gridengine,pals"  # PRRTE's parts that ask a batch system for hosts
KNOWN = ("hydra", "openmpi")
UNBUFFERED = "GFORTRAN_UNBUFFERED_PRECONNECTED"  # by Hydra: each write of a Fortran program goes out by itself
# PRRTE keeps a directory by its process's number, and does not start where a killed one of that number has left its.
AFRESH = ("/bin/sh", "-c", 'rm -rf "${TMPDIR:-/tmp}/ompi.$$"; exec "$@"', "mainstay")


class MpiExec:
    """Starts agents by `mpiexec`.

    Args:
        hosts: names of the hosts; none: this host.
        hostfile: a file with a host's name first on each line, in place of `hosts`.
        program: the launcher's path; None: `mpiexec` beside the interpreter, else on PATH.
        rank_flags: further words of the command line that starts the ranks of gangs, such as ["--pset", "ocean"].
    """

    name = "mpiexec"
    most_workers = None

    def __init__(
        self,
        hosts: Sequence[str] = (),
        *,
        hostfile: str | Path | None = None,
        program: str | None = None,
        rank_flags: Sequence[str] = (),
    ) -> None:
        self._hosts = read_hosts(Path(hostfile)) if hostfile is not None else list(hosts)
        self._program, self._rank_flags = program, rank_flags

    def why_not(self) -> str | None:
        program = self._find()
        if program is None:
            return "no mpiexec beside the interpreter or on PATH; `pip install 'mainstay[mpich]'` brings one"
        flavour = flavour_of(program)
        if flavour not in KNOWN:
            return f"{program} is of no known kind: {flavour}"
        return would_wait(os.environ, origin(os.getpid()))

    def start(self, invitation: Invitation) -> Launched:
        return self.start_agents(invitation)

    def start_agents(self, invitation: Invitation, **more: str) -> Launched:
        """Start agents, given what their environment is to have besides this program's and the invitation.

        Hosts that a remote shell reaches are first given what they are to unpack, if there are several. If an mpiexec
        of the same environment is to start agents, they unpack it first, so that it runs from there.
        """
        program, stage = self._find(), invitation.stage
        if program is None:
            raise FileNotFoundError(self.why_not())
        start, beside = functools.partial(self._start_agents, program, invitation, more), is_beside(program)
        if stage is None or not stage.travels or len(self._hosts) < (1 if beside else 2):
            return start()
        from mainstay.launch.passing import Passing, remote_shell

        shell = remote_shell(flavour_of(program), os.environ | more)
        if not shell:
            return start()
        return Passing(stage, self._hosts, shell, start, beside, patience=invitation.patience)

    def _start_agents(
        self, program: str, invitation: Invitation, more: Mapping[str, str], sent: str = "", tree: str = ""
    ) -> Process:
        program = in_tree(program, tree)
        environment = {**invitation.environment(), **more}
        if tree:  # agents are to look there, whatever else is set where they are
            environment["MAINSTAY_STAGE_DIR"] = str(Path(tree).parents[1])
        if flavour_of(program) == "hydra":
            argv = hydra_argv(program, self._hosts, [*emptied(invitation.hidden), *plain(), *invitation.command(sent)])
        else:
            told = [name for name in environment if name.startswith("MAINSTAY_")]
            told += [name for name in os.environ if name.startswith("MAINSTAY_STAGE_") and name not in environment]
            argv = openmpi_argv(program, self._hosts, told, invitation.command(sent))
            environment |= allow_root() if os.geteuid() == 0 else {}
        count, hidden = max(1, len(self._hosts)), unseen(program, invitation.hidden)
        return Process(argv, environment, count, tethered=True, hidden=hidden, directory=invitation.directory)

    def joins(self) -> bool:
        """Whether the ranks of separate launches can be joined, as far as the program tells."""
        return self.flavour() == "hydra"

    def flavour(self) -> str:
        """Return which kind of launcher was found, see `flavour_of`; empty: none."""
        program = self._find()
        return "" if program is None else flavour_of(program)

    def start_slots(self, slots: Lenders, places: Mapping[str, int], **more: str) -> Process:
        """Start as many MPI ranks on each host as are told.

        `more` is what their launcher's environment is to have besides this program's.
        """
        program = self._find()
        if program is None:
            raise FileNotFoundError(self.why_not())
        program = in_tree(program, slots.tree)
        named = {name.partition(".")[0]: name for name in self._hosts}
        hosts = {named.get(host.partition(".")[0], host): count for host, count in places.items()}
        here = not self._hosts and set(places) == {os.uname().nodename}
        command = [*self._rank_flags, *slots.command()]
        environment = {"SLURM_OVERLAP": "1", **more}  # in a Slurm job, the agents' step has the CPUs
        if flavour_of(program) == "hydra":
            argv = hydra_slots_argv(program, hosts, here, [*emptied(slots.hidden), *command])
        else:
            argv = openmpi_slots_argv(program, hosts, here, command)
            environment |= allow_root() if os.geteuid() == 0 else {}
        hidden = unseen(program, slots.hidden)
        return Process(argv, environment, tethered=True, hidden=hidden, directory=slots.directory)

    def places(self, places: Mapping[str, int], **more: str) -> Places:
        """Return what starts a program's ranks, as many on each host as are told, from the first of the hosts.

        Raises `FileNotFoundError` where there is no mpiexec.
        """
        program = self._find()
        if program is None:
            raise FileNotFoundError(self.why_not())
        named = {name.partition(".")[0]: name for name in self._hosts}
        hosts = {named.get(host.partition(".")[0], host): count for host, count in places.items()}
        environment = {"SLURM_OVERLAP": "1", **more}  # in a Slurm job, the agents' step has the CPUs
        ends_by = "KILL"
        if flavour_of(program) == "hydra":
            prefix = [program, *hydra_where(hosts, len(hosts) == 1)]
        else:
            ends_by = "TERM"  # it is what ends its ranks, each in a process group of its own
            prefix = [*AFRESH, program, "--oversubscribe", "--bind-to", "none", *openmpi_where(hosts, len(hosts) == 1)]
            environment |= allow_root() if os.geteuid() == 0 else {}
        return Places(dict(places), (*prefix, "-n", str(sum(hosts.values()))), environment, ends_by=ends_by)

    def further(self, used: Collection[str]) -> MpiExec | None:
        """Return a launcher for those of the hosts that are not used; None if there are none."""
        names = {name.partition(".")[0] for name in used}
        hosts = [host for host in self._hosts if host.partition(".")[0] not in names]
        return MpiExec(hosts, program=self._program) if hosts else None

    def _find(self) -> str | None:
        if self._program is not None:
            return shutil.which(self._program)
        beside = Path(sys.executable).parent / "mpiexec"
        return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")


def is_beside(program: str) -> bool:
    """Whether an mpiexec is of the environment that runs this program, and so in what was packed of it."""
    return os.path.dirname(program) == os.path.dirname(sys.executable)


def in_tree(program: str, tree: str) -> str:
    """Return the mpiexec to take where all hosts have an environment at one place: its own, if `program` is of that
    environment too and this host has the copy. From there, it and its proxies ask no shared file system."""
    copy = f"{tree}/bin/{os.path.basename(program)}"
    serves = tree and is_beside(program) and os.access(copy, os.X_OK) and flavour_of(copy) == flavour_of(program)
    return copy if serves and hold(tree) else program


@functools.cache
def hold(tree: str) -> IO[bytes] | None:
    """Keep others from removing a copy as long as this program runs, see `stage/node.sh`; None where they do so now."""
    try:
        lock = open(f"{tree}.lock", "rb")  # noqa: SIM115  it is to stay open
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return None
    return lock


def would_wait(environ: Mapping[str, str], above: Origin) -> str | None:
    """Return why an mpiexec that is started here would wait for ever, if it would: for the CPUs of its own step."""
    if not above.is_step or above.manager or "SLURM_OVERLAP" in environ:
        return None
    return (
        f"in step {above.step}, whose CPUs mpiexec would wait for; launcher='srun' does not wait, "
        "or type `export SLURM_OVERLAP=1` before you start the program"
    )


def hydra_argv(program: str, hosts: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return MPICH's command line. The pool sees to deaths itself, so Hydra must not end the other agents.

    `command` is the agent's, perhaps with further flags of mpiexec before it.
    """
    where = ["-hosts", ",".join(hosts)] if hosts else []
    return [program, "-disable-auto-cleanup", *where, "-ppn", "1", "-n", str(max(1, len(hosts))), *command]


def openmpi_argv(program: str, hosts: Sequence[str], variables: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return Open MPI's command line: agents unbound, since workers would inherit an agent's one core.

    It hands on the variables of the environment that it is told of.
    """
    where = ["--host", ",".join(hosts), "--map-by", "ppr:1:node"] if hosts else []
    exported = [word for name in variables for word in ("-x", name)]
    return [*AFRESH, program, *where, "--bind-to", "none", *exported, "-n", str(max(1, len(hosts))), *command]


def hydra_where(hosts: Mapping[str, int], here: bool) -> list[str]:
    """Return MPICH's words for ranks on these hosts; `here`: on this one alone, be it of a batch job or not."""
    named = ",".join(f"{host}:{count}" for host, count in hosts.items())
    return ["-launcher", "fork"] if here else ["-hosts", named]


def openmpi_where(hosts: Mapping[str, int], here: bool) -> list[str]:
    """Return Open MPI's words for ranks on these hosts, likewise."""
    named = ",".join(f"{host}:{count}" for host, count in hosts.items())
    return ["--prtemca", "ras", NO_BATCH, "--prtemca", "plm", NO_BATCH] if here else ["--host", named]


def hydra_slots_argv(program: str, hosts: Mapping[str, int], here: bool, command: Sequence[str]) -> list[str]:
    """Return MPICH's command line for ranks on these hosts; `here`: on this one alone, be it of the job or not."""
    return [program, "-disable-auto-cleanup", *hydra_where(hosts, here), "-n", str(sum(hosts.values())), *command]


def openmpi_slots_argv(program: str, hosts: Mapping[str, int], here: bool, command: Sequence[str]) -> list[str]:
    """Return Open MPI's. `--continuous`: the ranks that are left go on when one has died."""
    alone = ["--continuous", "--oversubscribe", "--bind-to", "none"]
    return [*AFRESH, program, *alone, *openmpi_where(hosts, here), "-n", str(sum(hosts.values())), *command]


def allow_root() -> dict[str, str]:
    """Return what Open MPI wants to hear before it starts anything for root."""
    names = ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT")
    return {name + suffix: "1" for name in names for suffix in ("", "_CONFIRM")}


def emptied(names: Sequence[str]) -> list[str]:
    """Return MPICH's words that keep variables from what it starts: they are empty there."""
    return [word for name in names for word in ("-genv", name, "")]


def plain() -> list[str]:
    """Return what stands before an agent's command so that programs do not get what MPICH's launcher sets unasked."""
    return [] if UNBUFFERED in os.environ else ["/usr/bin/env", "-u", UNBUFFERED]


def unseen(program: str, hidden: tuple[str, ...]) -> tuple[str, ...]:
    """Return the variables that a launcher itself is not to have, given what it is to keep from what it starts."""
    return RANK_VARIABLES + (hidden if runs_bare(program) else ())


def read_hosts(path: Path) -> list[str]:
    """Return the hosts of a host file (first word of each line, `name:slots` too), each once."""
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return list(dict.fromkeys(words[0].partition(":")[0] for words in lines if words))


def flavour_of(program: str) -> str:
    """Return "hydra", "openmpi", or what the program said when asked for its version."""
    return _flavour(program, (LIBRARIES,)) if runs_bare(program) else _flavour(program)


def runs_bare(program: str) -> bool:
    """Whether a launcher does without LD_LIBRARY_PATH. With it, the loader looks for each library of the launcher, of
    its proxies and of what they start in all that this names first: a hundred operations for each process."""
    return _flavour(program, (LIBRARIES,)) in KNOWN


@functools.cache
def _flavour(program: str, hidden: tuple[str, ...] = ()) -> str:
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    asked = [program, "--version"]
    try:
        done = subprocess.run(  # noqa: S603
            asked, env=environ, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stdout + done.stderr
    if "HYDRA" in said or "Intel(R) MPI" in said:
        return "hydra"
    if "Open MPI" in said or "OpenRTE" in said or "PRRTE" in said:
        return "openmpi"
    return f"`{program} --version` said: {said.strip()[:200] or 'nothing'}"


LAUNCHER = MpiExec()
