"""A malleable program on one rank of its gang: it goes from point to point, and at each it may be told to pause.

    next, send ─▶ the program's generator ─▶ a state, yielded ─▶ rank 0 has all ranks' ─▶ the client keeps them (STATE)
                                                                     └─ told to pause? all hear of it, and hand over

A rank whose program returns says so at the point that the others have come to: all return together, or it is an error,
where otherwise each would wait for the other for ever.

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

    from mainstay.node.context import Point

App = Callable[..., Generator[Any, Any, Any]]
Redistribute = Callable[[list[Any], int], list[Any]]


class World:
    """What a malleable program is given: who takes part until its next point, and from what it goes on.

    `comm` (an mpi4py Intracomm), `rank` and `size` (int); `state`: what this rank goes on from, None at the beginning.
    """

    def __init__(self, comm: Intracomm, state: Any) -> None:
        self.comm, self.rank, self.size, self._state = comm, comm.rank, comm.size, state
        self.is_known = state is None  # whether the program knows from what it is to go on

    @property
    def state(self) -> Any:
        self.is_known = True
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self.is_known, self._state = True, state


def run_malleable(app: App, redistribute: Redistribute | bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """In each rank of a gang: run the program until it returns, or is told to pause."""
    comm, point = context.comm(), context.point
    assert point is not None
    share = comm.scatter(_shared(point.resumed(), redistribute, comm.size) if comm.rank == 0 else None)
    world = World(comm, share)
    program = _checked(app(world, *args, **kwargs), app)
    state, result, has_returned = None, None, False
    pauses, returned = False, list[int]()
    while not (pauses or returned):
        try:
            state = program.send(state)
        except StopIteration as stop:
            state, result, has_returned = None, stop.value, True
        came = comm.gather((has_returned, state, world.is_known))
        pauses, returned = comm.bcast(None if came is None else _look(point, came))
    if 0 < len(returned) < comm.size:
        raise RuntimeError(
            f"of a malleable program, rank {returned[0]} has returned where others have yielded; "
            f"all {comm.size} ranks must yield equally often"
        )
    program.close()
    point.paused = pauses
    return result


def _checked(program: object, app: App) -> Generator[Any, Any, Any]:
    """Return what a program has given; raise `TypeError` where that is no generator."""
    if not isinstance(program, Generator):
        raise TypeError(
            "malleable= wants a generator function, such as `def app(world): … yield state`; "
            f"{app!r} returned {program!r}"
        )
    return program


def _look(point: Point, came: list[tuple[bool, Any, bool]]) -> tuple[bool, list[int]]:
    """In rank 0, return whether all are to pause, and which ranks have returned.

    Of each rank it is given whether it has returned, its state, and whether it knows from what it was to go on.
    """
    if not any(is_known for *_, is_known in came):
        raise RuntimeError(
            "a malleable program was begun anew, to go on from what it had yielded last, and did not read world.state; "
            "begin with that where it is not None, as in `state = first() if world.state is None else world.state`"
        )
    returned = [rank for rank, (has_returned, *_) in enumerate(came) if has_returned]
    return not returned and point.reached([state for _, state, _ in came]), returned


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
