"""`ex.psets`: what a user does with the process sets of a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mainstay.errors import ProcessSetError
from mainstay.process_sets import RESERVED, SELF, ProcessSet
from mainstay.registrar import Callback, Predicate, Registrar, Watch
from mainstay.report import WorkerInfo
from mainstay.shrinking import several

if TYPE_CHECKING:
    from mainstay.broker import Broker

Member = WorkerInfo | int | tuple[str, int]


class ProcessSets(Mapping[str, ProcessSet]):
    """The process sets of a pool, by their names: `ex.psets["mpi://WORLD"]`.

    Iterating gives the names. An invalid set stays listed until its name is deleted or defined anew. A `ProcessSet` is
    what it was when it was asked for.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._registrar: Registrar = broker.registrar

    def __getitem__(self, name: str) -> ProcessSet:
        with self._broker.lock:
            listing = self._registrar.refreshed().listing
            if name not in listing:
                if name == SELF:
                    raise KeyError(f"{SELF!r} is the process of a task: mainstay.psets()[{SELF!r}] in one has it")
                known = ", ".join(map(repr, listing)) or "none, since no worker stands yet"
                raise KeyError(f"there is no process set {name!r}; there are: {known}")
            return listing[name]

    def __iter__(self) -> Iterator[str]:
        with self._broker.lock:
            return iter(list(self._registrar.refreshed().listing))

    def __len__(self) -> int:
        with self._broker.lock:
            return len(self._registrar.refreshed().listing)

    def versions(self, name: str | None = None) -> list[ProcessSet]:
        """Return all sets that were ever defined under a name, the oldest first; None: the whole array, of all names.

        It begins when somebody first asks for a set, and only grows: a set's place in it stays the same.
        """
        with self._broker.lock:
            listing = self._registrar.refreshed().listing
            return list(listing.sets) if name is None else listing.versions(name)

    def define(
        self, name: str, workers: Predicate | WorkerInfo | Iterable[Member], *, living: bool = False
    ) -> ProcessSet:
        """Define a set of workers, and return it.

        Args:
            name: a word or a URI (str); not one that is in use, or that begins with "mpi://" or "mainstay://".
            workers: some of `ex.workers`, their ids (int), processes (`Process`, or (namespace, rank)) or a
                `ProcessSet`; or a function that is called with each `WorkerInfo` and says whether it belongs.
            living: whether a new version is defined when members go, and, with a function, when workers come for which
                it is true. It is called in a thread of the pool then.

        Raises `ValueError` for a name that cannot be, `ProcessSetError` for workers that do not stand, or none at all.
        """
        self._check(name)
        if callable(workers):
            judged, numbers = self._judged(workers)
        else:
            with self._broker.lock:
                judged, numbers = [], self._numbers(workers)
        if not numbers and not living:
            standing = len(self._broker.scheduler.workers)
            raise ProcessSetError(
                f"no worker belongs to {name!r}, of the {standing} that stand; name others, or ex.wait_ready() waits "
                "for workers, and living=True defines it as soon as there are some"
            )
        with self._broker.lock:
            if not self._registrar.is_free(name):
                raise ValueError(f"there is a process set {name!r}; give another name, or delete that first")
            defined = self._registrar.define(name, numbers, living)
            if living and callable(workers):
                self._registrar.follow(name, workers, judged)
            return defined

    def delete(self, name: str) -> None:
        """Give up a name that `define` or PMIx has given. Its versions stay in the array, and are invalid.

        Calls that wait for a worker of the set get a `ProcessSetError`. Raises `KeyError` for a name that is not there,
        `ValueError` for one of the pool's own.
        """
        if str(name).startswith(RESERVED):
            raise ValueError(f"{name!r} is the pool's own set, and stays; only what was defined can be deleted")
        with self._broker.lock:
            registry = self._registrar.refreshed()
            if name not in registry.known():
                raise KeyError(f"there is no process set {name!r}; there are: {', '.join(map(repr, registry.known()))}")
            self._registrar.delete(name)

    def watch(self, callback: Callback) -> Watch:
        """Have `callback(event)` called for each event from now on; return what stops that, by `stop()` or `with`.

        An event is a `Define`, `Invalidate` or `Delete` of `mainstay.process_sets`, with the `set` that it is about and
        its `place` in the array. Events come one after another, in their order, in a thread of the pool that holds no
        lock; until a callback returns, no other is called, and no future of the pool is finished that has callbacks.
        """
        if not callable(callback):
            raise TypeError(f"watch wants a function that is called with each event; given: {callback!r}")
        with self._broker.lock:
            return self._registrar.watch(callback)

    def _check(self, name: str) -> None:
        if not isinstance(name, str) or not name or name.startswith(RESERVED):
            raise ValueError(
                f"the name of a process set must be a str that is not empty and does not begin with "
                f"{' or '.join(map(repr, RESERVED))}, which the pool's own do; given: {name!r}"
            )

    def _judged(self, predicate: Callable[[WorkerInfo], object]) -> tuple[list[int], list[int]]:
        """Return the workers that a predicate was asked about, and those that belong; without the lock."""
        with self._broker.lock:
            self._registrar.refreshed()
            infos = self._registrar.infos(list(self._broker.scheduler.workers))
        return [info.id for info in infos], [info.id for info in infos if predicate(info)]

    def _numbers(self, workers: WorkerInfo | Iterable[Member]) -> list[int]:
        self._registrar.refreshed()
        return [self._number(worker) for worker in several(workers, "define")]

    def _number(self, worker: Member) -> int:
        number = self._registrar.number_of(worker.id if isinstance(worker, WorkerInfo) else worker)
        if number is None:
            raise ProcessSetError(
                f"{worker!r} is no worker that stands; ex.workers has those that do, with id, namespace and rank"
            )
        return number
