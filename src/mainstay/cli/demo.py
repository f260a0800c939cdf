"""`mainstay demo`: the calibration in `examples/`, as the checkout or the installed package has it."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

HELP = "calibrate a rainfall-runoff model on a real catchment, and draw what came of it"
PASSES_ON = True
NEEDED = ("numpy", "matplotlib", "rich", "spotpy")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All arguments are the example's own."""


def run(given: argparse.Namespace) -> int:
    """Run the example as its own `__main__`, so that it is just what a user would copy."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"mainstay demo needs {', '.join(missing)}: pip install 'mainstay[examples]'", file=sys.stderr)
        return 2
    script = example("hymod_dds.py")
    sys.argv[:] = [str(script), *given.others]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0


def example(name: str) -> Path:
    """Return the path of an example: beside the package as installed, else in the checkout that it was made from."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "examples" / name, package.parents[1] / "examples" / name]
    return next((place for place in places if place.is_file()), places[-1])
