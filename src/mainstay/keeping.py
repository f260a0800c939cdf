"""What a pool with a journal does besides: finished calls go in, and those that are in need not run.

submit ──▶ entry_of ──▶ find ──▶ a future that is done, or one that follows the same call under way; else it runs
outcome of a task ──▶ keep ──▶ the journal, and on to the future
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, NamedTuple

from mainstay.errors import PoolBroken, TaskTimeout, WorkerDied
from mainstay.journal import installed
from mainstay.journal.journal import Journal
from mainstay.journal.keys import call_key, explicit_key, function_key, version_of
from mainstay.journal.record import FunctionInfo, Kept, Record
from mainstay.node.worker import describe_error
from mainstay.options import Options
from mainstay.orders import Task
from mainstay.outcomes import KeepsNothing, Outcome, deliver, rebuild_error
from mainstay.wire.frames import Kind
from mainstay.wire.functions import Function
from mainstay.wire.payload import load

COPIED = 1 << 20  # bytes of arrays that are copied, so that the result need not wait for the disk


class Entry(NamedTuple):
    """What the journal will call a task."""

    key: bytes
    function: FunctionInfo
    label: str


class Known:
    """What is told of a function, and its key once it was asked for."""

    __slots__ = ("info", "key")

    def __init__(self, info: FunctionInfo) -> None:
        self.info, self.key = info, b""


class Keeper(KeepsNothing):
    """Stands between a pool and its journal. `keep` and `forget` want the broker's lock held."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._known: dict[int, Known] = {}  # by the function's number
        self._under_way: dict[bytes, Future[Any]] = {}
        self._claiming = threading.Lock()  # of two threads that submit one call, one runs it

    # -- calls that come

    def entry_of(self, fn: Callable[..., Any], function: Function, options: Options, args: Any, kwargs: Any) -> Entry:
        """Return what a call is known by. Raises `UnreliableKey` where that cannot be told."""
        known = self._known.get(function.number) or self._learn(fn, function)
        given = options.key
        if given is None:
            key = call_key(known.key or self._learn_key(fn, known), args, kwargs, fn)
        else:
            key = explicit_key(given(*args, **kwargs) if callable(given) else given)
        return Entry(key, known.info, options.label or function.name)

    def _learn(self, fn: Callable[..., Any], function: Function) -> Known:
        inner = getattr(fn, "func", fn)  # of a partial
        version = version_of(inner) or installed.version(str(getattr(inner, "__module__", "")))
        known = self._known[function.number] = Known(FunctionInfo(function.name, version))
        return known

    def _learn_key(self, fn: Callable[..., Any], known: Known) -> bytes:
        known.key = function_key(fn)
        return known.key

    def find(
        self, entry: Entry, options: Options, future: Future[Any], again: Callable[[], Future[Any]]
    ) -> Future[Any] | None:
        """Return a future for a call that finished before, or is under way; None: it must run, as `future`.

        `again` submits it anew, should the one under way be cancelled.
        """
        with self._claiming:
            leader = self._under_way.get(entry.key)  # before the journal is asked, into which it goes before it ends
            if leader is None or leader.done():
                leader = None
                if not self.journal.has(entry.key, failed_too=not options.retry_failed):
                    self._under_way[entry.key] = future
                    return None
        if leader is None:
            found = self._restored(entry.key)
            if found is None:
                self._under_way[entry.key] = future
            return found
        follower: Future[Any] = Future()
        leader.add_done_callback(lambda leader: self._follow(leader, follower, entry.key, again))
        return follower

    def ends(self, entry: Entry, future: Future[Any]) -> None:
        """A call is no longer under way; another of the same key, begun since, still is."""
        if self._under_way.get(entry.key) is future:
            self._under_way.pop(entry.key, None)

    def _restored(self, key: bytes) -> Future[Any] | None:
        future: Future[Any] = Future()
        try:
            kept = self.journal.load(key)
            if kept.failed:
                future.set_exception(rebuild_error(kept.body, kept.host, str(kept.worker)))
            else:
                future.set_result(unwrap(kept))
        except Damaged:
            self.journal.doubt(key)
            return None  # its class has changed or gone: it runs again
        except Exception as error:  # and not Ctrl-C, which is the caller's
            future.set_exception(error)
        return future

    def _follow(self, leader: Future[Any], follower: Future[Any], key: bytes, again: Callable[[], Future[Any]]) -> None:
        """Give the follower a result of its own: the leader's owner may change what it got."""
        if not follower.set_running_or_notify_cancel():
            return
        try:
            if leader.cancelled():
                self._again(follower, again)
            elif leader.exception() is None and self.journal.has(key, failed_too=False):
                follower.set_result(unwrap(self.journal.load(key)))
            else:
                pass_on(leader, follower)
        except BaseException as error:
            follower.set_exception(error)

    def _again(self, follower: Future[Any], again: Callable[[], Future[Any]]) -> None:
        """Run the call of a follower whose leader was cancelled; where the pool takes no more, it is cancelled too."""
        try:
            future = again()
        except PoolBroken:
            raise
        except RuntimeError:
            raise CancelledError from None
        future.add_done_callback(lambda future: pass_on(future, follower))

    # -- calls that have ended

    def keep(self, task: Task, outcome: Outcome, seconds: float) -> bool:
        """Put a task's end into the journal; say whether the journal will deliver it, when it is on disk.

        It does so in place of a copy, where there are large arrays: their owner might change them before.
        """
        entry: Entry | None = task.entry
        if entry is None:
            return False
        waits = self._put(entry, task, outcome, seconds)
        if not waits:
            self.ends(entry, task.future)  # only now: who finds it no longer under way is to find it in the journal
        return waits

    def _put(self, entry: Entry, task: Task, outcome: Outcome, seconds: float) -> bool:
        payload = payload_of(outcome)
        if payload is None:
            return False
        failed, body, buffers = payload
        waits = self.journal.each or not is_small(buffers)
        self.journal.append(
            Record(
                entry.key,
                failed,
                entry.function,
                entry.label,
                outcome.host or getattr(outcome.error, "host", ""),
                outcome.worker,
                time.time() - seconds,
                seconds,
                task.attempt + 1,
                bytes(body),
                buffers if waits else copied(buffers),
            ),
            partial(self._deliver, entry, outcome) if waits else None,
        )
        return waits

    def _deliver(self, entry: Entry, outcome: Outcome) -> None:
        """Deliver what is on disk now; those who follow it had to wait for that, too."""
        deliver([outcome])
        self.ends(entry, outcome.future)

    def keep_item(
        self, entry: Entry, failed: bool, body: bytes, buffers: Any, worker: str, started: float, seconds: float
    ) -> None:
        """Put an item of a `map` into the journal."""
        host, _, number = worker.rpartition("/")
        record = Record(
            entry.key, failed, entry.function, entry.label, host, int(number), started, seconds, 1,
            body, copied(buffers) if is_small(buffers) else buffers,
        )  # fmt: skip
        self.journal.append(record)

    def forget(self, task: Task) -> None:
        """A call is no longer under way."""
        if task.entry is not None:
            self.ends(task.entry, task.future)

    def close(self) -> None:
        """Write what waits."""
        self.journal.close()


def payload_of(outcome: Outcome) -> tuple[bool, Any, Any] | None:
    """Return `(failed, body, buffers)` of what became of a task; None where it did not end by itself."""
    if outcome.frame is not None:
        return outcome.frame.kind == Kind.ERROR, outcome.frame.body, outcome.frame.buffers
    if isinstance(outcome.error, (TaskTimeout, WorkerDied)):
        return True, describe_error(outcome.error), ()
    return None


def is_small(buffers: Any) -> bool:
    return not buffers or sum(map(len, buffers)) <= COPIED


def copied(buffers: Any) -> Any:
    return [bytes(buffer) for buffer in buffers] if buffers else ()


class Damaged(Exception):
    """A kept result cannot be unpickled."""


def unwrap(kept: Kept) -> Any:
    """Return the result of a call that was kept, or raise its exception; raises `Damaged` where neither can be had."""
    if kept.failed:
        raise rebuild_error(kept.body, kept.host, str(kept.worker))
    try:
        return load(kept.body, kept.buffers)  # type: ignore[arg-type]
    except Exception as error:
        raise Damaged(str(error)) from error


def pass_on(one: Future[Any], other: Future[Any]) -> None:
    """Give a future what another has."""
    if one.cancelled():
        other.set_exception(CancelledError())  # it runs, by its own word, and so can no longer be cancelled
    elif (error := one.exception()) is not None:
        other.set_exception(error)
    else:
        other.set_result(one.result())
