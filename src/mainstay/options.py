"""Task options: what may be said about a call besides its function and arguments."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mainstay import staging
from mainstay.process_sets import ProcessSet


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
    ranks: None: the call runs on one worker; a number (int >= 1) or (least, most): it is a gang, and runs on as many
        workers at once, as ranks of one MPI communicator (see `mainstay.comm`); "node": on all workers of one node;
        "all": on all workers.
    on: a process set, or its name (see `Executor.psets`): the call runs on a worker of it, and a gang on some of them,
        as they are when its turn comes; None: on any.
    exclusive: whether nothing else of this pool runs on the task's node meanwhile.
    cores: None, or how many cores (int >= 1) of its node are the task's: it is pinned to these (affinity,
        OMP_NUM_THREADS and OMP_PLACES), and as many workers as stand for them run nothing else meanwhile. On a node
        with c cores and w workers each worker stands for c / w cores.
    nodes: for tasks that are exclusive or have cores: the names of the hosts (str, or several) that they may run on;
        None: any.
    malleable: whether the gang may change its size while it runs, within `ranks`: the call is of a generator function,
        which is given a `World` first. A function of its ranks' states and a number returns as many states; True:
        all ranks have the same. See docs/malleable.md.
    gather: what a gang's result is: "all" (the list of its ranks' results) or "root" (that of rank 0).
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
    ranks: int | tuple[int, int] | str | None = None
    exclusive: bool = False
    cores: int | None = None
    nodes: str | Sequence[str] | None = None
    malleable: bool | Callable[[list[Any], int], list[Any]] = False
    gather: str = "all"
    on: str | ProcessSet | None = None
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
        self._check_ranks()
        self._check_alone()
        for name in ("journal", "retry_failed", "exclusive"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False; given: {getattr(self, name)!r}")
        staging.check_in(self.stage_in)
        staging.check_out(self.stage_out)
        if not (self.key is None or (isinstance(self.key, str) and self.key) or callable(self.key)):
            raise ValueError(
                f"key must be a str that is not empty, or a function of the call's arguments that returns one; "
                f"given: {self.key!r}"
            )

    def _check_ranks(self) -> None:
        given = self.ranks
        is_pair = isinstance(given, tuple) and len(given) == 2 and all(map(_is_count, given)) and given[0] <= given[1]
        if not (given is None or _is_count(given) or is_pair or given in ("node", "all")):
            raise ValueError(f"ranks must be None, an int >= 1, (least, most), 'node' or 'all'; given: {given!r}")
        if not (isinstance(self.malleable, bool) or callable(self.malleable)):
            raise ValueError(
                f"malleable must be True, False or a function of states and a number; given: {self.malleable!r}"
            )
        if self.malleable and not is_pair:
            raise ValueError(f"malleable= wants ranks=(least, most); given: ranks={given!r}")
        if self.gather not in ("all", "root"):
            raise ValueError(f"gather must be 'all' or 'root'; given: {self.gather!r}")
        if not (self.on is None or isinstance(self.on, ProcessSet) or (isinstance(self.on, str) and self.on)):
            raise ValueError(f"on must be None, a process set or its name, as in ex.psets; given: {self.on!r}")
        if given is not None and self.stage_out:
            raise ValueError("stage_out is for calls on one worker; let the ranks of a gang write where they all can")

    def _check_alone(self) -> None:
        if not (self.cores is None or _is_count(self.cores)):
            raise ValueError(f"cores must be None or an int >= 1; given: {self.cores!r}")
        names = [self.nodes] if isinstance(self.nodes, str) else self.nodes
        if names is not None and not (names and all(isinstance(name, str) and name for name in names)):
            raise ValueError(f"nodes must be None, the name of a host or several; given: {self.nodes!r}")
        if names is not None and not self.is_alone:
            raise ValueError("nodes= is for tasks with exclusive=True or cores=; add cores=1")
        if self.is_alone and self.on is not None:
            raise ValueError("on= is not for calls with exclusive= or cores=; nodes= says on which hosts these may run")
        if self.is_alone and self.ranks is not None:
            raise ValueError("exclusive= and cores= are for calls on one worker; ranks='node' takes a node as a whole")

    @property
    def is_alone(self) -> bool:
        """Whether the call wants a node, or cores of it, for itself."""
        return self.exclusive or self.cores is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
