"""A worker: calls come in on one socket, results go out on it.

    socket ─▶ reader ─▶ inbox ─▶ run, one at a time ─▶ outbox ─▶ socket

Results of short tasks are sent together: when the inbox is empty, `FLUSH` seconds have passed, or a recall comes.
One with arrays is sent at once, since they are not copied and may be written again.
After its last result a worker polls the socket for `SPIN` seconds and then sleeps on it: waking a sleeping process
costs more than a short task does. After its part of a gang it does not, unless the node has cores for all ranks and the
client, which has all parts to hear first. A recall comes as SIGURG, so that it can be answered while a task runs.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from mainstay.node import context
from mainstay.node.context import Places
from mainstay.wire.address import dial
from mainstay.wire.frames import Bytes, Frame, FrameReader, Kind, encode
from mainstay.wire.payload import Payload, dump, load

if TYPE_CHECKING:
    from mainstay.journal.witness import Witness
    from mainstay.node.gang import Rank
    from mainstay.node.pinning import Pinning
    from mainstay.node.place import Place

SPIN = 100e-6
FLUSH = 500e-6
MOST_PIECES = 512  # of one sendmsg; the kernel's limit is 1,024


class Worker:
    """Serves calls from `sock` (blocking, authenticated) until its end-of-file.

    One that `learns` tells the client, before the results of the calls that did it, what has been imported; one that is
    `timed`, when each call began and ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        flush: float = FLUSH,
        place: Place | None = None,
        *,
        learns: bool = False,
        timed: bool = False,
    ) -> None:
        self._sock, self._name, self._flush_after, self._place = sock, name, flush, place
        self._pid, self._cores = os.getpid(), len(os.sched_getaffinity(0))
        self._reader = FrameReader()
        self._inbox: deque[Frame] = deque()
        self._outbox: list[Bytes] = []
        self._functions: dict[int, Callable[..., Any] | BaseException] = {}
        self._sources: dict[int, Frame] = {}
        self._witnesses: dict[int, Witness | None] = {}  # what calls of a function compare
        self._answers = False  # a recall may be answered now: nothing is being read or sent
        self._recalled = False  # one came when it could not be answered
        self._flushed = 0.0
        self._polls = True
        self._left = False  # the gang that ran last has left a message unreceived
        self._unlike: Callable[[Witness], tuple[str, ...]] | None = None  # once it is wanted
        self._rank: Rank | None = None  # once the pool has asked for a gang
        self._pinning: Pinning | None = None
        self._resumed: Frame | None = None  # what a malleable program is to go on from
        self._run_call = self._run
        if timed:
            self._run_call = self._run_timed
        if "MAINSTAY_AUDIT" in os.environ:
            from mainstay.marks import marked  # a module that no other worker has

            self._run_call = marked("task", self._run_call)
        self._modules = set(sys.modules) if learns else None  # what the client knows to be imported

    def serve(self) -> None:
        """Run calls until the client closes the socket."""
        inbox = self._inbox
        while inbox or self._receive():
            while inbox:
                frame = inbox.popleft()
                if frame.kind == Kind.CALL or frame.kind == Kind.GANG:
                    self._call(frame)
                elif frame.kind == Kind.DEFINE:
                    self._sources[frame.number] = frame
                elif frame.kind == Kind.WITNESS:
                    self._witnesses[frame.number] = pickle.loads(frame.body)
                elif frame.kind == Kind.PART and self._rank is not None:
                    self._rank.takes(frame.body)
                elif frame.kind == Kind.ENROL:
                    self._enrol(frame)
                elif frame.kind == Kind.RESUME:
                    self._resumed = frame
                elif frame.kind == Kind.PLACES:
                    context.places = Places(*pickle.loads(frame.body))
                elif frame.kind == Kind.PIN:
                    self._pin(frame)
                elif frame.kind == Kind.UNPIN and self._pinning is not None:
                    self._pinning.end()
                elif frame.kind == Kind.BRIDGE and self._place is not None:
                    from mainstay.node.bridge import stand_between  # only where there is PMIx

                    stand_between(self._place)
                if self._outbox and (not inbox or perf_counter() - self._flushed > self._flush_after):
                    self._flush()

    def recall(self) -> None:
        """Give back every call that has not begun; comes as a signal, at any time."""
        if os.getpid() != self._pid:
            return
        self._recalled = True
        if self._answers:
            self._answer_recall()

    def _answer_recall(self) -> None:
        self._answers = self._recalled = False  # one that comes in the middle of this is answered by the next call
        self._read_what_is_there()
        ids = [frame.task for frame in self._inbox if frame.kind == Kind.CALL]
        kept = [frame for frame in self._inbox if frame.kind != Kind.CALL]
        self._inbox.clear()
        self._inbox.extend(kept)
        self._outbox += encode(Kind.RETURNED, pickle.dumps(ids))
        self._flush()
        self._answers = True

    # -- one call

    def _call(self, frame: Frame) -> None:
        started = perf_counter()
        self._answers = True
        if self._recalled:
            self._answer_recall()
        try:
            self._left, self._polls, context.point = False, True, None
            run = self._run_call if frame.kind == Kind.CALL else self._run_part
            kind, (body, buffers) = Kind.RESULT, run(frame)
            if context.point is not None and context.point.paused:
                kind = Kind.PAUSED
            context.point = None  # it holds what was resumed
        except BaseException as error:
            kind, body, buffers = Kind.ERROR, describe_error(error), ()
        self._answers = False
        micros, left = _micros(perf_counter() - started), self._left
        self._outbox += encode(kind, body, buffers, task=frame.task, number=micros, attempt=left)
        if buffers:
            self._flush()  # before the next call, which may write into the same array

    def _run(self, frame: Frame) -> Payload:
        fn = self._function(frame.number)
        args, kwargs, label, orders = (*load(frame.body, frame.buffers), None)[:4]
        witness = self._witnesses.get(frame.number)
        context.current = context.TaskInfo(frame.task, frame.attempt, label, self._name)
        context.place = self._place
        try:
            if orders and self._place is not None:
                self._place.begin(orders, context.current)
            self._compare(witness, frame.task)
            result = fn(*args, **kwargs)
        except BaseException as error:
            self._leave(error, witness, frame.task)
            raise
        self._leave(None, witness, frame.task)
        return dump(None if self._rank is not None and self._rank.is_silent else result)

    def _run_timed(self, frame: Frame) -> Payload:
        began = monotonic()
        try:
            return self._run(frame)
        finally:
            self._answers = False  # nothing is to be sent in the middle of this
            self._outbox += encode(Kind.RAN, pickle.dumps((began, monotonic())), task=frame.task)

    def _run_part(self, frame: Frame) -> Payload:
        """Run a call as one rank of a gang."""
        assert self._rank is not None, "a gang came before the worker was enrolled"
        resumed, self._resumed = self._resumed, None
        context.point = context.Point(
            lambda: None if resumed is None else load(resumed.body, resumed.buffers),
            lambda states: self._reached(frame.task, states),
        )
        try:
            context.communicator = communicator = self._rank.join()
            self._polls = communicator.size < self._cores
            payload = self._run_call(frame)
            self._left = communicator.Iprobe()
            return payload
        finally:
            context.communicator, self._rank.is_silent = None, False

    def _reached(self, task: int, states: list[Any]) -> bool:
        """All ranks of a malleable program have come to a point: let the client keep their states; is it to pause?"""
        self._answers = False
        body, buffers = dump(states)
        self._outbox += encode(Kind.STATE, body, buffers, task=task)
        self._flush()
        self._read_what_is_there()
        told = [frame for frame in self._inbox if frame.kind == Kind.PAUSE]
        for frame in told:
            self._inbox.remove(frame)
        self._answers = True
        if self._recalled:
            self._answer_recall()
        return any(frame.task == task for frame in told)

    def _enrol(self, frame: Frame) -> None:
        """Become an MPI rank, and say how that went."""
        from mainstay.node.gang import enrol

        self._rank, said = enrol(frame.body)
        self._outbox += encode(Kind.ENROLLED, pickle.dumps(said), number=frame.number)

    def _pin(self, frame: Frame) -> None:
        """The next call is to run on these of the node's cores only."""
        from mainstay.node.pinning import Pinning

        self._pinning = Pinning(pickle.loads(frame.body))

    def _compare(self, witness: Witness | None, task: int) -> None:
        """Tell the client at once where a call computes with something else than the client has."""
        if witness is not None:
            if self._unlike is None:
                from mainstay.journal.witness import unlike  # only where there is a journal

                self._unlike = unlike
            names = self._unlike(witness)
            if names:
                self._answers = False
                self._outbox += encode(Kind.UNLIKE, pickle.dumps(names), task=task)
                self._flush()
                self._answers = True
                if self._recalled:
                    self._answer_recall()

    def _leave(self, error: BaseException | None, witness: Witness | None, task: int) -> None:
        """The task has ended: what it left on the disk is brought to the client, and removed."""
        context.current = context.places = None
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the task forked must not answer in our place
        self._compare(witness, task)
        if self._place is not None and (self._place.used or error is not None):
            self._place.finish(error)

    def _function(self, number: int) -> Callable[..., Any]:
        known = self._functions.get(number)
        if known is None:
            source = self._sources.pop(number)
            try:
                known = load(source.body, source.buffers)
            except BaseException as error:
                known = error
            self._functions[number] = known
        if isinstance(known, BaseException):
            raise known
        assert known is not None
        return known

    # -- the socket

    def _receive(self) -> bool:
        """Wait for something to do; False at the end-of-file."""
        buffer = self._reader.get_buffer()
        count = self._poll(buffer) if self._polls else -1
        if count < 0:
            count = self._sock.recv_into(buffer)
        self._inbox.extend(self._reader.received(count))
        return count > 0 and (bool(self._inbox) or self._receive_rest())

    def _receive_rest(self) -> bool:
        while not self._inbox:
            count = self._sock.recv_into(self._reader.get_buffer())
            if count == 0:
                return False
            self._inbox.extend(self._reader.received(count))
        return True

    def _poll(self, buffer: memoryview) -> int:
        """Look for bytes without sleeping, for `SPIN` seconds; -1 if none came."""
        receive, give_way, end = self._sock.recv_into, os.sched_yield, perf_counter() + SPIN
        while True:
            try:
                return receive(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if perf_counter() > end:
                    return -1
                give_way()  # to the client, where there are fewer cores than processes

    def _read_what_is_there(self) -> None:
        while True:
            try:
                count = self._sock.recv_into(self._reader.get_buffer(), 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if count == 0:
                return
            self._inbox.extend(self._reader.received(count))

    def _flush(self) -> None:
        pieces, self._outbox = self._outbox, []
        if self._modules is not None and len(sys.modules) != len(self._modules):
            pieces = [*self._news(self._modules), *pieces]
        send_all(self._sock, pieces)
        self._flushed = perf_counter()

    def _news(self, known: set[str]) -> list[Bytes]:
        new = {name: module for name, module in list(sys.modules.items()) if name not in known}
        self._modules = set(sys.modules)
        return encode(Kind.IMPORTED, pickle.dumps([name for name in new if _can_be_imported(name, new[name])]))


def _can_be_imported(name: str, module: object) -> bool:
    """Whether a module came by its name from where modules are found, and was not made by a program."""
    spec = getattr(module, "__spec__", None)
    return spec is not None and spec.name == name and spec.origin is not None and name != "__main__"


def serve_as_worker(place: Place, setup: dict[str, Any]) -> None:
    """Be the worker of this place."""
    sys.stdout = open(1, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115  kept for life
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="replace")  # noqa: SIM115
    sock, _ = dial(*place.client)
    worker = Worker(
        sock, f"{place.home.host}/{place.number}", place=place, learns=setup["learns"], timed=setup["timeline"]
    )
    signal.signal(signal.SIGURG, lambda signum, frame: worker.recall())
    signal.siginterrupt(signal.SIGURG, False)
    start_worker(sock, place.number, setup)
    worker.serve()
    if "mpi4py.MPI" in sys.modules:
        from mainstay.node.shm import take_names_off

        take_names_off()  # of a world that a task made for itself
    sys.stdout.flush()
    sys.stderr.flush()


def start_worker(sock: socket.socket, number: int, setup: dict[str, Any]) -> None:
    """Run the initializer, and tell the client that the worker stands or that the initializer failed."""
    initializer = setup.get("initializer")
    if initializer is not None:
        try:
            fn, args = load(*initializer)
            fn(*args)
        except BaseException as error:
            send_all(sock, encode(Kind.INITIALIZER_FAILED, describe_error(error), number=number))
            return
    send_all(sock, encode(Kind.WORKER_HELLO, pickle.dumps({"pid": os.getpid()}), number=number))


def send_all(sock: socket.socket, pieces: list[Bytes]) -> None:
    """Send all the pieces on a blocking socket, without joining them."""
    if len(pieces) == 1:
        sock.sendall(pieces[0])
        return
    for at in range(0, len(pieces), MOST_PIECES):
        views = [memoryview(piece) for piece in pieces[at : at + MOST_PIECES]]
        sent = sock.sendmsg(views)
        for view in views:
            if sent < view.nbytes:
                sock.sendall(view[sent:])
            sent = max(0, sent - view.nbytes)


def describe_error(error: BaseException) -> bytes:
    """Return a pickle of `(the exception's own pickle or None, type name, text, traceback)`."""
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__ and frames.tb_next is not None:
        frames = frames.tb_next  # the worker's own frames tell the user nothing
    text = "".join(traceback.format_exception(type(error), error, frames))
    kind = type(error)
    try:
        body: bytes | None = b"".join([dump(error.with_traceback(None)).body])
    except BaseException:
        body = None
    try:
        message = str(error)
    except BaseException:
        message = "its str() raised"
    return pickle.dumps((body, f"{kind.__module__}.{kind.__qualname__}", message, text))


def _micros(seconds: float) -> int:
    return min(int(seconds * 1e6), 0xFFFFFFFF)
