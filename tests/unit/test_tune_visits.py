"""What a node does with the user's functions and programs: counters, checks, commands that fail. In this process."""

from __future__ import annotations

import subprocess
import sys

from mainstay.tune.counters import Counters


def test_counters_of_programs_begin_anew_with_each_start():
    counters = Counters()
    counted = []
    for _ in range(4):
        counters.start()
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        counted.append(counters.stop())
    counters.close()
    for name in {"page_faults"} & set.intersection(*map(set, counted)):  # where the machine counts them
        first, *_, last = [one[name] for one in counted]
        assert 0 < last < 2 * first
