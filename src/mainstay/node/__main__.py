"""`python -m mainstay.node`: an agent, as launchers start it. What it must know stands in its environment:

MAINSTAY_ADDRESS  where the client listens
MAINSTAY_KEY      the pool's key, in hexadecimal; never on a command line, and taken out before a task can see it
MAINSTAY_LAUNCH   which launch of the pool this agent belongs to
MAINSTAY_SLOTS    how many workers it may fork at the most (may be missing: as many as it is told)
MAINSTAY_CORES    the cores that its workers may use, by number (may be missing: those it was started on)
"""

from __future__ import annotations

import os
import sys

from mainstay.node.agent import Agent
from mainstay.wire.address import Unreachable, from_text


def main() -> int:
    try:
        addresses = from_text(os.environ.pop("MAINSTAY_ADDRESS"))
        key = bytes.fromhex(os.environ.pop("MAINSTAY_KEY"))
        launch = int(os.environ.pop("MAINSTAY_LAUNCH"))
        slots = int(os.environ.pop("MAINSTAY_SLOTS", "0")) or None
        cores = os.environ.pop("MAINSTAY_CORES", "")
    except (KeyError, ValueError):
        print("mainstay.node is started by a launcher of mainstay.Executor, not by hand", file=sys.stderr)
        return 2
    try:
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
        Agent(addresses, key, launch, slots).run()
    except Unreachable as error:
        print(f"mainstay.node: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
