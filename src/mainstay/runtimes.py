"""How long tasks run: measured by function, expected of the next. Pure."""

from __future__ import annotations

from math import inf

from mainstay.orders import Task

SHORTEST = 1e-6  # seconds; what a run time is at least taken for
SMOOTHING = 0.2  # weight of the newest run time in the moving mean


class RunTimes:
    """The moving mean of each function's run times (s)."""

    def __init__(self) -> None:
        self._means: dict[int, float] = {}

    def measure(self, function: int, seconds: float) -> None:
        seconds = max(seconds, SHORTEST)
        mean = self._means.get(function)
        self._means[function] = seconds if mean is None else mean + SMOOTHING * (seconds - mean)

    def mean(self, function: int) -> float:
        """Return the mean of a function; 0 if it was never measured."""
        return self._means.get(function, 0.0)

    def of(self, task: Task) -> float:
        """Return what a task is expected to last by the mean of its function; 0 if that is not known."""
        return self._means.get(task.function, 0.0)

    def lasts(self, task: Task) -> float:
        """Return how long a task may run: its timeout, else the mean of its function, 0 if that is not known."""
        return self._means.get(task.function, 0.0) if task.timeout is None else task.timeout

    def in_hand(self, task: Task) -> float:
        """Return what a task adds to a hand; one that must be alone, or was never measured, fills it."""
        return inf if task.solo else self._means.get(task.function, inf)
