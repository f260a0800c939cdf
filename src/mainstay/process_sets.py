"""Process sets: named sets of processes, their versions, validity and events. Pure: no socket, clock, thread or worker.

    joined, left, renamed ─┐
    define, amend, delete ─┴─▶ Registry ─▶ events ─▶ Listing: an array of sets that only grows, the newest of each name
                                             └─────▶ Listing of a worker: the same, since it is made of the same events

An essay in four rules, which are those of MPI's sessions and of PMIx.

*Who is meant.* A process is (namespace, rank): the launch that it came by, and its number in that. A pair is never used
again. A worker that becomes an MPI rank is another process from then on (`renamed`): its MPI launch, its MPI rank.

*What a set is.* A name, and members that do not change; their order is that of their namespaces' coming (mpi-1 before
mpi-2), then of their ranks, and a member's place in it is its rank in a communicator made of the set. The array of sets
only grows: nothing that was ever listed is taken away, so what holds a place in it can ask again.

*When a set is valid.* As long as all of its members are there. When one has gone, each set that has it turns invalid
for good, and stays listed with its members.

*What lives.* Of a living set a new version is defined whenever its members have changed, unless none is left. The sets
of all processes, of those of a host and of those of a namespace live; what a user defines lives if so wanted. When
processes are renamed, the sets that have them are defined anew, whether they live or not: nobody has gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

WORLD, SELF = "mpi://WORLD", "mpi://SELF"
HOST, NAMESPACE = "mainstay://host/", "mainstay://namespace/"
RESERVED = ("mpi://", "mainstay://")
MPI, POOL, USER, PMIX = "mpi", "mainstay", "user", "pmix"  # where a set comes from


class Process(NamedTuple):
    """A process's name: its namespace (one launch) and its rank there (int)."""

    namespace: str
    rank: int


class ProcessSet(NamedTuple):
    """One version of a process set, as it was when it was asked for.

    `name` (str, a URI); `members` (a tuple of `Process`, in the order of their ranks in a communicator of the set);
    `valid`: whether all members are there; `source`: who defined it, "mpi", "mainstay" (both are the pool's own),
    "user" or "pmix"; `version` (int from 1): how many sets of that name have been defined.
    """

    name: str
    members: tuple[Process, ...]
    valid: bool
    source: str
    version: int

    @property
    def size(self) -> int:
        """How many members it has."""
        return len(self.members)

    def rank_of(self, process: Process) -> int:
        """Return a member's place (int): its rank in a communicator made of the set. `ValueError` if it is none."""
        return self.members.index(process)


class Define(NamedTuple):
    """A set was added to the array, at `place`."""

    place: int
    set: ProcessSet


class Invalidate(NamedTuple):
    """A member of the set at `place` has gone."""

    place: int
    set: ProcessSet


class Delete(NamedTuple):
    """A name was given up; `set` is its newest version, at `place`. Its versions are invalid, and stay in the array."""

    place: int
    set: ProcessSet


Event = Define | Invalidate | Delete


class Listing(Mapping[str, ProcessSet]):
    """What events have told of: the newest version of each name, and in `sets` the array of all."""

    def __init__(self) -> None:
        self.sets: list[ProcessSet] = []
        self.heard = 0  # events
        self._newest: dict[str, int] = {}
        self._versions: dict[str, list[int]] = {}  # those of deleted names too

    def __getitem__(self, name: str) -> ProcessSet:
        return self.sets[self._newest[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._newest)

    def __len__(self) -> int:
        return len(self._newest)

    def versions(self, name: str) -> list[ProcessSet]:
        """Return all sets of that name, the oldest first."""
        return [self.sets[place] for place in self._versions.get(name, ())]

    def place(self, name: str) -> int:
        """Return where the newest version of a name stands in the array."""
        return self._newest[name]

    def apply(self, event: Event) -> None:
        """Take note of the next event."""
        self.heard += 1
        name = event.set.name
        if isinstance(event, Define):
            self.sets.append(event.set)
            self._newest[name] = event.place
            self._versions.setdefault(name, []).append(event.place)
        elif isinstance(event, Invalidate):
            self.sets[event.place] = event.set
        else:
            del self._newest[name]
            for place in self._versions[name]:
                self.sets[place] = self.sets[place]._replace(valid=False)


class Registry:
    """The state machine. Every method takes an event and returns those that follow; `listing` has followed them."""

    def __init__(self) -> None:
        self.listing = Listing()
        self.events: list[Event] = []  # all of them
        self.hosts: dict[Process, str] = {}  # of the processes that are there
        self._spaces: set[str] = set()  # namespaces of the pool, those that are over too
        self._order: dict[str, int] = {}  # of their names without the numbers, as they came
        self._having: dict[Process, set[int]] = {}  # places of the valid sets that have a process
        self._living: dict[str, set[Process]] = {WORLD: set()}

    # -- what can be asked

    def lives(self, name: str) -> bool:
        """Whether a set of that name follows its members' coming and going."""
        return name in self._living

    def known(self) -> list[str]:
        """Return all names, those of living sets that have no member yet too."""
        return list(dict.fromkeys([*self.listing, *self._living]))

    # -- events

    def changed(
        self,
        *,
        left: Collection[Process] = (),
        renamed: Mapping[Process, Process] | None = None,
        joined: Mapping[Process, str] | None = None,
    ) -> list[Event]:
        """Processes have left, have become others, or have joined (each with its host); all at once."""
        start = len(self.events)
        touched: dict[str, None] = {}  # names, in an order that is the same everywhere
        kept = self._rename(renamed or {}, touched)
        for process in left:
            self._leave(process, touched)
        for process, host in (joined or {}).items():
            self._join(process, host, touched)
        for place in kept:
            self._follow(place, renamed or {})
        for name in touched:
            self._renew(name)
        return self.events[start:]

    def define(self, name: str, members: Iterable[Process], source: str = USER, *, living: bool = False) -> list[Event]:
        """Define a set under a name that is free, or whose set has turned invalid; its processes are there.

        Of a living set without members nothing but the name is known so far.
        """
        start = len(self.events)
        if living:
            self._living[name] = set(members)
            self._renew(name)
        else:
            self._define(name, members, source)
        return self.events[start:]

    def amend(self, name: str, joined: Collection[Process] = (), left: Collection[Process] = ()) -> list[Event]:
        """These processes belong to a living set too, and these do no longer."""
        start = len(self.events)
        self._living[name].difference_update(left)
        self._living[name].update(process for process in joined if process in self.hosts)
        self._renew(name)
        return self.events[start:]

    def delete(self, name: str) -> list[Event]:
        """Give a name up."""
        self._living.pop(name, None)
        if name not in self.listing:
            return []
        for version in self.listing.versions(name):
            for process in version.members:
                places = self._having.get(process, set())
                places -= {place for place in places if self.listing.sets[place].name == name}
        place = self.listing.place(name)
        return [self._tell(Delete(place, self.listing.sets[place]._replace(valid=False)))]

    # -- one process

    def _join(self, process: Process, host: str, touched: dict[str, None]) -> None:
        self._spaces.add(process.namespace)
        self._order.setdefault(numbered(process.namespace)[0], len(self._order))
        self.hosts[process] = host
        for name in own_sets(process, host):
            self._living.setdefault(name, set()).add(process)
            touched[name] = None

    def _leave(self, process: Process, touched: dict[str, None]) -> None:
        if self.hosts.pop(process, None) is None:
            return
        for place in sorted(self._having.pop(process, ())):
            self._invalidate(place)
        for name, members in self._living.items():
            if process in members:
                members.discard(process)
                touched[name] = None

    def _rename(self, renamed: Mapping[Process, Process], touched: dict[str, None]) -> list[int]:
        """Let the processes go under one name and come under another; return the sets that are to follow them."""
        hosts = {old: self.hosts[old] for old in renamed if old in self.hosts}
        follow = {place for old in hosts for place in self._having.get(old, ()) if self._stands_alone(place)}
        belongs = {name: members & hosts.keys() for name, members in self._living.items()}
        for old in hosts:
            self._leave(old, touched)
        for old, host in hosts.items():
            self._join(renamed[old], host, touched)
        for name, members in belongs.items():
            if not name.startswith(NAMESPACE):
                self._living[name].update(renamed[old] for old in members)
        return sorted(follow)

    def _stands_alone(self, place: int) -> bool:
        """Whether a set is the newest of a name that does not live."""
        name = self.listing.sets[place].name
        return name not in self._living and self.listing.place(name) == place

    def _follow(self, place: int, renamed: Mapping[Process, Process]) -> None:
        """Define a set anew, of whose members some have another name now, if all are there."""
        old = self.listing.sets[place]
        members = [renamed.get(process, process) for process in old.members]
        if not any(self._has_left(process) for process in members):
            self._define(old.name, members, old.source)

    # -- one set

    def _renew(self, name: str) -> None:
        """Define a new version of a living set, if its members are others than those of the newest."""
        members, newest = self._living[name], self.listing.get(name)
        if members and (newest is None or set(newest.members) != members or not newest.valid):
            self._define(name, members, source_of(name))
        elif not members and newest is not None and newest.valid:
            self._invalidate(self.listing.place(name))  # all belong elsewhere now

    def _define(self, name: str, members: Iterable[Process], source: str) -> None:
        ordered = tuple(sorted(set(members), key=self._key))
        place, version = len(self.listing.sets), len(self.listing.versions(name)) + 1
        valid = not any(self._has_left(process) for process in ordered)
        for process in ordered if valid else ():
            self._having.setdefault(process, set()).add(place)
        self._tell(Define(place, ProcessSet(name, ordered, valid, source, version)))

    def _invalidate(self, place: int) -> None:
        known = self.listing.sets[place]
        for process in known.members:
            self._having.get(process, set()).discard(place)
        self._tell(Invalidate(place, known._replace(valid=False)))

    def _tell(self, event: Event) -> Event:
        self.events.append(event)
        self.listing.apply(event)
        return event

    def _key(self, process: Process) -> tuple[int, tuple[str, int], int]:
        space = numbered(process.namespace)
        return self._order.get(space[0], len(self._order)), space, process.rank

    def _has_left(self, process: Process) -> bool:
        """Whether a process was one of the pool's; of others, which PMIx may name, nothing is known."""
        return process.namespace in self._spaces and process not in self.hosts


@lru_cache
def numbered(namespace: str) -> tuple[str, int]:
    """Return a namespace's name without its number, and that: launches of a kind are numbered as they come."""
    stem, _, number = namespace.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (namespace, 0)


def own_sets(process: Process, host: str) -> tuple[str, str, str]:
    """Return the names of the sets that a process belongs to by itself."""
    return WORLD, HOST + host, NAMESPACE + process.namespace


def source_of(name: str) -> str:
    """Return who defines a living set of that name."""
    return MPI if name.startswith("mpi://") else POOL if name.startswith("mainstay://") else USER
