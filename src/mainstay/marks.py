"""Marks that an audited program leaves among its system calls; where MAINSTAY_AUDIT is not set, none.

A mark is an attempt to open a path that does not exist: `mainstay audit` sees it where it sees all the rest, in its
place among the others. Any program can leave one, in any language: `test -e /mainstay-audit/batch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PLACE = "/mainstay-audit/"
AUDITED = "MAINSTAY_AUDIT" in os.environ


def mark(name: str) -> None:
    """Say that something begins here, if anybody listens."""
    if AUDITED:
        try:
            os.close(os.open(PLACE + name, os.O_RDONLY))
        except OSError:
            pass  # as it should be


def marked(name: str, call: Callable[P, T]) -> Callable[P, T]:
    """Return the function with its beginning and its end marked."""

    def marking(*args: P.args, **kwargs: P.kwargs) -> T:
        mark(f"begin/{name}")
        try:
            return call(*args, **kwargs)
        finally:
            mark(f"end/{name}")

    return marking
