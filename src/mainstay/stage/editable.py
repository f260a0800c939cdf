"""Editable installs and other paths in `.pth` files: what they point to goes into the tree."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from mainstay.stage.tree import Tree, everything, file_at, importable, is_below
from mainstay.stage.workshop import Workshop

FINDER = re.compile(r"^import (__editable___\w+_finder)\b")


class Editables:
    """Takes in what the `.pth` files of an environment point to.

    Args:
        tree: gets the files.
        site: the tree's own directory of packages.

    Attributes: `sources`, the directories that were taken in, and `unknown`, lines that are no known way.
    """

    def __init__(self, tree: Tree, site: str, workshop: Workshop) -> None:
        self._tree, self._site, self._workshop = tree, site, workshop
        self.sources: list[str] = []
        self.unknown: list[str] = []

    def take(self, site: str) -> None:
        """Take in what the `.pth` files in one directory of packages point to, and rewrite them."""
        for path in sorted(Path(site).glob("*.pth")):
            lines = path.read_text(errors="replace").splitlines()
            new = [self._line(line, site) for line in lines]
            if new != lines:
                name = f"{self._site}/{path.name}"
                self._tree[name] = self._workshop.text("".join(f"{line}\n" for line in new))

    def _line(self, line: str, site: str) -> str:
        """Return what a line is to say in the tree."""
        finder = FINDER.match(line)
        if finder:
            self._from_finder(Path(site, f"{finder[1]}.py"))
            return f"# {line}"
        if line.startswith(("import ", "import\t")):
            if "editable" in line:
                self.unknown.append(line.strip())
            return line
        place = os.path.normpath(os.path.join(site, line.strip()))
        if not line.strip() or line.startswith("#") or not os.path.isdir(place) or is_below(place, site):
            return line
        name = f"editable-{len(self.sources)}"
        self.sources.append(place)
        self._add(f"{os.path.dirname(self._site)}/{name}", place, is_package=False)
        return f"../{name}"

    def _from_finder(self, path: Path) -> None:
        """Take in the packages and modules that a finder of setuptools maps to other places."""
        for name, place in mapping(path.read_text()).items():
            self.sources.append(place)
            target = f"{self._site}/{name.replace('.', '/')}"
            if os.path.isdir(place):
                self._add(target, place, is_package=True)
            elif os.path.isfile(place):
                self._tree[f"{target}.py"] = file_at(place)

    def _add(self, target: str, place: str, *, is_package: bool) -> None:
        found = everything(place) if is_package else importable(place)
        self._tree.update((f"{target}/{name}", file) for name, file in found)


def mapping(source: str) -> dict[str, str]:
    """Return the places of packages by their names, as the source of a finder that setuptools made says them."""
    for node in ast.parse(source).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            return dict(ast.literal_eval(node.value)) if node.value is not None else {}
    return {}
