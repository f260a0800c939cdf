"""`Executor`: what the user holds. Turns calls into tasks; everything else is the broker's."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mainstay import interrupts, lifetime, mapping, preloading, settings, world
from mainstay.broker import Broker
from mainstay.errors import JournalError
from mainstay.futures import Future
from mainstay.launch import Launcher, chain
from mainstay.launches import Log, prepare_stage
from mainstay.marks import mark
from mainstay.naming import ProcessSets
from mainstay.node.malleable import run_malleable
from mainstay.node.program import run_program
from mainstay.options import Options
from mainstay.orders import Task
from mainstay.pool import Pool
from mainstay.wanted import wanted
from mainstay.wire.functions import Function, FunctionTable, name_of
from mainstay.wire.payload import dump

if TYPE_CHECKING:
    from mainstay.journal.store import Store
    from mainstay.journal.witness import Witness
    from mainstay.keeping import Entry, Keeper
    from mainstay.stage.staged import Stage

T = TypeVar("T")
WITNESS = "mainstay.journal.witness"  # what workers of a pool with a journal need besides, imported once on each node


class Executor(Pool):
    """Workers that stay, behind the standard interface.

    Args:
        max_workers: how many workers (int > 0), but never more than there are slots in a world or an allocation;
            None: one for each slot, or else for each core of each host.
        launcher: "auto", a launcher's name, a list of them to try in order, or a `Launcher`.
        initializer: called with `*initargs` in each worker before its first task.
        node_timeout: seconds (>= 1) without a word from a node after which it is taken for lost.
        start_timeout: seconds in which a launcher must bring a worker before the next is tried.
        retries: how often a task that raised runs again.
        worker_retries: how often a task whose worker died runs again.
        mpi: "auto": workers become MPI ranks when a call first wants several (see `Options.ranks`); True: at the start;
            False: never.
        preload: names of modules that each node imports once, before its workers are forked; "auto": those that the
            workers of this script's earlier runs imported.
        stagger: how many nodes (int >= 1) may begin at the same time, which bounds the load on a shared file system:
            a further one imports and starts its workers when those of one before it stand; None: all at once.
        journal: the path of an SQLite file that keeps each finished call, and from which calls that are in it are
            answered ("memory:": kept for this pool only); None: no journal.
        journal_sync: "group": results are delivered at once, and on disk 100 ms later; "each": not delivered before
            they are on disk.
        drain: seconds before the end of a Slurm job at which the pool is to be at rest: no call begins whose timeout,
            or measured run time, reaches into them, and what is left raises `AllocationEnding`.
        requeue: whether the Slurm job is queued again when it ends before the work; wants a journal, to go on from.
        retry_failed: whether calls that failed in an earlier run, by the journal, run again.
        scratch: the directory of each node in which the pool makes its own for scratch files; variables and ~ in it
            are the node's; None: the first that serves of SLURM_TMPDIR, TMPDIR and /tmp.
        stage: a file made by `mainstay stage`, "auto", or a `Stage`: each node reads that one
            file and runs workers from its own copy, in a directory and with a HOME of the node; None: workers run from
            the environment that runs this program.
        timeline: whether workers report when each task began and ended (see `timeline`), some 0.3 kB of memory a task.
        min_workers, idle_timeout: where one of them is given, the pool grows and shrinks by load, between
            `min_workers` (int >= 1; None: 1), with which it starts, and `max_workers`: it grows when calls wait, and
            workers that have idled for `idle_timeout` seconds (None: 60) leave.
        allocate: flags of `salloc`, as `["--nodes=2", "--time=1:00:00"]`: how such a pool asks for a further Slurm job
            when there is no room for more workers.
        log: called with each line that tells of launches; None: the logger "mainstay" (its start at INFO,
            what went wrong at WARNING).

    Raises `ValueError` for bad arguments and `JournalError` for a journal that cannot be used at once; `LaunchError`
    through the futures when no launcher works; `JournalError` from `shutdown`, when results could not be kept.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        launcher: str | Launcher | Sequence[str | Launcher] = "auto",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        mpi: bool | str = "auto",
        preload: str | Sequence[str] = (),
        stagger: int | None = None,
        start_timeout: float = 120.0,
        node_timeout: float = 30.0,
        retries: int = 0,
        worker_retries: int = 2,
        journal: str | os.PathLike[str] | Store | None = None,
        journal_sync: str = "group",
        retry_failed: bool = True,
        drain: float = 30.0,
        requeue: bool = False,
        scratch: str | os.PathLike[str] | None = None,
        stage: str | os.PathLike[str] | Stage | None = None,
        timeline: bool = False,
        min_workers: int | None = None,
        idle_timeout: float | None = None,
        allocate: Sequence[str] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> None:
        settings.check_workers(max_workers, initializer)
        settings.check_times(start_timeout, node_timeout, drain)
        settings.check_journal(journal, journal_sync, requeue)
        settings.check_scratch(scratch)
        launchers = chain(launcher)
        if any(candidate.name == "world" for candidate in launchers):
            world.serve(start_timeout)
        given = {"retries": retries, "worker_retries": worker_retries, "retry_failed": retry_failed}
        self._options = Options().changed(given)
        self._max_workers = max_workers or len(os.sched_getaffinity(0))
        self._functions = FunctionTable()
        self._ids = itertools.count(1)
        self._paces: dict[int, mapping.Pace] = {}
        self._closed = False
        own = () if journal is None else (WITNESS,)
        setup = settings.setup(own, preload, stagger, initializer, initargs, scratch, node_timeout, mpi, timeline)
        interrupts.install()
        say = settings.logger(log)
        staged = prepare_stage(stage, setup, say)
        self._keeper = None if journal is None else self._open_journal(journal, journal_sync, say)
        elastic = settings.elastic(min_workers, max_workers, idle_timeout, allocate)
        begins = max_workers if elastic is None else elastic.least
        self._broker = self._new_broker(launchers, begins, setup, start_timeout, say)
        if elastic is not None:
            self._broker.resizing.follow_load(elastic, allocate)
        self.psets = ProcessSets(self._broker)  # by name; also defines, deletes and watches them
        self._broker.launches.stage = staged
        self._broker.roster.preloading = preloading.preloading(preload, journal, say)
        self._broker.on_shut.append(self._broker.roster.preloading.save)
        if "SLURM_JOB_ID" in os.environ:
            self._watch_the_end(drain, None if journal is None else str(journal), requeue, say)
        self._begin()

    @property
    def _pool(self) -> Executor:
        return self  # not kept as an attribute: the pool is closed as soon as nobody holds it

    def _open_journal(self, place: str | os.PathLike[str] | Store, sync: str, log: Log) -> Keeper:
        from mainstay.journal.journal import Journal
        from mainstay.journal.store import open_store
        from mainstay.keeping import Keeper

        journal = Journal(open_store(place), each=sync == "each", log=log)
        return Keeper(journal, lambda: self._broker.launches.in_process)

    def _new_broker(self, *given: Any) -> Broker:
        """Make the broker, which takes the journal over; where that fails, nobody else would close it."""
        try:
            broker = Broker(*given)
        except BaseException:
            if self._keeper is not None:
                self._keeper.close()
            raise
        broker.keeper = self._keeper or broker.keeper
        return broker

    def _begin(self) -> None:
        self._finalizer = weakref.finalize(self, self._broker.close)
        self._finalizer.atexit = False
        lifetime.add(self._broker)
        self._broker.start()

    def _watch_the_end(self, drain: float, journal: str | None, requeue: bool, log: Log) -> None:
        from mainstay import ending

        job, broker = os.environ["SLURM_JOB_ID"], self._broker
        end = ending.Ending(broker, job, drain, ending.how_to_resume(journal, requeue), broker.post, log)
        broker.timed.append(end)
        if requeue:
            broker.on_shut.append(lambda: ending.requeue(job, log) if end.is_short else None)
        ending.listen()

    def _submit(
        self,
        options: Options,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: Any,
        *,
        late: bool = False,
        witness: Witness | None = None,
    ) -> concurrent.futures.Future[T]:
        if self._closed and not late:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if options.malleable:
            options = options if options.label else replace(options, label=name_of(fn))
            args, kwargs = (fn, options.malleable, args, kwargs), {}
            fn = run_malleable
        options = options.looked()  # what the journal's key is of is what the nodes get
        function = self._functions.lookup(fn)
        future: Future[T] = Future(self._broker, function.number)
        entry = None
        if self._keeper is not None and options.journal:
            entry = self._keeper.entry_of(fn, function, options, args, kwargs)
            witness = entry.witness
            found = self._keeper.find(entry, options, future, self._submit_late, fn, args, kwargs)
            if found is not None:
                return found
        try:
            words = self._words(options, function, args, kwargs)
            task = self._task(options, function, future, entry, words, fn is run_program)
            task.witness = witness
            self._broker.submit(task, function, late)
        except BaseException:
            if entry is not None and self._keeper is not None:
                self._keeper.ends(entry)  # or the same call, submitted again, would follow this one for ever
            raise
        return future

    def _submit_late(self, *call: Any) -> concurrent.futures.Future[Any]:
        """Submit what was submitted before the pool was closed."""
        return self._submit(*call, late=True)

    def _words(self, options: Options, function: Function, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """Return what the worker is told of a call; what stands last may be missing."""
        words: tuple[Any, ...] = (args, kwargs, options.label or function.name)
        if options.stage_in or options.stage_out:
            words += (self._broker.roster.files.orders(options.stage_in, options.stage_out),)
        return words

    def _task(
        self,
        options: Options,
        function: Function,
        future: Future[T],
        entry: Entry | None,
        words: tuple[Any, ...],
        is_program: bool,
    ) -> Task:
        gang, on = wanted(options, self._broker.enrolments, self._broker.roster, self._broker.registrar, is_program)
        return Task(
            next(self._ids),
            function.number,
            dump(words),
            future,
            entry,
            options.label,
            options.priority,
            options.timeout,
            options.retries,
            options.worker_retries,
            brings=bool(options.stage_out),
            gang=gang,
            on=on,
            malleable=gang if options.malleable else None,
        )

    def _map(
        self,
        options: Options,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        progress: mapping.Progress | None,
    ) -> Iterator[T]:
        mapping.check(timeout, chunksize, buffersize)
        mark("batch")
        if isinstance(options.key, str):
            raise ValueError(
                f"key={options.key!r} would be the name of every item of this map; give a function of their "
                f"arguments, as key=lambda x: f'{options.key}-{{x}}'"
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        options = options.looked()  # once, not for each item

        def submit(fn: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
            return self._submit(options, fn, args, {})

        if buffersize is not None:
            items: Iterator[Any] = zip(*iterables, strict=False)
            return mapping.watched(mapping.buffered(submit, fn, items, buffersize, deadline), None, progress)
        if options.timeout is not None or options.retries or options.stage_out or options.is_alone:
            chunksize = chunksize or 1  # these hold for an item, not for a chunk
        function = self._functions.lookup(fn)  # what cannot be pickled is told now
        pace = self._paces.setdefault(function.number, mapping.Pace())
        rows = mapping.rows(iterables)

        def submit_late(
            options: Options, fn: Callable[..., Any], *args: Any, witness: Witness | None = None
        ) -> concurrent.futures.Future[Any]:
            return self._submit(options, fn, args, {}, late=True, witness=witness)  # what `map` was given counts

        if options.ranks is not None:
            results = mapping.buffered(submit, fn, iter(rows), len(rows), deadline)
        elif self._keeper is None or not options.journal:
            chunks = mapping.Chunks(partial(submit_late, options), fn, rows, self.size, chunksize, pace)
            results = chunks.results(deadline)
        elif self._keeper.journal.each:
            results = mapping.buffered(submit, fn, iter(rows), len(rows), deadline)
        else:
            from mainstay import resuming

            call = resuming.Mapped(fn, function, options, rows)
            results = call.results(self._keeper, submit_late, deadline, self.size, chunksize, pace)
        return mapping.watched(results, len(rows), progress)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when all are done. See `concurrent.futures.Executor.shutdown`."""
        self._closed = True
        self._finalizer.detach()
        self._broker.close(cancel=cancel_futures)
        if wait:
            self._broker.join()
            if self._keeper is not None:
                self._keeper.journal.check()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Shut down; after Ctrl-C at once, without waiting for what runs."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._closed = True
            self._broker.close(abort=True)
        try:
            self.shutdown()
        except JournalError:
            if kind is None:
                raise  # else what ended the block matters more; the log has told of this
