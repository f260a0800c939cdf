"""A pool behind the execution-strategy interface that calibration frameworks such as SYMFLUENCE call.

strategy.startup() ─▶ execute(tasks, worker_func, max_workers) ─▶ … ─▶ shutdown()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from mainstay.errors import PoolBroken
from mainstay.executor import Executor
from mainstay.marks import mark

TaskDict = Mapping[str, Any]


class PersistentStrategy:
    """Keeps one pool over all calls of `execute`, so that a hundred batches cost one start.

    Args:
        executor_options: what `mainstay.Executor` takes by keyword, such as `launcher="mpiexec"`.
    """

    name = "mainstay"
    is_persistent = True

    def __init__(self, **executor_options: Any) -> None:
        self._options = executor_options
        self._executor: Executor | None = None
        self._size: int | None = None

    def startup(self, max_workers: int | None = None) -> None:
        """Start the pool now, with as many workers (None: one for each slot or core); nothing if it stands."""
        if self._executor is None:
            self._executor = Executor(max_workers, **self._options)
            self._size = max_workers

    def execute(
        self, tasks: Sequence[TaskDict], worker_func: Callable[[Any], Any], max_workers: int | None = None
    ) -> list[Any]:
        """Return `worker_func(task)` for each task (a dict), in their order.

        Args:
            tasks: what to do; may be empty, and may be more or fewer than the workers.
            worker_func: any callable, another one each time if need be.
            max_workers: how many tasks may run at once; a standing pool that is smaller is started anew.

        A task that raises does not disturb the others. Its result is an error result: a dict with the task's
        own `individual_id` (or None), `error` (type and text of the exception, str), `exception` (the exception
        itself, with the remote traceback as its cause) and `score` None. Raises `LaunchError` when no launcher works.
        """
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers must be None or an int >= 1; given: {max_workers!r}")
        if not tasks:
            return []
        executor = self._standing(max_workers)
        mark("batch")
        submit: Callable[..., Future[Any]] = executor.submit
        if max_workers is not None and max_workers < executor.size:
            submit = _bounded(submit, max_workers)
        futures = [submit(worker_func, task) for task in tasks]
        return [_result(future, task) for future, task in zip(futures, tasks, strict=True)]

    def shutdown(self) -> None:
        """End the pool; the next `execute` starts a new one."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def _standing(self, wanted: int | None) -> Executor:
        """Return a pool of at least the size that is wanted, started once for all calls."""
        too_small = self._size is not None and wanted is not None and wanted > self._size
        if self._executor is not None and (self._executor.is_broken or too_small):
            self.shutdown()
        self.startup(wanted)
        assert self._executor is not None
        return self._executor

    def __enter__(self) -> PersistentStrategy:
        self.startup()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()


def _bounded(submit: Callable[..., Future[Any]], most: int) -> Callable[..., Future[Any]]:
    """Return a `submit` that waits while `most` of its calls are under way."""
    free = threading.Semaphore(most)

    def submit_when_free(*call: Any) -> Future[Any]:
        free.acquire()
        future = submit(*call)
        future.add_done_callback(lambda _: free.release())
        return future

    return submit_when_free


def _result(future: Future[Any], task: TaskDict) -> Any:
    try:
        return future.result()
    except PoolBroken:
        raise
    except (Exception, CancelledError) as error:
        identity = task.get("individual_id") if isinstance(task, Mapping) else None
        return {
            "individual_id": identity,
            "score": None,
            "error": f"{type(error).__name__}: {error}",
            "exception": error,
        }
