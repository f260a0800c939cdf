"""Scratch directories, staged inputs and results brought back, over every launcher that serves here."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import mainstay
from conftest import wait_until
from mainstay import files


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def pool(launcher, base):
    lines = []
    with mainstay.Executor(2, launcher=launcher, scratch=base, log=lines.append) as executor:
        executor.lines = lines
        yield executor
    wait_until(lambda: not os.listdir(base))  # nothing is left, whatever the tests have done


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params" / "deep").mkdir(parents=True)
    (tmp_path / "params" / "deep" / "soil.txt").write_text("clay")
    (tmp_path / "basin.nc").write_bytes(b"basin" * 100_000)
    return [tmp_path / "basin.nc", str(tmp_path / "params") + "/"]


def leave(**files):
    """What a task does that leaves files."""
    here = mainstay.scratch(per="task")
    for name, text in files.items():
        (here / f"{name}.csv").write_text(text)
    return str(here)


def wait_for(path):
    """What a task does that is to last until the test goes on."""
    while not path.exists():
        time.sleep(0.01)


def test_a_worker_keeps_its_directory_and_a_task_does_not(pool, base):
    def use(x):
        mine, its = mainstay.scratch(), mainstay.scratch(per="task")
        (mine / str(x)).touch()
        (its / "x").touch()
        time.sleep(0.01)
        return mine, its, len(os.listdir(mine)), its == mainstay.scratch(per="task")

    results = [pool.submit(use, x).result(30) for x in range(6)]
    assert all(mine.is_relative_to(base) and same for mine, _, _, same in results)
    assert max(count for *_, count, _ in results) >= 3
    assert len({its for _, its, *_ in results}) == 6
    assert not any(its.exists() for _, its, *_ in results)


def test_inputs_are_there_read_only_and_read_once(pool, params, monkeypatch):
    given = []
    monkeypatch.setattr(files.Files, "_give", lambda *words, give=files.Files._give: given.append(1) or give(*words))

    def read():
        basin, soil = mainstay.staged(params[0]), mainstay.staged(Path(params[1]) / "deep" / "soil.txt")
        return len(basin.read_bytes()), soil.read_text(), str(basin), basin.stat().st_mode & 0o222

    view = pool.options(stage_in=params)
    results = {future.result(30) for future in [view.submit(read) for _ in range(20)]}
    assert len(results) == 1
    assert results.pop()[:2] == (500_000, "clay")
    assert len(given) == 1  # both in one stream, for all workers of the node
    assert list(view.map(lambda _: mainstay.staged(params[0]).stat().st_size, range(50))) == [500_000] * 50
    assert len(given) == 1
    Path(params[0]).write_text("changed")
    assert view.submit(read).result(30)[0] == 7
    assert len(given) == 2


def test_a_missing_input_is_told_at_submit(pool):
    with pytest.raises(FileNotFoundError, match="there is no /no/such/file"):
        pool.options(stage_in=["/no/such/file"]).submit(abs, 1)


def test_what_was_not_staged_is_told(pool, params):
    with pytest.raises(mainstay.ScratchError, match=r"'other.nc' is not staged for this task, which has: .*basin.nc"):
        pool.options(stage_in=params).submit(mainstay.staged, "other.nc").result(30)


def test_an_input_that_changes_before_it_is_copied_is_told(pool, params, tmp_path):
    blockers = [pool.submit(wait_for, tmp_path / "go") for _ in range(2)]
    future = pool.options(stage_in=params).submit(abs, 1)
    Path(params[0]).write_text("changed")
    (tmp_path / "go").touch()
    with pytest.raises(mainstay.StagingError, match=r"basin.nc has changed since the task was submitted"):
        future.result(30)
    assert [blocker.result(30) for blocker in blockers] == [None, None]


def test_results_come_back_before_the_future_is_done(pool, tmp_path):
    view = pool.options(stage_out={"*.csv": tmp_path / "{label}" / "{id}-{attempt}"}, label="run")
    futures = [view.submit(leave, a="1" * count, b="2") for count in (0, 1, 3_000_000)]
    for future, count in zip(futures, (0, 1, 3_000_000), strict=True):
        task = future.result(30).rpartition("-")[2]
        assert (tmp_path / "run" / f"{task}-0" / "a.csv").stat().st_size == count
        assert (tmp_path / "run" / f"{task}-0" / "b.csv").read_text() == "2"


def test_results_of_each_item_of_a_map_come_back(pool, tmp_path):
    view = pool.options(stage_out={"*.csv": tmp_path})
    list(view.map(lambda x: leave(**{f"r{x}": str(x)}), range(10)))
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == [str(x) for x in range(10)]


def test_what_a_failed_task_left_comes_back_too(pool, tmp_path):
    def fail():
        leave(log="why")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.options(stage_out={"*.csv": tmp_path}).submit(fail).result(30)
    assert (tmp_path / "log.csv").read_text() == "why"


def test_what_a_task_left_that_ran_out_of_time_comes_back_as_partial(pool, tmp_path):
    def overrun():
        leave(half="ha")
        threading.Event().wait()

    with pytest.raises(mainstay.TaskTimeout):
        pool.options(stage_out={"*.csv": tmp_path}, timeout=2).submit(overrun).result(30)
    assert [path.name for path in tmp_path.iterdir()] == ["half.csv.partial"]
    assert pool.submit(abs, -1).result(30) == 1


def test_a_retry_replaces_what_its_first_attempt_left(pool, tmp_path):
    def flaky():
        attempt = mainstay.task().attempt
        leave(a=str(attempt))
        if attempt == 0:
            raise OSError("not yet")

    pool.options(stage_out={"*.csv": tmp_path}, retries=1).submit(flaky).result(30)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "1"


def test_two_tasks_with_the_same_file_both_keep_theirs_and_it_is_told(pool, tmp_path):
    view = pool.options(stage_out={"*.csv": tmp_path})
    for text in "12":
        view.submit(leave, a=text).result(30)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["1", "2"]
    assert any("a.csv is another task's" in line and "{id} or {label}" in line for line in pool.lines)


def test_a_pattern_that_matches_nothing_is_told(pool, tmp_path):
    pool.options(stage_out={"*.nc": tmp_path}, label="odd").submit(leave, a="1").result(30)
    assert any("('odd') left nothing that stage_out='*.nc' matches" in line for line in pool.lines)


def test_results_that_cannot_be_written_are_an_error(pool, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(mainstay.StagingError, match=r"could not be written on the client: .*another directory"):
        pool.options(stage_out={"*.csv": tmp_path / "file" / "x"}).submit(leave, a="1" * 3_000_000).result(30)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outside_of_a_task_there_is_none():
    with pytest.raises(RuntimeError, match=r"mainstay.scratch\(\) was called where no task runs"):
        mainstay.scratch()
    with pytest.raises(RuntimeError, match=r"mainstay.staged\(\) was called where no task runs"):
        mainstay.staged("x")
    with pytest.raises(ValueError, match="per must be 'worker' or 'task'; given: 'node'"):
        mainstay.scratch(per="node")


def test_a_base_that_is_not_there_is_told_where_it_is_wanted():
    with mainstay.Executor(1, launcher="local", scratch="/no/such/disk") as executor:
        assert executor.submit(abs, -1).result(30) == 1
        with pytest.raises(mainstay.ScratchError, match="scratch='/no/such/disk': there is no directory"):
            executor.submit(mainstay.scratch).result(30)


def test_what_finished_is_there_when_the_rest_is_cancelled(base, tmp_path):
    with mainstay.Executor(2, launcher="local", scratch=base) as executor:
        view = executor.options(stage_out={"*.csv": tmp_path})
        go = tmp_path.with_name("go")
        futures = [view.submit(lambda x: (leave(**{f"r{x}": str(x)}), x < 4 or wait_for(go)), x) for x in range(100)]
        futures[3].result(30)
        executor.shutdown(wait=False, cancel_futures=True)
        wait_until(futures[99].cancelled)
        go.touch()
    done = {f"r{x}.csv" for x, future in enumerate(futures) if not future.cancelled()}
    assert 4 <= len(done) < 100
    assert {path.name for path in tmp_path.iterdir()} == done


def test_a_journal_knows_a_call_by_what_its_inputs_hold(base, tmp_path):
    basin = tmp_path / "basin.nc"

    def read(x):
        return x, mainstay.staged(basin).read_text()

    def run(text):
        """Return what a pool of its own answers by `submit` and by `map`, and whether any call ran."""
        basin.write_text(text)
        with mainstay.Executor(1, launcher="local", scratch=base, journal=tmp_path / "calls.db") as executor:
            view = executor.options(stage_in=[basin])
            answers = [view.submit(read, 0).result(30), *view.map(read, range(1, 4))]
            return answers, executor._broker.done > 0

    assert run("wet") == ([(x, "wet") for x in range(4)], True)
    assert run("wet") == ([(x, "wet") for x in range(4)], False)  # written anew, and the same
    assert run("dry") == ([(x, "dry") for x in range(4)], True)
    assert run("wet") == ([(x, "wet") for x in range(4)], False)


def test_a_relative_base_is_refused_at_once():
    with pytest.raises(ValueError, match="scratch must be None or an absolute path of a directory; given: 'disk'"):
        mainstay.Executor(scratch="disk")


def test_an_input_that_the_client_cannot_read_is_told(pool, params, monkeypatch):
    def unreadable(*words, **given):
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(files.tree, "pack", unreadable)
    with pytest.raises(mainstay.StagingError, match=r"basin.nc could not be read by the client: .*Input/output error"):
        pool.options(stage_in=params).submit(abs, 1).result(30)


def test_names_that_are_long_or_no_text_come_back(pool, tmp_path):
    def leave_odd():
        here = os.fsencode(mainstay.scratch(per="task"))
        for name in ("é".encode() * 120, b"\xff\xfe"):
            with open(os.path.join(here, name), "w") as file:
                file.write("x")

    pool.options(stage_out={"*": tmp_path}).submit(leave_odd).result(30)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == ["é".encode() * 120, b"\xff\xfe"]
