"""What file systems count by themselves: NFS in /proc/self/mountstats, Lustre in its statistics. For the whole host."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable

MOUNTSTATS = "/proc/self/mountstats"
LUSTRE = tuple(
    f"{root}/{part}"
    for root in ("/proc/fs/lustre", "/sys/kernel/debug/lustre", "/sys/fs/lustre")
    for part in ("llite/*/stats", "mdc/*/md_stats", "mdc/*/stats")
)
NFS_DATA = ("NULL", "READ", "WRITE", "COMMIT", "SEQUENCE", "RENEW")
LUSTRE_DATA = ("snapshot_time", "start_time", "elapsed_time", "read", "write", "brw", "osc", "ioctl", "mmap", "page")
LUSTRE_WAITING = ("req_waittime", "req_qdepth", "req_active", "req_timeout", "reqbuf_avail")

Counts = dict[str, Counter[str]]  # by what counts: operations by name


def snapshot() -> Counts:
    """Return what the file systems of this host have counted until now; those that may not be read are left out."""
    found = nfs(_lines(MOUNTSTATS))
    for pattern in LUSTRE:
        for path in glob.glob(pattern):
            counted = lustre(_lines(path))
            if counted:
                found[_named(path)] = counted
    return found


def since(before: Counts, after: Counts) -> Counts:
    """Return what was counted meanwhile."""
    differences = {name: counts - before.get(name, Counter()) for name, counts in after.items()}
    return {name: counts for name, counts in differences.items() if counts}


def nfs(lines: Iterable[str]) -> Counts:
    """Return the metadata operations of each NFS mount: `OPERATION: requests transmissions timeouts …`."""
    found: Counts = {}
    mount, is_counting = "", False
    for line in lines:
        words = line.split()
        if line.startswith("device "):
            is_nfs = "fstype" in words and words[words.index("fstype") + 1].startswith("nfs")
            mount = f"NFS {words[words.index('on') + 1]}" if is_nfs else ""
            is_counting = False
        elif words == ["per-op", "statistics"]:
            is_counting = bool(mount)
        elif is_counting and len(words) > 1 and words[0].endswith(":"):
            name, count = words[0][:-1], int(words[1])
            if count and name not in NFS_DATA:
                found.setdefault(mount, Counter())[name] += count
    return found


def lustre(lines: Iterable[str]) -> Counter[str]:
    """Return the metadata operations of a Lustre statistics file: `open    123 samples [regs]`."""
    found: Counter[str] = Counter()
    for line in lines:
        words = line.split()
        if len(words) < 3 or words[2] != "samples" or words[0].startswith((*LUSTRE_DATA, *LUSTRE_WAITING)):
            continue
        found[words[0]] += int(words[1])
    return +found


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []  # not there, or only for root


def _named(path: str) -> str:
    folder = os.path.dirname(path)
    return f"Lustre {os.path.basename(os.path.dirname(folder))} {os.path.basename(folder).partition('-')[0]}"
