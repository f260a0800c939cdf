"""The tasks that every contestant runs; in a module, so that every pickler can find them."""

from __future__ import annotations

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
