"""A trial: some variants on one node, from their builds to rows of a table.

plan ─▶ a build for each variant ─▶ visits, as the session has them ─▶ rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mainstay.tune.building import OK, Built
from mainstay.tune.plan import Plan
from mainstay.tune.session import CALIBRATION, Course, Session
from mainstay.tune.table import UNFINISHED, Row
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import LOST, About, Visit

if TYPE_CHECKING:
    from mainstay.tune.tuner import Tuner


class Trial:
    """Some variants on one node: built for its kind, and then a session there. `then` is called when all is known."""

    def __init__(self, tuner: Tuner, plan: Plan, then: Callable[[], None] = lambda: None) -> None:
        self._tuner, self.plan, self._then = tuner, plan, then
        self.session = Session(plan.rules, plan.session, plan.baseline, plan.bar)
        self._built: dict[str, Built] = {}

    def begin(self) -> None:
        """Have the variants built; each is visited as soon as it is."""
        tuner, plan = self._tuner, self.plan
        tuner.crew.note_plan(plan)
        alike = [node for node in tuner.nodes if node.kind == plan.kind]
        tuner.moved(None, plan.machine.host, builds=len(plan.variants))
        for variant in plan.variants:
            tuner.crew.build(variant, plan.kind, alike, self._on_built(variant))

    def _on_built(self, variant: Variant) -> Callable[[Built], None]:
        def built(built: Built) -> None:
            self._built[variant.key] = built
            if built.status == OK:
                self._visit(variant, self.session.begin(variant))
            else:
                self._tuner.crew.note_unbuilt(self.plan, variant, built)
            self._tuner.moved(None, self.plan.machine.host, built=1)
            if len(self._built) == len(self.plan.variants):
                self._go_on(self.session.close())

        return built

    def _visit(self, variant: Variant, number: int) -> None:
        tuner, plan = self._tuner, self.plan
        about = About(*plan.place[:2], variant, plan.machine.host, plan.kind, number, plan.began)
        course = self.session.calibration if variant == CALIBRATION else self.session.courses[variant.key]
        checks = not course.visits  # a visit that went well was checked, or came after one that was

        def visited(visit: Visit) -> None:
            following = self.session.visited(variant, number, visit)
            tuner.moved(course, plan.machine.host, visits=1)
            self._go_on(following)

        tuner.crew.visit(about, self._built.get(variant.key, Built(OK)), checks, visited)

    def _go_on(self, visits: Sequence[tuple[Variant, int]]) -> None:
        for variant, number in visits:
            self._visit(variant, number)
        if self.session.is_over:
            self._then()

    @property
    def is_lost(self) -> bool:
        """Whether the node went, and some of the trial with it."""
        courses = self.session.courses.values()
        return LOST in [built.status for built in self._built.values()] + [course.status for course in courses]

    def rows(self) -> list[Row]:
        """Return a row for each variant."""
        unbuilt = {key: built for key, built in self._built.items() if built.status != OK}
        return rows_of(self.plan, self.session, unbuilt, self._tuner.crew.artifacts.command)


def rows_of(plan: Plan, session: Session, unbuilt: dict[str, Built], command: Callable[[Built], str]) -> list[Row]:
    """Return a row for each variant of a plan, by its session and the builds that failed, which `command` repeats."""
    rows = []
    for variant in plan.variants:
        row = Row(variant, plan.machine.host, plan.kind, UNFINISHED, plan.session)
        row.machine, row.is_baseline = plan.machine, variant == plan.baseline
        course, failed = session.courses.get(variant.key), unbuilt.get(variant.key)
        if course is not None:
            _tell_course(row, course)
        elif failed is not None:
            row.status, row.message, row.command = failed.status, failed.stderr, command(failed)
        rows.append(row)
    return rows


def _tell_course(row: Row, course: Course) -> None:
    row.status, row.visits, row.failures = course.status or UNFINISHED, course.visits, tuple(course.failures)
    row.message = course.failures[-1].message if course.failures else ""
