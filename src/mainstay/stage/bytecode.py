"""Bytecode for every module of the tree: what is there and valid, and what is missing, compiled.

Python takes a `.pyc` whose head has the time and the size of its source, so both must come with it as they are.
"""

from __future__ import annotations

import json
import os
import subprocess

from mainstay.errors import StageError
from mainstay.stage.tree import File, Tree, file_at
from mainstay.stage.workshop import TIME, Workshop

SECONDS = 1200.0  # for all that is to be compiled
# Run by the interpreter of the environment, whose bytecode it is to be. What cannot be compiled has none.
COMPILE = """
import json, py_compile, sys
from concurrent.futures import ProcessPoolExecutor

def compile(pair):
    try:
        py_compile.compile(*pair, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    except (py_compile.PyCompileError, OSError, ValueError, RecursionError):
        pass

if __name__ == "__main__":
    pairs = json.load(sys.stdin)
    if len(pairs) < 100:
        list(map(compile, pairs))
    else:
        with ProcessPoolExecutor() as pool:
            list(pool.map(compile, pairs, chunksize=50))
"""


def add_bytecode(tree: Tree, python: str, tag: str, workshop: Workshop) -> int:
    """Add the bytecode of all modules; return how many had to be compiled. Raises `StageError`."""
    missing: dict[str, tuple[str, str]] = {}  # by the name in the tree: the source, and where to put it
    for name, source in [(name, file) for name, file in tree.items() if name.endswith(".py")]:
        found = valid(source, tag)
        if found is None:
            missing[pyc(name, tag)] = source.path, workshop.place()
        else:
            tree[pyc(name, tag)] = found
    if missing:
        _compile(python, list(missing.values()), workshop)
    made = {name: file_at(place) for name, (_, place) in missing.items() if os.path.exists(place)}
    tree.update((name, file._replace(mtime=TIME)) for name, file in made.items())
    return len(missing)


def pyc(name: str, tag: str) -> str:
    """Return where Python looks for the bytecode of a source."""
    directory, base = os.path.split(name)
    return os.path.join(directory, "__pycache__", f"{base.removesuffix('.py')}.{tag}.pyc")


def valid(source: File, tag: str) -> File | None:
    """Return the bytecode that lies beside a source, if Python would take it."""
    path = pyc(source.path, tag)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        found = file_at(path)
    except OSError:
        return None
    flags, mtime, size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12))
    is_valid = len(head) == 16 and flags == 0 and (mtime, size) == (source.mtime & 0xFFFFFFFF, source.size)
    return found if is_valid else None


def _compile(python: str, pairs: list[tuple[str, str]], workshop: Workshop) -> None:
    script = workshop.text(COMPILE).path  # a file, which a pool's processes can import where they are spawned
    try:
        subprocess.run(  # noqa: S603
            [python, "-I", script], input=json.dumps(pairs), text=True, capture_output=True, timeout=SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        raise StageError(
            f"{python} could not compile the environment's modules: {error.stderr.strip()[-500:]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{python} did not compile {len(pairs)} modules in {SECONDS:g} s") from error
