"""What a pool with a journal does besides: finished calls go in, and those that are in need not run.

submit ──▶ entry_of ──▶ find ──▶ a future that is done, or one that follows the same call under way; else it runs
outcome of a task ──▶ keep ──▶ the journal, and on to the future
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from mainstay.contents import Contents
from mainstay.errors import PoolBroken, TaskTimeout, WorkerDied
from mainstay.journal import installed
from mainstay.journal.journal import Journal
from mainstay.journal.keys import call_key, explicit_key, function_key, gang_key, plain_key, version_of
from mainstay.journal.reach import Reach, Thing
from mainstay.journal.record import FunctionInfo, Kept, Record
from mainstay.journal.witness import Witness, witness
from mainstay.node.worker import describe_error
from mainstay.options import Options
from mainstay.orders import Task
from mainstay.outcomes import KeepsNothing, Outcome, deliver, rebuild_error
from mainstay.wire.frames import Frame, Kind
from mainstay.wire.functions import Function
from mainstay.wire.payload import load

NOT_KEPT = (
    "results that come from {name} are not kept: worker {worker} has it otherwise than this program had it when the "
    "call was submitted. It was set from outside of its module, or by a call, or its file was edited since it was "
    "imported. Give it as an argument, start the program again, or name the calls: ex.options(key=...)"
)
COPIED = 1 << 20  # bytes of arrays that are copied, so that the result need not wait for the disk


class Entry:
    """A call on its way into the journal: what it will be called there, and what its worker is to compare.

    While it is under way others may follow it: `options` are its own, and what it left is kept for those, where the
    journal does not have it.
    """

    __slots__ = ("followers", "function", "future", "key", "label", "left", "options", "witness")

    def __init__(self, key: bytes, function: FunctionInfo, label: str, witness: Witness | None = None) -> None:
        self.key, self.function, self.label, self.witness = key, function, label, witness
        self.future: Future[Any] | None = None
        self.options: Options | None = None
        self.followers = 0
        self.left: Kept | None = None

    @property
    def has_ended(self) -> bool:
        return self.future is None or self.future.done()


class Known:
    """What is told of a function; its key once it was asked for, what that was made from, and when it holds."""

    __slots__ = ("info", "key", "reach", "witness")

    def __init__(self, info: FunctionInfo) -> None:
        self.info, self.key, self.reach = info, b"", Reach()
        self.witness: Witness | None = None


class Keeper(KeepsNothing):
    """Stands between a pool and its journal. `keep`, `hear` and `forget` want the broker's lock held.

    `in_process` tells whether workers may share this process's modules.
    """

    def __init__(self, journal: Journal, in_process: Callable[[], bool]) -> None:
        self.journal, self._in_process = journal, in_process
        self._known: dict[int, Known] = {}  # by the function's number
        self._under_way: dict[bytes, Entry] = {}
        self._contents = Contents()
        self._claiming = threading.Lock()  # of two threads that submit one call, one runs it
        self._warned: set[str] = set()

    # -- calls that come

    def entry_of(self, fn: Callable[..., Any], function: Function, options: Options, args: Any, kwargs: Any) -> Entry:
        """Return what a call is known by. Raises `UnreliableKey` where that cannot be told."""
        known = self._known.get(function.number) or self._learn(fn, function)
        label, given = options.label or function.name, options.key
        if given is not None:
            return Entry(explicit_key(given(*args, **kwargs) if callable(given) else given), known.info, label)
        by_value = self._in_process()
        if not known.key or not known.reach.holds(by_value):
            self._learn_key(fn, known, by_value)
        key, compared = plain_key(known.key, args, kwargs, fn), known.witness
        if key is None:
            reach = Reach(told=known.reach.told)
            key = call_key(known.key, args, kwargs, fn, reach)
            compared = self._witness_of(known, reach.things, by_value)
        return Entry(self._joined(key, options), known.info, label, compared)

    def entries_of(
        self, fn: Callable[..., Any], function: Function, options: Options, rows: list[tuple[Any, ...]]
    ) -> tuple[list[Entry], Witness | None]:
        """Return the same for many calls of one function, and what the workers are to compare for all of them."""
        if options.key is not None:
            return [self.entry_of(fn, function, options, row, {}) for row in rows], None
        known = self._known.get(function.number) or self._learn(fn, function)
        label, by_value = options.label or function.name, self._in_process()
        if not known.key or not known.reach.holds(by_value):
            self._learn_key(fn, known, by_value)
        reach = Reach(told=known.reach.told)
        keys = (call_key(known.key, row, {}, fn, reach) for row in rows)
        entries = [Entry(self._joined(key, options), known.info, label) for key in keys]
        return entries, self._witness_of(known, reach.things, by_value)

    def _joined(self, key: bytes, options: Options) -> bytes:
        """Return a key with what counts of a call's options: what its files hold; how many ranks, and whose results."""
        if options.stage_in:
            key = self._contents.joined(key, options.stage_in)
        if options.ranks is not None:
            key = gang_key(key, options.ranks, options.gather, str(getattr(options.on, "name", options.on)))
        return key

    def _learn(self, fn: Callable[..., Any], function: Function) -> Known:
        inner = getattr(fn, "func", fn)  # of a partial
        version = version_of(inner) or installed.version(str(getattr(inner, "__module__", "")))
        known = self._known[function.number] = Known(FunctionInfo(function.name, version))
        return known

    def _learn_key(self, fn: Callable[..., Any], known: Known, by_value: bool) -> None:
        """Make the function's key: the first, or another since what it was made from has changed."""
        reach = Reach()
        known.key, known.reach = function_key(fn, reach), reach
        known.witness = witness(reach.things, by_value)

    def _witness_of(self, known: Known, things: set[Thing], by_value: bool) -> Witness | None:
        return witness(known.reach.things | things, by_value) if things else known.witness

    def find(
        self, entry: Entry, options: Options, future: Future[Any], again: Callable[..., Future[Any]], *call: Any
    ) -> Future[Any] | None:
        """Return a future for a call that finished before, or is under way; None: it must run, as `future`.

        `again(options, *call)` submits it anew, should the one under way be cancelled, or fail under options that are
        not its own.
        """
        with self._claiming:
            leader = self._under_way.get(entry.key)  # before the journal is asked, into which it goes before it ends
            if leader is not None and leader.has_ended:
                leader = None
            if leader is not None:
                leader.followers += 1
            elif not self.journal.has(entry.key, failed_too=not options.retry_failed):
                self._begins(entry, options, future)
                return None
        if leader is None:
            found = self._restored(entry.key)
            if found is None:
                self._begins(entry, options, future)
            return found
        follower: Future[Any] = Future()
        follows = partial(self._follow, leader, follower, options, partial(again, options, *call))
        assert leader.future is not None
        leader.future.add_done_callback(lambda _: follows())
        return follower

    def has(self, key: str, *, failed_too: bool = False) -> bool:
        """Whether the result of the call that the user calls so is kept; with `failed_too`, or its failure."""
        return self.journal.has(explicit_key(key), failed_too=failed_too)

    def _begins(self, entry: Entry, options: Options, future: Future[Any]) -> None:
        entry.future, entry.options = future, options
        self._under_way[entry.key] = entry

    def ends(self, entry: Entry) -> None:
        """A call is no longer under way; another of the same key, begun since, still is."""
        if self._under_way.get(entry.key) is entry:
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

    def _follow(self, leader: Entry, follower: Future[Any], options: Options, again: Callable[[], Future[Any]]) -> None:
        """Give the follower a result of its own: the leader's owner may change what it got."""
        if not follower.set_running_or_notify_cancel():
            return
        future, key = leader.future, leader.key
        assert future is not None
        assert leader.options is not None
        try:
            if future.cancelled():
                self._again(follower, again)
            elif future.exception() is not None and are_alike(options, leader.options):
                pass_on(future, follower)
            elif future.exception() is None and self.journal.has(key, failed_too=False):
                follower.set_result(unwrap(self.journal.load(key)))
            elif leader.left is not None:
                follower.set_result(restored(leader.left.body, [bytearray(one) for one in leader.left.buffers]))
            else:
                self._again(follower, again)
        except BaseException as error:
            follower.set_exception(error)

    def _again(self, follower: Future[Any], again: Callable[[], Future[Any]]) -> None:
        """Run the call of a follower that its leader does not serve; where the pool takes no more, it is cancelled."""
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
        record = record_of(entry, task, outcome, seconds)
        waits = record is not None and not task.future.unlike and self._put(entry, record, outcome)
        if entry.followers and record is not None and not record.failed:
            entry.left = self._left(record)
        if not waits:
            self.ends(entry)  # only now: who finds it no longer under way is to find it in the journal
        return waits

    def _put(self, entry: Entry, record: Record, outcome: Outcome) -> bool:
        waits = self.journal.each or not is_small(record.buffers)
        if record.buffers and not waits:
            record = record._replace(buffers=copied(record.buffers))
        self.journal.append(record, partial(self._deliver, entry, outcome) if waits else None)
        return waits

    def _left(self, record: Record) -> Kept | None:
        """Return a result for those that follow its call, where the journal does not have it for them."""
        if self.journal.has(record.key, failed_too=False):
            return None
        return Kept(False, record.body, copied(record.buffers))

    def _deliver(self, entry: Entry, outcome: Outcome) -> None:
        """Deliver what is on disk now; those who follow it had to wait for that, too."""
        deliver([outcome])
        self.ends(entry)

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

    def hear(self, tasks: dict[int, Task], frames: list[Frame], worker: str) -> None:
        """What a worker computes with is not what the key of its call tells: the result is not kept."""
        for frame in frames:
            task = tasks.get(frame.task)
            if frame.kind == Kind.UNLIKE and task is not None:
                task.future.unlike = names = pickle.loads(frame.body)
                for name in sorted(set(names) - self._warned):
                    self.journal.log(logging.WARNING, NOT_KEPT.format(name=name, worker=worker))
                self._warned.update(names)

    def forget(self, task: Task) -> None:
        """A call is no longer under way."""
        if task.entry is not None:
            self.ends(task.entry)

    def close(self) -> None:
        """Write what waits."""
        self.journal.close()


def are_alike(one: Options, other: Options) -> bool:
    """Whether a call fails under these options as it does under the others."""
    return all(getattr(one, name) == getattr(other, name) for name in ("timeout", "retries", "worker_retries"))


def is_unlike(future: Any) -> bool:
    """Whether a worker found that it computes with something else than the client has."""
    return bool(getattr(future, "unlike", ()))


def record_of(entry: Entry, task: Task, outcome: Outcome, seconds: float) -> Record | None:
    """Return what the journal is to keep of a task; None where it did not end by itself. Buffers are not copied."""
    _, frame, error, host, worker, _ = outcome
    if frame is not None:
        failed, body, buffers = frame.kind == Kind.ERROR, bytes(frame.body), frame.buffers
    elif isinstance(error, (TaskTimeout, WorkerDied)):
        failed, body, buffers, host = True, describe_error(error), [], host or getattr(error, "host", "")
    else:
        return None
    began, attempt = time.time() - seconds, task.attempt + 1
    return Record(entry.key, failed, entry.function, entry.label, host, worker, began, seconds, attempt, body, buffers)


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
    return restored(kept.body, kept.buffers)


def restored(body: Any, buffers: Any) -> Any:
    """Return the result of a payload; raises `Damaged` where it cannot be had."""
    try:
        return load(body, buffers)
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
