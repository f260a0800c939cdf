"""Trees of files as a stream, without a socket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mainstay.wire import tree
from mainstay.wire.frames import FrameReader, Kind


def stream(path: Path, name: str = "top", **given: bool) -> list[object]:
    """Return the frames that a tree is sent as."""
    reader, frames = FrameReader(tree.LARGEST), []
    for pieces in tree.pack(tree.walk(str(path), name), **given):
        data = memoryview(b"".join(pieces))
        while data:
            space = reader.get_buffer()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            frames += reader.received(count)
            data = data[count:]
    return frames


def unpack(frames: list[object], place: Path, mask: int = 0o777) -> None:
    writer = tree.Writer(lambda name, is_directory: str(place / name), mask)
    for frame in frames:
        writer.take(frame)
    writer.end(seal=True)


@pytest.fixture
def params(tmp_path: Path) -> Path:
    top = tmp_path / "params"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a").write_bytes(b"a")
    (top / "none").write_bytes(b"")
    (top / "deep" / "large").write_bytes(os.urandom(2 * tree.PIECE + 7))
    (top / "deep" / "er" / "tool.sh").write_text("echo")
    (top / "deep" / "er" / "tool.sh").chmod(0o755)
    (top / "link").symlink_to("deep/er/tool.sh")
    for number in range(600):
        (top / "deep" / f"{number}").write_text(str(number))
    return top


def contents(top: Path) -> dict[str, object]:
    return {str(p.relative_to(top)): p.read_bytes() if p.is_file() else None for p in top.rglob("*")}


def test_a_tree_goes_there_and_back(params: Path, tmp_path: Path) -> None:
    unpack(stream(params), tmp_path / "there")
    there = tmp_path / "there" / "top"
    assert contents(there) == contents(params)
    assert (there / "deep" / "er" / "tool.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "a").stat().st_mtime_ns == (params / "a").stat().st_mtime_ns
    assert not (there / "link").is_symlink()


def test_what_is_staged_is_read_only(params: Path, tmp_path: Path) -> None:
    unpack(stream(params), tmp_path, mask=0o555)
    modes = {p.stat().st_mode & 0o222 for p in [tmp_path / "top", *(tmp_path / "top").rglob("*")]}
    assert modes == {0}
    for directory in [tmp_path / "top", *(tmp_path / "top").rglob("*/")]:
        directory.chmod(0o700)


def test_small_files_travel_together(params: Path) -> None:
    packets = list(tree.pack(tree.walk(str(params), "top")))
    assert len(packets) < 20


def test_a_tree_is_known_by_names_sizes_and_times(params: Path) -> None:
    first = tree.summary(str(params))
    assert first == tree.summary(str(params))
    assert first[1] == sum(p.stat().st_size for p in params.rglob("*") if p.is_file())
    (params / "deep" / "7").write_text("other")
    second = tree.summary(str(params))
    (params / "new").mkdir()
    assert len({first, second, tree.summary(str(params))}) == 3


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    frames = tree.pack([*tree.walk(str(file), "f"), *tree.walk(str(file), "g")], steady=True)
    file.write_text("three")
    with pytest.raises(tree.Changed):
        list(frames)


def test_a_file_that_grows_while_it_is_read_arrives_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    entries = [*tree.walk(str(file), "f"), *tree.walk(str(file), "g")]
    file.write_text("longer")
    frames = [frame for pieces in tree.pack(entries) for frame in FrameReader().received(0) or [pieces]]
    assert frames  # no error


def test_what_cannot_be_copied_is_told(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="a link to a directory that it lies in"):
        tree.summary(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a directory"):
        tree.summary(str(tmp_path / "pipe"))


def test_kinds_of_frames(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (tree.PIECE + 1))
    assert [frame.kind for frame in stream(tmp_path / "f")] == [Kind.FILE, Kind.PIECE, Kind.PIECE]
