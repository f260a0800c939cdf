"""Three hosts run from their own copies of an environment, which one of them has read."""

from __future__ import annotations

import json
import shutil

import pytest

import stagework
from mainstay.stage.pack import pack

KIND = "tar.zst" if shutil.which("zstd") else "tar.gz"
JOB = """\
import json, os, socket, sys
import mainstay, own

LOCAL = "/tmp/mainstay-stage-"

def where(_):
    import mapped, time
    time.sleep(0.05)
    modules = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return socket.gethostname(), own.answer(), [sys.prefix, os.getcwd(), os.environ["HOME"], *sys.path, *modules]

for _ in range(2):
    with mainstay.Executor(launcher="srun", stage="env.KIND", log=lambda line: print(line, flush=True)) as pool:
        workers = pool.wait_ready(timeout=60).workers
        found = list(pool.map(where, range(4 * workers), chunksize=1))
        print(json.dumps([
            sorted({host for host, _, _ in found}),
            sorted({answer for _, answer, _ in found}),
            sorted({place for _, _, places in found for place in places if not place.startswith(LOCAL)}),
        ]))
"""


@pytest.fixture(scope="module")
def packed(cluster):
    environment = stagework.environment(cluster.shared / "made" / "env")
    pack(environment, cluster.shared / f"env.{KIND}")
    (cluster.shared / "staged.py").write_text(JOB.replace("KIND", KIND))
    (cluster.shared / "own.py").write_text("def answer(): return 42\n")
    return environment


def test_each_host_runs_from_its_own_copy_and_the_file_is_passed_on(cluster, packed):
    ended = cluster.wait(cluster.submit(f"{packed}/bin/python staged.py", "-N3", "-n6"), 100)
    told = [json.loads(line) for line in ended.output.splitlines() if line.startswith("[")]
    assert told == [[["n1", "n2", "n3"], [42], []]] * 2, ended.output
    assert "environment read once and sent to the nodes (" in ended.output
    assert f"environment was on the nodes, 0 imports from {packed}" in ended.output
