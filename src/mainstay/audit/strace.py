"""strace: its command line, and its lines as events.

It writes a file for each thread (`-ff`), so that no call is cut in two by another; `-y` tells the path of descriptors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator

from mainstay.audit.events import Directory, Event, Fork, Mark, Operation, Program
from mainstay.marks import PLACE

KINDS = {
    "open": ("open", "openat", "openat2"),
    "create": ("creat",),
    "stat": ("stat", "lstat", "fstat", "newfstatat", "fstatat64", "stat64", "lstat64", "fstat64", "statx"),
    "access": ("access", "faccessat", "faccessat2", "chdir", "fchdir"),
    "readlink": ("readlink", "readlinkat"),
    "exec": ("execve", "execveat"),
    "statfs": ("statfs", "fstatfs", "statfs64", "fstatfs64"),
    "xattr": ("getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr"),
    "change": (
        "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat",
        "symlink", "symlinkat", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown",
        "fchown", "fchownat", "truncate", "ftruncate", "utime", "utimes", "utimensat", "futimesat", "setxattr",
        "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    ),
}  # fmt: skip
KIND = {call: kind for kind, calls in KINDS.items() for call in calls}
FORKS = ("fork", "vfork", "clone", "clone3")
LINE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\)\s+= (\S+)(?: (E[A-Z0-9]+) )?")
DESCRIPTOR = re.compile(r"(?:AT_FDCWD|\d+)(?:<((?:[^<>\\]|\\.)*)>)?(?=,|$)")  # older ones tell no path of AT_FDCWD
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
PATIENCE = 20.0  # seconds for a trial


def argv(command: Iterable[str], prefix: str) -> list[str]:
    """Return what runs a command under strace, which writes to files whose names begin with the prefix."""
    calls = ",".join(f"?{call}" for call in (*KIND, *FORKS))
    return ["strace", "-ff", "--seccomp-bpf", "-y", "-ttt", "-s", "256", "-e", f"trace={calls}",
            "-e", "signal=none", "-o", prefix, *command]  # fmt: skip


def why_not(directory: str) -> str:
    """Say why strace cannot be used here; empty if it can. Writes to the directory."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = argv(["true"], os.path.join(directory, "trial"))
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"strace cannot be started: {error}"
    said = done.stderr.strip().splitlines()
    return f"strace may not trace here: {said[-1] if said else 'no word'}" if done.returncode else ""


def events(thread: int, lines: Iterable[str]) -> Iterator[Event]:
    """Yield what the lines of one thread tell."""
    for line in lines:
        found = LINE.match(line)
        if found:
            at, call, given, result, error = found.groups()
            yield from _events(float(at), thread, call, given, result, error or "")


def _events(at: float, thread: int, call: str, given: str, result: str, error: str) -> Iterator[Event]:
    if call in FORKS:
        if result.isdigit():
            yield Fork(at, thread, int(result), "CLONE_THREAD" in given)
        return
    path, below = _place(call, given)
    if path.startswith(PLACE):
        yield Mark(at, thread, path.removeprefix(PLACE))
        return
    if call in KIND and (path or below.startswith("/")):
        yield Operation(at, thread, _kind(call, given), path, below, error)
    if not error and call.startswith("execve"):
        yield Program(at, thread, tuple(map(_plain, TEXT.findall(given)[1:])))  # the environment is an address
    elif not error and call in ("chdir", "fchdir"):
        yield Directory(at, thread, path or below)


def _kind(call: str, given: str) -> str:
    if KIND[call] == "open" and "O_CREAT" in given:
        return "create"
    return "list" if KIND[call] == "open" and "O_DIRECTORY" in given else KIND[call]


def _place(call: str, given: str) -> tuple[str, str]:
    """Return the path that a call names, and the directory (or open file) that it names besides."""
    if call.startswith("symlink"):
        given = TEXT.sub("", given, count=1).lstrip(", ")  # what the link says is no path
    opened = DESCRIPTOR.match(given)
    text = TEXT.match(given[opened.end() :].lstrip(", ") if opened else given)
    return _plain(text[1]) if text else "", _plain(opened[1] or "") if opened else ""


def _plain(text: str) -> str:
    """Return what strace has written with backslashes."""
    if "\\" not in text:
        return text
    return os.fsdecode(text.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1", "replace"))
