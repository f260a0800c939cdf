"""A table from a journal alone: what was measured, also by a run that was killed, or goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from mainstay.journal import sqlite
from mainstay.journal.record import Choice
from mainstay.keeping import unwrap
from mainstay.tune.artifacts import command_of
from mainstay.tune.building import OK, Built
from mainstay.tune.session import CALIBRATION, Course, Session
from mainstay.tune.table import UNFINISHED, Row, Table
from mainstay.tune.visiting import About, Visit


class Place(NamedTuple):
    """Where visits belong together: in one session."""

    tuner: str
    session: str
    host: str


def tables(journal: str | os.PathLike[str]) -> list[Table]:
    """Return what each tuner measured, by a journal; the latest is the last. Raises `JournalError`."""
    store = sqlite.Store(journal, write=False)
    try:
        visits = [one for one in _results(store, "measure *") if isinstance(one, Visit)]
        builds = [one for one in _results(store, "build *") if isinstance(one, Built)]
    finally:
        store.close()
    by_tuner: dict[str, list[Visit]] = {}
    for visit in visits:
        if visit.about is not None:
            by_tuner.setdefault(visit.about.tuner, []).append(visit)
    return [_table(those, builds) for those in by_tuner.values()]


def _results(store: sqlite.Store, label: str) -> Iterator[Any]:
    for call in store.calls(Choice(label=label)):
        with suppress(Exception):  # damaged, or what a call raised, of which there is a note besides
            yield unwrap(store.load(call.id))


def _table(visits: list[Visit], builds: list[Built]) -> Table:
    places: dict[Place, dict[tuple[str, int], Visit]] = {}
    for visit in visits:
        about = visit.about
        assert about is not None
        place = Place(about.tuner, about.session, about.host)
        places.setdefault(place, {})[about.variant.key, about.round] = visit
    rows: list[Row] = []
    calibrations: dict[str, list[Visit]] = {}
    for place, by_round in places.items():
        session, abouts = replayed(place.session, by_round)
        ordered = sorted(session.calibration.visits.items())
        calibrations.setdefault(place.host, []).extend(visit for _, visit in ordered)
        rows += [_row(course, abouts[key]) for key, course in session.courses.items()]
    hosts = {kind: {row.host for row in rows if row.kind == kind} for kind in {row.kind for row in rows}}
    latest = {(built.variant, built.kind): built for built in builds}
    failed = [row for built in latest.values() for row in _failed(built, hosts.get(built.kind, [built.host]))]
    return Table([*rows, *failed], calibrations)


def replayed(seed: str, visits: dict[tuple[str, int], Visit]) -> tuple[Session, dict[str, About]]:
    """Return a session as it went, by its visits, and what each variant's are about."""
    abouts = {key: visit.about for (key, _), visit in visits.items() if visit.about and key != CALIBRATION.key}
    one = next(iter(abouts.values()))
    baseline = next((about.variant for about in abouts.values() if about.is_baseline), None)
    session = Session(one.rules, seed, baseline, one.bar)
    waiting = [(about.variant, session.begin(about.variant)) for about in abouts.values()]
    is_open = True
    while waiting:
        known = [(variant, number) for variant, number in waiting if (variant.key, number) in visits]
        is_whole = len(known) == len(waiting)
        waiting = []
        for variant, number in known:
            waiting += session.visited(variant, number, visits[variant.key, number])
        if is_open and is_whole:
            waiting, is_open = session.close(), False
    return session, abouts


def _row(course: Course, about: About) -> Row:
    row = Row(course.variant, about.host, about.kind, course.status or UNFINISHED, about.session, course.visits)
    row.failures, row.tools, row.is_baseline = tuple(course.failures), about.tools, about.is_baseline
    row.message = course.failures[-1].message if course.failures else ""
    return row


def _failed(built: Built, hosts: Iterable[str]) -> Iterator[Row]:
    """Return a row for each node of its kind, if a build failed."""
    if built.variant is None or built.status == OK:
        return
    for host in hosts:
        yield Row(built.variant, host, built.kind, built.status, message=built.stderr, command=command_of(built))
