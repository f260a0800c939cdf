"""Marks among system calls, where an audit runs."""

from __future__ import annotations

import socket

import pytest

from mainstay import marks
from mainstay.node.worker import Worker


def test_a_mark_is_left_at_the_beginning_and_the_end(monkeypatch):
    left = []
    monkeypatch.setattr(marks, "mark", left.append)

    def fail(x):
        left.append(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match="1"):
        marks.marked("task", fail)(1)
    assert left == ["begin/task", 1, "end/task"]


def test_without_an_audit_a_worker_runs_its_tasks_as_they_are(monkeypatch):
    with socket.socket() as sock:
        monkeypatch.delenv("MAINSTAY_AUDIT", raising=False)
        plain = Worker(sock, "worker")
        assert plain._run_call == plain._run
        monkeypatch.setenv("MAINSTAY_AUDIT", "there")
        assert Worker(sock, "worker")._run_call != plain._run
