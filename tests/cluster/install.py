"""What the tests want of Debian's or Ubuntu's packages: Slurm and munge, FUSE, squashfs. No daemon is started.

programs on PATH? ── yes ── nothing to do
      └─ no ── root and apt-get? ── policy-rc.d says "start nothing" ── apt-get install ── policy-rc.d removed

The cluster installs what it wants when it is first brought up. FUSE and squashfs have to be there before pytest looks
which tests it can run: `make test` calls this as a program first, which installs all, as far as it can.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.namespaces import UNSHARE

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare", "setpriv", "mount")
PACKAGES = ("slurm-wlm", "munge", "iproute2", "util-linux", "mount")
OPTIONAL = ("libpmix2", "libpmix2t64")  # by its name in the distribution's release; for `srun --mpi=pmix`
MOUNTS = {"fusermount3": "fuse3", "sqfstar": "squashfs-tools", "squashfuse": "squashfuse"}  # programs, and whose
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
POLICY = Path("/usr/sbin/policy-rc.d")  # what a package asks before it starts its service
APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")


class Unavailable(Exception):
    """A cluster cannot be had here; says why."""


def ensure_slurm() -> None:
    """Install what is missing.

    Raises:
        Unavailable: this is not root, there is no apt-get, it failed, or no namespaces can be made.
    """
    os.environ["PATH"] = PATH  # munged and slurmd stand in /usr/sbin, where not everybody looks
    if os.geteuid() != 0:
        raise Unavailable("a cluster of namespaces needs root")
    if missing():
        _install()
    _try_namespaces()


def _install() -> None:
    if shutil.which("apt-get") is None:
        raise Unavailable(f"{', '.join(missing())} not found, and no apt-get to install them with")
    with no_service_starts():
        _apt_install()
    if missing():
        raise Unavailable(f"{', '.join(missing())} not found, even after apt-get install {' '.join(PACKAGES)}")


def ensure_mounts() -> None:
    """Install what tests with mounts and images want, as far as that can be had; without it they are skipped."""
    wanted = [package for program, package in MOUNTS.items() if shutil.which(program, path=PATH) is None]
    if wanted and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        with no_service_starts():
            _apt("update")
            for package in wanted:
                _apt("install", "--no-install-recommends", package)


def missing() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


def _apt_install() -> None:
    install = ("install", "--no-install-recommends", *PACKAGES)
    done = _apt(*install)
    if done.returncode != 0:
        _apt("update")  # the lists are missing or too old
        done = _apt(*install)
    if done.returncode != 0:
        raise Unavailable(f"apt-get install {' '.join(PACKAGES)} failed: {done.stdout.strip()[-300:]}")
    for package in OPTIONAL:
        _apt("install", "--no-install-recommends", package)


def _try_namespaces() -> None:
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"no namespaces can be made here: {done.stderr.strip()}")


def _apt(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        [*APT, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Let no package start its service; leave a policy that is there already (containers have one) as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    try:
        ensure_slurm()
    except Unavailable as error:
        print(f"no Slurm cluster, its tests will be skipped: {error}")
    ensure_mounts()
