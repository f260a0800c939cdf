"""A real Slurm cluster on one machine, which is taken down without a trace.

    machine ─────────────────────────────────────────────────────────────────────────────────────────────┐
    │ holder (a test run, `make cluster`) ──▶ guardian (see guardian.py)                                 │
    │ ┌ bed: its own PIDs, mounts, host name and network ───────────────────────────────────────────────┐ │
    │ │ login: slurmctld, munged; run() and submit() run here; sees the machine's /tmp                  │ │
    │ │   bridge ──┬────────────────────┬────────────────────┐                                          │ │
    │ │ ┌ n1 ──────┴───────┐ ┌ n2 ──────┴───────┐ ┌ n3 ──────┴───────┐   each with its own PIDs, mounts, │ │
    │ │ │ slurmd, munged   │ │ slurmd, munged   │ │ slurmd, munged   │   host name, network, /tmp,       │ │
    │ │ └──────────────────┘ └──────────────────┘ └──────────────────┘   /dev/shm, /proc                 │ │
    │ └──── shared: one directory, at one path, for the machine, the login host and all nodes ──────────┘ │
    └────────────────────────────────────────────────────────────────────────────────────────────────────┘

Nothing of a bed has a name outside of it, no address and no port, so any number of beds can stand side by side. All
sees the machine's files at their paths, so the interpreter that runs the tests also runs on the hosts.
"""

from __future__ import annotations

import math
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.commands import Commands, environment, run_daemons
from cluster.counted import Counted
from cluster.host import BRIDGE, Host
from cluster.install import PATH
from cluster.mounts import REPOSITORY, environments, pmix
from cluster.namespaces import BedError, Namespaces, only_child, wait_until_ready
from cluster.slurm import ENDED, LOGIN, Layout, address, cgroup_conf, fields, hosts_file, slurm_conf

DAEMONS = {"munged", "slurmctld", "slurmscriptd", "slurmd", "unshare"}


@dataclass(frozen=True)
class Ended:
    """How a job ended: its state (of several array tasks, joined by commas) and what it wrote."""

    state: str
    output: str


class Cluster:
    """A login host and `nodes` compute hosts n1, n2, ..., each with `cpus` CPUs.

    Args:
        nodes: how many compute hosts, at most 250.
        cpus: how many CPUs each claims to have; may be more than the machine has.
        visible: paths under /tmp or /dev/shm that the hosts are to see, besides the environments of the tests.
        seconds: how long it may take until all hosts are idle.

    Raises:
        BedError: it did not come up.
    """

    def __init__(self, nodes: int = 3, cpus: int = 2, *, visible: Iterable[Path] = (), seconds: float = 60) -> None:
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        # The hosts must see through their own /tmp to it; so the path is the real one.
        self.layout = Layout(Path(tempfile.mkdtemp(prefix="mainstay-cluster-")).resolve())
        self.shared = self.layout.shared
        self._seen = {self.layout.directory, *environments(), *(Path(place).resolve() for place in visible)}
        self._commands = Commands(self.layout)
        self._guardian: subprocess.Popen[str] | None = None
        try:
            self._write_files(cpus)
            self._bring_up(seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down; when this returns, nothing of the bed is left."""
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            guardian.communicate()  # closes its stdin, and waits
        shutil.rmtree(self.layout.directory, ignore_errors=True)

    # Commands

    def run(self, argv: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host, in `shared`; see `Commands.run` for options and errors."""
        return self._commands.run(self.login, argv, **options)

    def on(self, host: str, argv: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a compute host; otherwise as `run`."""
        return self._commands.run(self.host(host).namespaces, argv, **options)

    def popen(self, argv: Sequence[object], host: str = LOGIN, **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host and do not wait; options are those of `subprocess.Popen`."""
        place = self.login if host == LOGIN else self.host(host).namespaces
        return self._commands.start(place, argv, **options)

    def submit(self, script: str, *flags: str) -> int:
        """Submit a batch script (without "#!" it is one for bash) and return its job id; it runs in `shared`."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
        said = self.run(["sbatch", "--parsable", *flags], input=text).stdout
        return int(said.split(";")[0])

    def wait(self, job: int, seconds: float = 60) -> Ended:
        """Wait until a job, or all tasks of an array, have ended.

        Raises:
            BedError: it has not ended in time; tells its states.
        """
        self.until(lambda: all(ENDED.match(task["JobState"]) for task in self.job(job)), seconds, f"job {job} ended")
        tasks = sorted(self.job(job), key=lambda task: int(task.get("ArrayTaskId", 0)))
        states = ",".join(dict.fromkeys(task["JobState"] for task in tasks))
        return Ended(states, "".join(_content(task["StdOut"]) for task in tasks))

    def wait_running(self, job: int, seconds: float = 60) -> None:
        """Wait until a job, or all tasks of an array, run."""
        self.until(lambda: {task["JobState"] for task in self.job(job)} == {"RUNNING"}, seconds, f"job {job} runs")

    def job(self, job: int) -> list[dict[str, str]]:
        """What Slurm says of a job: a mapping for each task of an array, otherwise one."""
        return [fields(line) for line in self.run(["scontrol", "-o", "show", "job", str(job)]).stdout.splitlines()]

    def end_at(self, job: int, seconds: float) -> None:
        """Set the end of a running job's time limit, to the second. Slurm looks at limits every 30 s."""
        self.wait_running(job)
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(math.ceil(time.time() + seconds)))
        self.run(["scontrol", "update", f"JobId={job}", f"EndTime={end}"])

    # Hosts

    def host(self, name: str) -> Host:
        """A compute host by its name."""
        if name not in self._hosts:
            raise BedError(f"no host {name!r}; there are {', '.join(self._hosts)}")
        return self._hosts[name]

    def states(self) -> dict[str, str]:
        """What Slurm takes the hosts for: idle, alloc, mix, down*, ..."""
        said = self.run(["sinfo", "-hN", "-p", "batch", "-o", "%N %t"]).stdout
        return dict(line.split() for line in said.splitlines())

    def stop(self, host: str) -> None:
        """Power a host off: all of its processes are gone, and it answers nothing more."""
        self.host(host).stop()

    def start(self, host: str) -> None:
        """Power a host on; `wait_idle` tells when Slurm has taken it back."""
        self.host(host).start()

    def cut(self, host: str) -> None:
        """Take a host's network link down."""
        self.host(host).cut()

    def mend(self, host: str) -> None:
        """Bring a host's network link up."""
        self.host(host).mend()

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until all hosts are idle."""
        self.until(lambda: set(self.states().values()) == {"idle"}, seconds, "all hosts are idle")

    def reset(self, seconds: float = 60) -> None:
        """Cancel all jobs, bring all hosts back, and wait until they are idle."""
        self.run(["scancel", "--user=root"])
        for host in self._hosts.values():
            host.mend() if host.is_on else host.start()
        self.wait_idle(seconds)

    def processes(self, host: str | None = None) -> list[psutil.Process]:
        """What runs on a host (on all, if none is given) besides the daemons of the bed; a job step has a daemon."""
        names = [LOGIN, *self._hosts] if host is None else [host]
        return [process for name in names for process in self._processes(name)]

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition; where it does not come, say what the cluster looks like."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise BedError(f"after {seconds:g} s it is not true that {what}\n{self._picture()}")
            time.sleep(0.05)

    def counted(self, **given: Any) -> Counted:
        """A file system that all hosts that are on share, and that counts: `with cluster.counted() as mount: ...`."""
        hosts = {name: host.namespaces for name, host in self._hosts.items() if host.is_on}
        return Counted(self.layout.directory / "counted", {LOGIN: self.login, **hosts}, **given)

    def line(self) -> str:
        """A line to paste into a shell, which opens one on the login host."""
        variables = environment(self.layout)
        changed = [f"{name}={value}" for name, value in variables.items() if os.environ.get(name) != value]
        return shlex.join(["env", *changed, *self.login.command(["bash"], Path.cwd())])

    # Inside

    def _write_files(self, cpus: int) -> None:
        layout = self.layout
        layout.directory.chmod(0o755)
        for directory in (layout.log, layout.state, layout.spool, layout.run, layout.mount, layout.shared):
            directory.mkdir(mode=0o755)
        layout.shared.chmod(0o1777)
        layout.hosts.write_text(hosts_file(self.names))
        layout.configuration.write_text(slurm_conf(layout, self.names, cpus))
        (layout.directory / "cgroup.conf").write_text(cgroup_conf(_version()))
        key = layout.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

    def _bring_up(self, seconds: float) -> None:
        self.login = self._start_guardian()
        self._hosts = {name: Host(name, self.login, self.layout, self._seen) for name in self.names}
        controller = ["env", f"SLURM_CONF={self.layout.configuration}", "slurmctld"]
        run_daemons(self.login, self.layout, self.layout.munged(LOGIN), controller)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Host.start, self._hosts.values()))
        self.wait_idle(seconds)

    def _start_guardian(self) -> Namespaces:
        setup = [
            f"hostname {LOGIN}",
            f"mount --bind '{self.layout.hosts}' /etc/hosts",
            f"mount -t tmpfs tmpfs '{self.layout.run}'",
            *pmix(self.layout.directory / "pmix"),
            "ip link set lo up",
            f"ip link add {BRIDGE} type bridge",
            f"ip address add {address(LOGIN)}/24 dev {BRIDGE}",
            f"ip link set {BRIDGE} up",
        ]
        holder = os.pidfd_open(os.getpid())
        command = [sys.executable, "-m", "cluster.guardian", str(self.layout.directory), str(holder), *setup]
        try:
            self._guardian = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY / "tests"), "PATH": PATH},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[holder],
                start_new_session=True,  # a Ctrl-C is for the holder
            )
        finally:
            os.close(holder)
        wait_until_ready(self._guardian, "the bed")
        return Namespaces(only_child(only_child(self._guardian.pid)))

    def _processes(self, name: str) -> Iterator[psutil.Process]:
        if name != LOGIN and not self.host(name).is_on:
            return
        namespaces = self.login if name == LOGIN else self.host(name).namespaces
        for pid in namespaces.pids():
            try:
                process = psutil.Process(pid)
                if pid != namespaces.pid and process.name() not in DAEMONS:
                    yield process
            except psutil.NoSuchProcess:
                pass

    def _picture(self) -> str:
        queue = self.run(["squeue", "--all"], check=False)
        log = _content(self.layout.log / "slurmctld.log").splitlines()[-15:]
        return "\n".join([str(self.states()), queue.stdout + queue.stderr, str(self.processes()), *log])


def _version() -> str:
    environment = os.environ | {"PATH": PATH}
    return subprocess.run(["slurmd", "-V"], env=environment, capture_output=True, text=True, check=True).stdout


def _content(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # it never wrote
