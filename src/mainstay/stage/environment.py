"""What an environment is: venv, uv, conda, or a system's Python with the user's own packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from mainstay.errors import StageError

PROBE = Path(__file__).with_name("probe.py")
SECONDS = 120.0  # for the probe; an interpreter on a busy file system


class Environment(NamedTuple):
    """Where everything of an environment is, as its own interpreter says (see `probe.py`)."""

    version: str
    machine: str
    tag: str  # of bytecode, as cpython-311
    prefix: str
    base: str  # the prefix of the interpreter that it was made with
    executable: str  # of the base
    library: str  # where the standard library is to lie under a prefix, as lib/python3.11
    stdlib: str
    extensions: str  # of the standard library
    libpython: str  # empty where the interpreter has all in itself
    sites: list[str]  # directories with packages, as they come on the path
    mainstay: str  # the files of these packages; empty where they are missing
    cloudpickle: str

    @property
    def kind(self) -> str:
        """What made it: "conda", "uv", "venv" or "system"."""
        if os.path.isdir(os.path.join(self.prefix, "conda-meta")):
            return "conda"
        config = Path(self.prefix, "pyvenv.cfg")
        if not config.is_file():
            return "system"
        return "uv" if any(line.split("=")[0].strip() == "uv" for line in config.open()) else "venv"

    def prefix_of(self, site: str) -> str:
        """Return the prefix of a directory of packages, under which `bin` and `share` of its packages are."""
        parts = Path(site).parts
        at = max((at for at, part in enumerate(parts) if part in ("lib", "lib64")), default=len(parts))
        return str(Path(*parts[:at]))


def look(place: str | os.PathLike[str] | None = None) -> Environment:
    """Return what is known of an environment: a directory, an interpreter, or None for the one that runs this.

    Raises `StageError` where there is none, or none that can run a pool's workers.
    """
    python = _python(place)
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(  # noqa: S603
            [python, PROBE], capture_output=True, text=True, timeout=SECONDS, check=True, cwd="/", env=environ
        )
        found = Environment(**json.loads(done.stdout))
    except subprocess.CalledProcessError as error:
        raise StageError(f"{python} failed: {error.stderr.strip()[-500:]}") from error
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise StageError(f"{python} is no Python that can be packed: {error}") from error
    missing = [name for name in ("mainstay", "cloudpickle") if not getattr(found, name)]
    if missing:
        raise StageError(f"{found.prefix} has no {' and no '.join(missing)}; `{python} -m pip install mainstay` first")
    return found


def _python(place: str | os.PathLike[str] | None) -> str:
    if place is None:
        return sys.executable
    path = Path(os.path.abspath(place))
    if path.is_file() and os.access(path, os.X_OK):
        return str(path)
    for name in ("bin/python", "bin/python3"):
        if (path / name).exists():
            return str(path / name)
    raise StageError(f"{str(place)!r} is no environment: give its directory, in which bin/python is, or an interpreter")
