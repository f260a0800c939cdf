"""A malleable program on one rank of its gang: it goes from point to point, and at each it may be told to pause.

    next, send ─▶ the program's generator ─▶ a state, yielded ─▶ rank 0 has all ranks' ─▶ the client keeps them (STATE)
                                                                     └─ told to pause? all hear of it, and hand over

A gang that pauses has ended like any other: its workers are free, and its communicator is kept or freed. The next gang,
of other workers and as many ranks as there are then, goes on from the states that were yielded last. So it does when
a rank has died.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from mainstay.node import context

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

App = Callable[..., Generator[Any, Any, Any]]
Redistribute = Callable[[list[Any], int], list[Any]]


class World:
    """What a malleable program is given: who takes part until its next point, and from what it goes on.

    `comm` (an mpi4py Intracomm), `rank` and `size` (int); `state`: what this rank goes on from, None at the beginning.
    """

    def __init__(self, comm: Intracomm, state: Any) -> None:
        self.comm, self.rank, self.size, self.state = comm, comm.rank, comm.size, state


def run_malleable(app: App, redistribute: Redistribute | bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In each rank of a gang: run the program until it returns, or is told to pause."""
    comm, point = context.comm(), context.point
    assert point is not None
    states = comm.scatter(_shared(point.resumed(), redistribute, comm.size) if comm.rank == 0 else None)
    program = app(World(comm, states), *args, **kwargs)
    try:
        state = next(program)
        while not comm.bcast(point.reached(kept) if (kept := comm.gather(state)) is not None else None):
            state = program.send(state)
    except StopIteration as stop:
        return stop.value
    program.close()
    point.paused = True
    return None


def _shared(states: list[Any] | None, redistribute: Redistribute | bool, size: int) -> list[Any]:
    """Return what each of so many ranks goes on from."""
    if states is None:
        return [None] * size
    if len(states) == size:
        return states
    if not callable(redistribute):
        return [states[0]] * size
    shared = list(redistribute(states, size))
    if len(shared) != size:
        raise ValueError(f"malleable={redistribute!r} returned {len(shared)} states for {size} ranks")
    return shared
