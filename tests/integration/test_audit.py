"""`mainstay audit`: counts against those of a mount, phases, what was imported for nothing, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import slowmount
from mainstay.audit import strace
from slowmount import SlowMount

COMMAND = [sys.executable, "-c", "import sys; from mainstay.cli import main; sys.exit(main())", "audit"]
with tempfile.TemporaryDirectory() as _place:
    NO_STRACE = strace.why_not(_place)
needs_strace = pytest.mark.skipif(bool(NO_STRACE), reason=NO_STRACE or "-")


def run(*words: object, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def report(*words: object, **environ: str) -> Any:
    return json.loads(run("--json", *words, **environ).stdout)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


LOOKS = """
import os, sys
place = sys.argv[1]
sys.path.insert(0, place)
import package.a, package.b
os.stat(place + "/file"), open(place + "/file").close(), os.listdir(place), os.path.exists(place + "/missing")
os.readlink(place + "/link"), os.access(place + "/file", os.R_OK), os.statvfs(place)
"""


@needs_strace
@pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")
def test_strace_counts_what_a_client_asks_for_that_knows_the_names(tmp_path):
    script = write(tmp_path / "job.py", LOOKS)
    with SlowMount(tmp_path) as mount:
        for name in ("__init__", "a", "b"):
            write(mount.path / "package" / f"{name}.py", "x = 1\n")
        write(mount.path / "file", "data")
        (mount.path / "link").symlink_to("file")
        for _ in range(2):  # bytecode is there then, and the kernel knows the names
            subprocess.run([sys.executable, script, mount.path], check=True)
        mount.clear()
        found = report("--shared", mount.path, script, mount.path)
        pids = {share["pid"] for share in found["shares"]}
        asked = [row for row in mount.operations() if row.pid in pids]  # the audit looks at files, too, afterwards
    assert found["total"] == sum(row.count for row in asked) > 30, (found["kinds"], asked)
    assert found["phases"]["imports"] + found["phases"]["the program itself"] == found["total"]
    assert found["kinds"]["list"] == sum(row.count for row in asked if row.kind == "readdir")


POOL = """
import os, sys
from mainstay import Executor
shared = sys.argv[1]

def late(number):
    sys.path.insert(0, shared)
    try:
        import late_module
    finally:
        sys.path.remove(shared)

def look(number):
    os.listdir(shared)

with Executor(2, launcher="local") as executor:
    executor.wait_ready()
    for work in (late, look, look):
        list(executor.map(work, range(10)))
"""


@pytest.mark.parametrize(("by", "each"), [pytest.param("strace", 2, marks=needs_strace), ("hooks", 1)])
def test_a_pool_is_told_by_phase_batch_and_worker(tmp_path, by, each):
    shared = write(tmp_path / "shared" / "late_module.py", "").parent
    found = report("--by", by, "--shared", shared, write(tmp_path / "job.py", POOL), shared)
    assert found["batches"][1:] == [10 * each, 10 * each]  # strace: open and fstat
    assert found["phases"]["tasks"] == 20 * each
    assert found["phases"]["imports in tasks"] == found["batches"][0] > 0
    assert found["total"] == sum(found["batches"])
    assert found["phases"]["imports"] == 0
    roles = {share["role"] for share in found["shares"]}
    assert roles == {"worker"}
    assert len(found["shares"]) <= 2
    assert by in found["how"]


IMPORTS = """
import sys, idle_one, used_one, named_one, sub.idle, sub.used
assert sys.before_all == "sitecustomize"
def work():
    return used_one.f() + sub.used.f()
work()
print(named_one.x)
"""


@pytest.mark.parametrize("by", [pytest.param("strace", marks=needs_strace), "hooks"])
def test_what_is_imported_for_nothing_and_the_way_to_it(tmp_path, by):
    site = tmp_path / "lib" / "python3" / "site-packages"
    for name in ("idle_one", "sub/__init__", "sub/idle", "sub/used"):
        write(site / f"{name}.py", "def f():\n    return 1\nf()\n")
    write(site / "used_one.py", "import constant_one\ndef f():\n    return constant_one.x\n")
    for name in ("named_one", "constant_one"):
        write(site / f"{name}.py", "x = 1\n")
    write(site / "sitecustomize.py", "import sys\nsys.before_all = __name__\n")
    script = write(tmp_path / "job.py", IMPORTS)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    found = report("--by", by, "--shared", site, script, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="")
    assert {one["name"] for one in found["unused"]} == {"idle_one", "sub.idle"}
    assert found["use_is_known"]
    leaks = {leak["name"]: leak for leak in found["leaks"]}
    assert leaks["PYTHONPATH"]["operations"] == found["total"]
    assert "7 was missing" in leaks["bytecode"]["cause"]
    assert set(found["packages"]) >= {"idle_one", "used_one", "named_one", "constant_one", "sub"}
    again = report("--by", by, "--no-use", "--shared", site, script, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="")
    assert not again["unused"]
    assert not again["use_is_known"]
    assert "bytecode" not in {leak["name"] for leak in again["leaks"]}


def test_the_script_keeps_its_word_and_its_exit_code(tmp_path):
    script = write(tmp_path / "job.py", "import sys; open(__file__); print('hello', *sys.argv[1:]); sys.exit(3)")
    told = run("--shared", tmp_path, script, "--json", "x", code=3).stdout
    assert told.startswith("hello --json x\n")
    assert "it ended with exit code 3" in told
    assert "Ways back to shared storage" in told
    done = run("--json", "--shared", tmp_path, script, code=3)
    assert json.loads(done.stdout)["code"] == 3
    assert "hello" in done.stderr


def test_a_budget_and_misuse(tmp_path):
    script = write(tmp_path / "job.py", "open(__file__)")
    run("--most", 0, "--shared", tmp_path, script, code=1)
    run("--most", 1000, "--shared", tmp_path, script)
    assert "no file 'none.py'" in run("none.py", code=2).stderr
    assert "no program 'no-such'" in run("--compare", "no-such", "true", code=2).stderr


def test_without_strace_it_says_how_it_counted(tmp_path):
    script = write(tmp_path / "job.py", "open(__file__)")
    told = run("--shared", tmp_path, script, PATH=str(tmp_path)).stdout
    assert "Counted by hooks in Python (strace is not installed)" in told
    assert "strace is not installed; install it" in run("--by", "strace", script, code=2, PATH=str(tmp_path)).stderr


def test_two_ways_are_set_side_by_side(tmp_path):
    pytest.importorskip("matplotlib")
    for name, opens in (("one", 1), ("five", 5)):
        write(tmp_path / f"{name}.py", f"import os\nfor _ in range({opens}): os.listdir({str(tmp_path)!r})\n")
    picture, commands = tmp_path / "ways.png", [f"{tmp_path}/one.py", f"{sys.executable} {tmp_path}/five.py"]
    words = ("--by", "hooks", "--shared", tmp_path, "--picture", picture, "--compare")
    told = run(*words, *commands).stdout
    row = next(line for line in told.splitlines() if line.startswith("  the program itself"))
    one, five = map(int, row.split()[-2:])
    assert five - one == 4
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(report(*words, *commands)) == 2
