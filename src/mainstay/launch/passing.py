"""A packed environment on its way to the hosts of an mpiexec, by the remote shell with which that reaches them itself.

    client ─┬─▶ n1 ─┬─▶ n2        who has a copy sends it on, so one process reads the shared file system, and what is
            │       └─▶ n3        sent at the same time doubles with each step
            └─▶ n4 ───▶ n5

mpiexec itself cannot do it. Tried with 40 MB: MPICH's Hydra 5.0.2 hands its input to the first rank only, and fails
when that "reads too slowly"; Open MPI 5.0.11 did not end, nor with `--stdin all`, and failed with `--preload-files`.

A copy is used when its size is right and, as it is unpacked, its digest. A host that has none reads the file itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mainstay.launch import LIBRARIES, Launched
from mainstay.launch.process import RANK_VARIABLES, Process
from mainstay.stage.bootstrap import UNPACKED

if TYPE_CHECKING:
    from mainstay.stage.bootstrap import Bootstrap

AT_ONCE = 64  # remote shells
PATIENCE = 20.0  # seconds for a host to answer, and
SLOWEST = 4_000_000  # bytes a second from there on; one that takes longer reads the file itself
# Batch systems by whose own programs, and not by ssh, launchers reach hosts where nobody tells them otherwise.
BATCH = ("SLURM_JOB_ID", "SLURM_JOBID", "LSB_JOBID", "PE_HOSTFILE", "LOADL_STEP_ID")
# ssh asks nobody for anything, and leaves no process that would hold its output open.
QUIET = ["-x", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ControlMaster=no"]
SENT, THERE = "mainstay-sent", "mainstay-there"
TOLD = re.compile(r"\bmainstay-tree (\S+) (\d\S*) (\S+)")
# Keeps its input, if that is whole, unless the host has the environment already. In one line, for any user's shell.
RECEIVE = "; ".join(
    [
        "place=$1 size=$2 digest=$3",
        "shift 3",
        f'for base; do [ ! -d "$base/mainstay-stage-$(id -u)/$digest" ] || {{ echo {THERE}; exit; }}; done',
        "home=${place%/*}",
        'mkdir -m 700 "$home" 2>/dev/null',
        '[ -d "$home" ] && [ ! -L "$home" ] && [ -O "$home" ] || { echo "$home is not ours" >&2; exit 1; }',
        "part=$place.$$",
        f'cat >"$part" && [ "$(wc -c <"$part")" -eq "$size" ] && mv "$part" "$place" && echo {SENT} && exit',
        'rm -f "$part"',
        "exit 1",
    ]
)


def remote_shell(flavour: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words by which a launcher of that flavour runs a command on a host, whose name and command follow.

    Empty where it does so by a program of its batch system's, or where there is no such shell.
    """
    if flavour == "hydra":
        means = environ.get("HYDRA_LAUNCHER") or environ.get("HYDRA_BOOTSTRAP", "")
        program = environ.get("HYDRA_LAUNCHER_EXEC") or environ.get("HYDRA_BOOTSTRAP_EXEC")
        agents = [[program or means or "ssh", *shlex.split(environ.get("HYDRA_LAUNCHER_EXTRA_ARGS", ""))]]
    else:
        means = environ.get("PRTE_MCA_plm", "")
        agents = [shlex.split(agent) for agent in environ.get("PRTE_MCA_plm_ssh_agent", "ssh:rsh").split(":")]
    if means not in ("ssh", "rsh") and (means or any(name in environ for name in BATCH)):
        return []
    found = next((agent for agent in agents if agent and shutil.which(agent[0])), [])
    return [*found, *QUIET] if found and os.path.basename(found[0]) == "ssh" else found


class Passing:
    """A launch that begins when its hosts have got a copy each of a packed environment, or cannot get one.

    Args:
        stage: the environment.
        hosts: by name; this program's own may be among them.
        shell: see `remote_shell`.
        begin: starts the agents, given where copies are on the hosts, and where these have all unpacked it (empty: not
            at one place, or not yet).
        unpack: whether all are to unpack it, this program's host included, before agents are started.
        patience: seconds after which agents are started, whoever has got a copy by then.

    unsent: the hosts that have got none, and why.  unpacked: what hosts said that did so before, as agents would.
    """

    def __init__(
        self,
        stage: Bootstrap,
        hosts: Sequence[str],
        shell: Sequence[str],
        begin: Callable[[str, str], Launched],
        unpack: bool = False,
        patience: float = 60.0,
    ) -> None:
        self._stage, self._hosts, self._shell, self._begin = stage, list(hosts), list(shell), begin
        self._unpacks, self._patience_in_all, self._until = unpack, patience, 0.0
        self._extra = [os.uname().nodename] if unpack and not any(map(is_here, hosts)) else []
        bases = places(os.environ)
        base = "/tmp" if "/tmp" in bases else bases[0]  # noqa: S108  the directory below is its owner's alone
        name = f"sent-{stage.manifest.digest[:16]}-{os.urandom(4).hex()}"
        self._place = f"{base}/mainstay-stage-{os.getuid()}/{name}"
        words = [self._place, str(stage.size), stage.manifest.digest, *bases]
        self._receive = shlex.join(["/bin/sh", "-c", RECEIVE, "mainstay", *words])
        self.unsent: dict[str, str] = {}
        self.unpacked: list[dict[str, Any]] = []
        self._from_each_other = True  # as long as that is not known to fail
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._running: set[Launched] = set()
        self._ended = False

    @property
    def nodes(self) -> int:
        return len(self._hosts)

    def wait(self) -> str:
        """Send, start the agents, and block until these have ended; return why."""
        self._until = time.monotonic() + self._patience_in_all
        try:
            with open(self._stage.path, "rb") as file:
                self._spread(file.fileno(), "", [*self._extra, *self._hosts])
        except OSError as error:
            self.unsent = dict.fromkeys(self._hosts, str(error))
        tree = self._unpack() if self._unpacks and not self.unsent else ""
        if self._extra:
            with contextlib.suppress(OSError):
                os.unlink(self._place)  # no agent comes here to unpack it, or to clear it away
        if self._ended:
            return "was ended before it began"
        agents = self._begin(self._place, tree)
        with self._held(agents):
            return agents.wait()

    def end(self) -> None:
        self._ended = True
        for process in list(self._running):
            process.end()

    @contextlib.contextmanager
    def _held(self, process: Launched) -> Iterator[None]:
        """Have a process ended when this launch is."""
        self._running.add(process)
        if self._ended:
            process.end()
        try:
            yield
        finally:
            self._running.discard(process)

    def _spread(self, file: int, source: str, hosts: Sequence[str]) -> None:
        """Have a copy sent to hosts from one that has it (empty: this program), and by the first of them to half of
        the others."""
        if not hosts or self._ended:
            return
        first, *others = hosts
        next_source = first if self._give(file, source, first) and not is_here(first) else source
        half = len(others) // 2
        beside = threading.Thread(target=self._spread, args=(file, next_source, others[:half]), daemon=True)
        beside.start()
        self._spread(file, source, others[half:])
        beside.join()

    def _give(self, file: int, source: str, host: str) -> bool:
        """Have a copy sent to a host; return whether it has one now, which it can send on."""
        said = ""
        if source and self._from_each_other and not is_here(host):
            command = shlex.join(self._reaching(host, self._receive))
            said = self._run(self._reaching(source, f"{command} <{shlex.quote(self._place)}"))
        if not is_served(said):
            failed, said = bool(said), self._run(self._reaching(host, self._receive), file)
            self._from_each_other &= not (failed and is_served(said))  # else it is this host that cannot be reached
        if not is_served(said):
            self.unsent[host] = " ".join(said.split())
        return SENT in said

    def _unpack(self) -> str:
        """Have all hosts unpack what they were sent; return where, if that is one place on all of them."""
        command = shlex.join([*self._variables(), *self._stage.command(["/bin/false"], self._place, UNPACKED)])
        found: dict[str, re.Match[str] | None] = {}

        def unpack(host: str) -> None:
            found[host] = TOLD.search(self._run(self._reaching(host, command)))

        # No pool of threads, which could not be had any more when the program itself has come to its end.
        threads = [threading.Thread(target=unpack, args=(host,), daemon=True) for host in (*self._extra, *self._hosts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = [one for host in self._hosts if (one := found[host])]
        self.unpacked = [{"took": float(one[2]), "sent": one[3] == "yes"} for one in told if float(one[2])]
        trees = {one[1] if one else "" for one in found.values()}
        return trees.pop() if len(trees) == 1 else ""

    @staticmethod
    def _variables() -> list[str]:
        """Return the words that set what a launcher would hand on of this program's environment."""
        names = ("MAINSTAY_STAGE_DIR", "MAINSTAY_STAGE_DAYS", "TMPDIR")
        return ["/usr/bin/env", *(f"{name}={os.environ[name]}" for name in names if name in os.environ)]

    def _reaching(self, host: str, command: str) -> list[str]:
        """Return what runs a command on a host; to be run where this program is, or, for another host, anywhere."""
        return ["/bin/sh", "-c", f"exec {command}"] if is_here(host) else [*self._shell, host, command]

    def _run(self, argv: list[str], file: int | None = None) -> str:
        """Run a command, with all of a file as its input; return how it ended and what it printed."""
        hidden = (*RANK_VARIABLES, LIBRARIES)
        try:
            with self._turns:
                if time.monotonic() >= self._until:
                    return "there was no time left"
                process = Process(argv, {}, tethered=True, hidden=hidden, directory="/", fed=file is not None)
                with self._held(process), self._patience(process):
                    if file is not None:
                        self._feed(process, file)
                    return process.wait()
        except OSError as error:
            return str(error)

    def _feed(self, process: Process, file: int) -> None:
        try:
            process.feed(file, self._stage.size)
        except OSError:
            process.end()  # it would wait for the rest
            raise

    @contextlib.contextmanager
    def _patience(self, process: Process) -> Iterator[None]:
        """Have a process ended that takes too long."""
        left = self._until - time.monotonic()
        timer = threading.Timer(min(PATIENCE + self._stage.size / SLOWEST, left), process.end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def is_here(host: str) -> bool:
    """Whether a host is this program's own, by its name."""
    return host.partition(".")[0] in ("localhost", os.uname().nodename.partition(".")[0])


def is_served(said: str) -> bool:
    """Whether a host has got a copy, or needs none, by what was said there."""
    return SENT in said or THERE in said


def places(environ: Mapping[str, str]) -> list[str]:
    """Return the directories in which nodes look for room for environments, see `stage/node.sh`."""
    told = environ.get("MAINSTAY_STAGE_DIR")
    bases = [told] if told else [environ.get("TMPDIR", ""), "/tmp", "/dev/shm"]  # noqa: S108
    return [base for base in bases if base.startswith("/")] or ["/tmp"]  # noqa: S108
