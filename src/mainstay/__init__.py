"""MPI workers that stay: many Python tasks on an HPC allocation or a laptop, behind a standard executor."""

from __future__ import annotations

__version__ = "0.1.0.dev0"

TYPE_CHECKING = False  # as type checkers take it; `typing` itself would be thirty modules more
if TYPE_CHECKING:
    from typing import Any

    from mainstay.errors import (
        AllocationEnding,
        GangError,
        GrowError,
        InitializerFailed,
        JournalError,
        JournalInUse,
        LaunchError,
        MainstayError,
        PayloadError,
        PoolBroken,
        PreloadFailed,
        ProcessSetError,
        ProgramFailed,
        RemoteError,
        RemoteTraceback,
        ScratchError,
        ScratchFull,
        StageError,
        StagingError,
        TaskTimeout,
        UnreliableKey,
        WorkerDied,
    )
    from mainstay.executor import Executor
    from mainstay.journal.keys import memo
    from mainstay.node.context import comm, task
    from mainstay.node.malleable import World
    from mainstay.node.program import Completed
    from mainstay.node.psets import psets
    from mainstay.node.scratch import scratch, staged
    from mainstay.process_sets import ProcessSet
    from mainstay.stage.staged import Stage

_PLACES = {
    "Completed": "node.program",
    "Executor": "executor",
    "ProcessSet": "process_sets",
    "Stage": "stage.staged",
    "World": "node.malleable",
    "comm": "node.context",
    "memo": "journal.keys",
    "psets": "node.psets",
    "scratch": "node.scratch",
    "staged": "node.scratch",
    "task": "node.context",
    **dict.fromkeys(
        (
            "AllocationEnding",
            "GangError",
            "GrowError",
            "InitializerFailed",
            "JournalError",
            "JournalInUse",
            "LaunchError",
            "MainstayError",
            "PayloadError",
            "PoolBroken",
            "PreloadFailed",
            "ProcessSetError",
            "ProgramFailed",
            "RemoteError",
            "RemoteTraceback",
            "ScratchError",
            "ScratchFull",
            "StageError",
            "StagingError",
            "TaskTimeout",
            "UnreliableKey",
            "WorkerDied",
        ),
        "errors",
    ),
}

__all__ = [
    "AllocationEnding",
    "Completed",
    "Executor",
    "GangError",
    "GrowError",
    "InitializerFailed",
    "JournalError",
    "JournalInUse",
    "LaunchError",
    "MainstayError",
    "PayloadError",
    "PoolBroken",
    "PreloadFailed",
    "ProcessSet",
    "ProcessSetError",
    "ProgramFailed",
    "RemoteError",
    "RemoteTraceback",
    "ScratchError",
    "ScratchFull",
    "Stage",
    "StageError",
    "StagingError",
    "TaskTimeout",
    "UnreliableKey",
    "WorkerDied",
    "World",
    "comm",
    "memo",
    "psets",
    "scratch",
    "staged",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'mainstay' has no attribute {name!r}; it has: {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(f"mainstay.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
