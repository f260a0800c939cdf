"""`mainstay journal`: each of its actions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mainstay.cli import main
from mainstay.journal.export import export
from mainstay.journal.record import FunctionInfo, Record
from mainstay.journal.sqlite import Store
from mainstay.node.worker import describe_error
from mainstay.wire.payload import dump

NOW = time.time()


def record(number, value=None, **changes):
    payload = dump(number if value is None else value)
    made = Record(
        bytes([number]) * 16, False, FunctionInfo("model.run", "1.0"), f"run-{number}", "node1", 3,
        NOW - number * 86400, 0.5, 1, payload.body, payload.buffers,
    )  # fmt: skip
    return made._replace(**changes)


def boom():
    try:
        raise ZeroDivisionError("at step 3")
    except ZeroDivisionError as error:
        return describe_error(error)


@pytest.fixture
def path(tmp_path):
    store = Store(tmp_path / "calib.db")
    store.write([record(number) for number in (9, 8, 7)])
    store.write([record(6, failed=True, body=boom(), host="node2"), record(5, np.arange(3.0)), record(4, {"a": [1]})])
    store.close()
    return str(tmp_path / "calib.db")


@pytest.fixture
def mainstay(capsys):
    """Runs a command; returns its exit code and its lines on stdout and stderr."""

    def run(*words):
        try:
            code = main(["journal", *map(str, words)])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def keys(out):
    return [line[:2] for line in out.splitlines()[1:-2]]


def test_a_bare_file_is_listed_the_newest_last(mainstay, path):
    code, out, err = mainstay(path)
    assert (code, err) == (0, "")
    assert keys(out) == ["09", "08", "07", "06", "05", "04"]
    assert out.splitlines()[-2].startswith("6 calls: 5 done, 1 failed; 3.0 s of run time; file ")
    assert max(map(len, out.splitlines())) <= 100
    assert mainstay(path, "list") == (0, out, "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--state failed", "06"),
        ("list --state failed", "06"),
        ("--state failed list", "06"),
        ("--label run-[45]", "05 04"),
        ("--function model.* --host node2", "06"),
        ("--function nothing*", ""),
        ("--key 08", "08"),
        ("--since 5.5d", "05 04"),
        ("--older-than 7.5d", "09 08"),
        ("--before 7.5d --since 8.5d", "08"),
        ("--since 2001-01-31 --before 2001-02-01T12:00", ""),
        ("--limit 2", "05 04"),
    ],
)
def test_filters(mainstay, path, words, found):
    code, out, err = mainstay(path, *words.split())
    assert (code, err) == (0, "")
    assert keys(out if found else out + "\n") == found.split()


def test_options_may_stand_before_the_file(mainstay, path):
    assert keys(mainstay("--state", "failed", path)[1]) == ["06"]


def test_a_listing_for_programs(mainstay, path):
    listing = json.loads(mainstay(path, "--json", "--state", "done")[1])
    assert listing["count"] == len(listing["calls"]) == 5
    assert listing["open_by"] is None
    first = listing["calls"][0]
    assert first["key"] == "09" * 16
    assert first["started_s"] == pytest.approx(NOW - 9 * 86400)
    assert first["started"].endswith("+00:00")
    assert json.loads(mainstay(path, "--json", "--limit", "1", "--key", "ff")[1])["calls"] == []


def test_who_has_it_open_is_told(mainstay, path):
    store = Store(path)
    assert f"open for writing by process {os.getpid()} on host" in mainstay(path)[1]
    assert json.loads(mainstay(path, "--json")[1])["open_by"]["pid"] == os.getpid()
    store.close()


def test_strange_names_stay_in_their_column(mainstay, tmp_path):
    store = Store(tmp_path / "a.db")
    store.write([record(1)])
    store.write([record(2, label="a\x1b[31m\n" + "long" * 20, seconds=1e7, attempt=3, host="h" * 50)])
    store.close()
    out = mainstay(tmp_path / "a.db")[1]
    assert "\x1b" not in out
    assert len(out.splitlines()) == 5
    assert {len(line) for line in out.splitlines()[:3]} == {100}


def test_show(mainstay, path):
    code, out, _ = mainstay(path, "show", "05")
    assert code == 0
    for word in ("05" * 16, "model.run", "node1", str(os.getpid()), "argv", "array([0., 1., 2.])"):
        assert word in out
    assert "array" not in mainstay(path, "show", "05", "--no-result")[1]
    told = json.loads(mainstay(path, "show", "04", "--json")[1])
    assert told["result"] == {"a": [1]}
    assert told["run"]["pid"] == os.getpid()


def test_show_tells_of_a_failure(mainstay, path):
    code, out, _ = mainstay(path, "show", "06")
    assert code == 0
    assert "Traceback" in out
    assert out.rstrip().endswith("ZeroDivisionError: at step 3")
    assert "at step 3" in json.loads(mainstay(path, "show", "06", "--json")[1])["traceback"]


def test_show_of_what_cannot_be_told(mainstay, path, tmp_path):
    code, out, err = mainstay(path, "show", "0")
    assert (code, out) == (1, "")
    assert "ambiguous: 0909" in err
    assert "0404" in err
    assert err.count("\n") == 1
    code, _, err = mainstay(path, "show", "ff")
    assert code == 1
    assert "no call" in err
    assert mainstay(path, "show", "xyz")[0] == 1
    store = Store(tmp_path / "b.db")
    store.write([record(1, body=b"\x80\x05cno_such_module\nThing\n.")])
    store.close()
    code, out, err = mainstay(tmp_path / "b.db", "show", "01")
    assert (code, err) == (0, "")
    assert "cannot be loaded here: ModuleNotFoundError" in out


def rows_of(path):
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet", reason="no pyarrow here").read_table(path).to_pylist()
    lines = path.read_text()
    return json.loads(lines) if path.suffix == ".json" else [json.loads(line) for line in lines.splitlines()]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_export(mainstay, path, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="no pyarrow here")
    to = tmp_path / f"out{suffix}"
    assert mainstay(path, "export", to) == (0, f"6 calls in {to}\n", "")
    rows = rows_of(to)
    assert [row["key"][:2] for row in rows] == ["09", "08", "07", "06", "05", "04"]
    assert float(rows[0]["started_s"]) == pytest.approx(NOW - 9 * 86400)
    assert mainstay(path, "export", to, "--results", "--since", "6.5d")[0] == 0
    results = [row["result"] for row in rows_of(to)]
    assert results[0] == "ZeroDivisionError: at step 3"
    assert results[1] == "array([0., 1., 2.])"
    assert results[2] == ({"a": [1]} if suffix in (".json", ".jsonl") else '{"a": [1]}')
    assert export(path, to) == 6
    assert mainstay(path, "export", to, "--label", "none")[1] == f"0 calls in {to}\n"
    assert rows_of(to) == []
    assert not list(tmp_path.glob("*.part"))


def test_export_without_what_it_takes(mainstay, path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = mainstay(path, "export", tmp_path / "out.parquet")
    assert code == 1
    assert "pip install 'mainstay[parquet]'" in err
    code, _, err = mainstay(path, "export", tmp_path / "out.xls")
    assert code == 1
    assert ".csv, .json, .jsonl, .parquet" in err
    assert mainstay(path, "export", tmp_path / "no" / "out.csv")[0] == 1


def test_prune(mainstay, path):
    assert mainstay(path, "prune")[0] == 2
    code, out, _ = mainstay(path, "prune", "--state", "failed")
    assert code == 0
    assert out.startswith("1 call removed")
    assert json.loads(mainstay(path, "prune", "--older-than", "7.5d", "--json")[1])["calls"] == 2
    assert keys(mainstay(path)[1]) == ["07", "05", "04"]
    assert mainstay(path, "prune", "--all")[0] == 0
    assert mainstay(path)[1].splitlines()[-1].startswith("0 calls")


def test_merge(mainstay, path, tmp_path):
    assert mainstay(tmp_path / "b.db", "merge", path)[0] == 0
    code, out, _ = mainstay(tmp_path / "b.db", "merge", path, "--json")
    assert json.loads(out) == {"added": 0, "replaced": 0, "present": 6, "unreadable": 0, "damage": []}
    code, _, err = mainstay(path, "merge", path)
    assert code == 1
    assert "into itself" in err
    code, _, err = mainstay(tmp_path / "c.db", "merge", tmp_path / "none.db")
    assert code == 1
    assert "there is no journal" in err
    assert not (tmp_path / "c.db").exists()


def test_verify(mainstay, path, tmp_path):
    assert mainstay(path, "verify", "--deep") == (0, f"{path} is sound\n", "")
    assert json.loads(mainstay(path, "verify", "--json")[1]) == {"sound": True, "findings": []}
    os.truncate(path, 5000)
    code, out, _ = mainstay(path, "verify")
    assert code == 1
    assert "damaged" in out
    code, out, _ = mainstay(path, "verify", "--json")
    assert code == 1
    assert json.loads(out)["findings"]
    code, out, err = mainstay(path)
    assert (code, err.count("\n")) == (1, 1)


def test_copy(mainstay, path, tmp_path):
    assert mainstay(path, "copy", tmp_path / "b.db")[0] == 0
    code, _, err = mainstay(path, "copy", tmp_path / "b.db")
    assert code == 1
    assert "--force" in err
    assert mainstay(path, "copy", tmp_path / "b.db", "--force")[0] == 0
    assert keys(mainstay(tmp_path / "b.db")[1]) == keys(mainstay(path)[1])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("FILE lst", "no action 'lst'"),
        ("FILE list more", "'more'"),
        ("FILE show", "wants the first digits of a KEY"),
        ("FILE merge", "wants the OTHER journals"),
        ("FILE verify --limit 3", "--limit is for list; given with verify"),
        ("FILE show 01 --since 3d", "--since is for list, export, prune"),
        ("FILE --state odd", "odd"),
        ("FILE --since yesterday", "2025-01-31"),
        ("FILE --limit 0", "whole number from 1"),
        ("FILE --key xyz", "hexadecimal"),
        ("FILE --nonsense", "--nonsense"),
        ("", "FILE"),
    ],
)
def test_bad_usage(mainstay, path, words, told):
    code, out, err = mainstay(*words.replace("FILE", path).split())
    assert (code, out) == (2, "")
    assert told in err


def test_what_is_no_journal(mainstay, tmp_path):
    (tmp_path / "a.db").write_text("hello")
    for path in (tmp_path / "a.db", tmp_path / "none.db", tmp_path):
        for action in ("list", "verify", "prune --all", "show 01", f"copy {tmp_path}/b.db", f"export {tmp_path}/b.csv"):
            code, out, err = mainstay(path, *action.split())
            assert code == 1
            assert len((out + err).splitlines()) == 1
    assert os.listdir(tmp_path) == ["a.db"]


def shell(line):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(line, shell=True, capture_output=True, text=True, env=environment)


COMMAND = f"{sys.executable} -c 'import sys; from mainstay.cli import main; sys.exit(main())' journal"


def test_the_reader_may_have_enough(tmp_path):
    store = Store(tmp_path / "a.db")
    store.write([record(number % 256)._replace(key=number.to_bytes(16, "big")) for number in range(20_000)])
    store.close()
    done = shell(f"{COMMAND} {tmp_path}/a.db | head -2")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_as_a_process(path):
    assert shell(f"{COMMAND} {path} --limit 1").stdout.splitlines()[1].startswith("04")
    done = shell(f"{COMMAND} {path} show ff")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "older-than" in shell(f"{COMMAND} --help").stdout
