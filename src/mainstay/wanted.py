"""Which workers a call wants, where it wants several: its options as the scheduler knows them."""

from __future__ import annotations

from functools import lru_cache

from mainstay.enrolment import Enrolments
from mainstay.errors import GangError
from mainstay.holds import Holds
from mainstay.options import Options
from mainstay.orders import Members, Ranks
from mainstay.registrar import Registrar
from mainstay.roster import Roster


def wanted(
    options: Options, enrolments: Enrolments, roster: Roster, registrar: Registrar, is_program: bool
) -> tuple[Ranks | None, Members | None]:
    """Return the workers that a call, or a program, wants, None: one; and of whom that one is to be, None: of all.

    Raises `GangError`, `ProcessSetError` or `ValueError` where the pool can never have them.
    """
    gang = None
    if options.ranks is not None:
        gang = _ranks(options.ranks, options.gather, is_program)
        enrolments.check(gang, options.ranks)
    elif options.is_alone:
        return _alone(options, roster), None
    members = None
    if options.on is not None:
        gang, members = registrar.narrowed(gang, options.on)
    if gang is not None and (why_not := enrolments.division(gang)) and roster.is_complete():
        raise GangError(why_not)
    return gang, members


@lru_cache
def _ranks(ranks: int | tuple[int, int] | str, gather: str, is_program: bool) -> Ranks:
    """Return the option `ranks` as the scheduler knows it; calls say the same again and again."""
    least, most = (1, 1) if isinstance(ranks, str) else (ranks, ranks) if isinstance(ranks, int) else ranks
    scope = ranks if isinstance(ranks, str) else "pool"
    return Ranks(least, most, scope, root_only=gather == "root", alone=is_program, is_program=is_program)


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
