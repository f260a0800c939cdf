"""A compute host: namespaces of its own, joined to the bed's bridge, with munged and slurmd.

bridge (in the bed's network) ── veth n1 ═══ eth0 (in the host's network), 10.42.0.1/24
                                             host name n1; own PIDs, /proc, /tmp, /dev/shm, munge socket
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cluster.commands import run_daemons
from cluster.mounts import own_directory
from cluster.namespaces import UNSHARE, BedError, Namespaces, init, only_child, wait_until_ready
from cluster.slurm import Layout, address, card

BRIDGE = "bridge"


class Host:
    """One compute host, on or off.

    Args:
        name: n1, n2, ...
        bed: the namespaces of the bed, in which the bridge is.
        layout: where the bed keeps its files.
        visible: paths that stay visible although they lie under /tmp.
    """

    def __init__(self, name: str, bed: Namespaces, layout: Layout, visible: Iterable[Path]) -> None:
        self.name = name
        self._bed = bed
        self._layout = layout
        self._visible = tuple(visible)
        self._process: subprocess.Popen[str] | None = None
        self._namespaces: Namespaces | None = None

    @property
    def namespaces(self) -> Namespaces:
        if self._namespaces is None:
            raise BedError(f"host {self.name} is off; start({self.name!r}) powers it on")
        return self._namespaces

    @property
    def is_on(self) -> bool:
        return self._namespaces is not None

    def start(self) -> None:
        """Power on."""
        if self.is_on:
            raise BedError(f"host {self.name} is on already")
        command = self._bed.command([*UNSHARE, *init(self._setup())])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the holder
        )
        wait_until_ready(self._process, f"host {self.name}")
        self._namespaces = Namespaces(only_child(only_child(self._process.pid)))
        self._plug_in()
        slurmd = ["slurmd", "-f", self._layout.configuration]
        run_daemons(self._namespaces, self._layout, self._layout.munged(self.name), slurmd)

    def stop(self) -> None:
        """Power off, as when the plug is pulled: peers hear nothing, not even the end of their connections."""
        pid = self.namespaces.pid
        self._bed.ip(f"link delete {self.name}")
        os.kill(pid, signal.SIGKILL)
        process, self._process, self._namespaces = self._process, None, None
        if process is not None:
            process.communicate()

    def cut(self) -> None:
        """Take the network link down."""
        self._bed.ip(f"link set {self.name} down")

    def mend(self) -> None:
        """Bring the network link up again."""
        self._bed.ip(f"link set {self.name} up")
        # At SIGHUP slurmd reports to the controller, which asks a host that is down only every half minute.
        hang_up = f"kill -HUP $(cat '{self._layout.run}/slurmd.pid')"
        run_daemons(self.namespaces, self._layout, ["sh", "-c", hang_up])

    def _plug_in(self) -> None:
        self._bed.ip(
            f"link add {self.name} type veth peer name eth0 address {card(self.name)} netns {self.namespaces.pid}",
            f"link set {self.name} master {BRIDGE} up",
        )
        self.namespaces.ip("link set lo up", f"address add {address(self.name)}/24 dev eth0", "link set eth0 up")

    def _setup(self) -> list[str]:
        layout = self._layout
        boot = layout.run / "boot_id"
        return [
            f"hostname {self.name}",
            *own_directory("/tmp", layout.mount, self._visible),
            *own_directory("/dev/shm", layout.mount, self._visible),
            f"mount -t tmpfs tmpfs '{layout.run}'",
            # By this MPI libraries know whether two processes share a machine, and so its memory.
            f"cat /proc/sys/kernel/random/uuid > '{boot}'; mount --bind '{boot}' /proc/sys/kernel/random/boot_id",
        ]
