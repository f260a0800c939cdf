"""A journal's file in bad hands: no journal, damaged, read-only, on a full disk, held by others, left by the killed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mainstay.errors import JournalError, JournalInUse
from mainstay.journal.export import export
from mainstay.journal.lock import look
from mainstay.journal.merge import merge
from mainstay.journal.record import Choice, FunctionInfo, Record
from mainstay.journal.sqlite import Store
from mainstay.journal.upkeep import copy, prune
from mainstay.journal.verify import verify
from mainstay.wire.payload import dump, load

IS_ROOT = os.geteuid() == 0


def record(number, value=None, **changes):
    payload = dump(number if value is None else value)
    info = FunctionInfo(f"f{number % 3}", "1")
    made = Record(number.to_bytes(16, "big"), False, info, "", "h", 0, 1e9, 0.1, 1, payload.body, payload.buffers)
    return made._replace(**changes)


def made(path, numbers=range(100), **changes):
    """A journal with some calls, closed."""
    store = Store(path)
    store.write([record(number, **changes) for number in numbers])
    store.close()
    return path


def numbers(path):
    store = Store(path, write=False)
    try:
        return [int(call.key, 16) for call in store.calls()]
    finally:
        store.close()


def python(code, *arguments, **options):
    """A process that has `Store` and `record`, and prints when it is ready."""
    head = "import os, sys\nfrom test_journal_files import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **options,
    )  # fmt: skip


# -- what is no journal


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 2\0" + bytes(1000)])
def test_what_is_no_journal_is_left_as_it_is(tmp_path, content, write):
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"not a journal.*give another path"):
        Store(path, write=write)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.db"]
    assert len(verify(path)) == 1


def test_a_file_of_one_byte_which_sqlite_takes_for_empty_is_left_as_it_is(tmp_path):
    (tmp_path / "a.db").write_bytes(b"x")
    with pytest.raises(JournalError, match="not a journal"):
        Store(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes() == b"x"


def test_another_programs_lock_file_is_left_as_it_is(tmp_path):
    lock = tmp_path / "poetry.lock"
    lock.write_text("[[package]]\n" * 100)
    with pytest.raises(JournalError, match=r"poetry.lock.*another program's file.*another path"):
        Store(tmp_path / "poetry")
    assert lock.read_text() == "[[package]]\n" * 100


@pytest.mark.parametrize("write", [True, False])
def test_another_programs_database_is_left_as_it_is(tmp_path, write):
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program's database"):
        Store(path, write=write)
    assert path.read_bytes() == before
    assert "another program" in verify(path)[0]


@pytest.mark.parametrize("write", [True, False])
def test_a_newer_schema_is_told(tmp_path, write):
    path = made(tmp_path / "a.db")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match=r"schema 99, from a newer Mainstay.*Upgrade"):
        Store(path, write=write)
    assert "schema 99" in verify(path)[0]


def test_what_is_not_there(tmp_path):
    for error, path in ((r"no directory .*make it first", tmp_path / "no" / "a.db"), ("is a directory", tmp_path)):
        with pytest.raises(JournalError, match=error):
            Store(path)
    for act in (verify, prune_failed, lambda path: Store(path, write=False)):
        with pytest.raises(JournalError, match="there is no journal"):
            act(tmp_path / "a.db")


def prune_failed(path):
    return prune(path, Choice(state="failed"))


def test_a_path_may_have_any_name(tmp_path):
    path = tmp_path / os.fsdecode(b"?#%41 \xff\xc3\xa4.db")
    assert numbers(made(path)) == list(range(100))


# -- damage


def test_a_truncated_journal_is_told_and_what_is_left_is_saved(tmp_path):
    path = tmp_path / "a.db"
    for start in range(0, 3000, 100):
        made(path, range(start, start + 100))
    whole = path.stat().st_size
    os.truncate(path, whole * 2 // 3)
    for write in (True, False):
        with pytest.raises(JournalError, match=r"damaged.*merge"):
            Store(path, write=write)
    assert path.stat().st_size == whole * 2 // 3
    assert "damaged" in verify(path)[0]
    merged = merge(tmp_path / "new.db", [path])
    assert 500 < merged.added < 3000
    assert merged.damage
    assert verify(tmp_path / "new.db", deep=True) == []
    for call in (store := Store(tmp_path / "new.db", write=False)).calls():
        assert load(store.load(call.id).body) == int(call.key, 16)
    store.close()


@pytest.mark.parametrize("seed", range(8))
def test_an_overwritten_journal_never_ends_in_a_traceback(tmp_path, seed):
    path = made(tmp_path / "a.db", range(2000))
    random = np.random.default_rng(seed)
    with open(path, "r+b") as file:
        for at in random.integers(100, path.stat().st_size - 600, 5):
            file.seek(at)
            file.write(random.bytes(600))
    findings = verify(path, deep=True)
    assert findings
    assert all("\n" not in finding for finding in findings)
    try:
        merged = merge(tmp_path / "new.db", [path])
    except JournalError:
        return  # what describes the tables is gone
    assert merged.added <= 2000
    assert verify(tmp_path / "new.db") == []


def test_a_damaged_result_is_a_journal_error(tmp_path):
    path = made(tmp_path / "a.db", [1, 2], value=np.zeros(10))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM parts WHERE call = 1")
    store = Store(path)
    with pytest.raises(JournalError, match="damaged"):
        store.load(1)
    assert store.load(2)
    store.close()


SABOTAGE = {
    "more than one row": "UPDATE calls SET key = (SELECT key FROM calls WHERE id = 1) WHERE id = 2",
    "its result is missing": "DELETE FROM results WHERE call = 3",
    "has no parts": "DELETE FROM parts WHERE call = 100",
    "a part of its result is missing": "DELETE FROM parts WHERE call = 100 AND segment = 0",
    "not the size": "UPDATE results SET body = x'80' WHERE call = 4",
    "function is not known": "DELETE FROM functions WHERE id = 1",
    "host is not known": "DELETE FROM hosts",
    "run is not known": "DELETE FROM runs",
    "result of a call that is not there": "DELETE FROM calls WHERE id = 5",
    "schema has version": "PRAGMA user_version=0",
    "table 'hosts' is missing": "DROP TABLE hosts",
}


@pytest.mark.parametrize("finding", SABOTAGE)
def test_verify_finds(tmp_path, finding):
    path = made(tmp_path / "a.db", range(99))
    made(path, [99], value=np.zeros(10))
    assert verify(path, deep=True) == []
    with sqlite3.connect(path) as db:
        db.execute(SABOTAGE[finding])
    assert any(finding in found for found in verify(path)), verify(path)


def test_verify_deep_reads_pickles_and_loads_none(tmp_path):
    path = made(tmp_path / "a.db", range(5))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE results SET body = x'8005FF4B012E', call = call WHERE call = 2")
        db.execute("UPDATE calls SET size = 6 WHERE id = 2")
    assert verify(path) == []
    assert [finding.split(":")[0] for finding in verify(path, deep=True)] == [f"call 2, key {1:032x}"]


# -- no right, no room


@pytest.fixture
def other_user():
    """Words that run a command as somebody without rights here."""
    if IS_ROOT and shutil.which("setpriv") is None:
        pytest.skip("root may write all, and there is no setpriv")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if IS_ROOT else []


@pytest.fixture
def shared():
    """A folder that other users may enter, as they may not enter pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


TRY = """
import sys
from mainstay.journal.sqlite import Store
from mainstay.errors import JournalError
try:
    store = Store(sys.argv[1], write=sys.argv[2] == "write")
    print(len(list(store.calls())))
except JournalError as error:
    print(error)
"""


def attempt(user, path, how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*user, sys.executable, "-c", TRY, str(path), how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    if any(word in done.stderr for word in ("PermissionError", "No module named", "error while loading")):
        pytest.skip("another user may not even run this Python here")
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_file_that_may_not_be_written(shared, other_user):
    path = made(shared / "a.db")
    shared.chmod(0o777)
    path.chmod(0o444)
    (shared / "a.db.lock").unlink()
    assert attempt(other_user, path, "read") == "100"
    assert "cannot be written" in attempt(other_user, path, "write")
    assert numbers(path) == list(range(100))


def test_a_directory_that_may_not_be_written(shared, other_user):
    path = made(shared / "a.db")
    path.chmod(0o666)
    (shared / "a.db.lock").unlink()
    shared.chmod(0o555)
    assert attempt(other_user, path, "read") == "100"
    assert "cannot make" in attempt(other_user, path, "write")
    shared.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing(small_disk):
    store = Store(small_disk / "a.db")
    store.write([record(number) for number in range(50)])
    with pytest.raises(JournalError, match="full"):
        store.write([record(number, os.urandom(100_000)) for number in range(50, 100)])
    assert len(list(store.calls())) == 50
    assert shutil.disk_usage(small_disk).free > 1_500_000  # what was half written is gone
    store.write([record(50)])  # a small one finds room
    with open(small_disk / "filler", "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 8192)
    with pytest.raises(JournalError, match="full"):
        store.write([record(51, os.urandom(100_000))])
    with pytest.raises(JournalError, match="could not be copied"):
        copy(store.path, small_disk / "copy.db")
    assert not any(name.endswith(".part") for name in os.listdir(small_disk))
    (small_disk / "filler").unlink()
    assert locks(small_disk / "a.db") == 1
    store.write([record(51, os.urandom(100_000))])
    store.close()
    assert numbers(small_disk / "a.db") == list(range(52))
    assert verify(small_disk / "a.db") == []


def test_a_disk_without_any_room_takes_no_new_journal(small_disk):
    with open(small_disk / "filler", "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
    with pytest.raises(JournalError, match="full"):
        Store(small_disk / "a.db")


# -- others


def test_a_second_process_is_told_who_holds_it(tmp_path):
    path = made(tmp_path / "a.db")
    holder = python("s = Store(sys.argv[1]); print('ready', flush=True); input()", path, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "ready\n"
    begun = time.monotonic()
    with pytest.raises(JournalInUse, match=f"process {holder.pid} on host .* mainstay journal") as told:
        Store(path)
    assert time.monotonic() - begun < 1
    assert told.value.holder.pid == holder.pid
    assert abs(told.value.holder.since - time.time()) < 60
    assert look(str(path)) == (True, told.value.holder)
    assert len(numbers(path)) == 100
    for act in (prune_failed, lambda path: merge(path, [made(tmp_path / "b.db")])):
        with pytest.raises(JournalInUse):
            act(path)
    holder.communicate("\n")
    assert look(str(path)) == (True, None)
    Store(path).close()


def test_a_lock_left_by_a_killed_holder_is_free_and_told(tmp_path):
    path = made(tmp_path / "a.db")
    holder = python("s = Store(sys.argv[1]); print('ready', flush=True); input()", path, stdin=subprocess.PIPE)
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    assert look(str(path)) == (True, None)
    store = Store(path)
    assert store.left_by.pid == holder.pid
    store.close()
    store = Store(path)
    assert store.left_by is None
    store.close()


KILLED_IN_MID_COMMIT = """
store = Store(sys.argv[1])
store.write([record(number) for number in range(2000)])
with store.transaction() as db:
    db.execute("PRAGMA cache_size=5")  # or all would stay in memory until the commit
    db.execute("UPDATE results SET body = zeroblob(3000)")
    db.execute("DELETE FROM calls WHERE id % 2")
    os.kill(os.getpid(), 9)
"""


def killed_in_mid_commit(path):
    process = python(KILLED_IN_MID_COMMIT, path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert Path(f"{path}-journal").stat().st_size > 1000
    return path


def test_what_a_killed_writer_left_half_done_is_undone_for_a_reader(tmp_path):
    path = killed_in_mid_commit(tmp_path / "a.db")
    assert numbers(path) == list(range(2000))
    assert verify(path, deep=True) == []


def test_a_reader_without_the_right_to_undo_is_told_what_to_do(shared, other_user):
    path = killed_in_mid_commit(shared / "a.db")
    (shared / "a.db.lock").unlink()
    before = path.read_bytes()
    shared.chmod(0o555)
    path.chmod(0o444)
    assert "killed in the middle of a commit" in attempt(other_user, path, "read")
    shared.chmod(0o755)
    assert path.read_bytes() == before


# What a reader holds up is written again, as the journal's thread does.
WRITES_WITHOUT_END = """
store = Store(sys.argv[1])
start = len(list(store.index()))
while True:
    try:
        store.write([record(number, os.urandom(500)) for number in range(start, start + 500)])
    except JournalError as error:
        if "database is locked" not in str(error):
            raise
    else:
        start += 500
        print(start, flush=True)
"""


def test_killed_at_any_instant_nothing_that_was_written_is_lost(tmp_path):
    path, random = tmp_path / "a.db", np.random.default_rng(1)
    for _ in range(8):
        writer = python(WRITES_WITHOUT_END, path)
        written = int(writer.stdout.readline())
        time.sleep(random.uniform(0, 0.05))
        writer.kill()
        written = int((writer.communicate()[0].split() or [written])[-1])
        there = numbers(path)
        assert there == list(range(len(there)))
        assert written <= len(there) <= written + 500
        assert verify(path) == []


def test_readers_do_not_disturb_a_writer_nor_it_them(tmp_path):
    path = tmp_path / "a.db"
    writer = python(WRITES_WITHOUT_END, path)
    writer.stdout.readline()
    for number in range(10):
        there = numbers(path)
        assert there == list(range(len(there)))
        size = copy(path, tmp_path / "copy.db", force=number > 0)
        assert size == (tmp_path / "copy.db").stat().st_size
    assert writer.poll() is None
    writer.kill()
    assert int(writer.communicate()[0].split()[-1]) > 0
    assert verify(tmp_path / "copy.db", deep=True) == []


def locks(path):
    """How many locks processes have on a file."""
    file = os.stat(path)
    inode = f" {os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino} "
    return sum(inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_looking_at_a_journal_in_its_writers_process_drops_no_lock(tmp_path):
    path = made(tmp_path / "a.db")
    store = Store(path)
    before = locks(path), locks(f"{path}.lock")
    assert min(before) > 0
    with pytest.raises(JournalInUse):
        Store(path)
    assert look(str(path))[1].pid == os.getpid()
    reader = Store(path, write=False)
    assert len(list(reader.calls())) == 100
    reader.close()
    assert verify(path) == []
    copy(path, tmp_path / "b.db")
    assert (locks(path), locks(f"{path}.lock")) == before
    store.write([record(100)])
    store.close()


# -- upkeep


def test_prune_gives_room_back_and_forgets_what_nothing_uses(tmp_path):
    path = made(tmp_path / "a.db", range(2000), value=os.urandom(1000))
    before = path.stat().st_size
    with pytest.raises(ValueError, match="which calls"):
        prune(path)
    pruned = prune(path, Choice(function="f[01]"))
    assert pruned.calls == 1334
    assert before - path.stat().st_size == pruned.bytes > before / 2
    assert verify(path) == []
    store = Store(path, write=False)
    assert [name for (name,) in store.db.execute("SELECT name FROM functions")] == ["f2"]
    store.close()
    assert numbers(made(path, [5000])) == [*range(2, 2000, 3), 5000]
    assert prune(path, everything=True).calls == 667
    assert numbers(path) == []


def test_merge_adds_what_is_lacking_and_prefers_what_is_done(tmp_path):
    into = made(tmp_path / "a.db", [1, 2])
    made(into, [3, 4], failed=True)
    other = made(tmp_path / "b.db", [2, 3, 5])
    made(other, [1, 4, 6], failed=True)
    made(other, [7], value=np.arange(1000.0))
    before = other.read_bytes()
    merged = merge(into, [other])
    assert (merged.added, merged.replaced, merged.present, merged.unreadable) == (3, 1, 3, 0)
    assert other.read_bytes() == before
    store = Store(into, write=False)
    states = {int(call.key, 16): (call.state, call.function, call.host) for call in store.calls()}
    assert states == {n: ("failed" if n in (4, 6) else "done", f"f{n % 3}", "h") for n in range(1, 8)}
    seventh = next(call for call in store.calls() if call.key.endswith("7"))
    kept = store.load(seventh.id)
    np.testing.assert_array_equal(load(kept.body, kept.buffers), np.arange(1000.0))
    assert store.run(seventh.run).pid == os.getpid()
    store.close()
    again = merge(into, [other, other])
    assert (again.added, again.replaced, again.present) == (0, 0, 14)
    assert verify(into, deep=True) == []
    with pytest.raises(JournalError, match="into itself"):
        merge(into, [into])


def test_merge_leaves_out_what_is_damaged_and_goes_on(tmp_path):
    other = made(tmp_path / "b.db", range(10), value=np.zeros(100))
    with sqlite3.connect(other) as db:
        db.execute("DELETE FROM parts WHERE call = 3 AND segment = 1")
        db.execute("DELETE FROM results WHERE call = 5")
    merged = merge(tmp_path / "a.db", [other])
    assert (merged.added, merged.unreadable) == (8, 2)
    assert verify(tmp_path / "a.db", deep=True) == []


def test_a_full_disk_stops_a_merge_which_is_not_taken_for_damage(tmp_path, small_disk):
    other = made(tmp_path / "b.db", range(10), value=np.random.default_rng(0).bytes(2 << 20))
    with pytest.raises(JournalError, match="full"):
        merge(small_disk / "a.db", [other])
    assert numbers(small_disk / "a.db") == []


def test_copy_refuses_and_replaces(tmp_path):
    path, to = made(tmp_path / "a.db"), tmp_path / "b.db"
    copy(path, to)
    assert numbers(to) == list(range(100))
    with pytest.raises(JournalError, match="--force"):
        copy(path, to)
    with pytest.raises(JournalError, match="itself"):
        copy(path, path, force=True)
    to = killed_in_mid_commit(tmp_path / "c.db")
    copy(path, to, force=True)  # what was half done in the file that is replaced must not be undone in the copy
    assert numbers(to) == list(range(100))
    store = Store(to)
    with pytest.raises(JournalInUse):
        copy(path, to, force=True)
    store.close()


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
    path = made(tmp_path / "a.db")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(JournalError, match="tells no format"):
        export(path, tmp_path / "out.xls")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE calls SET started = 1e300 WHERE id = 50")
    with pytest.raises((JournalError, ValueError, OverflowError)):
        export(path, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_gibibyte_is_kept_and_comes_back(tmp_path):
    if psutil.virtual_memory().available < 8 << 30 or shutil.disk_usage(tmp_path).free < 5 << 30:
        pytest.skip("this takes 8 GiB of memory and 5 GiB of disk")
    array = np.arange(1 << 27, dtype="f8")
    store = Store(tmp_path / "a.db")
    (call,) = store.write([record(1, array)])
    kept = store.load(call)
    back = load(kept.body, kept.buffers)
    assert back.flags.writeable
    assert np.array_equal(back, array)
    store.close()
    (tmp_path / "a.db").unlink()
