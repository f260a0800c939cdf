"""Task options: what may be said about a call besides its function and arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mainstay import staging


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for a call.

    timeout: seconds (> 0) after which the task's worker is killed; None: never.
    retries: how often the task runs again after it raised or overran (int >= 0).
    worker_retries: how often it runs again after its worker died (int >= 0); 0 also means: never sent ahead.
    priority: the higher goes first (int).
    label: what `mainstay.task()`, error messages and the journal call it; empty: the function's name.
    journal: whether a pool that has a journal uses it for this call.
    key: what the journal knows the call by (str), or a function of the call's arguments that returns it; None: by what
        it computes.
    retry_failed: whether a call that the journal knows to have failed runs again; else its exception is raised anew.
    stage_in: paths of files and directories, as the client sees them, that are on the node's own disk before the task
        begins (see `mainstay.staged`).
    stage_out: patterns of files in the task's own directory (see `mainstay.scratch`), and the directories of the client
        that they are brought to; {label}, {id}, {host}, {worker} and {attempt} may stand in these.
    """

    timeout: float | None = None
    retries: int = 0
    worker_retries: int = 2
    priority: int = 0
    label: str = ""
    journal: bool = True
    key: str | Callable[..., str] | None = None
    retry_failed: bool = True
    stage_in: Sequence[str | os.PathLike[str]] = ()
    stage_out: Mapping[str, str | os.PathLike[str]] | None = None

    def changed(self, given: dict[str, Any]) -> Options:
        """Return these options with those given; raise `TypeError` or `ValueError` that says what is allowed."""
        known = {field.name: field.default for field in fields(self)}
        unknown = [name for name in given if name not in known]
        if unknown:
            allowed = ", ".join(f"{name}={default!r}" for name, default in known.items())
            raise TypeError(f"unknown option {unknown[0]!r}; allowed, with their defaults: {allowed}")
        options = replace(self, **given)
        options.check()
        return options

    def looked(self) -> Options:
        """Return these options with input files as they are now, once looked at. Raises what `staging.look` does."""
        if not self.stage_in or isinstance(self.stage_in, staging.Inputs):
            return self
        return replace(self, stage_in=staging.look(self.stage_in))  # type: ignore[arg-type]  # of Input

    def check(self) -> None:
        if self.timeout is not None and not (_is_number(self.timeout) and 0 < self.timeout < math.inf):
            raise ValueError(f"timeout must be None or a number of seconds > 0; given: {self.timeout!r}")
        for name in ("retries", "worker_retries"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be an int >= 0; given: {value!r}")
        if not isinstance(self.priority, int):
            raise ValueError(f"priority must be an int; given: {self.priority!r}")
        if not isinstance(self.label, str):
            raise ValueError(f"label must be a str; given: {self.label!r}")
        for name in ("journal", "retry_failed"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; given: {getattr(self, name)!r}")
        staging.check_in(self.stage_in)
        staging.check_out(self.stage_out)
        if not (self.key is None or (isinstance(self.key, str) and self.key) or callable(self.key)):
            raise ValueError(
                f"key must be a str that is not empty, or a function of the call's arguments that returns one; "
                f"given: {self.key!r}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
