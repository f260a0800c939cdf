"""What a pool says of itself: which launcher, why not the others, who stands where."""

from __future__ import annotations

from typing import NamedTuple

from mainstay.errors import size

MOST_NAMES = 6  # of hosts in one line


class WorkerInfo(NamedTuple):
    """A worker, as `Executor.workers` shows it.

    `id` (int) is never used twice. `namespace` (str) and `rank` (int) name the process as MPI and PMIx do: the launch
    that it came by, and its number in that; once it is an MPI rank, the launch of ranks and its rank in MPI's words.
    No two processes have both in common, those that have ended included. `state` is "starting", "idle", "busy"
    or "leaving".
    """

    id: int
    host: str
    pid: int
    namespace: str
    rank: int
    state: str


class Staged(NamedTuple):
    """How the nodes have come to their environment.

    `way` says how, for people; `size` (bytes) of the file; `seconds` that the slowest node took, 0 where all had it;
    `nodes` that run from it, of `of`; `imports`: how many modules came from elsewhere; `origin`: the directory that
    was packed; `unsent`: nodes to which it could not be sent, and why.
    """

    way: str
    size: int
    seconds: float
    nodes: int
    of: int
    imports: int
    origin: str
    unsent: dict[str, str] = {}  # noqa: RUF012  nobody writes into it

    def __str__(self) -> str:
        how = f"{self.way} ({size(self.size)}, {self.seconds:.1f} s)" if self.seconds else "was on the nodes"
        others = self.of - self.nodes
        where = f" on {self.nodes} of {self.of} nodes" if others else ""
        imports = f", {self.imports} imports from {self.origin}" if self.nodes else ""
        rest = f"; {others} run from {self.origin} itself" if others else ""
        unsent = "".join(f"; not sent to {host}: {why}" for host, why in sorted(self.unsent.items()))
        return f"environment {how if self.nodes else 'is'}{where}{imports}{rest}{unsent}"


class Preloaded(NamedTuple):
    """What each node imported before it forked its workers: names of modules, and seconds on the slowest node."""

    names: list[str]
    seconds: float

    def __str__(self) -> str:
        more = len(self.names) - MOST_NAMES
        names = ", ".join(self.names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        return f"preloaded {names} once per node ({self.seconds:.1f} s)"


class Description(NamedTuple):
    """What `Executor.describe()` returns; its `str` is one line for people.

    `hosts` maps a host's name to the number of workers that stand there; `seconds` is the time from the
    executor's making until all stood, None before; `not_used` lists `(launcher, reason)` in the order in which
    they were tried; `ever_started` counts all worker processes that this pool ever forked; `preloaded` is what
    each node imported once, None before; `staged` tells of a staged environment, None without one;
    `mpi` says which MPI the workers are ranks of, or why of none; `pmix`, once there are ranks, which PMIx they have;
    `absent` are nodes that had to be left out, and why.
    """

    launcher: str
    hosts: dict[str, int]
    workers: int
    wanted: int
    seconds: float | None
    not_used: list[tuple[str, str]]
    ever_started: int
    preloaded: Preloaded | None = None
    staged: Staged | None = None
    mpi: str = ""
    pmix: str = ""
    absent: dict[str, str] = {}  # noqa: RUF012  nobody writes into it

    def _by_count(self) -> dict[int, list[str]]:
        hosts: dict[int, list[str]] = {}
        for host, count in sorted(self.hosts.items()):
            hosts.setdefault(count, []).append(host)
        return dict(sorted(hosts.items(), reverse=True))

    def __str__(self) -> str:
        where = ", ".join(_on(count, hosts) for count, hosts in self._by_count().items()) or "none yet"
        took = "" if self.seconds is None else f" after {self.seconds:.2f} s"
        why = "".join(f"; not {name}: {reason}" for name, reason in self.not_used)
        missing = "" if self.workers >= self.wanted else f" (of {self.wanted})"
        mpi = (f"; MPI: {self.mpi}" if self.mpi else "") + (f"; PMIx: {self.pmix}" if self.pmix else "")
        more = mpi + "".join(f"; {what}" for what in (self.staged, self.preloaded) if what is not None)
        return f"launcher {self.launcher or 'not chosen yet'}; workers: {where}{missing}{took}{more}{why}"


def _on(count: int, hosts: list[str]) -> str:
    """Return how many workers stand on each of some hosts, by name where they are few."""
    if len(hosts) > MOST_NAMES:
        return f"{count} on each of {len(hosts)} nodes"
    return f"{count} on {hosts[0]}" if len(hosts) == 1 else f"{count} on each of {', '.join(hosts)}"
