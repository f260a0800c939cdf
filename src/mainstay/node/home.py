"""The pool's directory on a node: who makes it, who holds it, and who removes it, whatever ends the pool.

    base (scratch=, or SLURM_TMPDIR, TMPDIR, /tmp)
      mainstay-UID-HOST-PID-…/     locked (flock) by the agent as long as it lives
        inputs/KEY/NAME            staged files, read-only, for all workers of the node
        NUMBER/worker/             what `scratch()` gives worker NUMBER
        NUMBER/task-ID/            what `scratch(per="task")` gives a task
        NUMBER/errand              what is to be brought back of that task

It is removed by a janitor: a process in a session of its own, forked from the agent when a worker first uses the
directory, that waits for the agent's end, however that comes. Where even the janitor was killed, the next agent of the
same user there finds the directory unlocked, and has it removed.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mainstay.errors import ScratchFull  # which costs a worker thirty modules

NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "panfs", "smb3", "wekafs"}
TRIES = 5  # to make a directory that nobody removes before it is locked, and to remove it
AGAIN = 0.2  # seconds between two attempts to remove one


class Home:
    """The pool's directory on this node.

    Args:
        base: where it is to be made; None: in the first that serves of SLURM_TMPDIR, TMPDIR and /tmp.
        host: this node's name.
        agent: the agent's pid; 0: there is none, but threads, in a process that had better not be forked.
    """

    def __init__(self, base: str | None, host: str, agent: int = 0) -> None:
        self.host, self.path, self._lock, self.agent = host, "", -1, agent
        self._janitor: Janitor | None = None
        self._why_not = ""
        try:
            place = choose(base)
            sweep(place, host, apart=agent > 0)
            self._make(place)
        except OSError as error:
            self._why_not = str(error)

    def _make(self, base: str) -> None:
        for _ in range(TRIES):
            path = os.path.join(base, f"{prefix(self.host)}-{os.getpid()}-{os.urandom(4).hex()}")
            os.mkdir(path, 0o700)
            self._lock = locked(path)
            if self._lock >= 0 and os.path.exists(path):  # else swept in the moment before
                self.path = path
                return
        raise OSError(f"{base}: directories made there vanish at once")

    def require(self) -> str:
        """Return the directory; raise `ScratchError` that says why there is none."""
        if not self.path:
            from mainstay.errors import ScratchError

            raise ScratchError(f"no scratch directory on host {self.host}: {self._why_not}")
        return self.path

    def of_worker(self, number: int) -> str:
        """Return the part that belongs to a worker; it need not be there."""
        return os.path.join(self.path, str(number))

    def has_errand(self, number: int) -> bool:
        """Whether a worker that is gone has left something to be brought back."""
        return bool(self.path) and os.path.exists(os.path.join(self.of_worker(number), "errand"))

    def has_worker(self, number: int) -> bool:
        """Whether a worker has used its part."""
        return bool(self.path) and os.path.exists(self.of_worker(number))

    def full(self, needed: int = 0) -> ScratchFull:
        """Return the error that says how much room there is."""
        from mainstay.errors import ScratchFull

        return ScratchFull(self.path, self.host, free(self.path)[0], needed)

    def use(self) -> None:
        """In a worker: something will be in the directory, so there must be a janitor."""
        if self.agent and not os.listdir(self.path):
            os.kill(self.agent, signal.SIGUSR1)

    def guard(self) -> None:
        """In the agent: have a janitor, if there is none."""
        if self.path and self._janitor is None:
            self._janitor = Janitor([self.path])

    def let_go(self) -> None:
        """In a process that is not to hold the directory."""
        if self._lock >= 0:
            os.close(self._lock)
        if self._janitor is not None:
            self._janitor.let_go()

    def remove(self) -> None:
        """Remove everything."""
        path = self.path
        if self._janitor is not None or (path and not self._was_empty(path)):
            if self.agent:
                self.guard()
            else:
                remove(path)
        janitor, self.path = self._janitor, ""
        self.let_go()
        if janitor is not None:
            janitor.wait()

    def _was_empty(self, path: str) -> bool:
        try:
            os.rmdir(path)
        except OSError:
            return False
        return True


def prefix(host: str) -> str:
    return f"mainstay-{os.getuid()}-{host}"


def choose(base: str | None) -> str:
    """Return the directory in which to make ours; raise `OSError` that tells what was tried."""
    if base is not None:
        place = os.path.expanduser(os.path.expandvars(base))
        if not _serves(place):
            raise NotADirectoryError(f"scratch={base!r}: {_why_not(place)}; name one that is there on every node")
        return place
    named = [("SLURM_TMPDIR", os.environ.get("SLURM_TMPDIR")), ("TMPDIR", os.environ.get("TMPDIR")), ("", "/tmp")]  # noqa: S108
    given = [(name, place) for name, place in named if place]
    good = [place for _, place in given if _serves(place)]
    if not good:
        tried = "; ".join(f"{name and name + '='}{place}: {_why_not(place)}" for name, place in given)
        raise NotADirectoryError(f"{tried}; name another, Executor(scratch='/a/local/disk')")
    return next((place for place in good if is_local(place)), good[0])


def _serves(place: str) -> bool:
    return os.path.isabs(place) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def _why_not(place: str) -> str:
    if not os.path.isabs(place):
        return f"{place!r} is not an absolute path"
    return "it may not be written to" if os.path.isdir(place) else f"there is no directory {place}"


def is_local(path: str) -> bool:
    """Whether a path lies on a disk of this node, as far as its mount tells."""
    path, best, kind = os.path.realpath(path), "", ""
    try:
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return True
    for words in mounts:
        place = words[4].replace("\\040", " ")
        if len(place) >= len(best) and (path + "/").startswith(place.rstrip("/") + "/"):
            best, kind = place, words[words.index("-", 6) + 1]
    return kind not in NETWORK and not kind.startswith("fuse.")


def locked(path: str, *, wait: bool = True, shared: bool = False) -> int:
    """Return a descriptor that holds the lock of a directory; -1 if it is held or gone."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return -1
    except OSError:
        if wait:
            return fd  # a file system without locks: nobody else will get one either
        os.close(fd)
        return -1
    return fd


def sweep(base: str, host: str, *, apart: bool) -> None:
    """Remove (or, `apart`, have removed) what agents of this user left on this host when they were killed."""
    mine = prefix(host)
    with os.scandir(base) as entries:
        found = [entry.path for entry in entries if entry.name.rsplit("-", 2)[0] == mine and _is_own(entry)]
    held = {path: fd for path in found if (fd := locked(path, wait=False)) >= 0}
    if held and apart:
        Janitor(list(held)).let_go()
    for path in held if not apart else ():
        remove(path)
    for fd in held.values():
        os.close(fd)


def sweep_memory(place: str = "/dev/shm") -> None:  # noqa: S108
    """Remove what MPI programs of this user that were killed left in this node's memory."""
    if any(name.startswith("mpich_shm_") for name in _names(place)):
        from mainstay.node.shm import sweep  # seldom, and so no import of every worker's

        sweep(place)


def _is_own(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except OSError:
        return False


def free(path: str) -> tuple[int, int]:
    """Return the bytes that are free where a path lies, and all."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0, 0
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def remove(path: str) -> None:
    """Remove a tree, also what is read-only in it; what cannot be removed stays."""
    for directory, directories, files in os.walk(path):
        _try(os.chmod, directory, stat.S_IRWXU)
        directories[:] = [name for name in directories if not os.path.islink(os.path.join(directory, name))]
        for name in files:
            _try(os.unlink, os.path.join(directory, name))
    for directory, _, _ in os.walk(path, topdown=False):
        for name in _names(directory):
            _try(os.unlink, os.path.join(directory, name))  # links to directories
        _try(os.rmdir, directory)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []  # another process clears up there, too


def _try(call: object, *given: object) -> None:
    try:
        call(*given)  # type: ignore[operator]
    except OSError:
        pass


class Janitor:
    """A process that belongs to nobody, and removes directories when its maker lets go, or ends in whatever way.

    To be made where there is a single thread.
    """

    def __init__(self, paths: list[str]) -> None:
        hears, self._maker = os.pipe()
        self._ended, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    _serve_as_janitor(paths, hears, told)
            finally:
                os._exit(0)
        os.close(hears)
        os.close(told)
        os.waitpid(child, 0)

    def let_go(self) -> None:
        os.close(self._maker)

    def wait(self) -> None:
        """Wait until all is removed."""
        os.read(self._ended, 1)
        os.close(self._ended)


def _serve_as_janitor(paths: list[str], hears: int, told: int) -> None:
    signal.set_wakeup_fd(-1)
    for what in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(what, signal.SIG_IGN)  # they are for the agent
    os.chdir("/")
    _forget_all_but(hears, told)
    os.read(hears, 1)
    for path in paths:
        for _ in range(TRIES):  # the agent's workers end after it, and may write something meanwhile
            remove(path)
            if not os.path.exists(path):
                break
            time.sleep(AGAIN)


def _forget_all_but(*kept: int) -> None:
    """Close what we inherited, that nobody who reads our output waits for us; locks of directories stay."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept and not _is_directory(fd):
            _try(os.close, fd)


def _is_directory(fd: int) -> bool:
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    except OSError:
        return False
