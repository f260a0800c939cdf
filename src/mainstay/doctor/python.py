"""The interpreter and the package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import mainstay
from mainstay.doctor.check import Case, Check, State

OLDEST = (3, 10)


def examine(case: Case) -> list[Check]:
    return [_interpreter(case), _package(case)]


def _interpreter(case: Case) -> Check:
    kind = environment_kind(sys.prefix, sys.base_prefix)
    found = f"{sys.version.split()[0]} in {sys.prefix} ({kind})"
    active = case.environ.get("VIRTUAL_ENV") or case.environ.get("CONDA_PREFIX")
    if sys.version_info < OLDEST:
        return Check("Python", State.BAD, found, "Mainstay wants Python 3.10 or newer")
    if active and kind != "conda" and Path(active).resolve() != Path(sys.prefix).resolve():
        advice = f"{active} is activated, but another Python runs: start the program with {active}/bin/python"
        return Check("Python", State.ODD, found, advice)
    return Check("Python", State.GOOD, found)


def environment_kind(prefix: str, base: str) -> str:
    """Return of what kind an environment is, by its prefix and that of its interpreter."""
    if prefix != base:
        return f"a venv of {base}"
    return "conda" if (Path(prefix) / "conda-meta").is_dir() else "no venv"


def _package(case: Case) -> Check:
    found = f"{mainstay.__version__} from {Path(mainstay.__file__).parent}"
    command = shutil.which("mainstay", path=case.environ.get("PATH"))
    if command and Path(command).parent.resolve() != Path(sys.executable).parent.resolve():
        advice = f"Typed, `mainstay` is another's, {command}: put {Path(sys.executable).parent} first on PATH"
        return Check("Mainstay", State.ODD, found, advice)
    return Check("Mainstay", State.GOOD, found)
