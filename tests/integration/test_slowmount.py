"""The mount that counts: what it says of kinds, processes and paths, what it can do to them, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slowmount
from conftest import wait_until
from slowmount import Cache, SlowMount

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")


@pytest.fixture
def mount(tmp_path) -> Iterator[SlowMount]:
    with SlowMount(tmp_path) as mount:
        yield mount


def test_counts_tell_what_was_done(mount):
    file = mount.path / "file"
    file.write_bytes(b"data")
    assert mount.counts() == {"getattr": 2, "create": 1}  # is it there; make it; is it a terminal
    before = mount.counts()
    assert file.stat().st_size == 4
    assert mount.counts() - before == {"getattr": 1}
    assert (mount.behind / "file").read_bytes() == b"data"


def test_operations_are_told_by_process_and_path(mount):
    (mount.behind / "folder").mkdir()
    (mount.behind / "folder" / "file").write_text("data")
    code = f"import os, threading; t = threading.Thread(target=os.stat, args=[{str(mount.path / 'folder' / 'file')!r}])"
    with subprocess.Popen([sys.executable, "-c", f"{code}; t.start(); t.join()"]) as other:
        assert other.wait() == 0
    found = {(kind, pid, path): count for kind, pid, _, path, count in mount.operations()}
    # The name of what is at the end, then its attributes; a thread is its process.
    assert found == {("getattr", other.pid, "/folder"): 1, ("getattr", other.pid, "/folder/file"): 2}
    assert "threading.Thread" in mount.operations()[0].command
    assert 0 < mount.peak() <= 3
    mount.clear()
    assert (mount.operations(), mount.counts(), mount.peak()) == ([], {}, 0)


@pytest.mark.parametrize(("cache", "asked"), [(Cache.NONE, [3, 3]), (Cache.NAMES, [3, 1]), (Cache.ALL, [2, 0])])
def test_what_the_kernel_remembers_is_not_asked_for(tmp_path, cache, asked):
    with SlowMount(tmp_path, cache=cache) as mount:
        (mount.behind / "folder").mkdir()
        (mount.behind / "folder" / "file").write_text("data")
        for count in asked:
            mount.clear()
            (mount.path / "folder" / "file").stat()
            assert mount.counts() == ({"getattr": count} if count else {}), mount.operations()
        mount.clear()
        assert not (mount.path / "folder" / "missing").exists()
        assert not (mount.path / "folder" / "missing").exists()
        assert sum(row.count for row in mount.operations() if row.path == "/folder/missing") == 2


def test_operations_can_be_slow_and_can_fail(mount):
    (mount.behind / "a.py").write_text("1")
    (mount.behind / "a.so").write_text("2")
    mount.delay(0.001, "open")
    mount.fail("open", errno.EIO, "*.so")
    assert (mount.path / "a.py").read_text() == "1"
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mount.path / "a.so").read_text()
    assert mount.counts()["open"] == 2
    mount.mend()
    assert (mount.path / "a.so").read_text() == "2"


def test_a_mount_ends_with_its_holder(tmp_path):
    script = f"""
import sys, threading
sys.path.insert(0, {str(Path(slowmount.__file__).parent)!r})
from slowmount import SlowMount
with SlowMount({str(tmp_path)!r}) as mount:
    print("mounted", flush=True)
    threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "mounted\n"
        assert os.path.ismount(tmp_path / "mount")
        holder.send_signal(signal.SIGKILL)
    wait_until(lambda: str(tmp_path) not in Path("/proc/mounts").read_text())
