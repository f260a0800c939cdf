"""The command line: `mainstay <command>`. One parser; a file per command, which describes and runs it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = ("run", "sbatch", "stage", "doctor", "audit", "journal", "tune", "demo")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    root = argparse.ArgumentParser(prog="mainstay", description="MPI workers that stay.")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        module = importlib.import_module(f"mainstay.cli.{name}")
        passes_on = getattr(module, "PASSES_ON", False)  # what it does not know, --help too, is for the program it runs
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, add_help=not passes_on)
        module.add_arguments(command)
        command.set_defaults(run=module.run, passes_on=passes_on)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    given, others = parser().parse_known_args(arguments)
    if others and not given.passes_on:
        parser().error(f"unrecognized arguments: {' '.join(others)}")
    given.others = others
    code: int = given.run(given)
    return code


if __name__ == "__main__":
    sys.exit(main())
