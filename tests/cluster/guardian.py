"""Holds the namespaces in which a bed lives, and ends them when the bed's holder ends, however that comes.

    holder ── stdin: closed on purpose, or by the holder's end ──┐
       └───── its death, by pidfd: a fork may hold stdin open ───┴─▶ guardian ── SIGKILL ──▶ init ──▶ all in the bed

The bed's bridge, links, mounts and processes live and die with the init of its PID namespace. So the guardian has one
process to kill and one directory to remove.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

from cluster.namespaces import UNSHARE, init, only_child


def main(directory: str, holder: int, setup: Sequence[str]) -> None:
    """Make the namespaces, run the setup (lines of shell) in them, and wait for the holder's end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    # Should the guardian itself be killed, the kernel kills unshare, and unshare's end is the end of the bed.
    command = ["setpriv", "--pdeathsig", "KILL", *UNSHARE, *init(setup)]
    bed = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        select.select([sys.stdin, holder, os.pidfd_open(bed.pid)], [], [])
    finally:
        _end(bed)
        shutil.rmtree(directory, ignore_errors=True)


def _end(bed: subprocess.Popen[bytes]) -> None:
    """Kill the init and wait: the kernel lets unshare know only when the last process of the namespace is gone."""
    if bed.poll() is None:
        os.kill(only_child(bed.pid), signal.SIGKILL)
        bed.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
