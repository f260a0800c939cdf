"""The command that starts an agent from a packed environment: a few lines for a node's own shell (`node.sh`).

The node's shell, tar, zstd (or gzip) and sha256sum do the work, since no Python of the environment can run before it
is there; one that lay on the shared file system would cost thousands of operations to start.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mainstay.stage.head import Manifest

# In the tree's Python: only what is in the tree is on the path, also where a distribution's Python adds its own, or has
# packages elsewhere. Told to look, it does no more than import.
HERE = """\
import os, site, sys
root = os.path.join(sys.prefix, sys.platlibdir, "python%d.%d" % sys.version_info[:2], "site-packages")
root in sys.path or site.addsitedir(root)
sys.path[:] = [path for path in sys.path if path.startswith(sys.prefix + "/")]
import mainstay.node.__main__ as node
sys.argv[1:] == ["look"] and sys.exit()
"""
AGENT = f"{HERE}sys.exit(node.main())"
# Where there is to be no agent yet, tells what one would be told.
UNPACKED = f"""{HERE}\
print("mainstay-tree", *(os.environ["MAINSTAY_STAGE_" + name] or "-" for name in ("TREE", "TOOK", "SENT")))
"""


# Before a shell that is to mount: where it may, it gets a name space for what it mounts, which ends with its processes.
# MPI ranks that are started beside it are to come in too. The programs are the system's: PATH may begin on the shared
# file system.
APART = """\
enter="$(PATH=/usr/bin:/bin:$PATH; command -v nsenter)"
apart="$(PATH=/usr/bin:/bin:$PATH; command -v unshare) --mount --propagation slave"
[ -n "$enter" ] && $apart /bin/true 2>/dev/null && MAINSTAY_STAGE_ENTER=$enter exec $apart /bin/sh -c "$0" "$@"
exec /bin/sh -c "$0" "$@"
"""


class Bootstrap(NamedTuple):
    """A packed environment, and how nodes come to run from it.

    `start` (bytes) is where its archive begins, which `program` unpacks; `size` (bytes) is the file's.
    """

    path: str
    manifest: Manifest
    start: int
    program: str
    size: int

    @property
    def travels(self) -> bool:
        """Whether nodes may as well be sent a copy: of an image, they read only what they use."""
        return self.program != "squashfs"

    def way(self, sent: int, of: int) -> str:
        """Return how nodes come to it, for people; `of` nodes have unpacked it, and `sent` of them a copy."""
        if not self.travels:
            return "mounted on each node"
        if not sent or of == 1:
            return "read once per node"
        return f"read once and sent to {'the' if sent == of else f'{sent} of {of}'} nodes"

    def command(self, shared: Sequence[str], sent: str = "", code: str = AGENT) -> list[str]:
        """Return the command that starts an agent.

        Args:
            shared: the command that starts it from the shared file system, for nodes where this cannot be done.
            sent: the path of a copy that was brought to the node, which is used and removed; empty: there is none.
            code: what the environment's Python runs.
        """
        held = self.manifest
        size = held.stamp if self.program == "squashfs" else held.size
        words = [self.path, sent, self.start, held.digest, held.files, size, held.room, self.program, code]
        shell = ["/bin/sh", "-c", APART] if self.program == "squashfs" else ["/bin/sh", "-c"]
        return [*shell, script(), "mainstay-stage", *map(str, words), *shared]


@cache
def script() -> str:
    """Return the shell's lines, without their comments: they travel on a command line."""
    lines = Path(__file__).with_name("node.sh").read_text().splitlines()
    code = (line.partition("  # ")[0].strip() for line in lines if not line.lstrip().startswith("#"))
    return "\n".join(filter(None, code))
