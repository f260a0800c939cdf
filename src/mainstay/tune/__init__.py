"""Tuning: transform, build and measure variants of a program on the nodes of a pool.

    variants ─▶ build, anywhere, once per kind of node ─▶ artifacts ─▶ measure, alone on each node, in turn ─▶ Table

`Tuner` is the client's part; `building`, `visiting`, `machine`, `counters` and `programs` run on nodes. Names load
lazily, so that a worker imports what it needs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mainstay.tune.building import Build
    from mainstay.tune.programs import CommandFailed, call
    from mainstay.tune.search import Random, Tpe
    from mainstay.tune.table import Table
    from mainstay.tune.tuner import Tuner
    from mainstay.tune.variants import Variant

_PLACES = {
    "Build": "building",
    "CommandFailed": "programs",
    "Random": "search",
    "Table": "table",
    "Tpe": "search",
    "Tuner": "tuner",
    "Variant": "variants",
    "call": "programs",
}

__all__ = ["Build", "CommandFailed", "Random", "Table", "Tpe", "Tuner", "Variant", "call"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mainstay.tune' has no attribute {name!r}; it has: {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"mainstay.tune.{_PLACES[name]}"), name)
