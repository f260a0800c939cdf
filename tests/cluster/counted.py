"""A file system that all hosts of a bed share, each through a client of its own, which counts what its host asks for.

behind, a plain folder ◀─┬─ FUSE process on the login host ─▶ folder/mount there
                         ├─ FUSE process on n1 ─────────────▶ the same path on n1
                         └─ …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster.namespaces import Namespaces
from slowmount import SlowMount


class Counted:
    """The same mount on several hosts, until the block is left.

    Args:
        folder: seen by all hosts, at one path.
        hosts: by name.
        given: what `SlowMount` takes: `delay`, `cache`.

    Attributes: `path` (on each host), `behind` (what it shows; looking there is not counted).
    Raises `MountError` where there can be none.
    """

    def __init__(self, folder: Path, hosts: Mapping[str, Namespaces], **given: Any) -> None:
        self._clients = {name: SlowMount(folder, within=host.command, **given) for name, host in hosts.items()}
        first = next(iter(self._clients.values()))
        self.path, self.behind = first.path, first.behind
        self._open = ExitStack()

    def __getitem__(self, host: str) -> SlowMount:
        return self._clients[host]

    def counts(self) -> dict[str, Counter[str]]:
        """Return how many operations of each kind each host asked for."""
        return {name: client.counts() for name, client in self._clients.items()}

    def clear(self) -> None:
        """Count from here, on all hosts."""
        for client in self._clients.values():
            client.clear()

    def __enter__(self) -> Counted:
        with ExitStack() as stack:
            for client in self._clients.values():
                stack.enter_context(client)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
