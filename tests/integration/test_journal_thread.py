"""What the journal does when its store cannot write: it goes on, tries again, and tells of what it could not keep."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from conftest import wait_until
from mainstay.errors import JournalError
from mainstay.journal import journal as subject
from mainstay.journal.journal import Journal
from mainstay.journal.memory import Store
from mainstay.journal.record import FunctionInfo, Record, UnfitRecord


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(subject, "INTERVAL", 0.001)
    monkeypatch.setattr(subject, "RETRY", 0.001)


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def __call__(self, level: int, line: str) -> None:
        if level == logging.ERROR:
            self.errors.append(line)


class Reluctant(Store):
    """Raises the given errors, one at each write, before it writes."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def write(self, records, replaced=()):
        if self.errors:
            raise self.errors.pop(0)
        return super().write(records, replaced)


class Picky(Store):
    def write(self, records, replaced=()):
        if any(record.label == "unfit" for record in records):
            raise UnfitRecord("it is unfit")
        return super().write(records, replaced)


def record(number: int, *, label: str = "", failed: bool = False, attempt: int = 1) -> Record:
    key = number.to_bytes(16, "big")
    return Record(key, failed, FunctionInfo("f", ""), label, "n1", 1, time.time(), 0.1, attempt, b"body", ())


def labels(store: Store) -> list[str]:
    return [call.label for call in store.calls()]


@pytest.mark.parametrize("error", [JournalError("full"), RuntimeError("a bug")])
def test_what_could_not_be_written_is_tried_again_and_told_once(error):
    log, store, delivered = Log(), Reluctant(error, error, error), []
    journal = Journal(store, each=True, log=log)
    journal.append(record(1, label="a"), lambda: delivered.append(1))
    wait_until(lambda: labels(store) == ["a"])
    assert delivered == [1]
    assert len(log.errors) == 1
    journal.close()
    journal.check()


def test_what_was_never_written_is_told_at_the_end():
    journal = Journal(Reluctant(*[JournalError("full")] * 10_000), log=Log())
    journal.append(record(1))
    wait_until(lambda: journal.error is not None)
    journal.close()
    with pytest.raises(JournalError, match=r"1 results of this run .* are not in the journal.*full"):
        journal.check()


def test_what_a_store_cannot_take_keeps_no_other_out():
    log, store = Log(), Picky()
    journal = Journal(store, log=log)
    for number, label in enumerate(["a", "unfit", "b"]):
        journal.append(record(number, label=label))
    wait_until(lambda: labels(store) == ["a", "b"])
    journal.close()
    assert "'unfit' cannot be kept" in log.errors[0]
    with pytest.raises(JournalError, match="1 results"):
        journal.check()


def test_results_that_wait_have_a_bound(monkeypatch):
    monkeypatch.setattr(subject, "MOST_WAITING", 10)
    journal = Journal(Reluctant(*[JournalError("full")] * 10_000), log=Log())
    journal.append(record(0))
    wait_until(lambda: journal.error is not None)
    for number in range(1, 6):
        journal.append(record(number))
    journal.close()
    with pytest.raises(JournalError, match="6 results"):
        journal.check()


def test_attempts_are_counted_over_failures_and_a_success_ends_them():
    store = Store()
    journal = Journal(store, log=Log())
    for attempt, failed in ((1, True), (2, True), (1, False), (1, False)):
        journal.append(record(1, failed=failed, attempt=attempt))
        wait_until(lambda: not journal.waits(record(1).key))
    journal.close()
    (call,) = store.calls()
    assert (call.state, call.attempts) == ("done", 4)


def test_a_result_is_found_before_it_is_written(monkeypatch):
    monkeypatch.setattr(subject, "INTERVAL", 60)
    journal = Journal(Store(), log=Log())
    journal.append(record(1, failed=True))
    key = record(1).key
    assert journal.has(key, failed_too=True)
    assert not journal.has(key, failed_too=False)
    assert journal.load(key).body == b"body"
    journal.close()


def test_an_array_that_is_changed_after_a_failed_write_is_kept_as_it_was(monkeypatch):
    monkeypatch.setattr(subject, "RETRY", 60)
    array = bytearray(b"right")
    store = Reluctant(JournalError("full"))
    journal = Journal(store, log=Log())
    delivered = threading.Event()
    journal.append(record(1)._replace(buffers=[array]), delivered.set)
    assert delivered.wait(10)
    array[:] = b"wrong"
    assert journal.load(record(1).key).buffers == [b"right"]
    journal.close()
    assert store.load(1).buffers == [b"right"]


def test_a_call_that_is_done_stays_done_though_it_fails_before_it_is_written(monkeypatch):
    monkeypatch.setattr(subject, "INTERVAL", 60)
    store = Store()
    journal = Journal(store, log=Log())
    journal.append(record(1))
    journal.append(record(1, failed=True))
    assert journal.has(record(1).key, failed_too=False)
    journal.close()
    assert [call.state for call in store.calls()] == ["done"]


def test_what_comes_after_the_end_is_told_and_not_lost_in_silence():
    log, called = Log(), []
    journal = Journal(Store(), log=log)
    journal.close()
    journal.append(record(1), lambda: called.append(1))
    assert called == [1]
    (line,) = log.errors
    assert "was closed" in line
