"""What a fork inherits broken: threads, an initialised MPI, the context of a GPU. Found by looking, after an import."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from time import monotonic, sleep

SOUND = {"jemalloc_bg_thd"}  # threads whose library does without them in a fork
PATIENCE = 1.0  # seconds for threads that are ending to be gone
# A GPU's library, and the device that it opens when it is initialised: in a fork every further call to it fails.
GPUS = (("libcuda.so", "/dev/nvidia", "CUDA"), ("libamdhip64.so", "/dev/kfd", "ROCm"))


def broken_by_fork() -> str | None:
    """Return what forks of this process would find broken, and what to do; None if nothing is."""
    libraries = mapped_libraries()
    return _python_threads() or _mpi(libraries) or gpu(libraries, open_files())


def _python_threads() -> str | None:
    threading = sys.modules.get("threading")
    if threading is None:
        return None
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not names:
        return None
    return (
        f"it starts threads ({', '.join(sorted(names))}), which workers would not have, but perhaps locks that they "
        "held. Start them in an initializer=, which runs in each worker, or take the module out of preload"
    )


def _mpi(libraries: Iterable[str]) -> str | None:
    found = (path for path in libraries if os.path.basename(path).startswith("libmpi"))
    if not any(map(_is_initialised, found)):
        return None
    return (
        "it initialises MPI, and an initialised MPI cannot be forked. With mpi4py, set mpi4py.rc.initialize = False "
        "before mpi4py.MPI is imported and call MPI.Init() in the task, or take the module out of preload"
    )


def _is_initialised(path: str) -> bool:
    """Ask an MPI library that is loaded already."""
    import ctypes

    flag = ctypes.c_int(0)
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY).MPI_Initialized(ctypes.byref(flag))
    except (OSError, AttributeError):
        return False
    return bool(flag.value)


def gpu(libraries: Collection[str], files: Collection[str]) -> str | None:
    """Return what is to be said where one of these libraries has opened its device."""
    for library, device, name in GPUS:
        is_loaded = any(os.path.basename(path).startswith(library) for path in libraries)
        if is_loaded and any(path.startswith(device) for path in files):
            return (
                f"it initialises {name}, which does not work in forks of the process that did so. Have the module "
                "leave the device alone until a task uses it, or take it out of preload"
            )
    return None


def native_threads() -> list[str]:
    """Return the names of the threads that libraries have left running when this process forks.

    Those that see to it themselves (OpenBLAS: pthread_atfork) end theirs before a fork and start them when they are
    used again, here and in the fork. So a fork is made, for trial.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = monotonic() + PATIENCE
    while (others := _other_threads()) and monotonic() < deadline:
        sleep(0.001)
    return others


def _other_threads() -> list[str]:
    names, main = [], os.readlink("/proc/self")
    for thread in os.listdir("/proc/self/task"):
        if thread != main:
            try:
                with open(f"/proc/self/task/{thread}/comm") as file:
                    names.append(file.read().strip())
            except OSError:
                pass  # it has ended
    return [name for name in names if name not in SOUND]


def mapped_libraries() -> set[str]:
    """Return the paths of the shared libraries that this process has loaded."""
    with open("/proc/self/maps") as file:
        fields = (line.split(maxsplit=5) for line in file)
        return {words[5].rstrip("\n") for words in fields if len(words) > 5 and ".so" in words[5]}


def open_files() -> set[str]:
    """Return what the descriptors of this process lead to."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass  # the one that listed them
    return found
