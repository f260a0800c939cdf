"""Hardware counters of what runs between two points, where the machine allows it: Linux' perf_event_open.

They count this thread in user mode, which `kernel.perf_event_paranoid` up to 2 allows, and the programs that it starts
meanwhile (`inherit`). Where several share a register, the kernel counts each for a part of the time; the count is
scaled up by that (see perf_event_open(2), "time_enabled"). A virtual machine may have only some.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

NUMBERS = {"x86_64": 298, "aarch64": 241, "ppc64le": 319, "riscv64": 241}  # of the system call
HARDWARE, SOFTWARE = 0, 1
EVENTS = {
    "cycles": (HARDWARE, 0),
    "instructions": (HARDWARE, 1),
    "cache_misses": (HARDWARE, 3),
    "branch_misses": (HARDWARE, 5),
    "page_faults": (SOFTWARE, 2),
    "context_switches": (SOFTWARE, 3),
}
# struct perf_event_attr, as long as version 1 has it: type, size, config, period, sample_type, read_format, flags
ATTRIBUTES = struct.Struct("<IIQQQQQ16x")
SIZE = 64
READ_TIMES = 1 | 2  # time enabled, time running
DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 0, 1 << 1, 1 << 5, 1 << 6
ENABLE, DISABLE = 0x2400, 0x2401  # there is no reset: the kernel's leaves what programs that have ended had counted
Read = tuple[int, int, int]  # the value, and how long (ns) it was enabled and was counted


class Counters:
    """Counters that are opened once, and count between `start` and `stop`; without those that the machine refuses."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._before: dict[str, Read] = {}
        number = NUMBERS.get(platform.machine())
        if number is None:  # not known how to ask here
            return
        libc = ctypes.CDLL(None)
        for name, (kind, config) in EVENTS.items():
            flags = DISABLED | INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
            words = ATTRIBUTES.pack(kind, SIZE, config, 0, 0, READ_TIMES, flags)
            fd = libc.syscall(number, ctypes.create_string_buffer(words, SIZE), 0, -1, -1, 8)  # 8: close on exec
            if fd >= 0:
                self._open[name] = fd

    def start(self) -> None:
        self._before = {name: _read(fd) for name, fd in self._open.items()}
        self._tell(ENABLE)

    def stop(self) -> dict[str, float]:
        """Return what was counted since `start`, by name."""
        self._tell(DISABLE)
        counted = {}
        for name, fd in self._open.items():
            value, enabled, running = (now - then for now, then in zip(_read(fd), self._before[name], strict=True))
            if running:
                counted[name] = value * enabled / running
        return counted

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _tell(self, what: int) -> None:
        from fcntl import ioctl

        for fd in self._open.values():
            ioctl(fd, what, 0)


def _read(fd: int) -> Read:
    value, enabled, running = struct.unpack("<QQQ", os.read(fd, 24))
    return value, enabled, running
