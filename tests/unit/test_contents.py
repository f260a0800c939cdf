"""What staged inputs count as in a call's key: what they hold, and the names under which tasks find them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mainstay import contents
from mainstay.contents import Contents
from mainstay.staging import look

AGO = 10**9 * 1_000_000_000  # ns: a time at which no test writes


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params" / "deep").mkdir(parents=True)
    (tmp_path / "params" / "deep" / "soil").write_text("clay")
    (tmp_path / "params" / "run.sh").write_text("true")
    return tmp_path


def key(*paths: object) -> bytes:
    return Contents().joined(b"call", list(paths))


def test_what_files_hold_counts_and_not_when(tree: Path) -> None:
    before, soil = key("params"), tree / "params" / "deep" / "soil"
    os.utime(soil, ns=(AGO, AGO))
    assert key("params") == before
    soil.write_text("sand")
    os.utime(soil, ns=(AGO, AGO))
    assert key("params") != before
    soil.write_text("clay")
    assert key("params") == before == key(tree / "params")


def test_names_and_what_can_be_run_count(tree: Path) -> None:
    keys = {key("params")}
    (tree / "params" / "run.sh").chmod(0o755)
    keys.add(key("params"))
    (tree / "params" / "run.sh").rename(tree / "params" / "go.sh")
    keys.add(key("params"))
    (tree / "params" / "empty").mkdir()
    keys.add(key("params"))
    keys.add(key("params/go.sh", "params/deep"))
    assert len(keys) == 5


def test_a_directory_with_all_in_it_may_be_moved(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key("params"), key("/etc/hostname")
    shutil.copytree(tree / "params", tree / "elsewhere" / "params")
    monkeypatch.chdir(tree / "elsewhere")
    assert (key("params"), key("/etc/hostname")) == before
    assert key(tree / "params") != before[0]


def test_a_file_is_read_once_while_it_stays_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(contents, "_read", lambda path, of=contents._read: read.append(path) or of(path))
    monkeypatch.setattr(contents, "RECENT", -1e9)  # as if all had been written long ago
    known, soil = Contents(), tree / "params" / "deep" / "soil"
    before = known.joined(b"call", ["params"])
    assert known.joined(b"call", ["params"]) == before
    assert len(read) == 2
    (tree / "new").write_text("loam")
    os.utime(tree / "new", ns=(soil.stat().st_mtime_ns,) * 2)
    os.replace(tree / "new", soil)  # of the same size and time
    assert known.joined(b"call", ["params"]) != before
    assert len(read) == 3


def test_a_file_that_was_written_just_now_is_read_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "RECENT", 1e9)
    read = []
    monkeypatch.setattr(contents, "_read", lambda path, of=contents._read: read.append(path) or of(path))
    known = Contents()
    assert known.joined(b"call", ["params"]) == known.joined(b"call", ["params"])
    assert len(read) == 4
    inputs = look(["params"])
    assert known.joined(b"one", inputs) != known.joined(b"other", inputs)  # items of a map
    assert len(read) == 6


def test_a_missing_input_is_named(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"stage_in=.no\.nc.: there is no"):
        key("no.nc")
