"""Why a program comes back to the shared file system: each way with its cause, its cure and what it cost.

A way that leads to a part of another (site-packages in the environment) is told with its own operations; so what the
ways cost may overlap.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mainstay.audit.events import UNKNOWN, Interpreter, Seen
from mainstay.audit.shared import Shared, is_below
from mainstay.stage.elf import linked

LIBRARY = re.compile(r"\.so(\.\d+)*$")
BYTECODE = re.compile(r"/__pycache__/[^/]+\.pyc\.\d+$")  # as Python writes it, to be renamed
REFUSED = ("EACCES", "EROFS", "EPERM", "ENOSPC", "EDQUOT")
SHEBANG = 256  # bytes that may hold it


class Leak(NamedTuple):
    """A way back: its name, what was found, what to do, and the operations that took it."""

    name: str
    cause: str
    cure: str
    operations: int


class Facts(NamedTuple):
    """What is known of the program besides its operations."""

    shared: Shared
    environ: Mapping[str, str]
    directory: str
    interpreters: Sequence[Interpreter]


def leaks(seen: Sequence[Seen], elsewhere: Sequence[Seen], facts: Facts) -> list[Leak]:
    """Return what was taken of the ways back, the dearest first; `seen` are operations on shared storage."""
    paths = Counter(one.path for one in seen)
    found = [
        *_environments(facts, paths),
        *_editable(facts, paths),
        *_variables(facts, paths),
        *_working_directory(facts, paths),
        *_home(facts, paths),
        *_shebangs([*seen, *elsewhere], facts, paths),
        *_run_paths([*seen, *elsewhere], facts, paths),
        *_bytecode(seen),
    ]
    return sorted((leak for leak in found if leak.operations), key=lambda leak: -leak.operations)


def _below(paths: Counter[str], *places: str) -> int:
    return sum(count for path, count in paths.items() if is_below(path, places))


def _resolved(path: str, facts: Facts) -> str:
    """Return where a directory is, if that is shared; else an empty string."""
    real = os.path.realpath(os.path.join(facts.directory, path)) if path else ""
    return real if real and facts.shared.has(real) else ""


def _environments(facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """The environment and, of a venv, the Python that it was made of."""
    for prefix, base in dict.fromkeys((python.prefix, python.base_prefix) for python in facts.interpreters):
        place, home = _resolved(prefix, facts), _resolved(base, facts)
        if place:
            cure = 'have it read once per node, as one file: Executor(stage="auto"), or mainstay stage'
            yield Leak("environment", f"{prefix} is on shared storage", cure, _below(paths, place))
        if prefix != base and home:
            cause = f"home in {prefix}/pyvenv.cfg is in {base}: interpreter and standard library come from there"
            cure = "stage the interpreter with the environment: mainstay stage does"
            yield Leak("base interpreter", cause, cure, _below(paths, home))


def _editable(facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """What .pth files of site-packages put on the path."""
    for entry in dict.fromkeys(entry for python in facts.interpreters for entry in python.path):
        if not entry.endswith(("site-packages", "dist-packages")):
            continue
        for name, target in editable(entry):
            place = _resolved(target, facts)
            if place:
                cause = f"{os.path.join(entry, name)} leads to {target}"
                cure = "install it without --editable, or put it into the staged file"
                yield Leak("editable install", cause, cure, _below(paths, place))


def editable(directory: str) -> Iterator[tuple[str, str]]:
    """Yield the .pth files of a site-packages directory with the directories that they, or their finders, name."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".pth"))
    except OSError:
        return
    for name in names:
        for line in _text(os.path.join(directory, name)).splitlines():
            finder = re.match(r"import (__editable__\w+)", line)
            if finder:
                mapped = re.search(r"MAPPING\b[^{]*\{([^}]*)\}", _text(os.path.join(directory, f"{finder[1]}.py")))
                yield from ((name, target) for target in re.findall(r":\s*'([^']+)'", mapped[1] if mapped else ""))
            elif line and not line.startswith(("#", "import ", "import\t")):
                yield name, os.path.join(directory, line.strip())


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _variables(facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """Entries of search paths: each costs something for all that is not found there, too."""
    cures = {
        "PYTHONPATH": "unset it, and install what it leads to into the environment",
        "LD_LIBRARY_PATH": "unset it (module unload), or put a local directory first",
        "PATH": "put local directories first, or call programs by their whole paths",
        "TMPDIR": "set it to a local disk: export TMPDIR=/tmp",
        "MPLCONFIGDIR": "set it to a local directory",
    }
    for variable, cure in cures.items():
        for entry in dict.fromkeys(facts.environ.get(variable, "").split(":")):
            place = _resolved(entry, facts)
            operations = _asked_of(variable, place, paths) if place else 0
            yield Leak(variable, f"{entry} is on shared storage", cure, operations)


def _asked_of(variable: str, place: str, paths: Counter[str]) -> int:
    """Return the operations below an entry of a search path; of the search for libraries and programs only those."""
    if variable == "LD_LIBRARY_PATH":
        return sum(count for path, count in paths.items() if is_below(path, [place]) and LIBRARY.search(path))
    if variable == "PATH":
        return sum(count for path, count in paths.items() if os.path.dirname(path) == place)
    return _below(paths, place)


def _working_directory(facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    place = _resolved(facts.directory, facts)
    if not place or any(place in (_resolved(python.prefix, facts),) for python in facts.interpreters):
        return
    looked_in = any(entry in ("", place, facts.directory) for python in facts.interpreters for entry in python.path)
    cause = f"{facts.directory} is on shared storage"
    cause += ", and on the path of modules: each import looks there first" if looked_in else ""
    cure = "run in a local directory; start Python with -P or PYTHONSAFEPATH=1 (3.11 and later)"
    inside = [path for path in paths if is_below(path, [place])]
    environments = [_resolved(python.prefix, facts) for python in facts.interpreters]
    operations = sum(paths[path] for path in inside if not is_below(path, filter(None, environments)))
    yield Leak("working directory", cause, cure, operations)


def _home(facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """Files in hidden directories of HOME: settings, caches, the user's site-packages."""
    home = _resolved(facts.environ.get("HOME", ""), facts)
    if home:
        hidden = sum(count for path, count in paths.items() if path.startswith(f"{home}/.") or path == home)
        environments = [_resolved(python.prefix, facts) for python in facts.interpreters]
        environments += [_resolved(python.base_prefix, facts) for python in facts.interpreters]
        own = sum(_below(paths, place) for place in set(environments) if place.startswith(f"{home}/."))
        cause = f"HOME, {facts.environ['HOME']}, is on shared storage: settings, caches, ~/.local"
        cure = "give jobs a local one: export HOME=$TMPDIR/home; PYTHONNOUSERSITE=1 leaves ~/.local out"
        yield Leak("HOME", cause, cure, max(0, hidden - own))


def _shebangs(seen: Iterable[Seen], facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """Scripts that were run, and whose first line names a shared interpreter."""
    for script in dict.fromkeys(one.path for one in seen if one.kind == "exec" and not one.error):
        interpreter = shebang(script)
        place = _resolved(interpreter, facts)
        if place:
            cause = f"the first line of {script} names {interpreter}"
            cure = "call it by a local interpreter: python -m …; mainstay stage writes these lines anew"
            yield Leak("shebang", cause, cure, sum(paths[path] for path in {place, interpreter}))


def shebang(script: str) -> str:
    """Return the interpreter that a script's first line names; empty where there is none."""
    try:
        with open(script, "rb") as file:
            first = file.read(SHEBANG).partition(b"\n")[0]
    except OSError:
        return ""
    words = first[2:].split()
    return os.fsdecode(words[0]) if first.startswith(b"#!") and words else ""


def _run_paths(seen: Iterable[Seen], facts: Facts, paths: Counter[str]) -> Iterator[Leak]:
    """Shared directories that libraries name as the place of their own libraries."""
    libraries = dict.fromkeys(one.path for one in seen if not one.error and _is_loaded(one))
    named: dict[str, list[str]] = {}
    for library in libraries:
        for entry in linked(library).search:
            if entry.startswith("/"):
                named.setdefault(entry, []).append(library)
    for entry, holders in named.items():
        place = _resolved(entry, facts)
        operations = sum(
            count for path, count in paths.items() if place and os.path.dirname(path) == place and LIBRARY.search(path)
        )
        others = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        cause = f"RUNPATH of {holders[0]}{others} names {entry}"
        cure = "have it say $ORIGIN: patchelf --set-rpath; mainstay stage does"
        yield Leak("RUNPATH", cause, cure, operations)


def _is_loaded(one: Seen) -> bool:
    return (one.kind == "open" and LIBRARY.search(one.path) is not None) or one.kind == "exec"


def _bytecode(seen: Sequence[Seen]) -> Iterator[Leak]:
    """Bytecode that was written, or that could not be."""
    written = [one for one in seen if one.kind == "create" and BYTECODE.search(one.path)]
    refused = [one for one in seen if one.error in REFUSED and (one in written or one.path.endswith("/__pycache__"))]
    there = {one.path for one in seen if one.path.endswith(".pyc") and one.kind == "open" and not one.error}
    stale = sum(one.path.rpartition(".")[0] in there for one in written)
    known = all(one.error != UNKNOWN for one in written)
    cause = f"modules were compiled anew: the bytecode of {len(written) - stale} was missing"
    cause += "" if known else ", or was not of its source's time"
    cause += f", that of {stale} was not of its source's time (cp -r loses times)" if stale else ""
    cause += f"; {len(refused)} times it could not be written, so each process compiles again" if refused else ""
    cure = "compile once, where it can be written: python -m compileall; copy environments by cp -a, tar or rsync -a"
    places = {one.path for one in (*written, *refused)}
    yield Leak("bytecode", cause, cure, sum(one.path in places for one in seen))
