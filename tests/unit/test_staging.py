"""What `stage_in` and `stage_out` may say; whose a file is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mainstay import staging
from mainstay.files import Ledger
from mainstay.node.porter import fixed_part, matches
from mainstay.options import Options


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stage_in": "a.nc"}, "stage_in must be a list of paths of files or directories; given: 'a.nc'"),
        ({"stage_in": [1]}, "stage_in must be a list of paths"),
        ({"stage_out": ["*.csv"]}, "stage_out must map patterns to directories, as {'*.csv': 'results/{label}/'}"),
        ({"stage_out": {"/a/*": "b"}}, "the pattern '/a/*' must be relative to the task's directory"),
        ({"stage_out": {"../*": "b"}}, "must be relative"),
        ({"stage_out": {"*": "b/{rank}"}}, "'b/{rank}' may hold {label}, {id}, {host}, {worker}, {attempt}"),
        ({"stage_out": {"*": "b/{label"}}, "may hold {label}"),
        ({"stage_out": {"*": ""}}, "a target must be the path of a directory"),
    ],
)
def test_nonsense_is_refused(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Options().changed(given)


def test_what_is_missing_is_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"stage_in='/no/such.nc': there is no /no/such.nc"):
        staging.look(["/no/such.nc"])
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="is a link to what is not there"):
        staging.look([tmp_path])


def test_what_was_looked_at_is_not_looked_at_again(tmp_path):
    inputs = staging.look([tmp_path])
    assert staging.look(inputs) is inputs
    assert Options().changed({"stage_in": inputs}).stage_in is inputs


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("*.csv", ""),
        ("a.csv", ""),
        ("out/*.csv", "out/"),
        ("a/b/c", "a/b/"),
        ("a/*/c", "a/"),
        ("**/*", ""),
        ("out", ""),
    ],
)
def test_the_part_of_a_pattern_that_is_not_kept(pattern, part):
    assert fixed_part(pattern) == part


def test_what_patterns_match_and_where_it_goes(tmp_path):
    for name in ("a.csv", "b.txt", "out/c.csv", "out/deep/d.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    errand = {"task": 7, "attempt": 0, "label": "cal", "host": "n1", "worker": 3}

    def found(outputs: dict[str, str]) -> list[str]:
        return [entry.name for entry in matches(str(tmp_path), errand | {"outputs": outputs}) if not entry.is_directory]

    assert found({"*.csv": "/r/{label}"}) == ["/r/cal/a.csv"]
    assert found({"out/*.csv": "/r/{id}"}) == ["/r/7/c.csv"]
    assert found({"out": "/r/{host}"}) == ["/r/n1/out/c.csv", "/r/n1/out/deep/d.csv"]
    assert found({"**/*.csv": "/r", "*.csv": "/r"}) == ["/r/a.csv", "/r/out/c.csv", "/r/out/deep/d.csv"]
    assert found({"**": "/r"}) == ["/r/a.csv", "/r/b.txt", "/r/out/c.csv", "/r/out/deep/d.csv"]
    assert found({"*.nc": "/r"}) == []


def test_no_task_writes_over_anothers_file():
    ledger = Ledger()
    assert ledger.claim("/r/a.tar.gz", 1) == "/r/a.tar.gz"
    assert ledger.claim("/r/a.tar.gz", 1) == "/r/a.tar.gz"  # it ran again
    assert ledger.claim("/r/a.tar.gz", 2) == "/r/a.tar.task-2.gz"


def test_what_is_cut_off_makes_way_for_what_is_whole():
    ledger = Ledger()
    assert ledger.came(1, ["/r/a.partial"], True) == []
    assert ledger.came(2, ["/r/b"], False) == []
    assert ledger.came(1, ["/r/a"], False) == ["/r/a.partial"]
    assert ledger.has_whole(1)
    assert Path("/r/a.partial").name.endswith(".partial")
