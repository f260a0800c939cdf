"""A task's cores: its worker is pinned to them while it runs, and may use all that it could before when it has ended.

Which of the node's cores are the task's, the client says by their places in an order that all workers of the node know:
first one hardware thread of each physical core, then the others, so that tasks share a physical core only where there
are no more. OpenMP learns of them from its environment, when the task first loads it or starts a program with it.
"""

from __future__ import annotations

import os
import sys

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Pinning:
    """Pins this process, from when this is made until `end`."""

    def __init__(self, places: tuple[int, ...]) -> None:
        self._threads = _threads()
        self._allowed = os.sched_getaffinity(0)
        order = in_order(self._allowed)
        cores = [order[place] for place in places if place < len(order)]
        if len(cores) < len(places):
            sys.stderr.write(f"mainstay: the task has {len(cores)} cores, not {len(places)}: this node lost some\n")
        self._environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_PLACES")}
        os.environ["OMP_NUM_THREADS"] = str(len(cores))
        os.environ["OMP_PLACES"] = ",".join(f"{{{core}}}" for core in cores)
        _pin(self._threads, set(cores) or self._allowed)

    def end(self) -> None:
        """Let the process, and threads that were born meanwhile, go."""
        _pin({*self._threads, *_threads()}, self._allowed)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def in_order(cores: set[int]) -> list[int]:
    """Return these hardware threads, one of each physical core first."""
    seen: set[str] = set()
    firsts: list[int] = []
    others: list[int] = []
    for core in sorted(cores):
        siblings = _siblings(core)
        (others if siblings in seen else firsts).append(core)
        seen.add(siblings)
    return firsts + others


def _siblings(core: int) -> str:
    try:
        with open(SIBLINGS.format(core)) as file:
            return file.read()
    except OSError:
        return str(core)  # a virtual machine may not tell


def _threads() -> set[int]:
    """Return the threads to be pinned: all of a worker process; in a worker that is a thread, that one."""
    from threading import current_thread, main_thread

    return {int(name) for name in os.listdir("/proc/self/task")} if current_thread() is main_thread() else {0}


def _pin(threads: set[int], cores: set[int]) -> None:
    for thread in threads:
        try:
            os.sched_setaffinity(thread, cores)
        except ProcessLookupError:
            pass  # it has ended
        except OSError as error:
            sys.stderr.write(f"mainstay: cannot pin to cores {sorted(cores)}: {error}\n")
