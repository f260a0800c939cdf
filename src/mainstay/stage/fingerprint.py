"""In which state directories with packages are, told by few looks: installing or removing anything changes it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mainstay.stage.tree import everything, importable

SPOKEN = ("node", "wire")  # rooms of Mainstay
MARKS = ("pyvenv.cfg", "conda-meta/history")  # of an environment, written anew when it is changed


def fingerprint(sources: list[str]) -> str:
    """Return what the state of these directories is known by.

    Of a directory of packages: what lies in it, and the records of what is installed, by their times. Of others, as
    editable installs have: every module.
    """
    digest = hashlib.sha256()
    for source in sorted(set(sources)):
        digest.update(f"{source}\n".encode(errors="surrogateescape"))
        for line in _state(source):
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def edition(package: str) -> str:
    """Return which Mainstay a directory holds: its version; while one is being written, with a digest of its code.

    What client and workers say to each other may change without a new version then. Only the code that nodes run is
    read for that, as each pool does it anew.
    """
    found = re.search(r'^__version__ = "(.*)"', Path(package, "__init__.py").read_text(), re.MULTILINE)
    version = found[1] if found else "of no known version"
    if ".dev" not in version:
        return version
    digest = hashlib.sha256()
    for room in SPOKEN:
        for content in _sources(os.path.join(package, room)):
            digest.update(content)
    return f"{version}+{digest.hexdigest()[:12]}"


def _sources(directory: str) -> Iterator[bytes]:
    """Yield what the modules of a directory say; a file system looks the directory up once."""
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sorted(name for name in os.listdir(place) if name.endswith(".py")):
            with open(name, "rb", opener=partial(os.open, dir_fd=place)) as file:
                yield file.read()
    finally:
        os.close(place)


def _state(source: str) -> Iterator[str]:
    if os.path.isfile(source):
        yield _time(source)
    elif os.path.basename(source) in ("site-packages", "dist-packages"):
        for entry in sorted(os.listdir(source)):
            if entry.endswith((".dist-info", ".egg-info")):
                yield f"{entry} {_time(os.path.join(source, entry, 'RECORD'))}"
            elif entry.endswith((".pth", ".py", ".so")):
                yield f"{entry} {_time(os.path.join(source, entry))}"
            else:
                yield entry
    elif os.path.exists(os.path.join(source, "bin")):
        yield from (_time(os.path.join(source, mark)) for mark in MARKS)
    else:
        walk = everything if os.path.exists(os.path.join(source, "__init__.py")) else importable
        yield from (f"{name} {file.mtime} {file.size}" for name, file in walk(source) if "/lib-dynload/" not in name)


def _time(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "-"
    return f"{found.st_mtime_ns} {found.st_size}"
