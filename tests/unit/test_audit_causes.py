"""To which package operations belong, what was imported for nothing, and the ways back to shared storage."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import pytest

from mainstay.audit import packages, table
from mainstay.audit.events import Interpreter, Module, Process, Seen, Told
from mainstay.audit.leaks import Facts, Leak, editable, leaks, shebang
from mainstay.audit.packages import Unused, named, package_of, unused
from mainstay.audit.report import Share
from mainstay.audit.shared import Shared, is_below, shared
from mainstay.cli import audit as command
from mainstay.cli import parser
from mainstay.stage.elf import Linked, linked

SITE = "/env/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    ("path", "package"),
    [
        (f"{SITE}/numpy/_core/x.so", "numpy"),
        (f"{SITE}/numpy.libs/libopenblas.so", "numpy"),
        (f"{SITE}/numpy-2.0.0.dist-info/METADATA", "numpy"),
        (f"{SITE}/six.py", "six"),
        (f"{SITE}/_cffi.cpython-312-x86_64-linux-gnu.so", "_cffi"),
        (SITE, packages.LOOKING),
        (f"{SITE}/a.pth", packages.LOOKING),
        ("/env/lib/python3.12/os.py", packages.STANDARD_LIBRARY),
        ("/usr/lib/python312.zip", packages.STANDARD_LIBRARY),
        ("/env/bin/python3", packages.BINARIES),
        ("/env/lib/libc.so.6", packages.BINARIES),
        ("/home/me/model/run.py", "(the script's directory)"),
        ("/scratch/project/data/a/b/input.nc", "(files in /scratch/project/data)"),
    ],
)
def test_paths_belong_to_packages(path, package):
    assert package_of(path, "/home/me/model") == package


TOLD = Told(
    modules=(
        Module("numpy._core", f"{SITE}/numpy/_core/__init__.py", "numpy"),
        Module("numpy", f"{SITE}/numpy/__init__.py", "pandas"),
        Module("pandas", f"{SITE}/pandas/__init__.py", ""),
        Module("scipy", f"{SITE}/scipy/__init__.py", "scipy.stats"),
        Module("scipy.stats", f"{SITE}/scipy/stats/__init__.py", ""),
        Module("scipy.linalg", f"{SITE}/scipy/linalg/__init__.py", ""),
        Module("six", f"{SITE}/six.py", "pandas"),
        Module("json", "/usr/lib/python3.12/json/__init__.py", ""),
    ),
    used=frozenset({f"{SITE}/numpy/__init__.py", "scipy.linalg._flapack"}),
)
PATHS = Counter(
    {
        f"{SITE}/pandas": 2,
        f"{SITE}/pandas/core/__pycache__/x.cpython-312.pyc": 3,
        f"{SITE}/numpy/_core/x.so": 9,
        f"{SITE}/scipy/stats/a.py": 4,
        f"{SITE}/scipy/linalg/a.py": 8,
        f"{SITE}/__pycache__/six.cpython-312.pyc": 1,
    }
)


def test_what_was_imported_and_not_used():
    assert unused(TOLD, PATHS) == [Unused("pandas", "", 5), Unused("scipy.stats", "", 4), Unused("six", "pandas", 1)]
    script = "import pandas as pd\nfrom scipy import stats\nframe = pd.DataFrame()\n"
    assert [one.name for one in unused(TOLD, PATHS, script)] == ["scipy.stats", "six"]
    assert unused(TOLD._replace(is_silent=True), PATHS) == []


def test_what_a_script_names():
    assert named("import a.b, c as d\nfrom e import f, g\nfrom . import h\na.b.x(); d; g()") == {"a.b", "c", "e.g"}
    assert named("no Python") == set()


def test_what_is_shared(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert shared([str(tmp_path / "link")], []).roots == (str(tmp_path / "there"),)
    guessed = shared([], [str(tmp_path), str(tmp_path / "inside"), ""])
    assert guessed.roots == (str(tmp_path),)
    assert "none is mounted here" in guessed.why
    assert is_below("/a/b", ["/a"])
    nested = Shared(("/", "/local/nfs"), "", ("/local",))
    assert [nested.has(path) for path in ("/home/x", "/local/x", "/local", "/local/nfs/x")] == [
        True,
        False,
        False,
        True,
    ]
    assert not is_below("/ab", ["/a"])


# -- ways back


def seen(path: object, kind: str = "stat", error: str = "", count: int = 1) -> list[Seen]:
    return [Seen(0.0, 1, "imports", 0, kind, str(path), error)] * count


@pytest.fixture
def place(tmp_path: Path) -> Path:
    site = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    site.mkdir(parents=True)
    for folder in ("base", "work", "home/.cache", "modules", "model/src", "other"):
        (tmp_path / folder).mkdir(parents=True)
    (site / "model.pth").write_text(f"{tmp_path}/model/src\nimport sys\n# no\n")
    (site / "__editable__.other-1.pth").write_text("import __editable___other_finder; x()\n")
    (site / "__editable___other_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'other': '{tmp_path}/other'}}\nNAMESPACES: dict = {{}}\n"
    )
    return tmp_path


def ways(place: Path, on_shared: list[Seen], elsewhere: list[Seen] = [], **environ: str) -> dict[str, Leak]:  # noqa: B006
    site = str(place / "env/lib/python3.12/site-packages")
    python = Interpreter(str(place / "env"), str(place / "base"), str(place / "work"), ("", site))
    facts = Facts(Shared((str(place),), "named"), environ, str(place / "work"), [python])
    return {leak.name: leak for leak in leaks(on_shared, elsewhere, facts)}


def test_each_way_back_has_a_cause_a_cure_and_a_count(place):
    tool = place.parent / f"{place.name}-tool"
    tool.write_text(f"#!{place}/env/bin/python -E\n")
    asked = [
        *seen(place / "env/bin/python", count=1),
        *seen(place / "base/lib/python3.12/os.py", count=2),
        *seen(place / "model/src/model.py", count=3),
        *seen(place / "other/__init__.py", count=4),
        *seen(place / "modules/numpy", count=5),
        *seen(place / "modules/libm.so.6", error="ENOENT", count=6),
        *seen(place / "work/input.txt", count=7),
        *seen(place / "home/.cache/x", count=8),
    ]
    modules = str(place / "modules")
    found = ways(
        place,
        asked,
        seen(tool, "exec"),
        PYTHONPATH=f"/local:{modules}",
        LD_LIBRARY_PATH=modules,
        HOME=str(place / "home"),
    )
    counts = {name: leak.operations for name, leak in found.items()}
    assert counts == {
        "PYTHONPATH": 11,
        "HOME": 8,
        "working directory": 7,
        "LD_LIBRARY_PATH": 6,
        "editable install": 3,  # and another, of 4
        "base interpreter": 2,
        "environment": 1,
        "shebang": 1,
    }
    assert found["base interpreter"].cause.startswith(f"home in {place}/env/pyvenv.cfg is in {place}/base")
    assert f"the first line of {tool} names {place}/env/bin/python" in found["shebang"].cause
    assert "each import looks there first" in found["working directory"].cause
    assert all(leak.cure for leak in found.values())
    assert ways(place, []) == {}


def test_editable_installs(place):
    site = str(place / "env/lib/python3.12/site-packages")
    told = [("__editable__.other-1.pth", f"{place}/other"), ("model.pth", f"{place}/model/src")]
    assert list(editable(site)) == told
    assert list(editable(str(place / "missing"))) == []


def test_bytecode_that_is_compiled_anew(place):
    folder = f"{place}/env/__pycache__"
    stale, missing, refused = (f"{folder}/{name}.cpython-312.pyc" for name in ("stale", "missing", "refused"))
    asked = [
        *seen(stale, "open"),
        *seen(f"{stale}.140", "create"),
        *seen(f"{stale}.140", "change"),
        *seen(missing, "open", "ENOENT"),
        *seen(f"{missing}.141", "create"),
        *seen(f"{refused}.142", "create", "EROFS"),
        *seen(f"{place}/other/__pycache__", "change", "EACCES"),
    ]
    leak = ways(place, asked)["bytecode"]
    assert leak.operations == 5
    assert "the bytecode of 2 was missing, that of 1 was not of its source's time" in leak.cause
    assert "2 times it could not be written" in leak.cause


def test_a_library_that_names_a_shared_directory(place, tmp_path_factory):
    library = tmp_path_factory.mktemp("local") / "libx.so.1"
    library.write_bytes(an_elf(f"$ORIGIN/../lib:{place}/modules"))
    asked = seen(place / "modules/libz.so.1", "open", count=2)
    leak = ways(place, asked, seen(library, "open"))["RUNPATH"]
    assert (leak.operations, leak.cause) == (2, f"RUNPATH of {library} names {place}/modules")
    assert linked(str(library)) == Linked(["$ORIGIN/../lib", f"{place}/modules"], [])


def an_elf(run_path: str) -> bytes:
    """A 64-bit file with nothing but a dynamic section: its string table, and RUNPATH."""
    strings = b"\0" + run_path.encode() + b"\0"
    start, dynamic = 64 + 2 * 56, 64 + 2 * 56 + len(strings)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    entries = struct.pack("<QQQQQQ", 5, 0x1000 + start, 29, 1, 0, 0)
    size = dynamic + len(entries)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x1000, 0x1000, size, size, 0x1000)
    section = struct.pack("<IIQQQQQQ", 2, 4, dynamic, 0x1000 + dynamic, 0, len(entries), len(entries), 8)
    return header + load + section + strings + entries


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x7fELF\x02\x01", an_elf("/x")[:150], b"\x7fELF\x01\x01" + bytes(90)]
)
def test_other_files_name_no_directory(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert linked(str(tmp_path / "file")) == linked(str(tmp_path / "missing")) == Linked([], [])


def test_a_first_line(tmp_path):
    (tmp_path / "a").write_bytes(b"#! /usr/bin/env python\n\xff")
    (tmp_path / "b").write_bytes(b"no")
    assert [shebang(str(tmp_path / name)) for name in "abc"] == ["/usr/bin/env", "", ""]


# -- what is told


def test_processes_that_are_alike_are_told_together():
    worker = Process(5, 4, "worker", "x")
    shares = [Share(Process(4, 1, "agent", "x"), 9), Share(worker, 3), Share(worker._replace(pid=6), 7)]
    assert [sum(table.operations(group)) for group in table.alike(shares)] == [10, 9]
    assert table._told(shares[1:]) == "worker × 2, 3 to 7 each"


def given(*words: object):
    return parser().parse_args(["audit", *map(str, words)])


def test_commands(tmp_path):
    script = tmp_path / "job.py"
    script.touch()
    (only,) = command.commands_of(given(script, "--json", "x y"))
    assert only[1:] == [str(script), "--json", "x y"]
    first, second = command.commands_of(given("--compare", "job.py 'a b'", "mpiexec -n 2 python job.py"))
    assert first[1:] == ["job.py", "a b"]
    assert second == ["mpiexec", "-n", "2", "python", "job.py"]
    for words, why in [
        (["--compare", "job.py"], "two commands"),
        (["none.py"], "no file"),
        (["--compare", "a", ""], "empty"),
    ]:
        with pytest.raises(ValueError, match=why):
            command.commands_of(given(*words))
