"""The shape of the house: who may import whom, what an import may cost, how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "mainstay"
# From the ground up: a module imports from its own layer's folder and from the layers below it.
LAYERS = [
    ["cache", "errors", "marks"],
    ["wire"],
    ["journal"],
    ["staging"],
    ["contents"],
    ["orders", "report", "timeline", "interrupts", "slurm", "slurm_script"],
    ["origin"],
    ["hands", "queues", "runtimes", "holds", "parts", "process_sets", "renewal", "waiting"],
    ["options"],
    ["gangs"],
    ["scheduler"],
    ["world"],
    ["node"],
    ["stage"],
    ["launch"],
    ["outcomes", "door", "reactor", "launches", "preloading", "turns", "elastic", "peers"],
    ["ending", "files", "settings"],
    ["roster", "keeping"],
    ["communicators"],
    ["acting", "bridging", "enrolment", "growing", "lines", "shrinking"],
    ["registrar", "resizing", "malleable"],
    ["wanted"],
    ["muster", "hearing"],
    ["broker"],
    ["futures", "lifetime", "mapping", "naming"],
    ["calls", "resuming"],
    ["pool"],
    ["executor"],
    ["strategy", "tune"],
    ["doctor"],
    ["audit"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BANNED = {"asyncio", "logging", "dataclasses", "subprocess", "importlib.metadata", "cloudpickle"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mainstay":
            parts = (node.module or "").split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mainstay.")}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards_only(path):
    if path.parent == SOURCE and path.name == "__init__.py":
        return  # the door to all rooms
    own = room(path)
    above = {name for name in imported_rooms(path) if name != own and LEVEL[name] >= LEVEL[own]}
    assert not above, f"{own} must not import {above}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= 400


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_mainstay_costs_next_to_nothing():
    assert len(modules_after("import mainstay")) <= 45


def test_a_node_process_imports_next_to_nothing():
    modules = modules_after("import mainstay.node.agent")
    assert not modules & BANNED
    assert len(modules) <= 95
