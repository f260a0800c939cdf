"""How slots are started: what stands behind the MPI launcher on its command line, see `mainstay.node.slot`.

Where agents run from their nodes' own copies of the environment, slots do so too: from the shared file system, each
would ask for some 80 names, all of them at the same moment. Each agent says what runs there. One launch has one command
line for all its hosts; where copies lie in different places, a shell looks which is its host's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mainstay.launch import LIBRARIES

# The words behind it: the door, and for each host its name and the command of its slots. A slot always ends with 0.
BY_HOST = """
read -r here </proc/sys/kernel/hostname
while [ $# -gt 0 ]; do
    [ "$1" = "$here" ] && eval "exec $2" '"$0"'
    shift 2
done
echo "a slot could not lend its rank: there is no agent of this pool on $here" >&2
exit 0
"""


class Lenders(NamedTuple):
    """The slots of one namespace: the name of the door at their agents, and what runs them on each host.

    `staged` says whether all of these run from their hosts' own copies of the environment, and `tree` where these are,
    if they are at one place on all hosts.
    """

    door: str
    commands: Mapping[str, Sequence[str]]
    staged: bool = False
    tree: str = ""

    def command(self) -> list[str]:
        """Return the command of a slot, whichever host it is on."""
        first, *others = self.commands.values()
        if all(other == first for other in others):
            return [*first, self.door]
        words = (word for host, command in self.commands.items() for word in (host, shlex.join(command)))
        return ["/bin/sh", "-c", BY_HOST, self.door, *words]

    @property
    def hidden(self) -> tuple[str, ...]:
        """Variables that launchers keep from slots: the loader would look in all that these name, for each library."""
        return (LIBRARIES,) if self.staged else ()

    @property
    def directory(self) -> str | None:
        """Where launchers start slots; None: here. Staged ones must not so much as look at a shared file system."""
        return "/" if self.staged else None
