"""`python -m mainstay.node`: an agent, as launchers start it. What it must know stands in its environment:

MAINSTAY_ADDRESS  where the client listens
MAINSTAY_KEY      the pool's key, in hexadecimal; never on a command line, and taken out before a task can see it
MAINSTAY_LAUNCH   which launch of the pool this agent belongs to
MAINSTAY_SLOTS    how many workers it may fork at the most (may be missing: as many as it is told): 4, or by the names
                  of hosts n1=4,n2=1
MAINSTAY_ROOM     how many it may fork when the pool grows, likewise (may be missing: as many as it is told)
MAINSTAY_GATE     the job whose other ranks on this node wait for the end of this agent (may be missing: none)
MAINSTAY_THREADS  how many threads OpenMP may have in a worker where OMP_NUM_THREADS does not say, likewise by the names
                  of hosts (may be missing: as it likes)
MAINSTAY_CORES    the cores that its workers may use, by number (may be missing: those it was started on)
MAINSTAY_STAGE_…  how its environment came to this node (may be missing: it is not staged), see `standing`
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from mainstay.node.agent import Agent
from mainstay.wire.address import Unreachable, from_text

if TYPE_CHECKING:
    from mainstay.node.standing import Standing


def main() -> int:
    try:
        addresses = from_text(os.environ.pop("MAINSTAY_ADDRESS"))
        key = bytes.fromhex(os.environ.pop("MAINSTAY_KEY"))
        launch = int(os.environ.pop("MAINSTAY_LAUNCH"))
        names = os.uname().nodename, os.environ.get("SLURMD_NODENAME", "")
        slots = slots_of(os.environ.pop("MAINSTAY_SLOTS", ""), *names)
        room = slots_of(os.environ.pop("MAINSTAY_ROOM", ""), *names)
        threads = slots_of(os.environ.pop("MAINSTAY_THREADS", ""), *names)
        job = os.environ.pop("MAINSTAY_GATE", "")
        cores = os.environ.pop("MAINSTAY_CORES", "")
    except (KeyError, ValueError):
        print("mainstay.node is started by a launcher of mainstay.Executor, not by hand", file=sys.stderr)
        return 2
    try:
        if threads is not None:
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
        _gate = hold_gate(job) if job else None  # closed when this process ends
        standing = stand() if {"MAINSTAY_STAGE_TREE", "MAINSTAY_STAGE_WHY"} & os.environ.keys() else None
        told = {"launch": launch, "slots": slots, "room": slots if room is None else room}
        Agent(addresses, key, told, standing).run()
    except Unreachable as error:
        print(f"mainstay.node: {error}", file=sys.stderr)
        return 3
    return 0


def stand() -> Standing:
    """Return what is told of the environment that was, or was not, unpacked on this node."""
    from mainstay.node.standing import Standing

    return Standing.read(os.environ)


def slots_of(text: str, *names: str) -> int | None:
    """Return the number of slots of the host that has these names, with or without a domain; None if none was told."""
    if "=" not in text:
        return int(text) if text else None
    each = {name: int(count) for name, count in (word.split("=") for word in text.split(","))}
    short = {name.partition(".")[0]: count for name, count in each.items()}
    found = (each.get(name, short.get(name.partition(".")[0])) for name in names)
    return next((count for count in found if count is not None), None)


def hold_gate(job: str) -> socket.socket | None:
    """Let the other ranks on this node wait at a gate of ours, as at rank 0's on its own host."""
    from mainstay.world import gate_of

    try:
        return gate_of(job)
    except OSError:
        return None  # another pool's agent holds it


if __name__ == "__main__":
    sys.exit(main())
