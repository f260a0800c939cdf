"""What was counted, in sums."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mainstay.audit.counters import Counts
from mainstay.audit.events import Process, Seen
from mainstay.audit.leaks import Leak
from mainstay.audit.packages import Unused, package_of
from mainstay.audit.replay import PHASES, Replay


class Share(NamedTuple):
    """What one process asked for."""

    process: Process
    operations: int


class Sums(NamedTuple):
    """What can be added up of the operations alone.

    peak: the most that began within a second. rate: how many began in each second, the first first.
    batches: operations from the beginning of each batch to that of the next, or to the end.
    """

    total: int
    peak: int
    rate: tuple[int, ...]
    kinds: Counter[str]
    phases: dict[str, int]
    packages: Counter[str]
    batches: tuple[int, ...]
    shares: tuple[Share, ...]


class Report(NamedTuple):
    """What a program cost the shared file system; `elsewhere` are operations on others."""

    command: str
    code: int
    seconds: float
    how: str
    shared: str
    sums: Sums
    elsewhere: int
    unused: tuple[Unused, ...]
    use_is_known: bool
    leaks: tuple[Leak, ...]
    counters: Counts

    def as_json(self) -> dict[str, Any]:
        """Return the same in types that JSON has."""
        found = self._asdict() | self.sums._asdict()
        del found["sums"]
        found["shares"] = [share.process._asdict() | {"operations": share.operations} for share in self.sums.shares]
        found["unused"] = [one._asdict() for one in self.unused]
        found["leaks"] = [leak._asdict() for leak in self.leaks]
        return found


def sums(seen: Sequence[Seen], replay: Replay, directory: str) -> Sums:
    """Add up operations on the shared file system; `directory` is the script's."""
    times = sorted(one.at for one in seen)
    phases = Counter(one.phase for one in seen)
    batches = Counter(one.batch for one in seen)
    pids = Counter(one.process for one in seen)
    return Sums(
        len(seen),
        peak(times),
        rate(times),
        Counter(one.kind for one in seen),
        {phase: phases[phase] for phase in PHASES},
        Counter(package_of(one.path, directory) for one in seen),
        tuple(batches[number] for number in range(1, replay.batches + 1)),
        tuple(Share(replay.processes[pid], count) for pid, count in pids.most_common()),
    )


def peak(times: Iterable[float]) -> int:
    """Return the most of these (ascending) times that lie within one second."""
    last: deque[float] = deque()
    most = 0
    for time in times:
        last.append(time)
        while last[0] <= time - 1:
            last.popleft()
        most = max(most, len(last))
    return most


def rate(times: Sequence[float]) -> tuple[int, ...]:
    """Return how many of these (ascending) times lie in each second from the first."""
    seconds = Counter(int(time - times[0]) for time in times)
    return tuple(seconds[number] for number in range(max(seconds, default=-1) + 1))
