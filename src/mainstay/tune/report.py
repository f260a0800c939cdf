"""A table from a journal alone: what was measured, also by a run that was killed, or goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mainstay.journal import sqlite
from mainstay.journal.record import Call, Choice
from mainstay.keeping import Damaged, unwrap
from mainstay.tune.building import NO_MEMORY, OK, TIMEOUT, Built
from mainstay.tune.session import CALIBRATION, Course, Session
from mainstay.tune.table import Row, Table
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import CRASH, About, Visit

UNFINISHED = "unfinished"
BUILD = re.compile(r"build \[(.*)\] for (.*)")


class Place(NamedTuple):
    """Where visits belong together: in one session."""

    tuner: str
    session: str
    host: str


def tables(journal: str | os.PathLike[str]) -> list[Table]:
    """Return what each tuner measured, by a journal; the latest is the last. Raises `JournalError`."""
    store = sqlite.Store(journal, write=False)
    try:
        visits = list(_results(store, "measure *"))
        builds = list(_results(store, "build *"))
    finally:
        store.close()
    tuners = dict.fromkeys(visit.about.tuner for _, visit in visits if isinstance(visit, Visit) and visit.about)
    return [_table([visit for _, visit in visits if _of(visit, tuner)], builds) for tuner in tuners]


def _of(visit: Any, tuner: str) -> bool:
    return isinstance(visit, Visit) and visit.about is not None and visit.about.tuner == tuner


def _results(store: sqlite.Store, label: str) -> Iterator[tuple[Call, Any]]:
    for call in store.calls(Choice(label=label)):
        try:
            yield call, unwrap(store.load(call.id))
        except Damaged:
            continue
        except Exception as error:  # what a call raised, by the word of the journal
            yield call, error


def _table(visits: list[Visit], builds: list[tuple[Call, Any]]) -> Table:
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
    return Table([*rows, *_failed(builds)], calibrations)


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


def _failed(builds: list[tuple[Call, Any]]) -> Iterator[Row]:
    """Return a row for each build that failed."""
    for call, built in builds:
        match = BUILD.fullmatch(call.label)
        if match is None or (isinstance(built, Built) and built.status == OK):
            continue
        variant = _variant(match[1])
        if isinstance(built, Built):
            yield Row(variant, built.host, match[2], built.status, message=built.stderr, command=built.command)
        else:
            yield Row(variant, call.host, match[2], _class_of(built), message=str(built))


def _class_of(error: object) -> str:
    from mainstay.errors import TaskTimeout, WorkerDied

    if isinstance(error, TaskTimeout):
        return TIMEOUT
    return NO_MEMORY if isinstance(error, WorkerDied) and error.signal == 9 else CRASH


def _variant(text: str) -> Variant:
    """Return a variant as a label says it."""
    pairs = (word.partition("=") for word in text.split(" ") if "=" in word)
    return Variant(**{name: value for name, _, value in pairs})
