"""A kept result in words: for a listing, for an export."""

from __future__ import annotations

import json
import pickle
from typing import Any

from mainstay.journal.record import Kept
from mainstay.wire.payload import load


def value_of(kept: Kept) -> Any:
    """Return a result as it was, or of a call that failed, what failed. Raises what unpickling raises."""
    if not kept.failed:
        return load(kept.body, list(kept.buffers))
    _, kind, message, _ = pickle.loads(kept.body)
    return f"{kind.removeprefix('builtins.')}: {message}"


def traceback_of(kept: Kept) -> str:
    """Return the traceback of a call that failed; nothing of the user's is loaded."""
    _, kind, message, text = pickle.loads(kept.body)
    return str(text) or f"{kind}: {message}"


def plain(kept: Kept) -> Any:
    """Return a result as JSON can have it: as it is, or its `repr`. Never raises."""
    try:
        value = value_of(kept)
    except Exception as error:
        return f"(cannot be loaded here: {type(error).__name__}: {error})"
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return shown(value)
    return value


def shown(value: Any) -> str:
    """Return the `repr` of a result, or why there is none."""
    try:
        return repr(value)
    except Exception as error:
        return f"(its repr raised {type(error).__name__}: {error})"
