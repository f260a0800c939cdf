"""A remote shell between the hosts of a bed, which have no sshd: called as ssh is, from any host to any other.

    program [options] n2 command ──▶ folder/n2, a socket ──▶ server on n2: sh -c command
            └── its stdin, stdout and stderr go along (SCM_RIGHTS); the exit status comes back

What it runs has the environment of a user who has just come to the host. Each call is noted in `folder/calls`. Where
`folder/one-way` exists, hosts let in nobody but the login host's users.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.bed import Cluster

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST = 1 << 20  # bytes of a command


class RemoteShell:
    """Servers on the compute hosts that are on, until the block is left.

    Attributes: `program`, which is called in place of ssh.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        self.program, self._calls = folder / "remote", folder / "calls"
        self._servers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> RemoteShell:
        self._folder.mkdir()
        self._calls.touch()
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {self._folder} "$@"\n')
        self.program.chmod(0o755)
        for host in self._cluster.names:
            command = [sys.executable, "-I", "-S", __file__, self._folder, "--serve", host]
            server = self._cluster.popen(command, host=host, stdout=subprocess.PIPE, text=True)
            self._servers.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n", host
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            os.killpg(server.pid, 9)
            server.communicate()

    def variables(self) -> dict[str, str]:
        """Return what has launchers call it."""
        hydra = {"HYDRA_LAUNCHER": "ssh", "HYDRA_LAUNCHER_EXEC": str(self.program)}
        return hydra | {"PRTE_MCA_plm": "ssh", "PRTE_MCA_plm_ssh_agent": str(self.program)}

    def calls(self) -> list[tuple[str, str]]:
        """Return who has called whom since this was last asked."""
        calls = [tuple(line.split()) for line in self._calls.read_text().splitlines()]
        self._calls.write_text("")
        return calls

    def only_from_login(self) -> None:
        """From here on, hosts let nobody else in."""
        (self._folder / "one-way").touch()


def serve(folder: Path, host: str) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / host))
        door.listen(64)
        print("ready", flush=True)
        while True:
            visitor, _ = door.accept()
            threading.Thread(target=answer, args=(visitor,), daemon=True).start()


def answer(visitor: socket.socket) -> None:
    with visitor:
        command, streams, *_ = socket.recv_fds(visitor, MOST, 3)
        environ = {"PATH": PATH, "HOME": "/", "USER": "root"}
        with subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=streams[0], stdout=streams[1], stderr=streams[2], cwd="/", env=environ
        ) as shell:
            for stream in streams:
                os.close(stream)
            code = shell.wait()
        visitor.sendall(bytes([code if code >= 0 else 128 - code]))


def call(folder: Path, words: list[str]) -> int:
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] == "-o" else words[1:]
    host, command = words[0], " ".join(words[1:])
    caller = os.uname().nodename
    with (folder / "calls").open("a") as file:
        file.write(f"{caller} {host}\n")
    if caller != "login" and (folder / "one-way").exists():
        print(f"remote: {host} does not let {caller} in", file=sys.stderr)
        return 255
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(folder / host))
        socket.send_fds(line, [command.encode()], [0, 1, 2])
        return next(iter(line.recv(1)), 255)


if __name__ == "__main__":
    if sys.argv[2] == "--serve":
        serve(Path(sys.argv[1]), sys.argv[3])
    sys.exit(call(Path(sys.argv[1]), sys.argv[2:]))
