"""`mainstay run job.py`: the script on rank 0 only; the other ranks of an `mpiexec` lend their slots."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

from mainstay import world

HELP = "run a script on rank 0 of an mpiexec; the other ranks wait and lend their slots"
LIMIT = 120.0  # seconds in which rank 0 must have appeared


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("-m", dest="is_module", action="store_true", help="SCRIPT is a module's name")
    command.add_argument("script", help="a Python file, or with -m a module")
    command.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")


def run(given: argparse.Namespace) -> int:
    """Run the script, or wait for the rank that does."""
    here = world.place()
    if here is not None and here.rank > 0:
        world.attend(here, LIMIT)
        return 0
    if here is not None:
        world.open_gate(here)
    sys.argv[:] = [given.script, *given.arguments]
    if given.is_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(given.script, run_name="__main__", alter_sys=True)
        return 0
    if not os.path.isfile(given.script):
        print(f"mainstay run: no file {given.script!r}; give the path of a Python script", file=sys.stderr)
        return 2
    sys.path.insert(0, os.path.dirname(os.path.abspath(given.script)))
    runpy.run_path(given.script, run_name="__main__")
    return 0
