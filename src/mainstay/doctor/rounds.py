"""All subjects, each in a thread of its own with a time limit; what fails in a check is a finding, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from mainstay.doctor import files, job, limits, mpi, nodes, python, started
from mainstay.doctor.check import Case, Check, State


class Subject(NamedTuple):
    """A subject by its name, and the seconds that it may take."""

    name: str
    seconds: float
    examine: Callable[[Case], list[Check]]


SUBJECTS = (
    Subject("Python", 10, python.examine),
    Subject("Slurm", 50, job.examine),
    Subject("Started as", 30, started.examine),
    Subject("MPI", 90, mpi.examine),
    Subject("Nodes", 90, nodes.examine),
    Subject("Files", 20, files.examine),
    Subject("Limits", 10, limits.examine),
)


class Visit:
    """A subject that is being examined."""

    def __init__(self, subject: Subject, case: Case) -> None:
        self._subject, self._case = subject, case
        self._begun = time.monotonic()
        self._checks: list[Check] | None = None
        self._thread = threading.Thread(target=self._examine, name=f"doctor-{subject.name}", daemon=True)
        self._thread.start()

    def _examine(self) -> None:
        try:
            self._checks = self._subject.examine(self._case)
        except Exception as error:
            self._checks = [self._finding(f"the check failed: {type(error).__name__}: {error}")]

    def checks(self) -> list[Check]:
        """Return what was found, after the subject's time at the latest."""
        self._thread.join(max(0.0, self._begun + self._subject.seconds - time.monotonic()))
        late = f"no answer in {self._subject.seconds:g} s: a file system or a service hangs"
        return [self._finding(late)] if self._checks is None else self._checks

    def _finding(self, found: str) -> Check:
        return Check(self._subject.name, State.BAD, found, "Look at this by hand; tell us of it if nothing is wrong")


def rounds(case: Case, subjects: tuple[Subject, ...] = SUBJECTS) -> list[Check]:
    """Return all checks, in the order of the subjects; they are made at the same time."""
    visits = [Visit(subject, case) for subject in subjects]
    return [check for visit in visits for check in visit.checks()]
