"""A shared file system for tests: metadata operations are counted by kind, process and path, and can be slow or fail.

    with SlowMount(folder, delay=0.0005) as mount:
        ...                                       work on files below mount.path
        mount.counts()                            {"getattr": 12, "create": 3, ...}
        mount.operations()                        [Operation("open", 4711, "python job.py", "/job.py", 2), ...]
        mount.peak()                              the most that came within one second; peak(4711): of others than that
        mount.clear()                             counted from here
        mount.delay(0.01, "open")                 each takes so much longer from here
        mount.fail("open", errno.EIO, "*.so")     and these come to nothing, though they count; mount.mend()

A FUSE process of its own passes what is done below `mount.path` on to `mount.behind`, a plain folder. Counted, and
delayed, is what a network file system would ask its server for metadata:

- whatever goes by a name, and what asks for attributes or changes them: see `METADATA`. `getattr` stands for looking a
  name up as well as for asking for attributes. A directory that is listed counts once (`readdir`);
- not: reading, writing, syncing and closing an open file, and its locks, which are the kernel's own;
- not: attributes that FUSE itself asks for: to answer an operation that was counted, to tell where a file that is read
  ends, and before it changes an owner.

What the kernel remembers is said by `Cache`. A process is told by its id and command line, as they are when it asks;
a thread is its process. `within` starts the FUSE process elsewhere, as in the namespaces of a host: so several clients
can show the same folder, each with its own counts (`cluster/counted.py`).

The process ends, and the mount with it, when the block is left or the process that holds it ends, however that be.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import enum
import fnmatch
import functools
import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

METADATA = (
    "access", "chmod", "chown", "create", "getattr", "link", "mkdir", "mknod", "open", "readdir", "readlink", "rename",
    "rmdir", "statfs", "symlink", "truncate", "unlink", "utimens",
)  # fmt: skip
ANSWERED = ("chmod", "chown", "create", "link", "mkdir", "mknod", "symlink", "truncate", "utimens")  # with attributes
ATTRIBUTES = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
SPACE = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize", "f_namemax")
AUTO_INVAL_DATA = 1 << 12  # FUSE asks for attributes before each reading
FOREVER = 1_000_000  # seconds
MNT_DETACH = 2
CAP_SYS_ADMIN = 1 << 21
PATIENCE = 10.0  # seconds for the process to end


class Cache(enum.Enum):
    """For how long the kernel remembers names and attributes of what is there; what is missing, it asks for anew."""

    NONE = (0, 0)  # it asks for every directory on the way, and twice for what is at the end: the name, the attributes
    NAMES = (FOREVER, 0)
    ALL = (FOREVER, FOREVER)


class Operation(NamedTuple):
    """A kind of operation on a path below the mount, by a process, and how often."""

    kind: str
    pid: int
    command: str
    path: str
    count: int


class MountError(Exception):
    """No mount came about."""


def why_not() -> str:
    """Say why there can be no such mount here; empty if there can."""
    if not os.path.exists("/dev/fuse"):
        return "FUSE cannot be had: there is no /dev/fuse"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed"
    if not (ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")):
        return "libfuse is not installed (on Debian: apt install fuse3)"
    if not may_mount() and not shutil.which("fusermount3"):
        return "not allowed to mount, and fusermount3 is not installed"
    return ""


def may_mount() -> bool:
    """Whether this process may mount without help."""
    status = Path("/proc/self/status").read_text().splitlines()
    capable = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return bool(capable & CAP_SYS_ADMIN) and os.access("/dev/fuse", os.R_OK | os.W_OK)


class SlowMount:
    """A mount below `folder`, whose metadata operations take `delay` seconds more than they would.

    Attributes: `path` (where it is), `behind` (what it shows; looking there is not counted), `pid` (of its process).
    Raises `MountError` where there can be none.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        delay: float = 0.0,
        *,
        cache: Cache = Cache.NAMES,
        within: Callable[[list[str]], list[str]] | None = None,
    ) -> None:
        self.path, self.behind = Path(folder).resolve() / "mount", Path(folder).resolve() / "behind"
        self._within = within or list
        # Elsewhere it may have another id; there the end of the pipe must do.
        self._given = {"delay": delay, "cache": cache.name, "holder": None if within else os.getpid()}

    def __enter__(self) -> SlowMount:
        if reason := why_not():
            raise MountError(reason)
        self.path.mkdir(parents=True, exist_ok=True)
        self.behind.mkdir(exist_ok=True)
        command = [sys.executable, __file__, str(self.behind), str(self.path), json.dumps(self._given)]
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._within(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            if self._line() != "ready\n":
                self._said.seek(0)
                raise MountError(f"the mount at {self.path} did not come about: {self._said.read()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def counts(self) -> Counter[str]:
        """Return how many metadata operations there were, by kind."""
        return Counter(self._ask("counts"))

    def operations(self) -> list[Operation]:
        """Return the same by kind, process and path."""
        return [Operation(*row) for row in self._ask("rows")]

    def peak(self, but: int | None = None) -> int:
        """Return the most operations that came within one second, those of one process perhaps left out."""
        return int(self._ask("peak", but))

    def clear(self) -> None:
        """Count from here."""
        self._ask("clear")

    def delay(self, seconds: float, *kinds: str) -> None:
        """Let operations of these kinds (none given: all) take so much longer."""
        self._ask("delay", seconds, kinds or METADATA)

    def fail(self, kind: str, error: int, pattern: str = "*") -> None:
        """Let operations of a kind end with an error number, on paths below the mount that match, as "/lib/*.so"."""
        self._ask("fail", kind, error, pattern)

    def mend(self) -> None:
        """Let nothing fail any more."""
        self._ask("mend")

    def _ask(self, *question: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()
        unmount(self.path)  # where the process could not: it was killed


def unmount(path: Path) -> None:
    """End a mount, though files may be open on it; nothing happens where there is none."""
    if ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH) and shutil.which("fusermount3"):
        subprocess.run(["fusermount3", "-u", "-z", path], stderr=subprocess.DEVNULL, check=False)


# -- in the process of the mount


class Ledger:
    """What was asked for, and the orders of the holder."""

    def __init__(self, delay: float) -> None:
        from mfusepy import fuse_get_context

        self._context = fuse_get_context
        self._lock = threading.Lock()
        self._delays = dict.fromkeys(METADATA, delay)
        self._failures: list[tuple[str, int, str]] = []
        self._processes: dict[int, int] = {}  # by the id of a thread
        self.clear()

    def enter(self, kind: str, path: str) -> None:
        """Count an operation; return when it may go on. Raises `OSError` where it is to fail."""
        pid, command = self._caller()
        now = time.monotonic()
        with self._lock:
            self._rows[kind, pid, command, path] += 1
            if kind == "chown":
                self._rows["getattr", pid, command, path] -= 1  # FUSE itself has just asked
            self._moments.append((now, pid))
        if self._delays[kind]:  # even a sleep of nothing gives way to others
            time.sleep(self._delays[kind])
        for failing, error, pattern in self._failures:
            if failing == kind and fnmatch.fnmatchcase(path, pattern):
                raise OSError(error, os.strerror(error))

    def _caller(self) -> tuple[int, bytes]:
        thread = self._context()[2]
        try:
            words = _read(f"/proc/{thread}/cmdline")
            if thread not in self._processes:
                self._processes[thread] = _process_of(thread)
        except OSError:
            return thread, b""  # it did not wait for the answer, or is out of sight
        return self._processes[thread], words

    # What the holder may ask

    def counts(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        with self._lock:
            for (kind, *_), count in self._rows.items():
                found[kind] += count
        return +found

    def rows(self) -> list[tuple[str, int, str, str, int]]:
        with self._lock:
            rows = [(*row, count) for row, count in self._rows.items() if count]
        return [(kind, pid, _spoken(words), path, count) for kind, pid, words, path, count in rows]

    def peak(self, but: int | None) -> int:
        with self._lock:
            moments = [at for at, pid in self._moments if pid != but]
        most, first = 0, 0
        for last, at in enumerate(moments):
            while moments[first] <= at - 1:
                first += 1
            most = max(most, last + 1 - first)
        return most

    def clear(self) -> None:
        with self._lock:
            self._rows: Counter[tuple[str, int, bytes, str]] = Counter()
            self._moments: list[tuple[float, int]] = []

    def delay(self, seconds: float, kinds: list[str]) -> None:
        self._delays |= dict.fromkeys(kinds, seconds)

    def fail(self, kind: str, error: int, pattern: str) -> None:
        self._failures = [*self._failures, (kind, error, pattern)]

    def mend(self) -> None:
        self._failures = []


def _spoken(words: bytes) -> str:
    return words.replace(b"\0", b" ").decode(errors="replace").strip()


def _process_of(thread: int) -> int:
    status = _read(f"/proc/{thread}/status").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(b"Tgid:"))


def _read(path: str) -> bytes:
    """Return what one reading gives; for each operation, `open` would take too long."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 1 << 16)
    finally:
        os.close(file)


class Passthrough:
    """What the mount does: the same in the folder behind it."""

    use_ns = True  # times are whole nanoseconds

    def __init__(self, behind: str, ledger: Ledger) -> None:
        self._behind, self._ledger = behind, ledger
        self._lock = threading.Lock()
        self._changed: set[str] = set()  # whose attributes are asked for next only to answer the change
        for name in METADATA:
            setattr(self, name, self._counting(name, getattr(self, f"_{name}")))

    def _counting(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)  # mfusepy looks at its parameters
        def counted(path: str, *given: Any) -> Any:
            if name != "getattr" or not self._is_by_the_way(path, *given):
                self._ledger.enter(name, path)
            result = operation(path, *given)
            if name in ANSWERED:
                self._changed.add(path)
            return result

        return counted

    def _is_by_the_way(self, path: str, fh: int | None) -> bool:
        """Whether FUSE itself wants attributes: `fstat` has no open file in its question, but reading has."""
        with self._lock:
            is_answer = path in self._changed
            self._changed.discard(path)
        return is_answer or fh is not None

    def _at(self, path: str) -> str:
        return self._behind + path

    def init_with_config(self, connection: Any, config: Any) -> None:
        connection.want &= ~AUTO_INVAL_DATA
        print("ready", flush=True)

    def _getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
        times = {f"st_{which}time": getattr(found, f"st_{which}time_ns") for which in "amc"}
        return {name: getattr(found, name) for name in ATTRIBUTES} | times

    def _access(self, path: str, mode: int) -> None:
        if not os.access(self._at(path), mode):
            raise PermissionError(13, "not allowed")

    def _open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags | os.O_CLOEXEC)

    def _create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._at(path), flags | os.O_CREAT | os.O_CLOEXEC, mode)

    def _readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def _readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(self._at(path), uid, gid)

    def _truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def _utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at(path), ns=times)

    def _link(self, path: str, source: str) -> None:
        os.link(self._at(source), self._at(path), follow_symlinks=False)

    def _symlink(self, path: str, source: str) -> None:
        os.symlink(source, self._at(path))

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def _mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self._at(path), mode, device)

    def _rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in SPACE}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def fsync(self, path: str, data_only: int, fh: int) -> None:
        (os.fdatasync if data_only else os.fsync)(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


def listen(ledger: Ledger, point: Path, holder: int | None) -> None:
    """Answer the holder; end this process when nobody holds the mount any more."""
    ended = [] if holder is None else [os.pidfd_open(holder)]  # beside the pipe, which a child of the holder may hold
    while True:
        ready, _, _ = select.select([sys.stdin, *ended], [], [])
        question = "" if {*ended} & {*ready} else sys.stdin.readline()
        if not question:
            break
        what, *given = json.loads(question)
        print(json.dumps(getattr(ledger, what)(*given)), flush=True)
    unmount(point)
    os._exit(0)


def main(behind: str, point: str, given: str) -> None:
    from mfusepy import FUSE

    options = json.loads(given)
    os.umask(0)  # the caller's has been applied
    ledger = Ledger(options["delay"])
    threading.Thread(target=listen, args=(ledger, Path(point), options["holder"]), daemon=True).start()
    names, attributes = Cache[options["cache"]].value
    timeouts = {"entry_timeout": names, "attr_timeout": attributes, "negative_timeout": 0}
    FUSE(Passthrough(behind, ledger), point, foreground=True, hard_remove=True, fsname="slowmount", **timeouts)


if __name__ == "__main__":
    main(*sys.argv[1:])
