"""What Slurm and munge are told, and what they say: text in, text out, no process.

bed's directory
  slurm.conf · cgroup.conf · munge.key · hosts      the same for all hosts
  log/ · state/ · spool/n1 ...                      of the daemons
  run/                                              a file system of each host's own: sockets and pid files
  shared/                                           stands for Lustre
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LOGIN = "login"
NETWORK = "10.42.0"  # in a network of the bed's own, so it meets no other
ENDED = re.compile("COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY")


class Layout:
    """Where a bed keeps its files; `mount` is a place at which to prepare a file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "slurm.conf"
        self.hosts = directory / "hosts"
        self.log, self.state, self.spool = directory / "log", directory / "state", directory / "spool"
        self.run, self.mount, self.shared = directory / "run", directory / "mount", directory / "shared"

    def munged(self, host: str) -> list[object]:
        """The command that starts a host's own munged; it forks when it serves."""
        return [
            "munged",
            f"--key-file={self.directory / 'munge.key'}",
            f"--socket={self.run / 'munge.socket'}",
            f"--pid-file={self.run / 'munged.pid'}",
            f"--seed-file={self.run / 'munged.seed'}",
            f"--log-file={self.log / f'munged-{host}.log'}",
            "--num-threads=1",
        ]


def address(host: str) -> str:
    """The address of n1, n2, ... or of the login host."""
    return f"{NETWORK}.{254 if host == LOGIN else int(host[1:])}"


def card(host: str) -> str:
    """The hardware address of a compute host's card, which it keeps: others do not ask for it again after a restart."""
    return f"02:00:00:00:00:{int(host[1:]):02x}"


def hosts_file(names: Sequence[str]) -> str:
    """The content of /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    return "\n".join([*lines, *(f"{address(name)} {name}" for name in [LOGIN, *names]), ""])


def slurm_conf(layout: Layout, names: Sequence[str], cpus: int) -> str:
    """The content of slurm.conf."""
    nodes = ",".join(names)
    return f"""\
ClusterName=bed
SlurmctldHost={LOGIN}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={layout.run}/munge.socket
StateSaveLocation={layout.state}
SlurmdSpoolDir={layout.spool}/%n
SlurmctldPidFile={layout.run}/slurmctld.pid
SlurmdPidFile={layout.run}/slurmd.pid
SlurmctldLogFile={layout.log}/slurmctld.log
SlurmdLogFile={layout.log}/slurmd-%n.log

# No control groups: a container may have none, and two beds would share them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=pmi2

# What is slow on a real cluster for good reasons is quick here: deaths, limits and starts.
SlurmdTimeout=8
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
KillWait=5
OverTimeLimit=0
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
ReturnToService=2
JobRequeue=1

# A node has the CPUs that it claims, not those of the machine.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={nodes} CPUs={cpus} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 State=UNKNOWN

# A job in "urgent" takes its nodes from those in "batch", which are requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=batch Nodes={nodes} Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes={nodes} MaxTime=INFINITE PriorityTier=2
"""


def cgroup_conf(version: str) -> str:
    """The content of cgroup.conf for what `slurmd -V` says.

    Slurm looks for control groups even where no plugin uses them. Since 23.11 it can be told not to; before, the plugin
    for the old hierarchy is the one that touches nothing.
    """
    year, month = map(int, re.findall(r"\d+", version)[:2])
    return f"CgroupPlugin={'disabled' if (year, month) >= (23, 11) else 'cgroup/v1'}\n"


def fields(line: str) -> dict[str, str]:
    """A line of `scontrol --oneliner`: `JobId=3 JobName=x ...` as a mapping."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", line))
