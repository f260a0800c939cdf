"""Commands on the hosts of a bed: `nsenter` into the namespaces of a host, with a user's environment."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.install import PATH
from cluster.namespaces import BedError, Namespaces
from cluster.slurm import Layout

FOREIGN = ("SLURM_", "SBATCH_", "SALLOC_", "PMI_", "PMIX_", "OMPI_", "PBS_", "LSB_")  # an allocation round the bed
# On these hosts the user is root, and there are fewer real cores than CPUs to which Open MPI would bind its ranks.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
CAPTURE: Mapping[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


def environment(layout: Layout) -> dict[str, str]:
    """The environment of a user on the cluster: that of this program, with Slurm, in an activated venv."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join([str(Path(sys.executable).parent), PATH])
    return kept | OPEN_MPI | {"SLURM_CONF": str(layout.configuration), "PATH": path}


class Commands:
    """Runs commands on hosts.

    Args:
        layout: that of the bed; commands run in its shared directory, unless `cwd` is given.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def start(self, place: Namespaces, argv: Sequence[object], **options: Any) -> subprocess.Popen[Any]:
        """Start a command; options are those of `subprocess.Popen`, and `env` is added to the user's environment."""
        directory = options.pop("cwd", self._layout.shared)
        variables = environment(self._layout) | options.pop("env", {})
        return subprocess.Popen(place.command(argv, directory), env=variables, start_new_session=True, **options)

    def run(
        self,
        place: Namespaces,
        argv: Sequence[object],
        *,
        check: bool = True,
        timeout: float = 60,
        input: str = "",
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return what it wrote; options are those of `subprocess.run`.

        Raises:
            BedError: it failed, unless `check=False`.
            subprocess.TimeoutExpired: it took longer than `timeout` seconds, and has been killed.
        """
        words = [str(word) for word in argv]
        with self.start(place, words, **CAPTURE | options) as process:
            try:
                output, errors = process.communicate(input, timeout)
            except BaseException:
                _kill(process)
                raise
        if check and process.returncode != 0:
            raise BedError(f"{shlex.join(words)} ended with {process.returncode}:\n{output}\n{errors}")
        return subprocess.CompletedProcess(words, process.returncode, output, errors)


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill nsenter and what it started: both are in the session that was made for them."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_daemons(host: Namespaces, layout: Layout, *commands: Sequence[object]) -> None:
    """Start daemons, each of which returns when it serves.

    Raises:
        BedError: one failed; tells what it wrote.
    """
    for command in commands:
        with tempfile.TemporaryFile("w+", dir=layout.log) as output:  # a daemon would hold a pipe open
            done = subprocess.run(host.command(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            output.seek(0)
            if done.returncode != 0:
                words = shlex.join(map(str, command))
                raise BedError(f"{words} ended with {done.returncode}: {output.read().strip()}")
