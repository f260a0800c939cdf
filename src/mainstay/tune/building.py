"""A build, on a node: in a directory of its own, which goes with it; what came of it is data, also where it failed.

variant ─▶ build(variant, directory) ─▶ Built: the files that it named, or the class of its failure
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from mainstay.node.scratch import scratch
from mainstay.tune.programs import Command, CommandFailed, CommandOverran, call, hearing, is_short_of_memory
from mainstay.tune.variants import Variant, filled

OK, ERROR, NO_MEMORY, TIMEOUT = "ok", "build error", "out of memory", "timeout"
File = tuple[str, int, bytes]  # its path in the directory, its mode, its content
SEVERAL = (list, tuple, set, frozenset)
HERE = "{directory}"  # stands for a build's directory, wherever its files lie


class Inside(NamedTuple):
    """A path in the artifact's directory, wherever that lies."""

    path: str


class Built(NamedTuple):
    """What came of a build. `value` is what it returned, its paths as `Inside`.

    `files` are those that it returned; of a build that failed, all that it left. `command` (with `HERE` for what it was
    run in), `code` and `stderr` are of the program that failed; `host` and `seconds` where, and how long; `digest` what
    it is known by: its content. `variant` and `kind` tell a report what was built, and for which kind of node; `by`
    with what commands, and so flags.
    """

    status: str
    value: Any = None
    files: tuple[File, ...] = ()
    command: Command | None = None
    code: int | None = None
    stderr: str = ""
    host: str = ""
    seconds: float = 0.0
    digest: str = ""
    variant: Variant | None = None
    kind: str = ""
    by: str = ""


class Build:
    """A build by commands, as `Tuner(build=...)` takes it.

    Args:
        commands: each an `argv`, run one after another in the build's directory; "{name}" in a word is the variant's
            value of that name. One alone may be given as a list of words.
        output: the file, or the files, that are the artifact.
        sources: files to be there: paths (by their last part), or a mapping of names to texts. Where a text has
            "@name@", the variant's value of that name stands there: so loops are tiled and pragmas written before the
            compiler sees them.
        timeout: seconds that each command may take.
        memory: bytes of address space that each may have.

    Raises `ValueError` or `TypeError` for what cannot be; `FileNotFoundError` for a source that is not there.
    """

    def __init__(
        self,
        commands: Sequence[str] | Sequence[Sequence[str]],
        output: str | Sequence[str],
        sources: Sequence[str | os.PathLike[str]] | Mapping[str, str] = (),
        *,
        timeout: float | None = None,
        memory: int | None = None,
    ) -> None:
        if isinstance(commands, str) or not commands:
            raise TypeError(f'commands are lists of words, as ["cc", "-O{{opt}}", "gemm.c"]; given: {commands!r}')
        several = [commands] if isinstance(commands[0], str) else commands
        self.commands = [[str(word) for word in command] for command in several]
        self.output, self.timeout, self.memory = output, timeout, memory
        self.sources = _texts(sources)

    @property
    def programs(self) -> tuple[str, ...]:
        """The words that commands begin with: programs, whose versions count, or what variants name, as "{cc}"."""
        return tuple(dict.fromkeys(command[0] for command in self.commands))

    @property
    def outputs(self) -> list[str]:
        return [self.output] if isinstance(self.output, str) else list(self.output)

    def content(self, variant: Variant) -> str:
        """Return all that the artifact depends on besides the machine: two variants that agree in it are one build."""
        return repr((sorted(self._written(variant)), self._spelt(variant), self.output))

    def __call__(self, variant: Variant, directory: Path, *state: Any) -> Any:
        for name, text in self._written(variant):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for argv in self._spelt(variant):
            call(argv, directory, timeout=self.timeout, memory=self.memory)
        for name in self.outputs:
            if not (directory / name).exists():
                there = ", ".join(sorted(str(path.relative_to(directory)) for path in directory.rglob("*")))
                raise FileNotFoundError(f"the commands made no {name}, which output= names; there is: {there}")
        made = [str(directory / name) for name in self.outputs]
        return made[0] if isinstance(self.output, str) else made

    def _written(self, variant: Variant) -> Iterator[tuple[str, str]]:
        for name, text in self.sources.items():
            for word, value in variant.items():
                text = text.replace(f"@{word}@", str(value))
            yield name, text

    def _spelt(self, variant: Variant) -> list[list[str]]:
        """Return the commands with the variant's values; an empty word is left out, one with blanks is several."""
        spelt = []
        for command in self.commands:
            words: list[str] = []
            for word in command:
                words += split(filled(word, variant), variant) if "{" in word else [word]
            spelt.append(words)
        return spelt


def split(words: str, variant: Variant) -> list[str]:
    """Return the words of a command as a shell reads them. Raises `ValueError` for what it could not read."""
    try:
        return shlex.split(words)
    except ValueError as error:
        told = "a value's blanks and quotes are read as by a shell; a quote that is meant as such is escaped"
        raise ValueError(f"{words!r}, of [{variant}]: {error}; {told}, \\'") from error


def _texts(sources: Sequence[str | os.PathLike[str]] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(sources, Mapping):
        return dict(sources)
    if isinstance(sources, str):
        raise TypeError(f"sources are a list of paths, or a mapping of names to texts; given: {sources!r}")
    by_name: dict[str, Path] = {}
    for path in map(Path, sources):
        if by_name.setdefault(path.name, path) is not path:
            raise ValueError(
                f"sources lie in one directory, where {by_name[path.name]} and {path} would both be {path.name}; "
                f'give a mapping of names to texts, as {{"a/{path.name}": Path(…).read_text()}}'
            )
    return {name: path.read_text(encoding="utf-8") for name, path in by_name.items()}


def build(make: Callable[..., Any], variant: Variant, more: Callable[[], tuple[Any, ...]]) -> Built:
    """Build a variant in the task's own directory; what `more` returns is given to `make` besides.

    Raises nothing that these raised.
    """
    directory = Path(scratch(per="task")) / "build"
    directory.mkdir(parents=True)
    host, began = os.uname().nodename, time.monotonic()
    try:
        given = more()
        with hearing() as commands:
            value = make(variant, directory, *given)
        files = tuple(_read(directory, _named(value, directory)))
        by = " && ".join(command.moved(str(directory), ".").words for command in commands)
        built = Built(OK, _relative(value, directory), files, host=host, by=by)
    except (Exception, SystemExit) as error:
        built = _failed(error, directory)._replace(host=host)
    digest = blake2b(repr((built.value, built.files)).encode(), digest_size=12).hexdigest()
    return built._replace(seconds=time.monotonic() - began, digest=digest)


def _failed(error: BaseException, directory: Path) -> Built:
    left = tuple(_read(directory, [str(path) for path in sorted(directory.rglob("*")) if path.is_file()]))
    status = NO_MEMORY if is_short_of_memory(error) else ERROR
    if isinstance(error, CommandFailed):
        return Built(status, None, left, error.command.moved(str(directory), HERE), error.code, error.stderr)
    if isinstance(error, CommandOverran):
        return Built(TIMEOUT, None, left, error.command.moved(str(directory), HERE), None, str(error))
    if isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired)):
        return _failed_by_itself(error, directory, left)
    return Built(status, None, left, stderr="".join(traceback.format_exception(error)[-3:]))


def _failed_by_itself(
    error: subprocess.CalledProcessError | subprocess.TimeoutExpired, directory: Path, left: tuple[File, ...]
) -> Built:
    """The function ran a program by `subprocess`, which does not say where: in the build's directory, as is usual."""
    command = Command(_argv(error.cmd), str(directory)).moved(str(directory), HERE)
    if isinstance(error, subprocess.TimeoutExpired):
        return Built(TIMEOUT, None, left, command, None, str(error))
    said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
    status = NO_MEMORY if is_short_of_memory(CommandFailed(command, error.returncode, said)) else ERROR
    return Built(status, None, left, command, error.returncode, f"{error}\n{said}".strip())


def _argv(cmd: Any) -> tuple[str, ...]:
    """Return what `subprocess` was given as words: a str may have been for a shell; paths and bytes are programs."""
    if isinstance(cmd, str):
        return "sh", "-c", cmd
    return tuple(map(os.fsdecode, [cmd] if isinstance(cmd, (bytes, os.PathLike)) else cmd))


def _named(value: Any, directory: Path) -> list[str]:
    """Return the files that an artifact is made of; None stands for all that is there."""
    if value is None:
        return [str(path) for path in sorted(directory.rglob("*")) if path.is_file()]
    named = []
    for path in _paths(value, directory):
        if os.path.isdir(path):
            named += [str(one) for one in sorted(Path(path).rglob("*")) if one.is_file()]
        else:
            named.append(path)
    return list(dict.fromkeys(named))


def _read(directory: Path, paths: list[str]) -> Iterator[File]:
    for path in paths:
        with open(path, "rb") as file:
            yield os.path.relpath(path, directory), os.fstat(file.fileno()).st_mode & 0o777, file.read()


def _inside(value: object, directory: Path) -> str:
    """Return a value as a path in a directory, or that itself; empty: it is none. Raises `FileNotFoundError`.

    A relative str is one only where there is such a file.
    """
    given = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(given, str) or not given:
        return ""
    path = os.path.normpath(directory / given)
    is_named = os.path.isabs(given) or isinstance(value, os.PathLike)  # and no other word
    if not f"{path}{os.sep}".startswith(f"{directory}{os.sep}") or (path == str(directory) and not is_named):
        return ""
    if not os.path.exists(path):
        if not is_named:
            return ""
        raise FileNotFoundError(f"the build returned {path}, and made no such file")
    return path


def _paths(value: Any, directory: Path) -> Iterator[str]:
    path = _inside(value, directory)
    if path:
        yield path
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one, directory)
    elif isinstance(value, SEVERAL):
        for one in value:
            yield from _paths(one, directory)


def _relative(value: Any, directory: Path) -> Any:
    """Return an artifact with its paths as they are in the directory."""
    if value is None:
        return Inside(".")
    path = _inside(value, directory)
    if path:
        return Inside(os.path.relpath(path, directory))
    if isinstance(value, Mapping):
        return {name: _relative(one, directory) for name, one in value.items()} or value
    return _each(value, lambda one: _relative(one, directory))


def placed(value: Any, directory: str) -> Any:
    """Return an artifact with its paths as they are where its files lie now."""
    if isinstance(value, Inside):
        return os.path.normpath(os.path.join(directory, value.path))
    if isinstance(value, dict):
        return {name: placed(one, directory) for name, one in value.items()}
    return _each(value, lambda one: placed(one, directory))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value, if it holds several, with each of these changed."""
    if not isinstance(value, SEVERAL):
        return value
    changed = [change(one) for one in value]
    return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
