"""`mainstay sbatch`: what it makes of a command line, what it warns of, and how it submits. No Slurm."""

from __future__ import annotations

import os
import sys

import pytest

from mainstay.cli import main
from mainstay.cli.sbatch import Order, output_of, read_order, submission
from mainstay.slurm_script import Flag, Request, batch_script, read_flags, seconds, warnings

SCRIPT = """\
#!/bin/bash
# Written by `mainstay sbatch`.
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=16
#SBATCH --time=2:00:00
#SBATCH '--comment=a b'
# named after the program
#SBATCH --job-name=job
# the name and number of the job, so that no job writes over another's
#SBATCH --output=%x-%j.out
# 120 s before the time limit: the pool finishes what runs
#SBATCH --signal=B:USR1@120
# a node that fails does not end the job; the pool goes on with the others
#SBATCH --no-kill

module load openblas
trap '' USR1  # so that it ends no program that has no pool to hear it
# exec: signals of Slurm reach Python itself
exec /usr/bin/python3 /home/me/job.py --seed 1 'two words'
"""


def flags(text: str) -> list[Flag]:
    return read_flags(text.split())


def order_of(text: str) -> Order:
    return read_order(text.split())


def script(text: str = "") -> list[str]:
    return batch_script(Request("python", "job.py", flags=flags(text))).splitlines()


def test_the_script():
    given = [*flags("-N 3 --ntasks-per-node 16 --time 2:00:00"), Flag("comment", "a b")]
    arguments = ["--seed", "1", "two words"]
    request = Request("/usr/bin/python3", "/home/me/job.py", arguments, given, ["module load openblas"])
    assert batch_script(request) == SCRIPT


def test_what_the_user_gave_is_not_given_again():
    lines = script("-J name -o out -k --signal B:TERM@60 -t 60")
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=name",
        "#SBATCH --output=out",
        "#SBATCH --no-kill",
        "#SBATCH --signal=B:TERM@60",
        "#SBATCH --time=60",
    ]
    assert not any("USR1" in line for line in lines)


def test_the_warning_comes_in_time_for_short_limits_too():
    assert "#SBATCH --signal=B:USR1@15" in script("--time=1")
    assert not any("signal=" in line for line in [*script(), *script("--time=UNLIMITED")])


def test_arrays_and_requeued_jobs_keep_what_they_wrote():
    assert "#SBATCH --output=%x-%A_%a.out" in script("--array=1-3")
    assert "#SBATCH --open-mode=append" in script("--requeue")
    assert not any("requeue" in line or "open-mode" in line for line in script())


def test_flags_of_the_submission_are_not_of_the_script():
    assert not {"#SBATCH --wait", "#SBATCH --parsable"} & set(script("-W --parsable"))


def test_a_line_break_cannot_be_in_a_flag():
    with pytest.raises(ValueError, match="--comment='a\\\\nb' has a line break"):
        batch_script(Request("python", "job.py", flags=[Flag("comment", "a\nb")]))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-0:30", 88200), ("0-0:0:5", 5), ("x", None)],
)
def test_time_limits(limit, expected):
    assert seconds(limit) == expected


def test_words_are_read_as_sbatch_reads_them():
    order = order_of("-N 3 -n6 --exclusive job.py -Hk --mem=4G --setup x -t 5 --dry-run -- -N --dry-run")
    assert (order.script, order.arguments, order.setup, order.dry_run) == ("job.py", ["-N", "--dry-run"], ["x"], True)
    assert " ".join(map(str, order.flags)) == "--nodes=3 --ntasks=6 --exclusive --hold --no-kill --mem=4G --time=5"
    assert [str(flag) for flag in flags("-Z 3")] == ["-Z3"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("-N 3 -n 1", "Slurm lowers the nodes to 1; give --ntasks=3 or more"),
        ("-N 2-4 -n 1", "less than --nodes=2"),
        ("-N 3 -n 8 --ntasks-per-node=4", "8 workers, and not 12"),
        ("-N 3", "3 workers in all; add --ntasks-per-node=CPUS, or --exclusive"),
        ("-n 4 --signal=USR1@60", "give --signal=B:USR1@60"),
        ("-n 4 --signal=R:USR1@60", "give --signal=B:USR1@60"),
        ("-n 4 -a 1-3 -o out", "one file for all tasks of the array"),
    ],
)
def test_what_leads_astray_is_said(given, told):
    (warning,) = warnings(flags(given))
    assert told in warning


@pytest.mark.parametrize(
    "given", ["", "-n 6", "-N 3 -n 6", "-N 3 --exclusive", "-N 2 -c 4", "--signal=B:USR1@60", "-a 1-3 -o x-%A_%4a"]
)
def test_what_is_right_is_not_warned_of(given):
    assert warnings(flags(given)) == []


def test_a_job_that_submits_another_does_not_hand_on_its_numbers():
    inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "6", "PMI_RANK": "0", "SLURM_CONF": "/c", "HOME": "/h"}
    assert submission(inside) == {"SLURM_CONF": "/c", "HOME": "/h"}
    outside = {"SLURM_TIME_FORMAT": "x", "SBATCH_PARTITION": "long"}
    assert submission(outside) == outside


def test_where_the_output_will_be():
    assert output_of("7", order_of("a/job.py")) == "job-7.out"
    assert output_of("7", order_of("job.py -a 1-3")) == "job-7_*.out"
    assert output_of("7", order_of("job.py -J x -D /d -o log/%x.%5j.%N")) == "/d/log/x.7.*"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with a script, and a PATH with nothing on it."""
    (tmp_path / "job.py").write_text("print(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def stand_in(here, text):
    """An sbatch that does as told."""
    program = here / "sbatch"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_a_job_is_submitted_and_can_be_followed(here, capfd):
    stand_in(here, 'echo "$@" > words; PATH=/bin:/usr/bin; cat > got; echo 17')
    assert main(["sbatch", "job.py", "-n", "4"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "Submitted batch job 17", "  squeue -j 17", "  tail -F job-17.out", "  scancel 17"
    ]  # fmt: skip
    assert (here / "words").read_text() == "--parsable --ntasks=4\n"
    assert (here / "got").read_text().splitlines()[-1] == f"exec {sys.executable} {here}/job.py"


def test_the_refusal_of_sbatch_is_passed_on(here, capfd):
    stand_in(here, "echo 'sbatch: error: invalid partition' >&2; exit 3")
    assert main(["sbatch", "job.py", "-n", "4", "-p", "x"]) == 3
    assert capfd.readouterr().err == "sbatch: error: invalid partition\n"


def test_a_script_can_be_kept_but_not_over_a_file_of_the_user(here, capfd):
    stand_in(here, 'echo "$@"')
    for _ in range(2):
        assert main(["sbatch", "job.py", "-n", "4", "--write", "job.sh"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "--parsable --ntasks=4 job.sh"
    assert (here / "job.sh").read_text().startswith("#!/bin/bash\n# Written by")
    assert main(["sbatch", "job.py", "--write", "job.py"]) == 2
    assert "not written by mainstay sbatch; give another name" in capfd.readouterr().err
    assert main(["sbatch", "job.py", "--write", "no/such/job.sh"]) == 2
    assert "name a file that can be written" in capfd.readouterr().err
    assert (here / "job.py").read_text() == "print(1)\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "no script given; give the path"),
        ("-N 3", "no script given"),
        ("jop.py", "no file 'jop.py'"),
        ("job.py other.py", "its own arguments come after --"),
        ("job.py -N", "-N wants a value"),
        ("job.py --wrap x", "--wrap is for sbatch without a script"),
        ("job.py -n 4", "no sbatch on PATH; run this on a login node"),
    ],
)
def test_errors_say_what_to_do(here, capfd, words, told):
    assert main(["sbatch", *words.split()]) == 2
    assert told in capfd.readouterr().err


def test_it_can_be_tried_without_slurm(here, capfd):
    assert main(["sbatch", "job.py", "-N", "3", "--dry-run"]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("#!/bin/bash\n")
    assert "3 workers in all" in said.err
    assert main(["sbatch", "--help"]) == 0
    assert capfd.readouterr().out.startswith("usage: mainstay sbatch SCRIPT")
    assert os.listdir(here) == ["job.py"]
