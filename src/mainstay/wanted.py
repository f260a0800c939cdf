"""Which workers a call wants, where it wants several: its options as the scheduler knows them."""

from __future__ import annotations

from dataclasses import replace

from mainstay.enrolment import Enrolments
from mainstay.holds import Holds
from mainstay.options import Options
from mainstay.orders import Ranks
from mainstay.roster import Roster


def wanted(options: Options, enrolments: Enrolments, roster: Roster, is_program: bool) -> Ranks | None:
    """Return the workers that a call wants, or a program's ranks; None: any one.

    Raises `GangError` or `ValueError` where the pool can never have them.
    """
    if options.ranks is not None:
        ranks = enrolments.checked(options.ranks, options.gather, is_program=is_program)
        return replace(ranks, alone=True, is_program=True) if is_program else ranks
    return _alone(options, roster) if options.is_alone else None


def _alone(options: Options, roster: Roster) -> Ranks:
    """The call wants a node, or cores of it, for itself."""
    nodes = (options.nodes,) if isinstance(options.nodes, str) else options.nodes
    alone = Ranks(
        scope="node" if options.exclusive else "cores",
        nodes=None if nodes is None else frozenset(nodes),
        alone=True,
        cores=options.cores or 0,
    )
    if roster.is_complete():
        holds = Holds()
        holds.cores = roster.cores
        why_not = holds.shortage(alone, roster.kept())
        if why_not:
            raise ValueError(why_not)
    return alone
