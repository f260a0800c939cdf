"""Plays the events of all threads once more, in their order: who was in which phase, directory and process.

A thread is in phases one inside the other, by its marks; a child begins where its parent was when it forked.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import NamedTuple

from mainstay.audit.events import Directory, Event, Fork, Mark, Operation, Process, Program, Seen

START, OTHER, REST = "interpreter start", "other programs", "the program itself"
IMPORTS, TASKS, LATE_IMPORTS = "imports", "tasks", "imports in tasks"
PHASES = (START, IMPORTS, TASKS, LATE_IMPORTS, REST, OTHER)
AGENT = "mainstay.node"


class State(NamedTuple):
    """Where a thread is."""

    process: int
    directory: str
    program: int  # which of those that were begun
    inside: tuple[str, ...] = ()  # phases
    is_up: bool = False  # its interpreter has told of itself


class Replay(NamedTuple):
    seen: list[Seen]
    processes: dict[int, Process]
    batches: int


class Player:
    """Takes events in the order of their times."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._states: dict[int, State] = {}
        self._programs: list[tuple[str, ...]] = [()]
        self._up: set[int] = set()  # programs that turned out to be interpreters
        self._found: list[tuple[Operation, State, int]] = []
        self._processes: dict[int, Process] = {}
        self._batches = 0

    def play(self, events: Iterable[Event]) -> Replay:
        for event in events:
            state = self._states.get(event.thread)
            if state is None:
                state = self._states[event.thread] = State(event.thread, self._directory, 0)
                self._enter(Process(event.thread, 0, "program", ""))
            self._play(event, state)
        seen = [self._seen(*found) for found in self._found]
        return Replay(seen, self._processes, self._batches)

    def _play(self, event: Event, state: State) -> None:
        if isinstance(event, Operation):
            self._found.append((event, state, self._batches))
        elif isinstance(event, Fork):
            self._fork(event, state)
        elif isinstance(event, Program):
            self._begin(event, state)
        elif isinstance(event, Mark):
            self._mark(event, state)
        elif isinstance(event, Directory):
            moved = os.path.normpath(os.path.join(state.directory, event.path))
            self._states[event.thread] = state._replace(directory=moved)

    def _fork(self, event: Fork, state: State) -> None:
        if event.is_thread:  # its parent waits for nothing that it does
            self._states[event.child] = state._replace(inside=())
            return
        self._states[event.child] = state._replace(process=event.child)
        parent = self._processes[state.process]
        role = "worker" if parent.role == "agent" else parent.role
        self._enter(Process(event.child, parent.pid, role, parent.command))

    def _begin(self, event: Program, state: State) -> None:
        self._programs.append(event.argv)
        inside = tuple(name for name in state.inside if name == "task")  # what a task starts is the task's
        self._states[event.thread] = State(state.process, state.directory, len(self._programs) - 1, inside)
        here = self._processes[state.process]
        self._enter(here._replace(role=role_of(event.argv), command=shlex.join(event.argv)))

    def _mark(self, event: Mark, state: State) -> None:
        turn, _, name = event.name.partition("/")
        if turn == "up":
            self._up.add(state.program)
            state = state._replace(is_up=True)
        elif turn == "begin":
            state = state._replace(inside=(*state.inside, name))
        elif turn == "end" and name in state.inside:
            last = len(state.inside) - 1 - state.inside[::-1].index(name)
            state = state._replace(inside=state.inside[:last])
        elif turn == "batch":
            self._batches += 1
        self._states[event.thread] = state

    def _enter(self, process: Process) -> None:
        self._processes[process.pid] = process

    def _seen(self, operation: Operation, state: State, batch: int) -> Seen:
        path = os.path.normpath(os.path.join(state.directory, operation.below, operation.path))
        at, _, kind, *_, error = operation
        return Seen(at, state.process, self._phase(state), batch, kind, path, error)

    def _phase(self, state: State) -> str:
        if "import" in state.inside:
            return LATE_IMPORTS if "task" in state.inside else IMPORTS
        if "task" in state.inside:
            return TASKS
        if state.is_up:
            return REST
        argv = self._programs[state.program]
        return START if state.program in self._up or _is_python(argv) else OTHER


def play(events: Iterable[Event], directory: str) -> Replay:
    """Return all operations in their phases, and the processes; the first process began in this directory."""
    return Player(directory).play(sorted(events, key=lambda event: event.at))


def role_of(argv: tuple[str, ...]) -> str:
    """Tell what a program is, by its words."""
    if any(AGENT in word for word in argv[1:]):
        return "agent" if _is_python(argv) else "launcher"
    return "Python" if _is_python(argv) else "program"


def _is_python(argv: tuple[str, ...]) -> bool:
    return bool(argv) and os.path.basename(argv[0]).startswith("python")
