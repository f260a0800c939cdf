"""Sessions: who is measured in which order, who goes on, and with which class each ends. No node, no clock."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainstay.tune.rules import EARLY, Rules
from mainstay.tune.session import CALIBRATION, Session
from mainstay.tune.table import Row, Table
from mainstay.tune.variants import Variant, check_space, draw
from mainstay.tune.visiting import Visit

A, B, C = (Variant(x=x) for x in (1, 2, 3))
STEADY = Rules(rounds=(6, 12), precision=0.05)


def play(session: Session, variants, seconds, limit=100_000) -> list[list[Variant]]:
    """Run a session on samples that `seconds(variant, round)` tells: a time, or a class of failure."""
    rounds: list[list[Variant]] = []
    waiting = [(variant, session.begin(variant)) for variant in variants]
    waiting += session.close()
    for _ in range(limit):
        if not waiting:
            break
        rounds.append([variant for variant, _ in waiting])
        following = []
        for variant, number in waiting:
            said = 0.001 if variant == CALIBRATION else seconds(variant, number)
            visit = Visit(said) if isinstance(said, str) else Visit("ok", seconds=(said,), lasted=said)
            following += session.visited(variant, number, visit)
        waiting = following
    assert session.is_over
    return rounds


def statuses(session: Session) -> dict[Variant, str]:
    return {course.variant: course.status for course in session.courses.values()}


def test_each_round_visits_each_variant_once_in_another_order_and_the_kernel_too():
    session = Session(STEADY, "seed")
    rounds = play(session, [A, B, C], lambda variant, number: variant.x / 10 + 0.3)
    assert len(rounds) == 6
    assert all(sorted(visits, key=str) == [CALIBRATION, A, B, C] for visits in rounds[1:])
    assert len({tuple(visits) for visits in rounds[1:]}) > 1
    again = Session(STEADY, "seed")
    assert play(again, [A, B, C], lambda variant, number: variant.x / 10 + 0.3) == rounds


def test_a_variant_goes_on_until_its_median_is_known_or_its_rounds_are_over():
    chance = random.Random(1)
    wild = Session(STEADY, "")
    play(wild, [A, B], lambda variant, number: chance.uniform(1, 2) if variant == A else 1.4)
    assert statuses(wild) == {A: "unstable", B: "ok"}
    assert len(wild.courses[A.key].visits) == 12
    assert len(wild.courses[B.key].visits) == 6


def test_a_budget_of_seconds_ends_a_variant():
    session = Session(Rules(rounds=(50, 50), seconds=2.0), "")
    play(session, [A], lambda variant, number: 0.5)
    assert len(session.courses[A.key].visits) == 4


def test_what_is_clearly_slower_is_left_early_but_the_baseline_never():
    session = Session(STEADY, "", baseline=C)
    play(session, [A, B, C], lambda variant, number: {A: 1.0, B: 1.6, C: 9.0}[variant])
    assert statuses(session) == {A: "ok", B: "slower", C: "ok"}
    assert len(session.courses[B.key].visits) == EARLY
    assert len(session.courses[C.key].visits) == len(session.courses[A.key].visits)


def test_a_ratio_from_before_counts_as_the_best():
    session = Session(STEADY, "", baseline=B, bar=0.1)
    play(session, [A, B], lambda variant, number: {A: 1.0, B: 8.0}[variant])
    assert statuses(session) == {A: "ok", B: "ok"}
    session = Session(STEADY, "", baseline=B, bar=0.1)
    play(session, [A, B], lambda variant, number: {A: 1.0, B: 5.0}[variant])
    assert statuses(session) == {A: "slower", B: "ok"}


def test_what_failed_after_some_rounds_is_no_best_for_the_others():
    session = Session(STEADY, "")
    play(
        session,
        [A, B],
        lambda variant, number: 0.1 if variant == A and number == 0 else {A: "timeout", B: 1.0}[variant],
    )
    assert statuses(session) == {A: "timeout", B: "ok"}
    assert len(session.courses[A.key].visits) == 1


@pytest.mark.parametrize(("how", "tries"), [("crash", 2), ("out of memory", 2), ("timeout", 1), ("wrong answer", 1)])
def test_each_class_of_failure_has_its_rule_of_retries(how, tries):
    session = Session(STEADY, "", baseline=B)
    play(session, [A, B], lambda variant, number: how if variant == A else 1.0)
    assert statuses(session) == {A: how, B: "ok"}
    assert len(session.courses[A.key].failures) == tries


def test_a_crash_that_does_not_come_again_is_forgiven():
    session = Session(STEADY, "")
    play(session, [A], lambda variant, number: "crash" if number == 0 else 1.0)
    assert statuses(session) == {A: "ok"}
    assert len(session.courses[A.key].failures) == 1


def test_variants_that_come_later_begin_at_once_and_rounds_wait_for_them():
    session = Session(STEADY, "")
    assert session.begin(A) == 0
    assert session.visited(A, 0, Visit("ok", seconds=(1.0,))) == []
    assert session.begin(B) == 0
    assert session.close() == []
    assert {variant for variant, _ in session.visited(B, 0, Visit("ok", seconds=(1.0,)))} == {A, B, CALIBRATION}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), count=st.integers(1, 5), has_baseline=st.booleans())
def test_every_session_ends_with_a_class_for_each(data, count, has_baseline):
    variants = [Variant(x=x) for x in range(count)]
    said = st.sampled_from([1.0, 1.01, 1.4, 5.0, "crash", "timeout", "error"])
    session = Session(Rules(rounds=(3, 8)), "", variants[0] if has_baseline else None)
    rounds = play(session, variants, lambda variant, number: data.draw(said))
    assert all(statuses(session).values())
    assert len(rounds) <= 8 + 2 * 2 + 1


def test_rules_say_what_they_allow():
    for wrong in ({"rounds": (5, 3)}, {"repeats": 0}, {"precision": 0}, {"slower": 1.0}):
        with pytest.raises(ValueError, match=r"rounds|repeats|precision|slower"):
            Rules(**wrong).check()


def test_variants_are_plain_equal_by_value_and_drawn_within_constraints():
    assert Variant(a=1, b="x") == Variant(b="x", a=1)
    assert Variant(a=1) != Variant(a=1.0)
    assert {**Variant(a=1, b=2)} == {"a": 1, "b": 2}
    assert Variant(a=1).a == 1
    with pytest.raises(AttributeError, match="this variant has no 'c'; it has: a"):
        _ = Variant(a=1).c
    with pytest.raises(TypeError, match="given: a="):
        Variant(a=[1])
    chance = random.Random(0)
    points = [draw({"a": range(4), "b": (1, 2)}, chance, lambda v: v.a > v.b) for _ in range(50)]
    assert set(points) == {Variant(a=a, b=b) for a, b in itertools.product(range(4), (1, 2)) if a > b}
    assert draw({"a": (1,)}, chance, lambda v: False) is None


def test_no_name_of_a_variant_is_a_column_of_its_table():
    visit = Visit("ok", seconds=(1.0,), cpu=(1.0,), metrics=({"flops": 1.0},), counters=({"cycles": 1.0},))
    table = Table([Row(A, "h", "kind", "ok", visits={0: visit})])
    columns = {*table.as_dicts()[0], *table.samples()[0]} - {*A}
    assert columns >= {"pinned", "built_by", "session", "ratio", "round", "metric_flops", "counter_cycles"}
    for name in columns:
        with pytest.raises(ValueError, match=f"a table has a column '{name}'; name it otherwise"):
            Variant(**{name: 1})
        with pytest.raises(ValueError, match="a table has a column"):
            check_space({name: (1, 2)})
