"""`local`: one agent on this host, as a subprocess. Needs no MPI."""

from __future__ import annotations

from mainstay.launch import Invitation
from mainstay.launch.process import RANK_VARIABLES, Process


class Local:
    """Starts one agent on this host."""

    name = "local"
    most_workers = None

    def why_not(self) -> str | None:
        return None

    def start(self, invitation: Invitation) -> Process:
        hidden = (*RANK_VARIABLES, *invitation.hidden)
        return Process(invitation.command(), invitation.environment(), hidden=hidden, directory=invitation.directory)


LAUNCHER = Local()
