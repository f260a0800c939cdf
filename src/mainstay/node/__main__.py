"""`python -m mainstay.node`: an agent, as launchers start it. What it must know stands in its environment:

MAINSTAY_ADDRESS  where the client listens
MAINSTAY_KEY      the pool's key, in hexadecimal; never on a command line, and taken out before a task can see it
MAINSTAY_LAUNCH   which launch of the pool this agent belongs to
MAINSTAY_SLOTS    how many workers it may fork at the most (may be missing: as many as it is told); several numbers,
                  as 4,1,1: one for each node of a Slurm step
MAINSTAY_GATE     the job whose other ranks on this node wait for the end of this agent (may be missing: none)
MAINSTAY_CORES    the cores that its workers may use, by number (may be missing: those it was started on)
"""

from __future__ import annotations

import os
import socket
import sys

from mainstay.node.agent import Agent
from mainstay.wire.address import Unreachable, from_text


def main() -> int:
    try:
        addresses = from_text(os.environ.pop("MAINSTAY_ADDRESS"))
        key = bytes.fromhex(os.environ.pop("MAINSTAY_KEY"))
        launch = int(os.environ.pop("MAINSTAY_LAUNCH"))
        slots = slots_here(os.environ.pop("MAINSTAY_SLOTS", ""), int(os.environ.get("SLURM_NODEID", 0)))
        job = os.environ.pop("MAINSTAY_GATE", "")
        cores = os.environ.pop("MAINSTAY_CORES", "")
    except (KeyError, ValueError):
        print("mainstay.node is started by a launcher of mainstay.Executor, not by hand", file=sys.stderr)
        return 2
    try:
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
        _gate = hold_gate(job) if job else None  # closed when this process ends
        Agent(addresses, key, launch, slots).run()
    except Unreachable as error:
        print(f"mainstay.node: {error}", file=sys.stderr)
        return 3
    return 0


def slots_here(text: str, node: int) -> int | None:
    """Return this node's number of slots; None if none was told."""
    each = [int(word) for word in text.split(",") if word]
    return each[node if len(each) > 1 else 0] if each else None


def hold_gate(job: str) -> socket.socket | None:
    """Let the other ranks on this node wait at a gate of ours, as at rank 0's on its own host."""
    from mainstay.world import gate_of

    try:
        return gate_of(job)
    except OSError:
        return None  # another pool's agent holds it


if __name__ == "__main__":
    sys.exit(main())
