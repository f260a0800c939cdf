"""`preload=`: what each node is to import, and what a pool remembers of that for the next run (`preload="auto"`).

a file beside the journal, or in the user's cache ──▶ names ──▶ agents ──▶ what they imported, and could not
  ▲                                                                                    │
  └── at the end of the pool, by the client alone ◀── what workers imported besides ◀──┘
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mainstay.cache import user_cache
from mainstay.node.preload import Report, Wanted, is_below
from mainstay.report import Preloaded

Log = Callable[[int, str], None]
AUTO = "auto"
# What comes to be imported later: for a worker's first function of the script, error, part of a `map`, or scratch file,
# and by the agent for the first worker that ends (`os.wait4`).
ALWAYS = (
    "cloudpickle",
    "traceback",
    "mainstay.mapping",
    "mainstay.node.scratch",
    "mainstay.node.inputs",
    "mainstay.node.porter",
    "resource",
)


def checked(preload: str | Sequence[str]) -> str | tuple[str, ...]:
    """Return what `preload=` says; raise `TypeError` or `ValueError` for what it cannot be."""
    allowed = "allowed: a list of modules' names, as ['numpy', 'scipy.optimize'], or 'auto'"
    if isinstance(preload, str):
        if preload != AUTO:
            raise ValueError(f"preload={preload!r} is a str; {allowed}. Is [{preload!r}] meant?")
        return preload
    try:
        names = tuple(preload)
    except TypeError:
        raise TypeError(f"preload={preload!r} is no list; {allowed}") from None
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"preload has {name!r}, which is no name of a module; {allowed}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"preload has {name!r}, which cannot be the name of a module; {allowed}")
    return names


class Preloading:
    """What one pool's nodes import, and what became of it.

    Args:
        preload: as the user gave it, checked.
        memory: for "auto": what earlier runs have learnt.
    """

    def __init__(self, preload: str | Sequence[str], log: Log, memory: Memory | None = None) -> None:
        self._log, self._memory = log, memory
        self._given = () if isinstance(preload, str) else tuple(preload)
        self._names = tuple(memory.modules) if memory is not None else self._given
        self._report: Report | None = None
        self._said: set[str] = set()
        self._importing: dict[str, str] = {}  # by the names of hosts: the module that they were at when last heard

    @property
    def wanted(self) -> Wanted | None:
        """What an agent is to import; None: nothing."""
        if not self._names and self._memory is None:
            return None
        return Wanted(list(dict.fromkeys((*ALWAYS, *self._names))), self._memory is not None)

    def imports(self, host: str, name: str = "") -> None:
        """A node imports a module, or begins to."""
        self._importing[host] = name

    def gone(self, host: str) -> None:
        """A node is lost, or has imported all."""
        self._importing.pop(host, None)

    def late(self) -> str:
        """Return what is to be said where no worker came in time; empty where nodes do not import."""
        if not self._importing:
            return ""
        (host, name), *others = sorted(self._importing.items())
        more = f" and {len(others)} more" if others else ""
        what = f"{name!r} for preload=" if name else "what preload= names"
        return f": {host}{more} was importing {what}; a longer start_timeout= leaves time for that"

    def reported(self, host: str, report: Report) -> None:
        """A node has imported."""
        self.gone(host)
        longest = max(report.seconds, 0.0 if self._report is None else self._report.seconds)
        self._report = report._replace(seconds=longest)
        for note in report.notes:
            self._say(logging.WARNING, f"preload on {host}: {note}")
        for name, reason in report.left_out.items():
            self._say(logging.INFO, f"preload='auto' leaves {name} out: {reason}")
        if self._memory is not None:
            self._memory.imported(report.names, report.left_out)

    def seen(self, names: list[str]) -> None:
        """A worker has imported these by itself."""
        if self._memory is not None:
            self._memory.add(names)

    def save(self) -> None:
        """Remember for the next run."""
        try:
            if self._memory is not None:
                self._memory.save()
        except OSError as error:
            self._log(logging.WARNING, f"preload='auto' cannot remember what was imported: {error}")

    def told(self) -> Preloaded | None:
        """Return what a description says of it."""
        if self._report is None:
            return None
        tops = (name.partition(".")[0] for name in self._report.names)
        hidden = sys.stdlib_module_names | {name.partition(".")[0] for name in ALWAYS}
        names = list(self._given) or [name for name in dict.fromkeys(tops) if name not in hidden]
        return Preloaded(names, self._report.seconds) if names else None

    def _say(self, level: int, line: str) -> None:
        """Tell once what a thousand nodes say."""
        words = line.partition(": ")[2]
        if words not in self._said:
            self._said.add(words)
            self._log(level, line)


class Memory:
    """What the runs of one script by one Python have imported in workers: a part of a JSON file.

    Attributes: `modules` (names, in the order in which they are to be imported), `left_out` (names that cannot be
    preloaded, and why).
    """

    def __init__(self, path: str, key: str) -> None:
        self._path, self._key = path, key
        modules, left_out = _parts(self._read().get(key))
        self.modules: dict[str, None] = dict.fromkeys(modules)
        self.left_out = left_out
        self._before = self._state()

    def imported(self, names: list[str], left_out: dict[str, str]) -> None:
        """Keep of the modules those that were not brought along by others."""
        added = [name for name in self.modules if name not in self._before["modules"]]
        self.left_out.update(left_out)
        self.modules = dict.fromkeys(name for name in names if name not in ALWAYS)
        self.add(added)

    def add(self, names: list[str]) -> None:
        """Some more."""
        self.modules.update(dict.fromkeys(name for name in names if not is_below(name, self.left_out)))

    def save(self) -> None:
        """Write, if there is anything new. Raises `OSError`."""
        state = self._state()
        if state == self._before:
            return
        known = self._read()
        known[self._key] = self._before = state
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        mine = f"{self._path}.{os.getpid()}"
        with open(mine, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        os.replace(mine, self._path)  # at once: another run of the script may be reading

    def _state(self) -> dict[str, Any]:
        return {"modules": list(self.modules), "left_out": dict(self.left_out)}

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _parts(found: object) -> tuple[list[str], dict[str, str]]:
    """Return the modules and those that are left out, as far as a file says so that a human may have edited."""
    known = found if isinstance(found, dict) else {}
    modules, left_out = known.get("modules"), known.get("left_out")
    names = [name for name in modules if isinstance(name, str)] if isinstance(modules, list) else []
    return names, dict(left_out) if isinstance(left_out, dict) else {}


def memory_of_script(journal: object) -> Memory | None:
    """Return what is known of the script that runs; None where there is none: at a prompt, in a notebook.

    It lies beside the journal, if that is a file, else in the user's cache.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None:
        return None
    version = ".".join(map(str, sys.version_info[:3]))
    key = f"{os.path.abspath(script)} by Python {version} of {sys.executable}"
    if isinstance(journal, (str, os.PathLike)) and os.fspath(journal) != "memory:":
        return Memory(os.path.abspath(f"{os.fspath(journal)}.preload"), key)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Memory(os.path.join(user_cache("preload"), f"{name}.json"), key)


def preloading(preload: str | Sequence[str], journal: object, log: Log) -> Preloading:
    """Return what a `preload=` that was checked asks for."""
    memory = memory_of_script(journal) if preload == AUTO else None
    if preload == AUTO and memory is None:
        log(logging.INFO, "preload='auto' learns nothing: there is no script whose next run could know it")
    return Preloading(preload, log, memory)
