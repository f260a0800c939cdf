"""Process sets by behaviour: what each event does, then random histories; `check` holds after every step."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.process_sets import HOST, NAMESPACE, WORLD, Define, Delete, Invalidate, Listing, Process, Registry


def check(registry: Registry) -> None:
    """Assert what must hold between any two events."""
    listing, versions = registry.listing, Counter()
    for place, one in enumerate(listing.sets):
        versions[one.name] += 1
        assert one.version == versions[one.name]
        assert one.size == len(set(one.members)) == len(one.members)
        assert one.members, "an empty set was defined"
        assert not (one.valid and any(registry._has_left(member) for member in one.members))
        assert one.valid == any(place in registry._having.get(member, ()) for member in one.members)
        assert one.members == tuple(sorted(one.members, key=registry._key))
    for name, members in registry._living.items():
        assert members <= registry.hosts.keys()
        if members:
            newest = listing[name]
            assert newest.valid
            assert set(newest.members) == members
        else:
            assert name not in listing or not listing[name].valid
    assert registry._living[WORLD] == registry.hosts.keys()
    told = Listing()
    for event in registry.events:
        told.apply(event)
    assert (told.sets, dict(told)) == (listing.sets, dict(listing))


class Checked(Registry):
    """A registry that is looked through after each event, and whose array must only grow."""

    def _checked(self, events):
        check(self)
        return events

    def changed(self, **what):
        before = [(one.name, one.members) for one in self.listing.sets]
        events = self._checked(super().changed(**what))
        assert [(one.name, one.members) for one in self.listing.sets][: len(before)] == before
        return events

    def define(self, *given, **options):
        return self._checked(super().define(*given, **options))

    def amend(self, *given, **more):
        return self._checked(super().amend(*given, **more))

    def delete(self, *given):
        return self._checked(super().delete(*given))


def processes(namespace, *ranks):
    return tuple(Process(namespace, rank) for rank in ranks)


def started(count=3, namespace="a", host="n1"):
    registry = Checked()
    registry.changed(joined=dict.fromkeys(processes(namespace, *range(count)), host))
    return registry


def words(events):
    """Return events as (what, name, members as text)."""
    return [(type(event).__name__, event.set.name, text(event.set.members)) for event in events]


def text(members):
    return " ".join(f"{member.namespace}_{member.rank}" for member in members)


def test_processes_that_join_at_once_make_one_version_of_each_set_that_they_belong_to():
    registry = started(3)
    names = [WORLD, HOST + "n1", NAMESPACE + "a"]
    assert [event.set.name for event in registry.events] == names
    assert list(registry.listing) == names
    world = registry.listing[WORLD]
    assert (world.members, world.size, world.valid, world.source, world.version) == (
        processes("a", 0, 1, 2),
        3,
        True,
        "mpi",
        1,
    )
    assert registry.listing[HOST + "n1"].source == "mainstay"
    assert registry.changed() == []


def test_a_set_whose_member_has_gone_is_invalid_for_good_and_a_living_one_gets_a_new_version():
    registry = started(2)
    events = registry.changed(left=processes("a", 0))
    assert words(events) == [
        ("Invalidate", WORLD, "a_0 a_1"),
        ("Invalidate", HOST + "n1", "a_0 a_1"),
        ("Invalidate", NAMESPACE + "a", "a_0 a_1"),
        ("Define", WORLD, "a_1"),
        ("Define", HOST + "n1", "a_1"),
        ("Define", NAMESPACE + "a", "a_1"),
    ]
    assert [one.valid for one in registry.listing.versions(WORLD)] == [False, True]
    registry.changed(left=processes("a", 1))
    assert not registry.listing[WORLD].valid, "there is no set without members"
    assert registry.listing[WORLD].version == 2
    assert registry.changed(left=processes("a", 1)) == []
    assert registry.lives(WORLD)


def test_a_version_that_another_has_followed_stays_valid_while_its_members_are_there():
    registry = started(1)
    registry.changed(joined={Process("b", 0): "n2"})
    assert [one.valid for one in registry.listing.versions(WORLD)] == [True, True]
    assert text(registry.listing[WORLD].members) == "a_0 b_0"
    registry.changed(left=processes("b", 0))
    assert [(text(one.members), one.valid) for one in registry.listing.versions(WORLD)] == [
        ("a_0", True),
        ("a_0 b_0", False),
        ("a_0", True),
    ]


def test_what_a_user_defines_stays_as_it_is_or_lives():
    registry = started(3)
    assert words(registry.define("still", processes("a", 2, 0))) == [("Define", "still", "a_0 a_2")]
    registry.define("alive", processes("a", 1, 2), living=True)
    events = registry.changed(left=processes("a", 2))
    assert ("Invalidate", "still", "a_0 a_2") in words(events)
    assert ("Define", "alive", "a_1") in words(events)
    assert not registry.listing["still"].valid
    assert not registry.lives("still")
    assert words(registry.amend("alive", processes("a", 0, 2))) == [("Define", "alive", "a_0 a_1")]
    assert words(registry.amend("alive", left=processes("a", 0, 1))) == [("Invalidate", "alive", "a_0 a_1")]
    assert registry.define("none yet", (), living=True) == []
    assert "none yet" not in registry.listing
    assert "none yet" in registry.known()
    again = registry.define("still", processes("a", 0))[0].set
    assert (again.version, again.valid, again.source) == (2, True, "user")


def test_a_deleted_name_is_no_longer_listed_but_its_versions_are_in_the_array():
    registry = started(2)
    registry.define("mine", processes("a", 0))
    events = registry.delete("mine")
    assert [type(event) for event in events] == [Delete]
    assert not events[0].set.valid
    assert "mine" not in registry.listing
    assert [one.valid for one in registry.listing.versions("mine")] == [False]
    assert registry.delete("mine") == []
    assert registry.define("mine", processes("a", 1))[0].set.version == 2
    registry.changed(left=processes("a", 0))
    assert registry.listing["mine"].valid


def test_workers_that_become_ranks_are_other_processes_and_their_sets_are_defined_anew():
    registry = started(3, "local-1")
    registry.define("still", processes("local-1", 0, 2))
    registry.define("alive", processes("local-1", 1), living=True)
    registry.define("broken", processes("local-1", 0, 1, 2))
    becomes = dict(zip(processes("local-1", 0, 1), processes("mpi-1", 1, 0), strict=True))
    registry.changed(renamed=becomes, left=processes("local-1", 2))
    assert text(registry.listing[WORLD].members) == "mpi-1_0 mpi-1_1"
    assert text(registry.listing["alive"].members) == "mpi-1_0"
    assert [one.valid for one in registry.listing.versions("still")] == [False], "one of its members has gone"
    assert not registry.listing["broken"].valid
    registry.define("still", processes("mpi-1", 1))
    registry.changed(renamed={Process("mpi-1", 1): Process("mpi-2", 0)})
    assert text(registry.listing["still"].members) == "mpi-2_0"
    assert registry.listing["still"].valid
    assert not registry.listing[NAMESPACE + "local-1"].valid
    assert text(registry.listing[HOST + "n1"].members) == "mpi-1_0 mpi-2_0"
    assert registry.changed(renamed=becomes) == [], "they are no longer there"


def test_a_set_may_name_processes_that_the_pool_does_not_know_but_none_that_it_knows_to_have_gone():
    registry = started(1)
    registry.define("ocean", [Process("elsewhere", 0), Process("a", 0)], "pmix")
    assert text(registry.listing["ocean"].members) == "a_0 elsewhere_0"
    assert registry.listing["ocean"].valid
    registry.changed(left=processes("a", 0))
    assert not registry.listing["ocean"].valid
    registry.define("ice", processes("a", 0), "pmix")
    assert not registry.listing["ice"].valid


def test_the_worked_example():
    """Eight processes of namespace a; rank 6 leaves; one joins, of namespace b. A place in the set is the MPI rank."""
    registry = started(8)
    registry.define("app", processes("a", *range(8)), "pmix")
    assert text(registry.listing[WORLD].members) == "a_0 a_1 a_2 a_3 a_4 a_5 a_6 a_7"

    registry.changed(left=processes("a", 6))
    assert [(text(one.members), one.valid) for one in registry.listing.versions(WORLD)] == [
        ("a_0 a_1 a_2 a_3 a_4 a_5 a_6 a_7", False),
        ("a_0 a_1 a_2 a_3 a_4 a_5 a_7", True),
    ]
    assert not registry.listing["app"].valid
    assert registry.listing[WORLD].rank_of(Process("a", 7)) == 6

    registry.changed(joined={Process("b", 0): "n2"})
    assert [(text(one.members), one.valid) for one in registry.listing.versions(WORLD)] == [
        ("a_0 a_1 a_2 a_3 a_4 a_5 a_6 a_7", False),
        ("a_0 a_1 a_2 a_3 a_4 a_5 a_7", True),
        ("a_0 a_1 a_2 a_3 a_4 a_5 a_7 b_0", True),
    ]
    assert [registry.listing[WORLD].rank_of(one) for one in registry.listing[WORLD].members] == list(range(8))
    assert registry.listing[WORLD].rank_of(Process("b", 0)) == 7
    with pytest.raises(ValueError, match="not in tuple"):
        registry.listing[WORLD].rank_of(Process("a", 6))


def test_sets_and_events_can_be_sent():
    events = started(2).events
    assert pickle.loads(pickle.dumps(events)) == events
    assert {type(event) for event in events} <= {Define, Invalidate, Delete}


@settings(deadline=None)
@given(st.data())
def test_random_histories(data):
    registry, count, spaces = Checked(), Counter(), ["a", "b", "c"]
    for _ in range(data.draw(st.integers(1, 25))):
        there = sorted(registry.hosts)
        some = st.lists(st.sampled_from(there), unique=True) if there else st.just([])
        step = data.draw(st.sampled_from(["join", "leave", "rename", "define", "live", "amend", "delete"]))
        name = data.draw(st.sampled_from(["x", "y"]))
        if step == "join":
            space, host = data.draw(st.sampled_from(spaces)), data.draw(st.sampled_from(["n1", "n2"]))
            new = processes(space, *range(count[space], count[space] + data.draw(st.integers(1, 3))))
            count[space] += len(new)
            gone = data.draw(some)
            registry.changed(left=gone, joined=dict.fromkeys(new, host))
        elif step == "leave":
            registry.changed(left=data.draw(some))
        elif step == "rename":
            space = f"mpi-{len(spaces)}"
            spaces.append(space)
            old = data.draw(some)
            registry.changed(renamed={one: Process(space, rank) for rank, one in enumerate(old)})
            count[space] += len(old)
        elif step == "delete":
            registry.delete(name)
        elif step == "amend":
            if registry.lives(name):
                registry.amend(name, data.draw(some), data.draw(some))
        elif (members := data.draw(some)) or step == "live":
            if registry.lives(name) or (name in registry.listing and registry.listing[name].valid):
                registry.delete(name)  # a name that is in use is not defined again
            registry.define(name, members, living=step == "live")
