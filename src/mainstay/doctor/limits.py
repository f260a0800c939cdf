"""What the system lets a user's processes have."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

from mainstay.doctor.check import Case, Check, State, amount
from mainstay.errors import size

SPARE = 256  # open files of a client besides its workers
PINNED = 64 << 20  # bytes that a fast network wants to lock
SHARED = 128 << 20  # bytes that MPI libraries want for messages within a node
FABRIC = Path("/sys/class/infiniband")
Limits = Mapping[str, int]  # hard ones, by name; -1: none


def examine(case: Case) -> list[Check]:
    here = case.allocation
    workers = len(os.sched_getaffinity(0)) if here is None else sum(here.workers)
    on_one = workers if here is None else max(here.workers)
    return [judge(_limits(), workers, on_one, has_fabric=FABRIC.is_dir() and any(FABRIC.iterdir())), memory(_shm())]


def _limits() -> Limits:
    kinds = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC, "locked": resource.RLIMIT_MEMLOCK}
    return {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}


def judge(limits: Limits, workers: int, on_one: int, *, has_fabric: bool) -> Check:
    """Judge the limits for so many workers, of which so many are on one node."""
    least = {"files": workers + SPARE, "processes": 2 * on_one + SPARE, "locked": PINNED if has_fabric else 0}
    short = [name for name, needed in least.items() if 0 <= limits[name] < needed]
    words = [f"open files {_said(limits['files'])}", f"processes {_said(limits['processes'])}"]
    words.append("locked memory " + (_said(limits["locked"]) if limits["locked"] < 0 else size(limits["locked"])))
    found = ", ".join(words)
    if not short:
        return Check("Limits", State.GOOD, found)
    flags = {"files": "-n", "processes": "-u", "locked": "-l"}
    wanted = ", ".join(f"ulimit {flags[name]} of {_least(name, least[name])}" for name in short)
    advice = f"For {amount(workers, 'worker')}, ask the administrators for: {wanted}"
    return Check("Limits", State.ODD, found, advice)


def _said(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)


def _least(name: str, needed: int) -> str:
    return "unlimited" if name == "locked" else f"{needed} or more"


def _shm() -> int | None:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return None
    return found.f_frsize * found.f_bavail


def memory(free: int | None) -> Check:
    """Judge the room for shared memory."""
    if free is None:
        return Check(
            "Shared memory", State.ODD, "no /dev/shm", "MPI within a node may fail or be slow: have it mounted"
        )
    if free < SHARED:
        advice = "MPI within a node may end with a bus error: remove old files there; in a container, --shm-size=1g"
        return Check("Shared memory", State.ODD, f"{size(free)} free in /dev/shm", advice)
    return Check("Shared memory", State.GOOD, f"{size(free)} free in /dev/shm")
