"""Marks cost nothing where nobody audits."""

from mainstay import marks


def test_without_an_audit_a_function_is_itself(monkeypatch):
    monkeypatch.setattr(marks, "AUDITED", False)
    assert marks.marked("task", print) is print


def test_a_mark_is_left_at_the_beginning_and_the_end(monkeypatch):
    left = []
    monkeypatch.setattr(marks, "AUDITED", True)
    monkeypatch.setattr(marks, "mark", left.append)
    assert marks.marked("task", lambda x: left.append(x))(1) is None
    assert left == ["begin/task", 1, "end/task"]
