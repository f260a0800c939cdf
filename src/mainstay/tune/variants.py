"""Variants of a program: what tells them apart, and spaces of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

Value = Any  # str, int, float or bool: what stands in a template or on a command line
Choices = Sequence[Value] | tuple[Value, ...] | range
Space = Mapping[str, Choices]
Constraint = Callable[["Variant"], bool]
PLAIN = (str, int, float, bool)
COLUMNS = {  # of a table, beside a variant's names
    "host", "kind", "status", "median", "low", "high", "minimum", "mean", "samples", "rounds", "round", "seconds",
    "session", "baseline", "ratio", "noisy", "cpu_seconds", "cpu", "governor", "pinned", "load_before", "load_after",
    "compiler_version", "built_by", "began", "message", "command",
}  # fmt: skip
METRIC, COUNTER = COUNTED = ("metric_", "counter_")  # begin the names of more columns
TRIES = 1000  # draws for one variant that meets the constraint


class Variant(Mapping[str, Value]):
    """One point of a space: named values, as attributes and as a mapping. Equal values are equal variants.

    Raises `TypeError` for a value that is not a str, int, float or bool, since it is to stand in sources and commands,
    and `ValueError` for a name that is a column of `Table`, as "median".
    """

    __slots__ = ("_values",)

    def __init__(self, **values: Value) -> None:
        for name, value in values.items():
            if name in COLUMNS or name.startswith(COUNTED):
                taken = f"{', '.join(sorted(COLUMNS))}, and what begins with {' or '.join(COUNTED)}"
                raise ValueError(f"a table has a column {name!r}; name it otherwise, as {name}_of. Taken are: {taken}")
            if not isinstance(value, PLAIN):
                raise TypeError(f"a variant's values are str, int, float or bool; given: {name}={value!r}")
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Value:
        try:
            return object.__getattribute__(self, "_values")[name]
        except KeyError:
            raise AttributeError(f"this variant has no {name!r}; it has: {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a variant does not change; make another: Variant(**{{**variant, {name!r}: {value!r}}})")

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and self.key == other.key

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._values,)

    @property
    def key(self) -> str:
        """What this variant is known by: its values and their types, in any order of names."""
        return repr(sorted(self._values.items()))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in sorted(self._values.items())) or "(plain)"

    def __repr__(self) -> str:
        return f"Variant({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


def _made(values: dict[str, Value]) -> Variant:
    return Variant(**values)


def filled(word: str, variant: Variant) -> str:
    """Return a word of a command with the variant's values. Raises `ValueError` for one that names something else."""
    try:
        return word.format_map(variant)
    except (LookupError, ValueError, AttributeError) as error:
        names = ", ".join(f"{{{name}}}" for name in variant)
        told = f"the command's word {word!r} is to name what the variant has, {names or 'nothing'}"
        raise ValueError(f"{told}; a brace that is meant as such is written twice, {{{{ or }}}}") from error


def distinct(variants: Iterable[Variant]) -> list[Variant]:
    """Return the variants without those that occurred before. Raises `TypeError` for what is none."""
    if isinstance(variants, Variant) or not isinstance(variants, Iterable):
        raise TypeError(f"variants are a list of mainstay.tune.Variant objects; given: {variants!r}")
    variants = list(variants)
    for one in variants:
        if not isinstance(one, Variant):
            raise TypeError(f"variants are mainstay.tune.Variant objects; given: {one!r}")
    return list({one.key: one for one in variants}.values())


def check_space(space: Space) -> None:
    """Raise `ValueError` or `TypeError` for a space that has no points."""
    if not isinstance(space, Mapping):
        raise TypeError(f"a space is a mapping, as {{'tile': (8, 16, 32), 'unroll': range(1, 5)}}; given: {space!r}")
    if not space:
        raise ValueError("the space has no names; give it as {'tile': (8, 16, 32), 'unroll': range(1, 5)}")
    for name, choices in space.items():
        if isinstance(choices, str) or not isinstance(choices, (Sequence, range)) or not len(choices):
            raise TypeError(f"the space says {name!r}: {choices!r}; give a list, tuple or range of what it may be")
        for choice in choices:
            Variant(**{name: choice})


def draw(space: Space, chance: Random, constraint: Constraint | None) -> Variant | None:
    """Return a random point of the space that meets the constraint; None where none is found."""
    for _ in range(TRIES):
        variant = Variant(**{name: chance.choice(choices) for name, choices in sorted(space.items())})
        if constraint is None or constraint(variant):
            return variant
    return None
