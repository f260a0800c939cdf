"""Communicators: all members have one or none, what is built is built from what is there, and few are kept."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay import communicators
from mainstay.communicators import Communicators
from mainstay.node.gang import WORLD

MOST_KEPT = 4


class Process:
    """A worker as the client sees it, and the communicators that it has: by number, their members in order."""

    def __init__(self, namespace: str, rank: int) -> None:
        self.namespace, self.rank, self.port = namespace, rank, f"port of {namespace}.{rank}"
        self.spent: list[int] = []
        self.spoilt = 0
        self.has: dict[int, list[Process]] = {}


class Pool:
    """Namespaces of some processes each; carries out what is planned, as the workers do."""

    def __init__(self, *sizes: int) -> None:
        self.processes: list[Process] = []
        self.joins = self.builds = 0
        for number, size in enumerate(sizes):
            self.launch(f"mpi-{number}", size)
        self.communicators = Communicators()

    def launch(self, name: str, size: int) -> None:
        world = [Process(name, rank) for rank in range(size)]
        for process in world:
            process.has[WORLD] = world
        self.processes += world

    def gang(self, members: list[Process]) -> None:
        number, leaves = self.communicators.plan(members)
        self.builds += bool(leaves)
        self.joins += max(0, len(leaves) - 1)
        built: list[Process] = []
        for leaf in leaves:
            first = len(built)
            parts = {tuple(map(id, members[first + place].has[leaf.parent])) for place in range(len(leaf.ranks))}
            assert len(parts) == 1, "they mean different communicators by one number"
            built += [members[first].has[leaf.parent][rank] for rank in leaf.ranks]
            assert leaf.port in ("", built[first].port)
        for process in members:
            if leaves:
                assert number not in process.has
                process.has[number] = built
            for spent in process.spent:
                process.has.pop(spent, None)
            process.spent.clear()
            assert process.has[number] == members

    def ends(self, process: Process) -> None:
        self.processes.remove(process)
        self.communicators.forget(process)


def test_a_communicator_is_kept_and_a_subset_of_what_was_joined_joins_nobody():
    pool = Pool(2, 1, 1)
    everyone = list(pool.processes)
    pool.gang(everyone)
    assert (pool.builds, pool.joins) == (1, 2)
    pool.gang(everyone)
    assert pool.builds == 1
    pool.gang(everyone[1:])
    assert (pool.builds, pool.joins) == (2, 2)
    pool.gang(everyone[::-1])
    assert (pool.builds, pool.joins) == (3, 2)
    pool.communicators.spoil(everyone)
    pool.gang(everyone)  # out of the one that is the other way round
    assert (pool.builds, pool.joins) == (4, 2)


def test_who_comes_later_is_joined_to_the_others():
    pool = Pool(3)
    pool.gang(pool.processes)
    pool.ends(pool.processes[1])
    pool.launch("mpi-9", 1)
    pool.gang(pool.processes)
    assert pool.joins == 1


def test_who_has_too_many_communicators_that_are_never_freed_is_told_of(monkeypatch):
    monkeypatch.setattr(communicators, "MOST_SPOILT", 2)
    pool = Pool(3)
    first, second, third = pool.processes
    for members, full in (([first, second], []), ([second, third], [second])):
        pool.gang(members)
        assert pool.communicators.spoil(members) == full
        assert pool.communicators.spoil(members) == []  # it is not spoilt twice


STEP = st.one_of(
    st.tuples(st.just("gang"), st.permutations(range(6)), st.integers(1, 6)),
    st.tuples(st.just("spoil"), st.permutations(range(6)), st.integers(1, 6)),
    st.tuples(st.just("end"), st.permutations(range(6)), st.just(1)),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps=st.lists(STEP, max_size=40))
def test_all_members_of_a_communicator_have_it_or_none(steps):
    whole, communicators.MOST_KEPT = communicators.MOST_KEPT, MOST_KEPT
    try:
        pool = Pool(3, 2, 1)
        for number, (what, places, size) in enumerate(steps):
            members = [pool.processes[place] for place in places[:size]]
            if what == "gang":
                pool.gang(members)
            elif what == "spoil":
                pool.communicators.spoil(members)
            else:
                pool.ends(members[0])
                pool.launch(f"mpi-{number + 10}", 1)
        assert len(pool.communicators._numbers) <= MOST_KEPT
    finally:
        communicators.MOST_KEPT = whole
