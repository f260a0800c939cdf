"""The user's cache: what is kept from one program to the next, and could be made again."""

from __future__ import annotations

import os


def user_cache(name: str) -> str:
    """Return the path of a directory of ours in the user's cache (XDG Base Directory Specification)."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mainstay", name)
