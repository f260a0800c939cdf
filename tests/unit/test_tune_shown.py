"""What the command prints and writes of a table."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from mainstay.cli import tune
from mainstay.tune.table import Row, Table
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import Visit

pytest.importorskip("rich")
ORDERS = ("[i,k,j]", "[/x]", "[bold]", ":bug:")


def calibration(seconds: float) -> Visit:
    return Visit("ok", seconds=(seconds,))


def bracketed() -> Table:
    """A table in which all that a user gives looks like markup."""
    visits = {number: Visit("ok", seconds=(1.0,), cpu=(1.0,)) for number in range(3)}
    rows = [Row(Variant(**{"order": order, "[red]": 1}), "[h]", "[/kind]", "ok", visits=visits) for order in ORDERS]
    return Table(rows, {"[h]": [calibration(1 + number % 2) for number in range(8)]})


def test_what_looks_like_markup_is_printed_as_it_is():
    from rich.console import Console

    from mainstay.tune import shown

    console = Console(file=io.StringIO(), width=200)
    shown.tell(bracketed(), console)
    said = console.file.getvalue()
    assert all(order in said for order in ORDERS)
    assert "[red]" in said
    assert "[h]: [/kind], noisy: the calibration kernel moved by 33%" in said
    assert "fastest on [/kind]: [[red]=1 order=:bug:] ([h] 1 s)" in said


def test_lines_about_the_nodes_are_printed_as_they_are(tmp_path, monkeypatch, capsys):
    def tuner(executor: object, log: Callable[[str], object], **given: object) -> SimpleNamespace:
        log("h: did not take part: [/x] [i]")
        return SimpleNamespace(measure=list)

    monkeypatch.setattr("mainstay.executor.Executor", lambda *given, **more: nullcontext())
    monkeypatch.setattr("mainstay.tune.tuner.Tuner", tuner)
    file = tmp_path / "kernels.py"
    file.write_text("run = print\nvariants = []")
    given = argparse.Namespace(words=[str(file)], workers=None, launcher="serial", nodes=None)
    assert not tune.measure(given, "kernels.db")
    assert "h: did not take part: [/x] [i]" in capsys.readouterr().err


def told(directory: Path, **more: object) -> argparse.Namespace:
    files = {"csv": str(directory / "rows.csv"), "plot": None, "json": False}
    return argparse.Namespace(**{**files, **more})


def test_files_are_written_though_the_table_cannot_be_printed(tmp_path, monkeypatch):
    def fail(*given: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("mainstay.tune.shown.tell", fail)
    with pytest.raises(BrokenPipeError):
        tune.tell(bracketed(), told(tmp_path))
    with (tmp_path / "rows.csv").open() as file:
        assert sorted(row["order"] for row in csv.DictReader(file)) == sorted(ORDERS)


def test_json_has_no_word_for_what_is_no_number(tmp_path, capsys):
    visit = Visit("ok", seconds=(1.0,), cpu=(1.0,), metrics=({"loss": float("nan")},))
    table = Table([Row(Variant(x=1), "h", "kind", "ok", visits={0: visit})])
    tune.tell(table, told(tmp_path, csv=None, json=True))
    (row,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert row["metric_loss"] is None


def test_files_that_cannot_be_written_are_told_before(tmp_path):
    for path, words in ((tmp_path, "is a directory; name a file in it"), (tmp_path / "no" / "x.csv", "no directory")):
        with pytest.raises(ValueError, match=words):
            tune.check_files(told(tmp_path, csv=str(path)))


def test_a_table_is_printed_though_there_is_nothing_to_draw(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    failed = Table([Row(Variant(x=1), "h", "kind", "crash", message="it fell")])
    with pytest.raises(ValueError, match="no samples to draw"):
        tune.tell(failed, told(tmp_path, plot=str(tmp_path / "rows.png")))
    assert "it fell" in capsys.readouterr().out
