"""The tasks that every contestant runs; in a module, so that every pickler can find them."""

from __future__ import annotations

import os
import time
from typing import Any


def echo(value: Any) -> Any:
    return value


def increment(value: int) -> int:
    return value + 1


def nap(seconds: float) -> float:
    """Sleep, and return for how long it really was."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


def whereabouts(seconds: float) -> tuple[str, int]:
    """Sleep, and return who did: host and process."""
    time.sleep(seconds)
    return os.uname().nodename, os.getpid()


def kept(value: Any) -> Any:
    """Return the value, but only in the run in which it is to be kept."""
    if "AGAIN" in os.environ:
        raise AssertionError(f"{value} was not found, and ran again")
    return value


def kept_array(value: int) -> Any:
    """Return 8 MB, but only in the run in which they are to be kept."""
    import numpy  # here, since the starts of pools are timed with these tasks

    return numpy.full(1 << 20, float(kept(value)))
