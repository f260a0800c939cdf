"""`python -m mainstay.node`: an agent, as launchers start it. What it must know stands in its environment:

MAINSTAY_ADDRESS  where the client listens
MAINSTAY_KEY      the pool's key, in hexadecimal; never on a command line, and taken out before a task can see it
MAINSTAY_LAUNCH   which launch of the pool this agent belongs to
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
    except (KeyError, ValueError):
        print("mainstay.node is started by a launcher of mainstay.Executor, not by hand", file=sys.stderr)
        return 2
    try:
        Agent(addresses, key, launch).run()
    except Unreachable as error:
        print(f"mainstay.node: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
