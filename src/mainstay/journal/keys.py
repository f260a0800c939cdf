"""stub"""

from __future__ import annotations

import hashlib
from typing import Any


def function_key(fn: Any) -> bytes:
    return hashlib.blake2b(
        (fn.__module__ + fn.__qualname__).encode() + fn.__code__.co_code
        if hasattr(fn, "__code__")
        else fn.__qualname__.encode(),
        digest_size=16,
    ).digest()


def call_key(function: bytes, args: Any, kwargs: Any, fn: Any = None) -> bytes:
    return hashlib.blake2b(function + repr((args, kwargs)).encode(), digest_size=16).digest()


def explicit_key(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16, person=b"explicit").digest()


def version_of(fn: Any) -> str:
    return ""
