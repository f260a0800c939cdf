"""`stage="auto"`: the environment that runs this program, packed into the user's cache when it has changed."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mainstay
from mainstay.cache import user_cache
from mainstay.errors import StageError, size
from mainstay.stage import head
from mainstay.stage.fingerprint import edition, fingerprint
from mainstay.stage.pack import pack

KEPT = 30 * 24 * 3600.0  # seconds without use, after which a file is removed


def automatic(log: Callable[[int, str], None]) -> Path:
    """Return a file that holds the environment as it is now. Raises `StageError`."""
    directory = Path(user_cache("stage"))
    name = hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:16]
    path = directory / f"{os.path.basename(sys.prefix) or 'python'}-{name}.tar.zst"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # pools that start together pack once
            if not _is_current(path):
                _remove_old(directory)
                begun = time.monotonic()
                made = pack(None, path)
                log(logging.INFO, f"environment packed: {size(made.bytes)}, {time.monotonic() - begun:.1f} s, {path}")
                for warning in made.warnings:
                    log(logging.WARNING, f"stage: {warning}")
            os.utime(path)
    except OSError as error:
        raise StageError(f"{directory} cannot be used: {error}") from error
    return path


def _is_current(path: Path) -> bool:
    try:
        manifest, *_ = head.read(path)
    except StageError:
        return False
    return manifest.mainstay == edition(mainstay.__path__[0]) and manifest.fingerprint == fingerprint(manifest.sources)


def _remove_old(directory: Path) -> None:
    for path in directory.glob("*.tar.*"):
        if time.time() - path.stat().st_mtime > KEPT:
            path.unlink(missing_ok=True)
