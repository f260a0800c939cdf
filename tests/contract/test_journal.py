"""What a journal's store does, over every store."""

from __future__ import annotations

import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstay.errors import JournalError, JournalInUse
from mainstay.journal import sqlite
from mainstay.journal.record import Choice, FunctionInfo, Record
from mainstay.journal.store import STORES, open_store
from mainstay.wire.payload import dump, load


@pytest.fixture(params=STORES)
def place(request, tmp_path):
    return "memory:" if request.param == "memory" else str(tmp_path / "calls.db")


@pytest.fixture
def store(place):
    store = open_store(place)
    yield store
    store.close()


def record(number=0, **changes):
    payload = dump(changes.pop("value", number))
    made = Record(
        number.to_bytes(16, "big"), False, FunctionInfo("model.run", "1.0"), "run", "node1", 3, 1000.0 + number, 0.5, 1,
        payload.body, payload.buffers,
    )  # fmt: skip
    return made._replace(**changes)


def value(store, call):
    kept = store.load(call)
    return load(kept.body, list(kept.buffers))


def test_what_is_written_is_there(store):
    ids = store.write([record(1), record(2, failed=True, attempt=4)])
    assert [value(store, call) for call in ids] == [1, 2]
    assert list(store.index()) == [(record(1).key, ids[0], False, 1), (record(2).key, ids[1], True, 4)]
    assert store.load(ids[1]).failed
    assert store.load(ids[0]).host == "node1"


def test_a_listing_has_all_that_is_known_of_a_call(store):
    (call,) = store.write([record(7, value=b"x" * 100)])
    (row,) = store.calls()
    assert row.id == call
    assert row.key == record(7).key.hex()
    assert row[2:11] == ("done", "model.run", "1.0", "run", "node1", 3, 1007.0, 0.5, 1)
    assert row.size == record(7, value=b"x" * 100).size
    assert row.run >= 1


def test_what_is_replaced_and_removed_is_gone(store):
    first, second = store.write([record(1, failed=True), record(2)])
    (third,) = store.write([record(1)], [first])
    assert third not in (first, second)
    store.remove([second])
    assert [call.id for call in store.calls()] == [third]
    for gone in (first, second):
        with pytest.raises(KeyError):
            store.load(gone)


def test_many_calls_come_back_in_order(store, monkeypatch):
    monkeypatch.setattr(sqlite, "PAGE", 7)
    ids = store.write([record(number) for number in range(1000)])
    store.remove(ids[100:900])
    assert [call.id for call in store.calls()] == ids[:100] + ids[900:]
    assert [call for _, call, _, _ in store.index()] == ids[:100] + ids[900:]


CHOICES = [
    (Choice(), "abcd"),
    (Choice(state="failed"), "b"),
    (Choice(state="done"), "acd"),
    (Choice(function="model.*"), "abc"),
    (Choice(function="[!m]*"), "d"),
    (Choice(label="l?bel"), "a"),
    (Choice(label="[a*"), ""),
    (Choice(host="node[12]"), "ab"),
    (Choice(key="00000000000000000000000000000003"), "c"),
    (Choice(key="0"), "abcd"),
    (Choice(since=1002.0), "bcd"),
    (Choice(before=1002.0), "a"),
    (Choice(since=1002.0, before=1004.0, state="done"), "c"),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES, ids=str)
def test_choices(store, choice, expected):
    ids = store.write(
        [
            record(1, label="label"),
            record(2, failed=True, host="node2"),
            record(3, host="other"),
            record(4, function=FunctionInfo("other", ""), host="x"),
        ]
    )
    letters = dict(zip(ids, "abcd", strict=True))
    assert "".join(letters[call.id] for call in store.calls(choice)) == expected


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    stores = [open_store("memory:"), open_store(tmp_path_factory.mktemp("both") / "calls.db")]
    yield stores
    for store in stores:
        store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(label=st.text(max_size=6), pattern=st.text("ab*?[]!^-\0é", max_size=6))
def test_patterns_mean_the_same_in_every_store(both, label, pattern):
    chosen = []
    for store in both:
        (call,) = store.write([record(1, label=label)])
        chosen.append(len(list(store.calls(Choice(label=pattern)))))
        store.remove([call])
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 100])
def test_segments_of_any_size_come_back(store, monkeypatch, size):
    monkeypatch.setattr(sqlite, "PART", 10)
    monkeypatch.setattr(sqlite, "INLINE", 50)
    body, buffers = os.urandom(60), [os.urandom(size), b"", memoryview(os.urandom(size))]
    (call,) = store.write([record(1, body=body, buffers=buffers)])
    kept = store.load(call)
    assert bytes(kept.body) == body
    assert [bytes(buffer) for buffer in kept.buffers] == [bytes(buffer) for buffer in buffers]
    assert next(store.calls()).size == 60 + 2 * size


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=40), buffers=st.lists(st.binary(max_size=25), max_size=4))
def test_what_comes_back_is_what_went_in(both, body, buffers):
    part, inline = sqlite.PART, sqlite.INLINE
    sqlite.PART, sqlite.INLINE = 8, 16
    try:
        for store in both:
            (call,) = store.write([record(1, body=body, buffers=buffers)])
            kept = store.load(call)
            assert (bytes(kept.body), [bytes(buffer) for buffer in kept.buffers]) == (body, buffers)
            store.remove([call])
    finally:
        sqlite.PART, sqlite.INLINE = part, inline


def test_arrays_come_back_writable_and_equal(store):
    arrays = {"a": np.arange(12.0).reshape(3, 4), "empty": np.zeros(0), "f": np.asfortranarray(np.eye(3))}
    (call,) = store.write([record(1, value=arrays)])
    back = value(store, call)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    back["a"][0, 0] = 99  # does not raise
    assert value(store, call)["a"][0, 0] == 0


def test_a_store_keeps_what_was_given_even_if_its_owner_changes_it(store):
    array = np.zeros(5)
    (call,) = store.write([record(1, value=array)])
    array[:] = 7
    assert not value(store, call).any()


@pytest.mark.parametrize("text", ["", "ünï", "a\0b", os.fsdecode(b"\xff.nc"), "x" * 10_000])
def test_any_text_is_taken(store, text):
    (call,) = store.write([record(1, label=text, function=FunctionInfo(text, text), host=text)])
    (row,) = store.calls()
    assert len(row.label) >= len(text)
    assert store.load(call) is not None


def test_a_group_of_nothing(store):
    assert store.write([]) == []
    assert list(store.calls()) == []


def test_a_call_that_is_not_there(store):
    with pytest.raises(KeyError):
        store.load(12345)
    store.remove([12345])


# -- stores with a file


class Bad:
    """A buffer that cannot be written."""

    def __len__(self):
        return 3


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path):
    store = open_store(tmp_path / "calls.db")
    (kept,) = store.write([record(1)])
    with pytest.raises(TypeError):
        store.write([record(2), record(3, buffers=[b"abc", Bad()])], [kept])
    assert [call.id for call in store.calls()] == [kept]
    (after,) = store.write([record(2, label="new", host="new")])
    assert value(store, after) == 2
    store.close()


def test_two_stores_of_one_file_are_refused(tmp_path):
    path = tmp_path / "calls.db"
    (tmp_path / "link.db").symlink_to(path)
    store = open_store(path)
    for other in (path, tmp_path / "link.db"):
        with pytest.raises(JournalInUse, match=f"this very process {os.getpid()}") as told:
            open_store(other)
        assert told.value.holder.pid == os.getpid()
    store.close()
    open_store(path).close()


def test_a_store_is_for_several_threads(store):
    ids = store.write([record(number) for number in range(200)])
    wrong = []

    def read():
        wrong.extend(call for number, call in enumerate(ids) if value(store, call) != number)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200, 260):
        store.write([record(number)])
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(store.calls())) == 260


def test_a_store_that_is_read_cannot_be_written(tmp_path):
    open_store(tmp_path / "calls.db").close()
    reader = sqlite.Store(tmp_path / "calls.db", write=False)
    with pytest.raises(JournalError, match="opened for reading"):
        reader.write([record(1)])
    with pytest.raises(JournalError, match="opened for reading"):
        reader.remove([1])
    reader.close()
    with pytest.raises(JournalError, match="is closed"):
        list(reader.calls())


def test_the_number_of_files_is_constant(tmp_path):
    store = open_store(tmp_path / "calls.db")
    for number in range(20):
        store.write([record(number, value=pickle.dumps(np.zeros(1000)))])
    assert sorted(os.listdir(tmp_path)) == ["calls.db", "calls.db-journal", "calls.db.lock"]
    store.close()


def locks_on(path):
    end = f":{os.stat(path).st_ino}"
    return [line.partition(":")[2] for line in open("/proc/locks") if line.split()[5].endswith(end)]


def test_a_second_store_of_one_file_leaves_the_first_its_locks_wherever_the_program_went(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = sqlite.Store("calls.db")
    monkeypatch.chdir("/")
    before = locks_on(tmp_path / "calls.db")
    with pytest.raises(JournalInUse):
        sqlite.Store(tmp_path / "calls.db")
    assert locks_on(tmp_path / "calls.db") == before != []
    store.close()


def test_a_path_with_two_slashes_at_its_front(tmp_path):
    sqlite.Store(f"/{tmp_path}/calls.db").close()
    assert (tmp_path / "calls.db").exists()


def test_a_forked_child_does_not_take_its_parents_journal_for_its_own(tmp_path):
    store = sqlite.Store(tmp_path / "calls.db")
    (call,) = store.write([record(1)])
    before = locks_on(tmp_path / "calls.db")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                store.load(call)
            except JournalError:
                try:
                    sqlite.Store(tmp_path / "calls.db")
                except JournalInUse as error:
                    code = 0 if error.holder.pid == os.getppid() and "this very" not in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert locks_on(tmp_path / "calls.db") == before
    assert value(store, call) == 1
    store.close()
