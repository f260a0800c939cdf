"""Which paths are on a shared file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from mainstay.doctor.probe import is_network, mount_of, mounts
from mainstay.stage import tree

NOT_FILES = ("/proc", "/sys", "/dev", "/run")


class Shared(NamedTuple):
    """Directories that are shared, those below them that are not (both resolved), and how that is known."""

    roots: tuple[str, ...]
    why: str
    holes: tuple[str, ...] = ()

    def has(self, path: str) -> bool:
        """Whether a resolved path is shared."""
        return is_below(path, self.roots) and _depth(path, self.roots) >= _depth(path, self.holes)


def is_below(path: str, roots: Iterable[str]) -> bool:
    return any(tree.is_below(path, root) for root in roots)


def _depth(path: str, roots: Iterable[str]) -> int:
    """Return how long the innermost of the directories is that a path is below."""
    return max((len(root) for root in roots if is_below(path, [root])), default=0)


def shared(given: Iterable[str], places: Iterable[str]) -> Shared:
    """Return what is shared: what was named; else network file systems; else `places`, as if they were."""
    named = tuple(os.path.realpath(path) for path in given)
    if named:
        return Shared(named, f"named by --shared: {', '.join(named)}")
    here = [os.path.realpath(place) for place in places if place]
    mounted = {point: kind for point, kind, _ in mounts()}
    network = {point: kind for point, kind in mounted.items() if is_network(kind)}
    if any(is_network(mount_of(place)[0]) for place in here):
        told = ", ".join(f"{point} ({kind})" for point, kind in network.items())
        return Shared(tuple(network), told, tuple(point for point in mounted if point not in network))
    roots = tuple(sorted({place for place in here if not is_below(place, [other for other in here if other != place])}))
    return Shared(roots, f"none is mounted here; counted is as if these were: {', '.join(roots)}")


def resolver() -> Callable[[str], str]:
    """Return what follows the links of a path, as far as they are still there."""

    @cache
    def directory(path: str) -> str:
        return os.path.realpath(path)

    @cache
    def resolved(path: str) -> str:
        if path.startswith(NOT_FILES):
            return path
        whole = os.path.join(directory(os.path.dirname(path)), os.path.basename(path))
        return os.path.realpath(whole) if os.path.islink(whole) else whole

    return resolved


def places(environ: Mapping[str, str], prefixes: Iterable[str], directory: str) -> list[str]:
    """Return where a program's files usually are: its environments, its directory, its home."""
    return [*prefixes, directory, environ.get("HOME", "")]
