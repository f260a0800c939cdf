"""What ran when and where, as the workers report it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """One run of a task (also one that raised), from its worker's first look at it to its last.

    `began` and `ended` are seconds of the host's own clock (`time.monotonic`), which all of its processes share; those
    of two hosts have nothing to do with each other. `exclusive` says whether the task was to be alone on the host.
    """

    task: int
    label: str
    host: str
    worker: int
    began: float
    ended: float
    exclusive: bool


def overlaps(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Return each pair of spans of one host that overlap in time though one of them is exclusive."""
    by_host = defaultdict(list)
    for span in spans:
        by_host[span.host].append(span)
    found = []
    for of_host in by_host.values():
        under_way: list[Span] = []
        for span in sorted(of_host, key=lambda one: one.began):
            under_way = [one for one in under_way if one.ended > span.began]
            beside = [one for one in under_way if one.task != span.task]
            found += [(one, span) for one in beside if one.exclusive or span.exclusive]
            under_way.append(span)
    return found
