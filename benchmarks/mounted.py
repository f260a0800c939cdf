"""Runs one way of running batches (`ways.py`) from an environment on a mount that counts, and leads it by lines.

behind/NAME/env     interpreter, standard library and packages in one tree, which runs from anywhere
behind/NAME/work    the scripts, and the environment packed for our ways
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import arena
from contestants import RANKS

sys.path.insert(0, str(arena.HERE.parent / "tests"))  # first, since there is a cluster.py beside this file
from slowmount import Cache, Operation, SlowMount

SCRIPTS = ("ways.py", "contestants.py", "models.py")
UNWANTED = ("test", "tests", "idlelib", "turtledemo", "site-packages", "ensurepip")  # of the standard library
NEEDED = ("mainstay", "cloudpickle", "psutil")  # in an environment without more
KINDS = ("tar.zst", "sqfs")
NOT_BESIDE = ("parsl",)  # whose workers do not look for modules where the script lies
LIMIT = 900.0  # seconds for one way
PACK = "import sys; from mainstay.cli import main; sys.exit(main())"
# A task that needs many small packages.
SMALL = """\
import importlib, os, socket, time
PACKAGES = [f"package{{number}}" for number in range({count})]
for name in PACKAGES:
    importlib.import_module(name)
def run(number):
    time.sleep(0.002)
    return f"{{socket.gethostname()}} {{os.getpid()}}", 0.0
"""


class Failed(Exception):
    """A way did not come to its end."""


class Count(NamedTuple):
    """Operations of the program that uses the pool, and of all others: workers, agents, launchers."""

    program: int = 0
    others: int = 0

    def __sub__(self, before: Count) -> Count:
        return Count(self.program - before.program, self.others - before.others)

    @property
    def all(self) -> int:
        return self.program + self.others


def counted(rows: Iterable[Operation], program: int) -> Count:
    """Return what the process with that id has asked for, and the others."""
    own = others = 0
    for row in rows:
        own, others = (own + row.count, others) if row.pid == program else (own, others + row.count)
    return Count(own, others)


# -- the environment


def lay(place: Path, packages: int | None = None) -> None:
    """Lay interpreter, standard library, and what is installed for the one that runs this or so many small packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, library = Path(sys.base_prefix), place / "lib" / version
    site = library / "site-packages"
    shutil.copytree(base / "lib" / version, library, symlinks=True, ignore=shutil.ignore_patterns(*UNWANTED))
    lay_packages(site) if packages is None else lay_small(site, packages)
    for shared in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, place / "lib", follow_symlinks=False)
    if packages is None:
        others = shutil.ignore_patterns("python*", "libpython*")
        shutil.copytree(Path(sys.prefix, "lib"), place / "lib", symlinks=True, ignore=others, dirs_exist_ok=True)
    lay_programs(place / "bin", version, base)
    for editable in [*site.glob("*editable*mainstay*"), *site.glob("_mainstay*.pth")]:
        editable.unlink()
    shutil.copytree(arena.HERE.parent / "src" / "mainstay", site / "mainstay", dirs_exist_ok=True)


def lay_packages(site: Path) -> None:
    """Lay what is installed."""
    shutil.copytree(sysconfig.get_paths()["purelib"], site, symlinks=True)


def lay_small(site: Path, count: int) -> None:
    """Lay what a pool needs, and small packages."""
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in NEEDED:
        if (installed / name).is_dir():
            shutil.copytree(installed / name, site / name)
    for number in range(count):
        (site / f"package{number}").mkdir()
        (site / f"package{number}" / "__init__.py").write_text("answer = 42\n")


def lay_programs(place: Path, version: str, base: Path) -> None:
    """Lay the interpreter, and the programs of packages with first lines that lead to it."""
    place.mkdir(parents=True)
    for program in Path(sys.prefix, "bin").iterdir():
        if program.is_file() and not program.name.startswith("python"):
            shutil.copy2(program, place)
    shutil.copy2((base / "bin" / version).resolve(), place / version)
    for name in ("python3", "python"):
        (place / name).symlink_to(version)


def point_at(programs: Path, interpreter: Path) -> None:
    """Let the first lines of programs name an interpreter."""
    for program in programs.iterdir():
        content = program.read_bytes()
        first, _, rest = content.partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            program.write_bytes(b"#!" + os.fsencode(interpreter) + b"\n" + rest)


def compile_all(place: Path) -> None:
    """Have bytecode there, as in an environment that is in use."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", place]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def put(behind: Path, path: Path, name: str, packages: int | None = None) -> None:
    """Lay an environment and the scripts behind a mount that is to be at `path`."""
    lay(behind / name / "env", packages)
    point_at(behind / name / "env" / "bin", path / name / "env" / "bin" / "python")
    (behind / name / "work").mkdir()
    for script in SCRIPTS:
        shutil.copy2(arena.HERE / script, behind / name / "work")
    if packages is not None:
        (behind / name / "work" / "models.py").write_text(SMALL.format(count=packages))
    compile_all(behind / name)


def pack(folder: Path, name: str, kinds: Iterable[str] = KINDS) -> None:
    """Pack an environment that lies behind a mount in a folder, as is seen there; that mount forgets nothing."""
    with SlowMount(folder, cache=Cache.ALL) as mount:
        environment = mount.path / name / "env"
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        for kind in kinds:
            file = mount.path / name / "work" / f"env.{kind}"
            subprocess.run(
                [environment / "bin" / "python", "-c", PACK, "stage", environment, "-o", file],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=variables(environment) | {"PATH": tools},
            )


def variables(environment: Path) -> dict[str, str]:
    """Return the variables with which programs are found in an environment, and nothing of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    path = os.pathsep.join([str(environment / "bin"), os.defpath])
    return kept | {"PATH": path, "LD_LIBRARY_PATH": str(environment / "lib"), "OMP_NUM_THREADS": "1"}


# -- one way


class Led:
    """A way that has been started.

    Args:
        process: with pipes for its words.
        errors: the file that has its stderr.
    """

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self._process, self._errors = process, errors
        self._deadline = time.monotonic() + LIMIT

    def hear(self, word: str) -> dict[str, Any]:
        """Wait for a word, and return what it tells. Raises `Failed`."""
        assert self._process.stdout is not None
        signal.alarm(max(1, int(self._deadline - time.monotonic())))
        try:
            for line in self._process.stdout:
                if line.startswith(f"{word} {{"):
                    return dict(json.loads(line.removeprefix(word)))
        except TimeoutError:
            pass
        finally:
            signal.alarm(0)
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        raise Failed(said[-1][:200] if said else f"no word within {LIMIT:g} s")

    def ask(self, word: str) -> dict[str, Any]:
        """Have something done; return what is told of it. Raises `Failed`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is told of when no word comes
        return self.hear("done")


@contextmanager
def led(start: Callable[..., subprocess.Popen[str]], spared: Iterable[int] = ()) -> Iterator[Led]:
    """Start a way, given where its words and errors go; end all of it with the block, but not those `spared`."""
    with tempfile.TemporaryFile("w+") as errors:
        process = start(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield Led(process, errors)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            arena.wait(process)
            arena.end(process, [*spared])


def line(name: str, place: Path, environment: Path, workers: int, size: int, launcher: str = "local") -> list[str]:
    """Return the command line of a way whose scripts lie in a place."""
    ranks = {1: 1, 3: workers + 1}.get(RANKS.get(name) or 0)  # contestants.py has them for two workers
    ranks = 1 if name == "mpi4py_spawn" else ranks
    words = [
        *([environment / "bin" / "mpiexec", "-n", ranks] if ranks else []),
        *(environment / "bin" / "python", place / "ways.py", name, workers, size, launcher),
    ]
    return [*map(str, words)]


class Start(NamedTuple):
    """What a start has cost: the program's own until it made its pool; from then until all workers had run a task.

    `peak` is the most operations in a second that others than the program asked for; `stage` the seconds in which the
    environment came to the node; `stood` those until all workers stood, where that is known.
    """

    before: Count
    pool: Count
    seconds: float
    peak: int
    stage: float
    stood: float


class Run:
    """A way that stands, from a mount on this host.

    Attributes: `start`, `mount`, and `led`.
    """

    def __init__(self, led: Led, mount: SlowMount, delay: float | None) -> None:
        self.led, self.mount = led, mount
        led.hear("begin")
        if delay is not None:
            mount.delay(delay)
        begun, before = time.monotonic(), mount.operations()
        told = led.hear("ready")
        self._pid = int(told["pid"])
        seconds, first = time.monotonic() - begun, counted(before, self._pid)
        pool, peak = self.count() - first, mount.peak(self._pid)
        self.start = Start(first, pool, seconds, peak, told.get("stage") or 0.0, told.get("stood", seconds))

    def count(self) -> Count:
        """Return what was asked for until now."""
        return counted(self.mount.operations(), self._pid)


@contextmanager
def running(
    name: str,
    mount: SlowMount,
    place: str,
    workers: int,
    size: int,
    folder: str | None = None,
    delay: float | None = None,
) -> Iterator[Run]:
    """Run a way of the environment `place` on a mount; local copies go into `folder`.

    `delay` (s) is that of each operation from when the program makes its pool. Raises `Failed`.
    """
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as local:
        mount.clear()
        environment, work = mount.path / place / "env", mount.path / place / "work"
        if name == "copied":
            subprocess.run(["cp", "-r", environment, local], check=True)
            environment = Path(local) / "env"
        beside = {"PYTHONPATH": str(work)} if name in NOT_BESIDE else {}

        def start(**pipes: Any) -> subprocess.Popen[str]:
            command = line(name, work, environment, workers, size)
            own = variables(environment) | beside | {"MAINSTAY_STAGE_DIR": local}
            return subprocess.Popen(command, cwd=work, env=own, start_new_session=True, **pipes)

        with led(start, [mount.pid]) as way:
            try:
                yield Run(way, mount, delay)
            finally:
                if delay is not None:
                    mount.delay(0.0)
