"""`mainstay sbatch job.py -N 3 …`: writes a batch script, and submits it.

words ──▶ Order ──▶ batch_script (pure) ──▶ sbatch ──▶ the job's number, and how to follow it
            └────▶ warnings (pure) ──▶ stderr
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mainstay.launch.process import RANK_VARIABLES
from mainstay.slurm_script import MARK, Flag, Request, batch_script, named, read_flags, stem, warnings

HELP = "run a script as a Slurm job; its pool has the workers of all nodes"
PASSES_ON = True  # flags of sbatch, of which there are many
OURS = ("dry-run", "setup", "write")
OF_A_JOB = ("SLURM_", *RANK_VARIABLES)
USAGE = """\
usage: mainstay sbatch SCRIPT [FLAGS] [-- ARGUMENTS]

    mainstay sbatch job.py -N 3 --ntasks-per-node 16 --time 2:00:00 -- --seed 1

  SCRIPT           a Python file; it runs once, on the first node, by this Python, in this directory
  FLAGS            any of sbatch, which tells of them by `sbatch --help`, and
    --dry-run      print the batch script, and submit nothing
    --write FILE   keep the batch script
    --setup LINE   a line of shell before Python, as 'module load openblas'; may be given again
  ARGUMENTS        the script's own
"""


class Order(NamedTuple):
    """What the words of the command line ask for."""

    script: str
    arguments: list[str]
    flags: list[Flag]  # of sbatch
    setup: list[str]
    write: str | None
    dry_run: bool


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All words are read by `read_order`: argparse would take the value of an unknown flag for the script."""


def run(given: argparse.Namespace) -> int:
    """Write the batch script and submit it; return the exit code of sbatch, or 2."""
    try:
        order = read_order(given.others)
        if "help" in named(order.flags):
            print(USAGE, end="")
            return 0
        text = batch_script(_request(order))
        for warning in warnings(order.flags):
            print(f"mainstay sbatch: {warning}", file=sys.stderr)
        return _carry_out(order, text)
    except (ValueError, OSError) as error:
        print(f"mainstay sbatch: {error}", file=sys.stderr)
        return 2


def read_order(given: Sequence[str]) -> Order:
    """Return what the words of the command line ask for. Raises `ValueError`."""
    words = list(given)
    flags = read_flags(words)
    script = words.pop(0) if words and words[0] != "--" else ""
    flags += read_flags(words)
    if words and words[0] != "--":
        raise ValueError(f"unexpected {words[0]!r}; there is one script, and its own arguments come after --")
    of_sbatch = [flag for flag in flags if flag.name not in OURS]
    setup = [flag.value or "" for flag in flags if flag.name == "setup"]
    return Order(script, words[1:], of_sbatch, setup, named(flags).get("write"), "dry-run" in named(flags))


def _request(order: Order) -> Request:
    if not order.script:
        raise ValueError("no script given; give the path of a Python script, as in `mainstay sbatch job.py -N 3`")
    if not os.path.isfile(order.script):
        raise ValueError(f"no file {order.script!r}; give the path of a Python script")
    if "wrap" in named(order.flags):
        raise ValueError("--wrap is for sbatch without a script; leave it out, and give lines of shell by --setup")
    return Request(sys.executable, os.path.abspath(order.script), order.arguments, order.flags, order.setup)


def _carry_out(order: Order, text: str) -> int:
    if order.dry_run:
        print(text, end="")
    if order.write is not None:
        _keep(Path(order.write), text)
    return 0 if order.dry_run else _submit(order, text)


def _keep(path: Path, text: str) -> None:
    """Write the file, unless another one would be lost."""
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise ValueError(f"--write {path}: there is such a file, not written by mainstay sbatch; give another name")
    try:
        path.write_text(text)
    except OSError as error:
        raise ValueError(f"--write {path}: {error.strerror}; name a file that can be written") from error


def _submit(order: Order, text: str) -> int:
    """Hand the script to sbatch; what it says against it, it says itself, and its exit code is ours."""
    program = shutil.which("sbatch")
    if program is None:
        raise ValueError("no sbatch on PATH; run this on a login node of the cluster, or see the script by --dry-run")
    # The flags once more: SBATCH_… in the environment goes before what a script says, and these go before both.
    argv = [program, "--parsable", *map(str, order.flags), *([order.write] if order.write is not None else [])]
    with tempfile.TemporaryFile("w+") as script:
        script.write(text)
        script.seek(0)
        sbatch = subprocess.Popen(argv, env=submission(os.environ), stdin=script, stdout=subprocess.PIPE, text=True)  # noqa: S603
    with sbatch:
        assert sbatch.stdout is not None
        for line in sbatch.stdout:  # at once, also where `--wait` keeps sbatch from ending
            print(_told(line.strip(), order), flush=True)
    return sbatch.returncode


def submission(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which to submit: a job that another one submits would inherit its numbers."""
    if not environ.get("SLURM_JOB_ID"):
        return dict(environ)
    return {name: value for name, value in environ.items() if name == "SLURM_CONF" or not name.startswith(OF_A_JOB)}


def _told(line: str, order: Order) -> str:
    """Return what to say of the job whose number sbatch gave: `17`, or `17;cluster`."""
    job, _, cluster = line.partition(";")
    given = named(order.flags)
    if {"parsable", "quiet"} & given.keys() or not job.isdigit():
        return line
    where = f" on {cluster}" if cluster else ""
    output = output_of(job, order)
    return "\n".join(
        [f"Submitted batch job {job}{where}", f"  squeue -j {job}", f"  tail -F {output}", f"  scancel {job}"]
    )


def output_of(job: str, order: Order) -> str:
    """Return the file into which the job writes, with * for what only Slurm knows."""
    given = named(order.flags)
    pattern = given.get("output") or ("%x-%A_%a.out" if "array" in given else "%x-%j.out")
    known = {"j": job, "A": job, "x": given.get("job-name") or stem(order.script)}
    file = re.sub(r"%\d*([A-Za-z])", lambda match: known.get(match[1], "*"), pattern)
    return os.path.join(given.get("chdir") or "", file)
