"""What ways of running batches ask of the shared file system: metadata operations on a mount that counts them.

    make bench-storm      or      python benchmarks/storm.py --workers 4 --batches 5 --only persistent,mainstay_preload

The interpreter that runs this, with its standard library and all that is installed for it, is laid behind the mount as
one tree, and each way (`ways.py`) runs from there, its client included. The kernel keeps no names and no attributes
(`--cache NONE`), so that counts are the same each time, but for what hangs on which worker is first;
`tests/slowmount.py` tells what is counted.

at start      operations until all workers have run a task that needs NumPy, SciPy, pandas and xarray (one batch)
per batch     of the batches after that, the mean and the most; 0 is what workers that stay can reach
peak          the most operations within a second, over all; it depends on the machine, since the mount serves no faster
first batch   seconds until then; with `--delay`, each operation takes so much longer
processes     that asked for anything

Not told here: `spawn_per_batch` starts its workers in each batch; `copied` runs `cp -r` to the local disk first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import arena
import reports
from contestants import RANKS

sys.path.append(str(arena.HERE.parent / "tests"))
from slowmount import Cache, SlowMount, why_not

WAYS = ["spawn_per_batch", "persistent", "copied", "mpi4py_world", "mpi4py_spawn", "executorlib", "dask", "parsl"]
WAYS += ["mainstay_local", "mainstay_preload"]
SCRIPTS = ("ways.py", "contestants.py", "models.py")
UNWANTED = ("test", "tests", "idlelib", "turtledemo", "site-packages", "ensurepip")  # of the standard library
PACKAGES = ["mainstay", "numpy", "scipy", "pandas", "xarray", "mpi4py", "mpich", "executorlib", "dask", "parsl"]
NOT_BESIDE = ("parsl",)  # whose workers do not look for modules where the script lies
LIMIT = 900.0  # seconds for one way
Figures = dict[str, float]


class Failed(Exception):
    """A way did not come to its end."""


class Step(NamedTuple):
    """What was counted until some moment."""

    operations: int
    seconds: float


# -- the environment


def lay(place: Path) -> None:
    """Lay interpreter, standard library and packages as one tree, which runs from anywhere."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, library = Path(sys.base_prefix), place / "lib" / version
    shutil.copytree(base / "lib" / version, library, symlinks=True, ignore=shutil.ignore_patterns(*UNWANTED))
    shutil.copytree(sysconfig.get_paths()["purelib"], library / "site-packages", symlinks=True)
    for shared in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, place / "lib", follow_symlinks=False)
    others = shutil.ignore_patterns("python*", "libpython*")
    shutil.copytree(Path(sys.prefix, "lib"), place / "lib", symlinks=True, ignore=others, dirs_exist_ok=True)  # MPI's
    lay_programs(place / "bin", version, base)
    for editable in library.glob("site-packages/*editable*mainstay*"):
        editable.unlink()
    shutil.copytree(arena.HERE.parent / "src" / "mainstay", library / "site-packages" / "mainstay", dirs_exist_ok=True)


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


# -- one way


def figures(name: str, mount: SlowMount, effort: argparse.Namespace) -> Figures:
    """Return what one way costs. Raises `Failed`."""
    with tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as local:
        mount.clear()
        began = time.monotonic()
        environment = mount.path / "env"
        if name == "copied":
            subprocess.run(["cp", "-r", environment, local], check=True)
            environment = Path(local) / "env"
        steps = list(counted(name, environment, mount, effort, began))
    return summed(steps, mount)


def counted(name: str, environment: Path, mount: SlowMount, effort: argparse.Namespace, began: float) -> Iterator[Step]:
    """Lead one way through its batches; yield what was counted when it stood, and after each batch."""
    with tempfile.TemporaryFile("w+") as errors:
        process = start(name, environment, mount, effort, errors)
        try:
            for word in ("ready", *["done"] * effort.batches):
                if word == "done":
                    order(process)
                if not heard(process, word, began + LIMIT):
                    errors.seek(0)
                    said = errors.read().strip().splitlines()
                    raise Failed(said[-1][:200] if said else f"no word within {LIMIT:g} s")
                yield Step(mount.counts().total(), time.monotonic() - began)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            arena.wait(process)
            arena.end(process, [mount.pid])


def start(
    name: str, environment: Path, mount: SlowMount, effort: argparse.Namespace, errors: Any
) -> subprocess.Popen[str]:
    ranks = {1: 1, 3: effort.workers + 1}.get(RANKS.get(name) or 0)  # contestants.py has them for two workers
    ranks = 1 if name == "mpi4py_spawn" else ranks
    python, here = environment / "bin" / "python", mount.path / "work"
    return subprocess.Popen(
        [
            *([environment / "bin" / "mpiexec", "-n", str(ranks)] if ranks else []),
            *(python, here / "ways.py", name, str(effort.workers), str(effort.size)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        cwd=here,
        env=variables(environment) | ({"PYTHONPATH": str(here)} if name in NOT_BESIDE else {}),
    )


def variables(environment: Path) -> dict[str, str]:
    """Return the variables with which programs are found in an environment, and nothing of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    path = os.pathsep.join([str(environment / "bin"), os.defpath])
    return kept | {"PATH": path, "LD_LIBRARY_PATH": str(environment / "lib"), "OMP_NUM_THREADS": "1"}


def order(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write("batch\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it is told of when no word comes


def heard(process: subprocess.Popen[str], word: str, deadline: float) -> bool:
    """Wait for a line; whether it came."""
    assert process.stdout is not None
    signal.alarm(max(1, int(deadline - time.monotonic())))
    try:
        return any(line.strip() == word for line in process.stdout)
    except TimeoutError:
        return False
    finally:
        signal.alarm(0)


def summed(steps: list[Step], mount: SlowMount) -> Figures:
    """Return the figures of one way."""
    totals = [step.operations for step in steps]
    batches = [after - before for before, after in pairwise(totals)]
    return {
        "start": totals[0],
        "batch": sum(batches) / len(batches),
        "most": max(batches),
        "peak": mount.peak(),
        "seconds": steps[0].seconds,
        "processes": len({row.pid for row in mount.operations()}),
    }


# -- all of them


def contest(effort: argparse.Namespace) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return the figures of each way, and why there are none of others."""
    found: dict[str, Figures] = {}
    troubles: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as folder,
        SlowMount(folder, effort.delay, cache=Cache[effort.cache]) as mount,
    ):
        lay(mount.behind / "env")
        point_at(mount.behind / "env" / "bin", mount.path / "env" / "bin" / "python")
        (mount.behind / "work").mkdir()
        for script in SCRIPTS:
            shutil.copy2(arena.HERE / script, mount.behind / "work")
        compile_all(mount.behind)
        for name in effort.names:
            print(name, file=sys.stderr, flush=True)
            try:
                found[name] = figures(name, mount, effort)
                print(f"    {found[name]}", file=sys.stderr, flush=True)
            except Failed as failure:
                troubles[name] = str(failure)
                print(f"    {failure}", file=sys.stderr, flush=True)
    return found, troubles


def compile_all(place: Path) -> None:
    """Have bytecode there, as in an environment that is in use."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", place]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


COLUMNS = {
    "start": "at start",
    "batch": "per batch",
    "most": "… the most",
    "peak": "peak (1/s)",
    "seconds": "first batch (s)",
    "processes": "processes",
}


def table(found: dict[str, Figures], workers: int) -> str:
    """Return a Markdown table."""
    lines = [f"| {workers} workers | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, of in found.items():
        cells = (reports.short(of[column]) if column == "seconds" else f"{of[column]:,.0f}" for column in COLUMNS)
        lines.append(f"| {reports.spoken(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Figures], path: Path) -> None:
    """Draw operations at start and per batch as bars."""
    plt = reports.plt
    names = [reports.spoken(name) for name in found]
    picture, axes = plt.subplots(1, 2, figsize=(12, 0.4 * len(names) + 1.5), sharey=True, layout="constrained")
    for axis, figure in zip(axes, ("start", "batch"), strict=True):
        colors = ["#d9822b" if "mainstay" in name else "#1f5fa8" for name in names]
        axis.barh(names, [of[figure] for of in found.values()], color=colors)
        axis.set_xscale("symlog")  # 0 is among them
        axis.set_title(f"metadata operations {COLUMNS[figure]}  ← better", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    picture.savefig(path, dpi=150)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batches", type=int, default=5, help="after the first")
    parser.add_argument("--size", type=int, help="tasks of a batch (default: 10 a worker)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each operation takes longer")
    parser.add_argument("--cache", choices=[cache.name for cache in Cache], default="NONE")
    parser.add_argument("--only", default=",".join(WAYS), help="ways, with commas between them")
    parser.add_argument("--folder", help="a local directory with 2 GB (default: that for temporary files)")
    parser.add_argument("--out", type=Path, default=arena.HERE / "results")
    given = parser.parse_args()
    given.names = given.only.split(",")
    given.size = given.size or 10 * given.workers
    unknown = [name for name in given.names if name not in WAYS]
    if unknown:
        parser.error(f"unknown way {unknown[0]!r}; known: {', '.join(WAYS)}")
    if why_not():
        parser.error(f"no mount: {why_not()}")
    return given


def late(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """Run all ways; print and write what came of it."""
    effort = arguments()
    arena.adopt_daemons()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`, which ends processes
    signal.signal(signal.SIGALRM, late)
    found, troubles = contest(effort)
    versions = ", ".join(f"{package} {version}" for package, version in reports.versions(PACKAGES).items())
    head = f"{reports.machine()}; {effort.batches} batches of {effort.size} tasks, cache {effort.cache}\n\n{versions}"
    trouble = "\n".join(f"- {reports.spoken(name)}: {said}" for name, said in troubles.items())
    text = "\n\n".join(filter(None, [head, table(found, effort.workers), trouble])) + "\n"
    print(text)
    effort.out.mkdir(parents=True, exist_ok=True)
    (effort.out / "storm.md").write_text(text)
    facts = {"machine": reports.machine(), "workers": effort.workers, "batches": effort.batches, "cache": effort.cache}
    (effort.out / "storm.json").write_text(json.dumps({**facts, "results": found, "troubles": troubles}, indent=1))
    if found:
        draw(found, effort.out / "storm.png")


if __name__ == "__main__":
    main()
