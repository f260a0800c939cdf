"""`make cluster`: brings a cluster up, opens a shell on its login host, and takes it down when the shell ends.

Where there is no terminal, it stays up until end-of-file, SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.bed import Cluster
from cluster.commands import environment
from cluster.install import Unavailable, ensure_slurm
from cluster.namespaces import BedError

WELCOME = """\
A Slurm cluster of {nodes} hosts ({names}) with {cpus} CPUs each, up in {seconds:.1f} s.
  sinfo · srun -N{nodes} -l hostname · salloc -N2 · sbatch job.sh · and `python`, `mpiexec` of the environment
  {shared}     seen by all hosts; /tmp and /dev/shm are each host's own
  {log}     what the daemons say
A shell on its login host, from any other terminal:

{line}
"""


def main() -> None:
    options = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        ensure_slurm()
        begun = time.monotonic()
        with Cluster(options.nodes, options.cpus) as cluster:
            print(_welcome(cluster, options, time.monotonic() - begun), flush=True)
            _shell(cluster) if sys.stdin.isatty() else sys.stdin.read()
    except (Unavailable, BedError) as error:
        sys.exit(f"make cluster: {error}")
    except KeyboardInterrupt:
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make cluster", description="A real Slurm cluster on this machine.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=4, help="CPUs that each host claims to have")
    return parser.parse_args()


def _welcome(cluster: Cluster, options: argparse.Namespace, seconds: float) -> str:
    return WELCOME.format(
        nodes=options.nodes,
        names=", ".join(cluster.names),
        cpus=options.cpus,
        seconds=seconds,
        shared=cluster.shared,
        log=cluster.layout.log,
        line=cluster.line(),
    )


def _shell(cluster: Cluster) -> None:
    """An interactive shell, in which a Ctrl-C is for what runs in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("Leave this shell, and the cluster is taken down.", flush=True)
    command = cluster.login.command(["env", "--default-signal=INT", "bash"], Path.cwd())
    subprocess.run(command, env=environment(cluster.layout), check=False)


if __name__ == "__main__":
    main()
