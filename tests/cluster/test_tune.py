"""Tuning over three hosts: each took part, nothing ran beside a measurement, each kind has its fastest variant."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
JOB = """
import json, os, socket
from mainstay import Executor
from mainstay.timeline import overlaps
from mainstay.tune import Tuner, Variant
from mainstay.tune.nodes import TooFewNodes
import tune_gemm as it

with Executor(launcher="srun", drain=0, timeline=True, journal="gemm.db") as ex:
    lines = []
    tuner = Tuner(
        ex, it.run, build=it.build, check=it.check, setup=it.setup, baseline=it.baseline, nodes=3, log=lines.append,
        kind=lambda machine: "odd" if machine.host[-1] in "13" else "even", rounds=(6, 6), repeats=2,
    )
    table = tuner.measure([v for v in it.variants if v.tile == 64 and v.unroll == 4])
    spans = ex.timeline
    try:
        Tuner(ex, it.run, nodes=4)
    except TooFewNodes as error:
        few = str(error)
    print("TOLD " + json.dumps({
        "lines": lines, "few": few, "overlaps": len(overlaps(spans)),
        "alone": sum(span.exclusive for span in spans), "builds": sum("build" in span.label for span in spans),
        "hosts": sorted({row.host for row in table}), "bad": [row.message for row in table if not row.visits],
        "best": {kind: str(best.variant) for kind, best in table.best_by_kind.items()},
        "pairs": table.compare(it.baseline, table.rows[0].variant).hosts,
    }))
"""


@pytest.fixture(scope="module")
def told(cluster):
    (cluster.shared / "job.py").write_text(JOB)
    (cluster.shared / "tune_gemm.py").write_text((EXAMPLES / "tune_gemm.py").read_text())
    ended = cluster.wait(cluster.submit(f"exec {sys.executable} job.py", "-N3", "--ntasks-per-node=2"))
    assert ended.state == "COMPLETED", ended.output
    return json.loads(ended.output.partition("TOLD ")[2])


def test_it_ran_on_every_host_and_says_so(told, cluster):
    assert told["hosts"] == sorted(cluster.names)
    assert told["lines"][0] == "nodes: 3 allocated, 3 took part; kinds: 2"
    assert [line.partition(":")[0] for line in told["lines"][1:]] == sorted(cluster.names)
    assert "nodes=4 were asked for, and 3 took part" in told["few"]


def test_nothing_of_the_pool_ran_beside_a_measurement(told):
    assert told["alone"] >= 3 * 3 * 6
    assert told["overlaps"] == 0


def test_each_kind_of_node_has_builds_of_its_own_and_a_fastest_variant(told):
    assert told["bad"] == []
    assert told["builds"] == 2 * 5
    assert set(told["best"]) == {"odd", "even"}
    assert set(told["pairs"]) == set(told["hosts"])
