"""Frames: how a record lies on the wire, and how it is read back without copying.

    ┌──────┬─────────┬─────────┬────────┬──────┬──────┬───────────────┬──────┬─────────────┐
    │ kind │ attempt │ buffers │ number │ task │ size │ buffer sizes… │ body │ buffers …   │
    │  u8  │   u8    │   u16   │  u32   │ u64  │ u64  │     u64 each  │      │ out-of-band │
    └──────┴─────────┴─────────┴────────┴──────┴──────┴───────────────┴──────┴─────────────┘

`number` is the function's number in a CALL and the run time in microseconds in a RESULT. A WITNESS tells what the
calls of a function compare from then on, and a PART the worker's part in the gangs to which a GANG calls it. In LEND,
LENT, ENROL and their like `number` is a namespace's; in LENT, `task` a rank. Small frames are read many at a time from
one chunk; a large body, and every out-of-band buffer, is received straight into memory of its own, which the unpickled
array then keeps.
No socket here: a reader lends memory (`get_buffer`), and is told how much of it was filled.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

HEADER = Struct("<BBHIQQ")
CHUNK = 1 << 18  # bytes read at once; frames of up to this size share a chunk
MAX_BUFFERS = 0xFFFF
Bytes = bytes | bytearray | memoryview


class Kind:
    """A record's type. A name says who sends it to whom."""

    # client to worker
    DEFINE, CALL, GANG, ENROL, PIN, UNPIN, BRIDGE, PLACES, RESUME = 1, 2, 3, 4, 5, 6, 7, 8, 9
    PART, WITNESS, PAUSE = 48, 49, 50
    # worker to client
    WORKER_HELLO, RESULT, ERROR, RETURNED, INITIALIZER_FAILED, UNLIKE, IMPORTED = 10, 11, 12, 13, 14, 15, 16
    ENROLLED, RAN, STATE, PAUSED = 17, 18, 19, 51
    # client to agent
    SETUP, FORK, KILL, RECALL, STOP, PRELOAD, LEND, UNLEND = 20, 21, 22, 23, 24, 25, 26, 27
    # agent to client
    AGENT_HELLO, FORKED, ENDED, OUTPUT, HEARTBEAT, SAVING, PRELOADED, PRELOAD_FAILED = 30, 31, 32, 33, 34, 35, 36, 37
    LENT = 38
    # files, on a connection of their own: a worker asks for some or brings some; then either end
    FETCH, BRING, FILE, PIECE, DONE, REFUSED = 40, 41, 42, 43, 44, 45
    # process sets, on a connection of their own: a task asks, and hears; a rank stands between PMIx and the client
    ASK, NEWS, BRIDGED, PUBLISH, FOUND = 50, 51, 52, 53, 54


class Frame(NamedTuple):
    """One record: its kind, its numbers, its pickled body and the out-of-band buffers of that pickle."""

    kind: int
    attempt: int
    number: int
    task: int
    body: Bytes
    buffers: list[bytearray]


def encode(
    kind: int,
    body: Bytes = b"",
    buffers: list[memoryview] | tuple[()] = (),
    *,
    number: int = 0,
    task: int = 0,
    attempt: int = 0,
) -> list[Bytes]:
    """Return the pieces to send for one record, ready for `sendmsg`; nothing large is copied."""
    if not buffers:
        head = HEADER.pack(kind, attempt, 0, number, task, len(body))
        return [head + body] if len(body) < 4096 else [head, body]
    sizes = Struct(f"<{len(buffers)}Q").pack(*[b.nbytes for b in buffers])
    head = HEADER.pack(kind, attempt, len(buffers), number, task, len(body)) + sizes
    return [head, body, *buffers]


class FrameReader:
    """Turns received bytes into frames.

    Use: `n = sock.recv_into(reader.get_buffer())`, then `for frame in reader.received(n)`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit  # bytes of one frame; None: as much as memory holds
        self._chunk = bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._start = self._end = 0  # the unread part of the chunk
        self._large: _LargeFrame | None = None

    def get_buffer(self) -> memoryview:
        """Return the memory that the next bytes belong in (never empty)."""
        if self._large is not None:
            return self._large.space()
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._chunk) - self._end < 4096:
            self._move_to_front()
        return self._view[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Take note of `count` bytes in the lent memory; return the frames that are complete now."""
        frames: list[Frame] = []
        if self._large is not None:
            if self._large.filled(count):
                frames.append(self._large.frame())
                self._large = None
            return frames
        self._end += count
        while self._large is None:
            frame = self._next_small()
            if frame is None:
                break
            frames.append(frame)
        return frames

    def _next_small(self) -> Frame | None:
        start, available = self._start, self._end - self._start
        if available < HEADER.size:
            return None
        kind, attempt, count, number, task, size = HEADER.unpack_from(self._chunk, start)
        if self._limit is not None and (size > self._limit or count):
            raise ValueError(f"a frame of {size} bytes and {count} buffers where {self._limit} bytes are allowed")
        body_at = start + HEADER.size
        if count == 0 and size <= CHUNK // 2:
            if available < HEADER.size + size:
                return None
            self._start = body_at + size
            return Frame(kind, attempt, number, task, bytes(self._view[body_at : self._start]), [])
        return self._begin_large((kind, attempt, number, task), body_at, count, size)

    def _begin_large(self, head: tuple[int, int, int, int], at: int, count: int, size: int) -> Frame | None:
        body_at = at + 8 * count
        if body_at > self._end:
            self._wait_for_sizes(body_at)
            return None
        sizes = Struct(f"<{count}Q").unpack_from(self._chunk, at)
        large = _LargeFrame(head, [size, *sizes])
        self._start = body_at + large.copy_from(self._view[body_at : self._end])
        if large.complete:
            return large.frame()
        self._large = large
        return None

    def _wait_for_sizes(self, needed_end: int) -> None:
        """Make sure that a long list of buffer sizes (up to 512 KiB) can be held in one chunk."""
        needed = needed_end - self._start
        if needed > len(self._chunk):
            grown = bytearray(needed + CHUNK)
            grown[: self._end - self._start] = self._view[self._start : self._end]
            self._end -= self._start
            self._start, self._chunk, self._view = 0, grown, memoryview(grown)

    def _move_to_front(self) -> None:
        rest = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, len(rest)
        self._view[: self._end] = rest


class _LargeFrame:
    """A frame that is being received into memory of its own, part by part."""

    def __init__(self, head: tuple[int, int, int, int], sizes: list[int]) -> None:
        self._head = head
        self._parts = [bytearray(size) for size in sizes]
        self._todo = [memoryview(part) for part in self._parts if part]
        self._todo.reverse()  # the part under way is the last, and shrinks from its front

    @property
    def complete(self) -> bool:
        return not self._todo

    def space(self) -> memoryview:
        return self._todo[-1]

    def filled(self, count: int) -> bool:
        view = self._todo[-1][count:]
        if view.nbytes:
            self._todo[-1] = view
        else:
            self._todo.pop()
        return not self._todo

    def copy_from(self, source: memoryview) -> int:
        taken = 0
        while self._todo and taken < source.nbytes:
            space = self._todo[-1]
            count = min(space.nbytes, source.nbytes - taken)
            space[:count] = source[taken : taken + count]
            self.filled(count)
            taken += count
        return taken

    def frame(self) -> Frame:
        kind, attempt, number, task = self._head
        return Frame(kind, attempt, number, task, self._parts[0], self._parts[1:])
