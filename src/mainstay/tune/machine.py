"""The machine that a measurement runs on: what it is, how busy, and how fast it does a fixed piece of work."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from mainstay.tune.programs import version

GOVERNOR = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"
LOOPS, BLOCKS = 20_000, 24  # of the calibration kernel: some 3 ms


class Machine(NamedTuple):
    """A node. `tools` are versions of compilers; `kind` is equal for machines that programs run equally well on."""

    host: str
    architecture: str
    cpu: str
    flags: str
    cores: int
    governor: str
    kernel: str
    tools: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        words = repr((self.architecture, self.cpu, self.flags, self.tools))
        return f"{self.cpu} {blake2b(words.encode(), digest_size=3).hexdigest()}"


def look(tools: Sequence[str] = ()) -> Machine:
    """Return what this machine is."""
    cpu = _cpu()
    flags = " ".join(sorted(cpu.get("flags", cpu.get("Features", "")).split()))
    return Machine(
        os.uname().nodename,
        platform.machine(),
        cpu.get("model name", platform.machine()),
        flags,
        len(os.sched_getaffinity(0)),
        governor(),
        platform.release(),
        tuple((tool, version(tool)) for tool in tools),
    )


def _cpu() -> dict[str, str]:
    """Return what the kernel says of the first processor."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def governor() -> str:
    """Return how the kernel chooses this core's frequency; "unknown" where it does not say, as in virtual machines."""
    try:
        with open(GOVERNOR.format(min(os.sched_getaffinity(0)))) as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def calibrate() -> float:
    """Do a fixed piece of work, of the interpreter and of compiled code; return its seconds."""
    block = bytes(1 << 16)
    began = time.perf_counter()
    total = 0
    for number in range(LOOPS):
        total += number * number & 0xFF
    digest = blake2b()
    for _ in range(BLOCKS):
        digest.update(block)
    return time.perf_counter() - began
