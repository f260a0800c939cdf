"""What is read while a key is made: where a change would show, and what workers read for themselves.

    function of the script ── travels with its values ──▶ worker
         └── names model.run ── travels as a name ──────▶ worker, which imports `model` itself
                  └── a thing: noted, so that both sides can compare what they have (`witness`)

What is read within a thing is noted too, as a way to read it again: the key holds as long as the same objects are
found, and none of them can be changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple


class Attribute(NamedTuple):
    """What a module has under a name, or a class in it: "run", "Model.run"."""

    module: str
    path: str

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"


class Whole(NamedTuple):
    """All of a module."""

    module: str

    def __str__(self) -> str:
        return self.module


class Files(NamedTuple):
    """The files of modules that are not loaded in the client."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"the file of {self.names[0]}"


Thing = Attribute | Whole | Files


class Reach:
    """Notes what the making of one key reads.

    is_bare: code counts by its bytecode and no source is read; what functions import is left to things of its own.
    told: which attributes that tell of functions count; `asks` are those that code asks for (`uses`).
    """

    __slots__ = ("_depth", "_is_fixed", "_reads", "asks", "is_bare", "things", "told")

    def __init__(self, is_bare: bool = False, told: frozenset[str] = frozenset()) -> None:
        self.is_bare, self.told = is_bare, told
        self.asks: frozenset[str] = frozenset()
        self.things: set[Thing] = set()
        self._reads: list[tuple[Callable[[], object], object]] = []
        self._depth = 0
        self._is_fixed = True

    def in_full(self, encode: Callable[[], bytes]) -> bytes:
        """Return what `encode` does; where code that it met asks functions for more, it is done again to tell that."""
        encoded = encode()
        while not self.asks <= self.told:
            self.told |= self.asks
            encoded = encode()
        return encoded

    @contextmanager
    def inside(self, thing: Thing | None) -> Iterator[None]:
        """What is read meanwhile is part of a thing; one within another counts with that."""
        if thing is not None and not self._depth:
            self.things.add(thing)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The things that are met meanwhile count by themselves."""
        depth, self._depth = self._depth, 0
        try:
            yield
        finally:
            self._depth = depth

    def read(self, get: Callable[[], object], value: object) -> None:
        """This value was found so."""
        if self._depth:
            self._reads.append((get, value))

    def attributes(self, obj: object, *names: str) -> None:
        """These attributes were read."""
        for name in names:
            self.read(partial(getattr, obj, name), getattr(obj, name))

    def entries(self, entries: Mapping[str, Any]) -> None:
        """All of these were read."""
        if self._depth:
            self.read(partial(len, entries), len(entries))
            for name, value in entries.items():
                self.read(partial(entries.get, name), value)

    def mutable(self) -> None:
        """Something was read that can be changed in place."""
        self._is_fixed &= not self._depth

    def holds(self, by_value: bool) -> bool:
        """Whether the same objects would be read; with `by_value`, none may be one that can be changed in place."""
        if by_value and not self._is_fixed:
            return False
        try:
            for get, value in self._reads:  # a loop, since each call asks this
                found = get()
                if found is not value and not _same(found, value):
                    return False
        except (AttributeError, ValueError):  # it is gone; a captured variable was emptied
            return False
        return True


def _same(one: object, other: object) -> bool:
    return type(one) is int and type(other) is int and one == other
