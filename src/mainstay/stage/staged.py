"""What `Executor(stage=…)` takes, and what a pool makes of it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mainstay
from mainstay import world
from mainstay.errors import StageError
from mainstay.stage import head
from mainstay.stage.bootstrap import Bootstrap
from mainstay.stage.fingerprint import edition
from mainstay.stage.head import Manifest
from mainstay.stage.modules import collect, own_directories

Log = Callable[[int, str], None]


class Stage(NamedTuple):
    """An environment that a pool's nodes run from.

    Args:
        file: made by `mainstay stage`; "auto": one in the user's cache, made anew when the environment has changed.
        local: whether tasks run in a directory of their node, with a HOME there; False: where the program was
            started, with the user's HOME, which costs each node some operations.
    """

    file: str | os.PathLike[str] = "auto"
    local: bool = True


def prepare(given: str | os.PathLike[str] | Stage, setup: dict[str, Any], log: Log) -> Bootstrap | None:
    """Return what makes agents run from a packed environment, and put into `setup` what they must know for it.

    Args:
        given: as `Executor(stage=…)` takes it.
        setup: what agents are told; gets "stage".
        log: is told why nothing could be packed for "auto"; the pool then does without.

    Raises `StageError` for a file that cannot be used, and `TypeError`.
    """
    stage = given if isinstance(given, Stage) else Stage(given)
    if not isinstance(stage.file, str | os.PathLike):
        raise TypeError(f"stage must be None, 'auto', a path or a Stage; given: {given!r}")
    path = _automatic(log) if stage.file == "auto" else Path(os.path.abspath(stage.file))
    if path is None:
        return None
    manifest, start, size = head.read(path)
    _check(path, manifest)
    modules, left = collect(own_directories(setup["path"], manifest.sources))
    for directory in left:
        log(logging.WARNING, f"stage: the modules of {directory} are too many to travel; nodes read them from there")
    setup["stage"] = {"local": stage.local, "modules": modules, "path": left}
    _tell_of_ranks(log)
    return Bootstrap(str(path), manifest, start, head.kind_of(path), size)


def _tell_of_ranks(log: Log) -> None:
    here = world.place()
    if here is not None:
        log(logging.INFO, f"stage: the {here.size} ranks of this world had started before; their workers run staged")


def _automatic(log: Log) -> Path | None:
    from mainstay.stage.automatic import automatic

    try:
        return automatic(log)
    except StageError as error:
        log(logging.WARNING, f"stage='auto': {error}; nodes run from the shared environment")
        return None


def _check(path: Path, manifest: Manifest) -> None:
    """Raise `StageError` where workers could not understand this program."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if manifest.python.rpartition(".")[0] != here:
        raise StageError(f"{path} holds Python {manifest.python}, and this program runs {here}; pack its environment")
    ours = edition(mainstay.__path__[0])
    if manifest.mainstay != ours:
        raise StageError(f"{path} holds mainstay {manifest.mainstay}, and this program runs {ours}; pack it anew")
