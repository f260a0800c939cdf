"""Small things to stage: an archive whose Python is a script of the shell, and an environment that holds Mainstay."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import cloudpickle

import mainstay
from mainstay.stage import head, pack
from mainstay.stage.bootstrap import Bootstrap
from mainstay.stage.fingerprint import edition
from mainstay.stage.head import Manifest
from mainstay.stage.tree import Tree
from mainstay.stage.workshop import Workshop

# In place of Python: says where it runs and what it was told, and goes on when it hears something.
FAKE = """\
#!/bin/sh
case $* in *look) exit ;; esac
cat <<END
{"tree": "$MAINSTAY_STAGE_TREE", "took": "$MAINSTAY_STAGE_TOOK", "sent": "$MAINSTAY_STAGE_SENT", "why": "",
 "cwd": "$(pwd)", "home": "$HOME", "libraries": "$LD_LIBRARY_PATH", "path": "$PATH"}
END
read -r _
"""
SHARED = ["/bin/sh", "-c", """printf '{"why": "%s", "cwd": "%s"}\\n\\n' "$MAINSTAY_STAGE_WHY" "$(pwd)"; read -r _"""]


def archive(path: Path, python: str = FAKE, **held: object) -> Bootstrap:
    """Make a file as `mainstay stage` does, of a tree with two files."""
    workshop_at = path.with_suffix(".workshop")
    workshop_at.mkdir()
    workshop = Workshop(str(workshop_at))
    tree: Tree = {"bin/python3": workshop.text(python, 0o755), "lib/data": workshop.text("data" * 10_000)}
    size = sum(file.size for file in tree.values())
    kind = head.kind_of(path)
    manifest = Manifest(
        platform.python_version(), "any", edition(mainstay.__path__[0]), "/env", [], "", len(tree), size, size
    )
    pack._write(path, kind, tree, manifest._replace(**held))  # type: ignore[arg-type]
    shutil.rmtree(workshop_at)
    manifest, start, size = head.read(path)
    return Bootstrap(str(path), manifest, start, kind, size)


class Node:
    """A node of which `disk` is the only local directory."""

    def __init__(self, disk: Path, fails: str = "", **environ: str) -> None:
        self._fails = fails  # words of its script that do here
        self.disk, self.home = disk, disk / f"mainstay-stage-{os.getuid()}"
        disk.mkdir(exist_ok=True)
        self._environ = os.environ | {"MAINSTAY_STAGE_DIR": str(disk)} | environ

    def start(self, stage: Bootstrap, sent: str = "") -> subprocess.Popen[str]:
        """Start the node's shell."""
        command = stage.command(SHARED, sent)
        if self._fails:
            command = [word.replace(self._fails, "false") for word in command]
        return subprocess.Popen(
            command,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def told(self, shell: subprocess.Popen[str]) -> dict[str, str]:
        """Return what the agent in the place of which our script runs has been told; it runs on."""
        assert shell.stdout is not None
        return json.loads(shell.stdout.readline() + shell.stdout.readline())

    def run(self, stage: Bootstrap, sent: str = "") -> dict[str, str]:
        """Start, and let it end."""
        with self.start(stage, sent) as shell:
            told = self.told(shell)
            shell.communicate("go\n")
        return told


def environment(directory: Path) -> Path:
    """Make an environment with Mainstay, cloudpickle, and packages that are installed in several ways."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    site = next(directory.glob("lib/python3*/site-packages"))
    shutil.copytree(Path(cloudpickle.__file__).parent, site / "cloudpickle")
    (site / "mainstay.pth").write_text(f"{Path(mainstay.__file__).parents[1]}\n")
    package = directory.parent / "source" / "mapped"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("where = __file__\n")
    (package / "data.txt").write_text("data")
    finder = f"MAPPING: dict[str, str] = {{'mapped': {str(package)!r}}}\ndef install(): pass\n"
    (site / "__editable___mapped_1_0_finder.py").write_text(finder)
    (site / "__editable__.mapped-1.0.pth").write_text(
        "import __editable___mapped_1_0_finder; __editable___mapped_1_0_finder.install()\n"
    )
    script = directory / "bin" / "tool"
    script.write_text(f"#!{directory}/bin/python\nimport sys, mapped\nprint(sys.prefix, mapped.where)\n")
    script.chmod(0o755)
    (site / "tool-1.0.dist-info").mkdir()
    (site / "tool-1.0.dist-info" / "RECORD").write_text("../../../bin/tool,,\n")
    return directory


def install(directory: Path, *names: str, path: Sequence[str] = tuple(sys.path)) -> None:
    """Put distributions into an environment that `environment` has made; they are found on that path."""
    site = next(directory.glob("lib/python3*/site-packages"))
    found = [next(iter(distributions(name=name, path=[*path]))) for name in names]
    for file in (file for one in found for file in one.files or ()):
        if file.suffix != ".pyc":
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), site / file, follow_symlinks=False)
