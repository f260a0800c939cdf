"""What is looked at on a node. It runs there by its source, so that a node without Mainstay can say so.

Imports the standard library only. What it must know stands in MAINSTAY_DOCTOR, as JSON; what it finds goes back to the
doctor's socket, to test the way, and to stdout, in short lines, since srun mixes the output of nodes.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import resource
import socket
import stat
import sys
import threading
import time
from typing import Any

MARK = "mainstay-doctor:"
CHUNK = 400  # characters of a line
DIAL = 3.0  # seconds for a connection
MOST = 20  # of what is listed
HARMLESS = (".", "hydra_hwloc_xmlfile", "ompi.", "prte.", "prted.", "pymp-")  # of shells and MPI launchers
STAGED = f"mainstay-stage-{os.getuid()}"  # unpacked environments
LAUNCHERS = ("hydra_pmi_proxy", "prted", "orted")

Asked = dict[str, Any]


def main() -> None:
    asked: Asked = json.loads(os.environ.pop("MAINSTAY_DOCTOR"))
    node = int(os.environ.get("SLURM_NODEID", 0))
    report: dict[str, Any] = {"node": node}
    for name, look in LOOKS.items():
        try:
            report[name] = look(asked)
        except Exception as error:
            report[name] = None
            report.setdefault("errors", []).append(f"{name}: {type(error).__name__}: {error}")
    text = json.dumps(report)
    pieces = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    for number, piece in enumerate(pieces):
        print(f"{MARK} {node} {number} {len(pieces)} {piece}", flush=True)


def assembled(text: str) -> list[dict[str, Any]]:
    """Return the reports that were printed, in the order of the nodes; those that are cut off are left out."""
    pieces: dict[tuple[int, int], dict[int, str]] = {}
    for line in text.splitlines():
        words = line.split(" ", 4)
        if len(words) == 5 and words[0] == MARK:
            node, number, count = map(int, words[1:4])
            pieces.setdefault((node, count), {})[number] = words[4]
    whole = {node: found for (node, count), found in pieces.items() if len(found) == count}
    return [json.loads("".join(whole[node][at] for at in sorted(whole[node]))) for node in sorted(whole)]


def host(asked: Asked) -> str:
    return socket.gethostname()


def cores(asked: Asked) -> int:
    return len(os.sched_getaffinity(0))


def python(asked: Asked) -> str:
    return f"{sys.version.split()[0]} in {sys.prefix}"


def package(asked: Asked) -> dict[str, str]:
    """Import Mainstay, found as agents find it."""
    sys.path[:] = [*filter(None, sys.path), asked["source"]]
    try:
        import mainstay
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": mainstay.__version__, "file": os.path.dirname(str(mainstay.__file__))}


def addresses(asked: Asked) -> dict[str, str]:
    """Connect to each address of the doctor; empty where it answered, else why it did not."""
    told: dict[str, str] = {}
    threads = [
        threading.Thread(target=_call, args=(ip, port, asked["token"], told), daemon=True)
        for ip, port in asked["addresses"]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * DIAL)
    return {ip: told.get(ip, "no answer") for ip, _ in asked["addresses"]}


def _call(ip: str, port: int, token: str, told: dict[str, str]) -> None:
    try:
        with socket.create_connection((ip, port), DIAL) as sock:
            node = os.environ.get("SLURM_NODEID", "0")
            sock.sendall(f"{token} {node} {time.time()!r}\n".encode())
            told[ip] = "" if sock.recv(8) == b"heard\n" else "another program answers there"
    except OSError as error:
        told[ip] = error.strerror or str(error)


def paths(asked: Asked) -> dict[str, bool]:
    return {name: os.path.exists(path) for name, path in asked["paths"].items()}


def lock(asked: Asked) -> str:
    """Try a lock that the doctor holds: `held` is as it should be; `missing`, `free`, or an error."""
    path = asked.get("lock")
    if not path:
        return ""
    try:
        file = open(path, "r+b")  # noqa: SIM115
    except OSError as error:
        return "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return "held"
        except OSError as error:
            return str(error.strerror)
    return "free"


def scratch(asked: Asked) -> dict[str, Any]:
    """Tell where a task's scratch files go: the directory, what is free there, and how it is mounted."""
    place = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    found = os.statvfs(place)
    return {"path": place, "free": found.f_frsize * found.f_bavail, "kind": mount_of(place)[0]}


def left_scratch(asked: Asked) -> list[str]:
    """Return the directories of pools whose agent has gone: one that lives holds a lock on its own."""
    found = glob.glob(os.path.join(scratch(asked)["path"], f"mainstay-{os.getuid()}-*"))
    return [path for path in sorted(found)[: 10 * MOST] if os.path.isdir(path) and not _is_locked(path)][:MOST]


def _is_locked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return True  # it has gone meanwhile, or is another's
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def own_files(asked: Asked) -> list[str]:
    """Return what else of this user lies in the scratch directory, if that is this node's own."""
    place = scratch(asked)["path"]
    if not asked["in_job"] or is_network(mount_of(place)[0]):
        return []
    points = {point for point, _, _ in mounts()}
    return [path for path in _entries(place) if not any((point + "/").startswith(path + "/") for point in points)]


def _entries(place: str) -> list[str]:
    found = []
    with os.scandir(place) as entries:
        for entry in entries:
            known = entry.name.startswith((*HARMLESS, f"mainstay-{os.getuid()}-")) or entry.name == STAGED
            status = entry.stat(follow_symlinks=False)
            plain = stat.S_ISREG(status.st_mode) or (stat.S_ISDIR(status.st_mode) and os.listdir(entry.path))
            if plain and not known and status.st_uid == os.getuid():
                found.append(entry.path)
    return sorted(found)[:MOST]


def processes(asked: Asked) -> list[dict[str, Any]]:
    """Return the agents of this user, and launchers that have lost theirs: pid, what, and whether it is wanted."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid() and _network(pid) == _network("self"):
                found += _judged(int(pid))
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return found[:MOST]


def _network(pid: str) -> str:
    """Return a process's network; whether the client of one in a container's lives cannot be told from outside."""
    return os.readlink(f"/proc/{pid}/ns/net")


def _judged(pid: int) -> list[dict[str, Any]]:
    words, parent = _words(pid), _parent(pid)
    name = os.path.basename(words[0]) if words else ""
    if name in LAUNCHERS and parent == 1:
        return [{"pid": pid, "what": name, "alive": False}]
    if not any("mainstay.node" in word for word in words[1:]) or "mainstay.node" in " ".join(_words(parent)[1:]):
        return []  # a worker is its agent's matter
    with open(f"/proc/{pid}/environ", "rb") as file:
        variables = dict(word.partition(b"=")[::2] for word in file.read().split(b"\0"))
    told = variables.get(b"MAINSTAY_ADDRESS", b"").decode()
    what = "agent" if name.startswith("python") else name
    return [{"pid": pid, "what": what, "alive": _is_there(told)}] if told else []


def _words(pid: int) -> list[str]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode(errors="replace").split("\0")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _is_there(addresses: str) -> bool:
    """Whether anybody listens at one of a client's addresses."""
    for item in addresses.split(","):
        ip, _, port = item.rpartition("|")
        with socket.socket(socket.AF_UNIX if ip.startswith("@") else socket.AF_INET) as sock:
            sock.settimeout(1)
            try:
                sock.connect("\0" + ip[1:] if ip.startswith("@") else (ip, int(port)))
            except OSError:
                continue
            return True
    return False


def files(asked: Asked) -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


# -- mounts


def mount_of(path: str) -> tuple[str, str, str]:
    """Return a path's kind of file system, where that is mounted, and its options."""
    path, best = os.path.realpath(path), ("", "", "")
    for point, kind, options in mounts():
        if len(point) >= len(best[1]) and (path + "/").startswith(point.rstrip("/") + "/"):
            best = kind, point, options
    return best


def mounts() -> list[tuple[str, str, str]]:
    """Return mount point, kind and options of all that is mounted; a later one hides an earlier one at its point."""
    try:
        with open("/proc/self/mountinfo") as file:
            return [mount(line) for line in file]
    except OSError:
        return []


def mount(line: str) -> tuple[str, str, str]:
    """Return mount point, kind and options of a line of /proc/self/mountinfo."""
    words = line.split()
    rest = words[words.index("-", 6) + 1 :]
    point = words[4].encode().decode("unicode_escape").encode("latin-1", "replace").decode(errors="replace")
    return point, rest[0], f"{words[5]},{rest[-1]}"


NETWORK = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "daos",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "panfs",
    "smb",
    "wekafs",
    "orangefs",
)


def is_network(kind: str) -> bool:
    """Whether a file system is served by other hosts, as far as its kind tells."""
    return kind.startswith(NETWORK) or kind.startswith(
        tuple(f"fuse.{name}" for name in (*NETWORK, "ssh", "s3", "dfuse"))
    )


LOOKS = {
    "addresses": addresses,
    "host": host,
    "cores": cores,
    "files": files,
    "python": python,
    "package": package,
    "paths": paths,
    "lock": lock,
    "scratch": scratch,
    "left_scratch": left_scratch,
    "own_files": own_files,
    "processes": processes,
}

if __name__ == "__main__":
    main()
