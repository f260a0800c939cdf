"""A slot: what the MPI launcher starts as each rank. It lends its identity to a worker, and sleeps.

    mpiexec -n N ──▶ slot ── identity (variables, PMI's descriptor) ──▶ agent ──▶ a worker, which is then that rank

The launcher never sees a worker die: the slot ignores SIGUSR1, by which MPICH's launcher tells of deaths, and always
ends with exit code 0, when its agent does or when the launcher is ended. It is run as a file, without `site` and
without this package, and imports two modules of C: fifty of them cost a node next to nothing. Of a staged pool, it is
the file of the node's own copy, run by the Python of that (see `mainstay.launch.slots`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import sys

COMMAND = (sys.executable, "-I", "-S", __file__)  # and the name of the agent's door
# What process managers tell their ranks; a worker that has these, and the descriptor, is the rank.
PREFIXES = (b"PMI", b"OMPI_", b"OPAL_", b"PRTE_", b"MPI_LOCAL", b"HYD", b"MPIR_", b"SLURM_")
RANKS = (b"OMPI_COMM_WORLD_RANK", b"PMIX_RANK", b"PMI_RANK", b"PMI_ID", b"SLURM_PROCID")
SOL_SOCKET, SCM_RIGHTS = _socket.SOL_SOCKET, _socket.SCM_RIGHTS


def identity() -> bytes:
    """Return the rank and the process manager's variables: words that end with a zero byte each."""
    told = {name: value for name, value in posix.environ.items() if name.startswith(PREFIXES)}
    rank = next(told[name] for name in RANKS if name in told)
    return b"\0".join([rank, *(name + b"=" + value for name, value in told.items())])


def lend(door: str) -> None:
    """Give the identity to the agent whose door has that name, and sleep until the agent ends."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sock.connect("\0" + door)
    fd = posix.environ.get(b"PMI_FD")
    rights = [] if fd is None else [(SOL_SOCKET, SCM_RIGHTS, int(fd).to_bytes(4, sys.byteorder))]
    sock.sendmsg([identity()], rights)
    sock.recv(1)


if __name__ == "__main__":
    try:
        _signal.signal(_signal.SIGUSR1, _signal.SIG_IGN)
        lend(sys.argv[1])
    except BaseException as error:
        sys.stderr.write(f"a slot could not lend its rank: {error!r}\n")
        sys.stderr.flush()
    finally:
        posix._exit(0)
