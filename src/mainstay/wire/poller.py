"""An epoll object and what to call for each of its descriptors."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Protocol

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
Handler = Callable[[int], None]


class HasDescriptor(Protocol):
    """A socket, or a poller inside another."""

    def fileno(self) -> int: ...


class Poller:
    """Watches descriptors; a handler is called with the events (`READ`, `WRITE`, hang-up) that are there."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, item: HasDescriptor, handler: Handler) -> None:
        self._epoll.register(item.fileno(), READ)
        self._handlers[item.fileno()] = handler

    def change(self, item: HasDescriptor, events: int) -> None:
        self._epoll.modify(item.fileno(), events)

    def forget(self, item: HasDescriptor) -> None:
        if self._handlers.pop(item.fileno(), None) is not None:
            self._epoll.unregister(item.fileno())

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return what is ready, after at most `timeout` seconds (None: however long it takes)."""
        return self._epoll.poll(timeout)

    def handle(self, ready: list[tuple[int, int]]) -> None:
        """Call the handlers of what was ready; not one that came in the meantime, to a number that was free again."""
        for fd, events, handler in [(fd, events, self._handlers.get(fd)) for fd, events in ready]:
            if handler is not None and self._handlers.get(fd) is handler:
                handler(events)

    def turn(self) -> bool:
        """Handle what is ready now, without waiting; say whether anything was."""
        ready = self._epoll.poll(0)
        if ready:
            self.handle(ready)
        return bool(ready)

    def close(self) -> None:
        self._handlers.clear()
        self._epoll.close()
