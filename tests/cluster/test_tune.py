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


LOSS = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mainstay import Executor
from mainstay.timeline import overlaps
from mainstay.tune import Tuner, Variant

here = Path(sys.argv[1])

def build(variant, directory):
    (directory / "made").write_text(str(variant))

def run(artifact):
    host = os.uname().nodename
    if host == "n3" and len(list(here.glob("n3-*"))) > 8:
        (here / "measuring").touch()
        time.sleep(600)
    (here / f"{host}-{time.monotonic_ns()}").touch()
    return 1.0

how = dict(build=build, rounds=(6, 6), repeats=1, warmups=0, baseline=Variant(x=0), nodes=3)

def told(table):
    return [(row.host, row.variant.x, row.status, len(row.visits)) for row in table], table.best.medians

pool = dict(launcher="srun", drain=0, timeline=True, node_timeout=2, start_timeout=20)
with Executor(journal=here / "tune.db", **pool) as ex, ThreadPoolExecutor(2) as both:
    one, other = Tuner(ex, run, **how), Tuner(ex, run, **how, seed=1)
    measured = both.submit(one.measure, [Variant(x=x) for x in range(4)])
    searched = both.submit(other.search, {"x": range(12)}, budget=12)
    tables = [told(future.result()) for future in (measured, searched)]
    print("TOLD " + json.dumps([*tables, len(overlaps(ex.timeline))]))
"""


def test_a_host_is_lost_while_it_measures_and_the_others_go_on(cluster):
    here = cluster.shared / "loss"
    here.mkdir()
    (here / "job.py").write_text(LOSS)
    words = f"{sys.executable} {here / 'job.py'} {here}"
    job = cluster.submit(f"exec {words}", "-N3", "--ntasks-per-node=2", "--no-kill", "--time=10")
    cluster.until((here / "measuring").exists, 60, "n3 measures")
    cluster.stop("n3")
    ended = cluster.wait(job, 150)
    cluster.start("n3")
    assert "TOLD " in ended.output, ended.output
    (measured, medians), (searched, _), overlaps = json.loads(ended.output.partition("TOLD ")[2].splitlines()[0])
    assert overlaps == 0
    on_others = [row for row in measured if row[0] != "n3"]
    assert [row[2:] for row in on_others] == [["ok", 6]] * 8
    on_lost = [row for row in measured if row[0] == "n3"]
    assert {status for _, _, status, _ in on_lost} == {"node lost"}
    assert 0 < sum(visits for *_, visits in on_lost) < 4 * 6  # what it had measured is kept
    assert set(medians) == {"n1", "n2"}  # and counts for nobody
    lost = [(host, x) for host, x, status, _ in searched if status == "node lost"]
    assert {host for host, _ in lost} == {"n3"}
    found = sorted(x for _, x, status, _ in searched if status == "ok" and x != 0)  # the baseline is in each trial
    assert found == list(range(1, 12)), "each is measured elsewhere, once"
