"""A worker as its agent sees it: its process, and what it prints, in whole lines."""

from __future__ import annotations

import os
from collections import deque

LINE = 1 << 16  # bytes; a longer line is passed on in pieces
TAIL = 20  # lines of stderr that are kept for the error message


class Output:
    """One of a worker's two streams: bytes in, whole lines out."""

    def __init__(self, fd: int, worker: int, is_error: bool) -> None:
        self.fd, self.worker, self.is_error = fd, worker, is_error
        self.tail: deque[bytes] = deque(maxlen=TAIL)
        self._rest = b""

    def fileno(self) -> int:
        return self.fd

    def read(self) -> list[bytes] | None:
        """Return the lines that are complete now; None at the end of the stream."""
        data = os.read(self.fd, LINE)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= LINE:
            lines.append(self._rest)
            self._rest = b""
        self.tail.extend(lines)
        return lines

    def end(self) -> list[bytes]:
        """Return what stood on the last line, without an end."""
        rest, self._rest = self._rest, b""
        self.tail.extend([rest] if rest else [])
        return [rest] if rest else []


class Child:
    """A worker as its agent sees it."""

    def __init__(self, number: int, pid: int, outputs: list[Output]) -> None:
        self.number, self.pid, self.outputs = number, pid, outputs
