"""The parts of packing that need no environment: heads, finders, bytecode, paths, the shell's lines."""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mainstay.errors import StageError
from mainstay.launch import srun
from mainstay.report import Staged
from mainstay.slurm import allocation
from mainstay.stage import bootstrap, head
from mainstay.stage.bootstrap import Bootstrap
from mainstay.stage.bytecode import pyc, valid
from mainstay.stage.editable import mapping
from mainstay.stage.environment import Environment
from mainstay.stage.fingerprint import edition, fingerprint
from mainstay.stage.head import Manifest
from mainstay.stage.modules import collect, own_directories
from mainstay.stage.relocate import Libraries
from mainstay.stage.tree import everything, file_at, importable
from mainstay.stage.workshop import Workshop

MANIFEST = Manifest("3.11.7", "x86_64", "0.1", "/shared/env", ["/shared/env", "/home/ü/src"], "f", 3, 4, 5, "ab" * 32)
TAG = sys.implementation.cache_tag


@pytest.mark.parametrize("ending", head.KINDS)
def test_a_head_says_what_was_packed(tmp_path, ending):
    path = tmp_path / f"env{ending}"
    written = head.encode(MANIFEST, head.kind_of(path))
    path.write_bytes(written + b"archive")
    assert head.read(path) == (MANIFEST, len(written), len(written) + 7)
    path.write_bytes(written[:20])
    with pytest.raises(StageError, match="no environment packed by this mainstay"):
        head.read(path)


def test_a_head_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "env.tar.gz"
    path.write_bytes(head.encode(MANIFEST, "zstd"))
    with pytest.raises(StageError, match="it has no head"):
        head.read(path)


def test_the_places_that_a_finder_maps_to():
    assert mapping("A = 1\nMAPPING: dict[str, str] = {'a': '/src/a'}\nNAMESPACES = {}\n") == {"a": "/src/a"}
    assert mapping("MAPPING = {'a': '/src/a', 'b.c': '/c'}\n") == {"a": "/src/a", "b.c": "/c"}
    assert mapping("def find(): pass\n") == {}


def test_bytecode_counts_only_with_the_time_and_size_of_its_source(tmp_path):
    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    assert valid(file_at(str(source)), TAG) is None
    made = py_compile.compile(str(source))
    assert made == pyc(str(source), TAG)
    assert valid(file_at(str(source)), TAG).path == made
    source.write_text("x = 10\n")
    assert valid(file_at(str(source)), TAG) is None


@pytest.fixture
def source(tmp_path):
    """A directory with a package, modules, data, links that lead upwards or nowhere, and an environment."""
    for name in ("top.py", "notes.txt", "package/__init__.py", "package/data.txt", "package/__pycache__/x.pyc",
                 "plain/deep.py", "plain/big.nc", "not-a-name/x.py", ".hidden/x.py", "env/pyvenv.cfg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "plain" / "up").symlink_to(tmp_path)
    (tmp_path / "package" / "round").symlink_to(tmp_path / "package")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nothing")
    return tmp_path


def test_what_can_be_imported(source):
    assert [name for name, _ in importable(str(source))] == [
        "package/__init__.py", "package/data.txt", "plain/deep.py", "top.py",
    ]  # fmt: skip
    assert [name for name, _ in everything(str(source / "package"))] == ["__init__.py", "data.txt"]


def test_the_users_own_modules_travel_unless_they_are_too_many(source, tmp_path, monkeypatch):
    path = [str(source), sys.prefix, f"{sys.base_prefix}/lib", str(source / "env"), "/nowhere"]
    assert own_directories(path, [str(source / "env")]) == [str(source)]
    (modules,), left = collect([str(source)])
    assert left == []
    assert ("top.py", int((source / "top.py").stat().st_mtime), b"top.py") in modules
    monkeypatch.setattr("mainstay.stage.modules.MOST", 3)
    assert collect([str(source)]) == ([], [str(source)])


def test_a_fingerprint_changes_with_what_is_installed_or_edited(source):
    site = source / "site-packages"
    (site / "a-1.dist-info").mkdir(parents=True)
    seen = {fingerprint([str(site), str(source / "package")])}
    (site / "a-1.dist-info" / "RECORD").write_text("a.py,,\n")
    seen.add(fingerprint([str(site), str(source / "package")]))
    (source / "package" / "data.txt").write_text("other data")
    seen.add(fingerprint([str(site), str(source / "package")]))
    assert len(seen) == 3
    assert fingerprint([str(site), str(source / "package")]) in seen


def test_where_a_library_is_looked_for_in_the_tree(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "libx.so").touch()
    libraries = Libraries({}, {"/opt/env": "", "/opt/python/lib": "lib"}, [], Workshop(str(tmp_path)))
    given = ["$ORIGIN/../libs", "/opt/python/lib", "/opt/env/lib/sub", "/usr/lib/x", str(outside)]
    assert libraries._wanted("lib/python3/site-packages/m.so", given, ["libx.so"]) == [
        "$ORIGIN/../libs", "$ORIGIN/../..", "$ORIGIN/../../sub", "/usr/lib/x", "$ORIGIN/../../outside",
    ]  # fmt: skip
    assert libraries._tree["lib/outside/libx.so"].path == str(outside / "libx.so")


def test_what_made_an_environment_and_where_its_packages_put_things(tmp_path):
    fields = dict.fromkeys(Environment._fields, "") | {"prefix": str(tmp_path), "sites": []}
    here = Environment(**fields)  # type: ignore[arg-type]
    assert here.kind == "system"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert here.kind == "venv"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.5\n")
    assert here.kind == "uv"
    (tmp_path / "conda-meta").mkdir()
    assert here.kind == "conda"
    assert here.prefix_of("/home/u/.local/lib/python3.11/site-packages") == "/home/u/.local"
    assert here.prefix_of("/opt/lib/env/lib64/python3.11/site-packages") == "/opt/lib/env"


def test_the_lines_for_the_shell_are_those_of_the_file_without_comments():
    script = bootstrap.script()
    assert not [line for line in script.splitlines() if line.startswith("#")]
    file = Path(bootstrap.__file__).with_name("node.sh").read_text()
    assert len(script) < len(file) < 12_000  # a command line takes 128 kB


def test_how_a_pool_tells_of_it():
    told = Staged("read once per node", 144_000_000, 2.13, 3, 3, 0, "/shared")
    assert str(told) == "environment read once per node (144 MB, 2.1 s), 0 imports from /shared"
    assert str(told._replace(seconds=0.0, nodes=2, imports=7)) == (
        "environment was on the nodes on 2 of 3 nodes, 7 imports from /shared; 1 run from /shared itself"
    )
    assert str(told._replace(nodes=0)) == "environment is on 0 of 3 nodes; 3 run from /shared itself"
    assert str(told._replace(unsent={"n2": "is down"})).endswith(" imports from /shared; not sent to n2: is down")


def test_how_nodes_come_to_it():
    archive, image = (Bootstrap("/env", MANIFEST, 0, program, 1) for program in ("zstd", "squashfs"))
    assert archive.way(0, 3) == "read once per node"
    assert archive.way(1, 1) == "read once per node"
    assert archive.way(2, 3) == "read once and sent to 2 of 3 nodes"
    assert archive.way(3, 3) == "read once and sent to the nodes"
    assert image.way(0, 3) == "mounted on each node"


def test_an_image_is_not_sent_since_nodes_read_only_what_they_use(monkeypatch):
    here = allocation({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"})
    sent: list[Sequence[str]] = []
    monkeypatch.setattr(srun, "_sent", set())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: sent.append(command))
    for program in ("squashfs", "zstd"):
        srun.send(Bootstrap("/env", MANIFEST, 0, program, 1), here)
    assert [command[:2] for command in sent] == [["/usr/bin/sbcast", "--jobid=7"]]


@pytest.mark.parametrize(("version", "same"), [("1.2.0", True), ("1.3.0.dev0", False)])
def test_code_that_is_being_written_is_another_edition_without_a_new_version(tmp_path, version, same):
    for room in ("node", "wire"):
        (tmp_path / room).mkdir()
    module = tmp_path / "wire" / "frames.py"
    (tmp_path / "__init__.py").write_text(f'__version__ = "{version}"\n')
    module.write_text("CALL = 1\n")
    before = edition(str(tmp_path))
    module.write_text("CALL = 2\n")
    assert before.startswith(version)
    assert (edition(str(tmp_path)) == before) is same
