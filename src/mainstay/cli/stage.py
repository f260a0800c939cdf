"""`mainstay stage ENV -o env.tar.zst`: packs an environment into one file, from which `Executor(stage=…)` runs."""

from __future__ import annotations

import argparse
import sys
import time

HELP = "pack an environment into one file, which each node reads in place of thousands"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "environment", nargs="?", metavar="ENV", help="its directory or its python (default: the one that runs this)"
    )
    command.add_argument("-o", "--output", required=True, help="a .tar.zst, or a .tar.gz for nodes without zstd")
    command.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="names to leave out, as '*/tests/*'",
    )
    command.add_argument(
        "--include", action="append", default=[], metavar="DIR", help="a directory whose modules are to be on the path"
    )


def run(given: argparse.Namespace) -> int:
    """Pack; return the exit code: 0, or 2 where it could not be done."""
    from mainstay.errors import StageError, size
    from mainstay.stage.pack import pack

    begun = time.monotonic()
    try:
        made = pack(given.environment, given.output, exclude=given.exclude, include=given.include)
    except StageError as error:
        print(f"mainstay stage: {error}", file=sys.stderr)
        return 2
    for warning in made.warnings:
        print(f"mainstay stage: {warning}", file=sys.stderr)
    manifest = made.manifest
    print(
        f"{made.path}: {size(made.bytes)}, from {size(manifest.size)} in {manifest.files} files "
        f"(Python {manifest.python}, {manifest.prefix}), {time.monotonic() - begun:.1f} s\n"
        f"  Executor(stage={str(made.path)!r})"
    )
    return 0
