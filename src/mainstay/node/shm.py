"""The memory that MPICH's ranks of a node share: it is to go with them, also where they do not end by `MPI_Finalize`.

That is what takes its name from it. Ranks that are killed, or that end in another way, would leave some megabytes in
the node's memory with each launch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

PLACE, PREFIX = "/dev/shm", "mpich_shm_"  # noqa: S108
AGE = 10.0  # seconds; who makes such memory has it mapped long before, as long as it lives


def take_names_off() -> None:
    """Have what this rank shares go with the last that has it: none returns from `MPI_Init` before all have."""
    for path in mapped(["self"]):
        _unlink(path)


def sweep(place: str = PLACE) -> None:
    """Remove what ranks of this user's programs have left that were killed."""
    if left := set(_old(place)):
        for path in left - mapped(filter(str.isdigit, os.listdir("/proc")), place):
            _unlink(path)


def mapped(processes: Iterable[str], place: str = PLACE) -> set[str]:
    """Return the shared memory that some of these processes have mapped; others' are not told."""
    begin = f"{place}/{PREFIX}"
    found: set[str] = set()
    for process in processes:
        try:
            with open(f"/proc/{process}/maps") as maps:
                found.update(line[line.index(begin) :].rstrip() for line in maps if begin in line)
        except OSError:
            pass  # it has ended, or is another user's
    return found


def _old(place: str) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(PREFIX):
                    told = entry.stat(follow_symlinks=False)
                    if told.st_uid == os.getuid() and told.st_mtime + AGE < time.time():
                        yield entry.path
    except OSError:
        return  # there is no such place, or the file has gone meanwhile


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # another has done so
