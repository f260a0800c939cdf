"""What `stage_in` and `stage_out` may say, and what workers are told of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from mainstay.wire import tree

WORDS = ("label", "id", "host", "worker", "attempt")  # that a target may hold in braces


class Input(NamedTuple):
    """A file or directory as it was when it was looked at: its path, what it is known by, and its bytes."""

    path: str
    key: str
    size: int


class Inputs(tuple[Input, ...]):
    """What a set of tasks has staged, looked at."""

    __slots__ = ()


def look(paths: Any) -> Inputs:
    """Look at input files as they are now. Raises `FileNotFoundError` and `ValueError` that name the path."""
    return paths if isinstance(paths, Inputs) else Inputs(map(_input, paths))


def _input(path: str | os.PathLike[str]) -> Input:
    place = os.path.abspath(path)
    try:
        key, size = tree.summary(place)
    except FileNotFoundError as error:
        missing = f"there is no {error.filename}"
        if os.path.islink(error.filename):
            missing = f"{error.filename} is a link to what is not there"
        raise FileNotFoundError(f"stage_in={os.fspath(path)!r}: {missing}; name what the client can read") from None
    except ValueError as error:
        raise ValueError(f"stage_in={os.fspath(path)!r}: {error}") from None
    if place == "/":
        raise ValueError("stage_in='/' would copy all there is; name a file or directory")
    return Input(place, key, size)


def targets(stage_out: Mapping[str, Any] | None) -> dict[str, str]:
    """Return patterns and the directories that their files go to, on the client."""
    return {os.path.normpath(pattern): os.path.abspath(target) for pattern, target in (stage_out or {}).items()}


def check_in(value: Any) -> None:
    """Raise `ValueError` for what is no list of paths."""
    is_list = isinstance(value, (list, tuple))
    if not is_list or not all(isinstance(path, (str, os.PathLike)) and os.fspath(path) for path in _unlooked(value)):
        raise ValueError(f"stage_in must be a list of paths of files or directories; given: {value!r}")


def _unlooked(value: Any) -> Any:
    return () if isinstance(value, Inputs) else value


def check_out(value: Any) -> None:
    """Raise `ValueError` for what does not map patterns to directories."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key for key in value):
        raise ValueError(
            f"stage_out must map patterns to directories, as {{'*.csv': 'results/{{label}}/'}}; given: {value!r}"
        )
    for pattern, target in value.items():
        _check_pattern(pattern)
        _check_target(target)


def _check_pattern(pattern: str) -> None:
    if os.path.isabs(pattern) or ".." in pattern.split("/"):
        raise ValueError(
            f"stage_out: the pattern {pattern!r} must be relative to the task's directory, scratch(per='task')"
        )


def _check_target(target: Any) -> None:
    allowed = ", ".join(f"{{{word}}}" for word in WORDS)
    if not isinstance(target, (str, os.PathLike)) or not os.fspath(target):
        raise ValueError(f"stage_out: a target must be the path of a directory; given: {target!r}")
    try:
        os.fspath(target).format(**dict.fromkeys(WORDS, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"stage_out: the target {os.fspath(target)!r} may hold {allowed}, and {{{{ for a brace, but not {error}"
        ) from None
