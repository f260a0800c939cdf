"""`stagger=`: whose turn it is to begin. Pure: knows no clock, and nothing of those who wait."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Lets at most `at_once` begin before one of them is done (None: all); in the order in which they came.

    A turn lasts `longest` seconds at the most: one that hangs must not hold back the others for ever.
    """

    def __init__(self, at_once: int | None, longest: float) -> None:
        self._at_once, self._longest = at_once, longest
        self._waiting: deque[T] = deque()
        self._begun: dict[T, float] = {}  # whose turn it is, and when it ends

    def came(self, who: T) -> None:
        """One more wants to begin."""
        self._waiting.append(who)

    def done(self, who: T) -> None:
        """It has begun, or it is gone; may be told more than once."""
        self._begun.pop(who, None)
        if who in self._waiting:
            self._waiting.remove(who)

    def next(self, now: float) -> list[T]:
        """Return those who may begin now: each once."""
        begin = []
        while self._waiting and (self._at_once is None or len(self._begun) < self._at_once):
            who = self._waiting.popleft()
            self._begun[who] = now + self._longest
            begin.append(who)
        return begin

    def next_deadline(self) -> float | None:
        """Return when `tick` wants to be called."""
        return min(self._begun.values()) if self._waiting else None

    def tick(self, now: float) -> None:
        """End the turns that have lasted too long."""
        self._begun = {who: end for who, end in self._begun.items() if end > now}


def checked(stagger: int | None) -> int | None:
    """Return what `stagger=` says; raise `TypeError` or `ValueError` for what it cannot be."""
    allowed = "allowed: None (all at once) or how many nodes may begin at the same time, an int >= 1"
    if stagger is not None and (not isinstance(stagger, int) or isinstance(stagger, bool)):
        raise TypeError(f"stagger={stagger!r} is no number of nodes; {allowed}")
    if stagger is not None and stagger < 1:
        raise ValueError(f"stagger={stagger} would let no node begin; {allowed}")
    return stagger
