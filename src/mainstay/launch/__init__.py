"""How agents come to stand on nodes: one file a launcher, found by its name.

A launcher says why it cannot serve here (`why_not`), and starts agents (`start`). It knows nothing of tasks.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mainstay.launch.process import AGENT, staggered
from mainstay.node.context import Places

if TYPE_CHECKING:
    from mainstay.launch.slots import Lenders
    from mainstay.stage.bootstrap import Bootstrap

LIBRARIES = "LD_LIBRARY_PATH"
AUTO = ("world", "srun", "pbs", "lsf", "mpiexec", "local", "serial")


class Invitation(NamedTuple):
    """What an agent must know to come: addresses, key (hexadecimal) and the number of this launch.

    stagger: how many agents may start within a second (None: all).
    most: how many workers the pool is to have (None: as many as there is room for).
    stage: the packed environment that agents run from (None: this program's).
    patience: seconds for what is to be done before agents start.
    """

    addresses: str
    key: str
    launch: int
    stagger: int | None = None
    most: int | None = None
    stage: Bootstrap | None = None
    patience: float = 60.0

    def environment(self) -> dict[str, str]:
        """Return the variables by which a launcher hands the invitation on."""
        told = {} if self.stage is None else {"MAINSTAY_STAGE_LIBRARIES": os.environ.get(LIBRARIES, "")}
        return told | {
            "MAINSTAY_ADDRESS": self.addresses,
            "MAINSTAY_KEY": self.key,
            "MAINSTAY_LAUNCH": str(self.launch),
        }

    def command(self, sent: str = "") -> list[str]:
        """Return the command that starts an agent; `sent` is where a copy of the packed environment is on the nodes."""
        return staggered(self.stagger, AGENT if self.stage is None else self.stage.command(AGENT, sent))

    @property
    def hidden(self) -> tuple[str, ...]:
        """Variables that launchers keep from a staged agent's shell, which would look on a shared file system for all
        that it starts. The shell is told what they were."""
        return () if self.stage is None else (LIBRARIES,)

    @property
    def directory(self) -> str | None:
        """Where launchers start agents; None: here. A staged one must not so much as look at a shared file system."""
        return None if self.stage is None else "/"

    def slots(self, room: Mapping[str, int]) -> dict[str, str]:
        """Return the variables that tell the agent of each host how many workers to fork, given where there is room."""
        shares = dict(zip(room, spread(list(room.values()), self.most), strict=True))
        told = {"MAINSTAY_SLOTS": shares, "MAINSTAY_ROOM": room}
        return {name: ",".join(f"{host}={count}" for host, count in each.items()) for name, each in told.items()}


def spread(room: Sequence[int], most: int | None) -> list[int]:
    """Return how many workers each host gets, given how many it has room for: of `most` in all, an even share."""
    if most is None:
        return list(room)
    shares, left = [0] * len(room), most
    while left and (hosts := [host for host, share in enumerate(shares) if share < room[host]]):
        each = max(1, left // len(hosts))
        for host in hosts[:left]:
            more = min(each, room[host] - shares[host])
            shares[host] += more
            left -= more
    return shares


class Launched(Protocol):
    """A launch under way or standing.

    One that leaves nodes out has `absent`, which says why by their names; one that sends a packed environment to nodes
    has `unsent`, which says likewise why some have got none, and `unpacked`, what those said that unpacked it before.
    """

    @property
    def nodes(self) -> int:
        """How many agents will come."""
        ...

    def wait(self) -> str:
        """Block until the launch has ended; return why, with what it printed last."""
        ...

    def end(self) -> None:
        """End the launcher and all its processes on this host."""
        ...


class Launcher(Protocol):
    """One way to start agents. `most_workers` bounds the pool (None: no bound).

    One whose workers share the client's modules says so: `in_process = True`.
    One that has `rejoin(invitation, host) -> Launched` starts an agent on a host that was lost, when it is back;
    one that is a `Starter` too starts MPI ranks its own way;
    one that has `further(used) -> Launcher | None` can reach other hosts than these;
    one that has `give_back(host)` gives a host back on which nothing of the pool is left, or raises `OSError`.
    """

    name: str
    most_workers: int | None

    def why_not(self) -> str | None:
        """Return why this launcher cannot serve here, or None if it can."""
        ...

    def start(self, invitation: Invitation) -> Launched:
        """Start the agents; raise `OSError` if that fails at once."""
        ...


class Starter(Protocol):
    """What starts the ranks of one namespace."""

    def joins(self) -> bool:
        """Whether the ranks of separate launches can be joined by `MPI_Comm_accept`, as far as can be told before."""
        ...

    def start_slots(self, slots: Lenders, places: Mapping[str, int]) -> Launched:
        """Start slots, as many on each host as `places` says."""
        ...

    def places(self, places: Mapping[str, int]) -> Places:
        """Return what starts a program's ranks there, from the first of the hosts; raise `OSError` where none can."""
        ...


def find(name: str) -> Launcher:
    """Return the launcher in the file of that name; raises `ValueError` for a name that has none."""
    allowed = f"allowed: 'auto', {', '.join(map(repr, AUTO))}, a list of these, or a Launcher"
    if name not in AUTO:
        raise ValueError(f"launcher={name!r} is not known; {allowed}")
    launcher: Launcher = importlib.import_module(f"mainstay.launch.{name}").LAUNCHER
    return launcher


def chain(launcher: str | Launcher | Sequence[str | Launcher]) -> list[Launcher]:
    """Return the launchers to try, in order."""
    if launcher == "auto":
        return [find(name) for name in AUTO]
    items = [launcher] if isinstance(launcher, str) or not isinstance(launcher, Sequence) else launcher
    if not items:
        raise ValueError("launcher=[] names none; allowed: 'auto', a name, a Launcher, or a list of them")
    launchers = [find(item) if isinstance(item, str) else item for item in items]
    for one in launchers:
        if not (hasattr(one, "name") and hasattr(one, "why_not") and hasattr(one, "start")):
            raise TypeError(f"launcher={one!r} is none; a Launcher has name, most_workers, why_not() and start()")
    return launchers
