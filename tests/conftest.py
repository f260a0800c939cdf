"""Shared fixtures. After every module, nothing that it started may be left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psutil
import pytest


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for a condition, never for a time; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def agents() -> list[psutil.Process]:
    """The agents and workers that run on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("mainstay.node" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left() -> Iterator[None]:
    """No agent and no worker outlives the tests of its module."""
    before = {process.pid for process in agents()}
    yield
    wait_until(lambda: {process.pid for process in agents()} <= before)
