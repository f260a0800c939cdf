"""A table from a journal alone: what was measured, also by a run that was killed, or goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from mainstay.journal import sqlite
from mainstay.journal.record import Choice
from mainstay.keeping import unwrap
from mainstay.tune.artifacts import command_of
from mainstay.tune.building import OK, Built, File
from mainstay.tune.plan import Place, Plan, Unbuilt
from mainstay.tune.session import Session
from mainstay.tune.table import Row, Table
from mainstay.tune.trial import rows_of
from mainstay.tune.visiting import Visit

T = TypeVar("T")
Visits = dict[tuple[str, int], Visit]  # by variant and round


class Told(NamedTuple):
    """What a journal tells of trials: visits by place, builds that failed, and by digest the files that these left.

    Builds that left the same files have one digest, whatever they failed by.
    """

    visits: dict[Place, Visits]
    unbuilt: list[Unbuilt]
    left: dict[str, tuple[File, ...]]


def tables(journal: str | os.PathLike[str]) -> list[Table]:
    """Return what each sweep and search measured when it was begun last; the latest of them is the last.

    Raises `JournalError`.
    """
    store = sqlite.Store(journal, write=False)
    try:
        plans = list(_results(store, "plan *", Plan))
        visits, unbuilt = _by_place(_results(store, "measure *", Visit)), list(_results(store, "unbuilt *", Unbuilt))
        builds = _results(store, "build *", Built) if unbuilt else ()
        told = Told(visits, unbuilt, {built.digest: built.files for built in builds if built.status != OK})
    finally:
        store.close()
    latest: dict[tuple[str, str], list[Plan]] = {}
    for (tuner, table, _), run in groupby(sorted(plans, key=_run_of), key=_run_of):
        latest[tuner, table] = list(run)
    return [_table(run, told) for run in sorted(latest.values(), key=lambda run: run[0].began)]


def _run_of(plan: Plan) -> tuple[str, str, float]:
    return plan.tuner, plan.table, plan.began


def _results(store: sqlite.Store, label: str, kind: type[T]) -> Iterator[T]:
    for call in store.calls(Choice(label=label)):
        with suppress(Exception):  # damaged, or what a call raised, of which there is a note besides
            found: Any = unwrap(store.load(call.id))
            if isinstance(found, kind):
                yield found


def _by_place(visits: Iterable[Visit]) -> dict[Place, Visits]:
    by_place: dict[Place, Visits] = {}
    known = [(visit.about, visit) for visit in visits if visit.about is not None]
    for about, visit in sorted(known, key=lambda one: one[0].began):  # of one that was made again, the latest
        by_place.setdefault(Place(about.tuner, about.session, about.host), {})[about.variant.key, about.round] = visit
    return by_place


def _table(plans: list[Plan], told: Told) -> Table:
    rows: list[Row] = []
    calibrations: dict[str, list[Visit]] = {}
    for plan in plans:
        session = replayed(plan, told.visits.get(plan.place, {}))
        ordered = sorted(session.calibration.visits.items())
        calibrations.setdefault(plan.machine.host, []).extend(visit for _, visit in ordered)
        rows += rows_of(plan, session, _failed(plan, told), command_of)
    return Table(rows, calibrations, {plan.machine.host: plan.machine for plan in plans}, plans[0].alpha)


def _failed(plan: Plan, told: Told) -> dict[str, Built]:
    """Return the builds that failed in a trial as it was begun last, by variant."""
    mine = [one for one in told.unbuilt if (one.place, one.began) == (plan.place, plan.began)]
    return {one.variant.key: one.built._replace(files=told.left.get(one.built.digest, ())) for one in mine}


def replayed(plan: Plan, visits: Visits) -> Session:
    """Return a trial's session as it went, by its visits."""
    session = Session(plan.rules, plan.session, plan.baseline, plan.bar)
    met = {key for key, _ in visits}
    waiting = [(variant, session.begin(variant)) for variant in plan.variants if variant.key in met]
    is_open = True
    while waiting:
        known = [(variant, number) for variant, number in waiting if (variant.key, number) in visits]
        is_whole = len(known) == len(waiting)
        waiting = []
        for variant, number in known:
            waiting += session.visited(variant, number, visits[variant.key, number])
        if is_open and is_whole:
            waiting, is_open = session.close(), False
    return session
