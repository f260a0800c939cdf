"""The chain of launchers: which is tried, how long, why it was given up, and when it is started again.

why_not ──no──▶ start ──▶ agents come ──▶ it ends, or brings no worker within `start_timeout`
   │                                             │
   └── a reason ──▶ the next launcher ◀──────────┴── the same again, while its launches bear results
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mainstay.errors import LaunchError
from mainstay.launch import Invitation, Launched, Launcher

if TYPE_CHECKING:
    from mainstay.stage.bootstrap import Bootstrap
    from mainstay.stage.staged import Stage

REJOIN = 15.0  # seconds between two attempts to start an agent on a node that was lost
MOST_FRUITLESS = 3  # launches by one launcher, one after another without a result
GRACE = 2.0  # seconds in which a launch ends by itself before it is killed
Log = Callable[[int, str], None]
Post = Callable[[Callable[[], None]], None]


class Attempt:
    """One launch, in a thread of its own: to ask a launcher, to start it and to wait for its end may all block."""

    def __init__(self, number: int, launcher: Launcher, invitation: Invitation) -> None:
        self.number, self.launcher, self._invitation = number, launcher, invitation
        self.begun = time.monotonic()
        self.willing = True
        self._launched: Launched | None = None
        self._rejoining: dict[str, Launched | None] = {}  # by node
        self._given_up = False
        self._started = threading.Event()

    def begin(self, on_ended: Callable[[str], None]) -> None:
        self._thread = threading.Thread(
            target=lambda: on_ended(self._run()), name=f"mainstay-{self.launcher.name}", daemon=True
        )
        self._thread.start()

    def _run(self) -> str:
        """Return why the launch ended."""
        try:
            reason = self.launcher.why_not()
            if reason is not None:
                self.willing = False
                return reason
            launched = self._launched = self.launcher.start(self._invitation)
            self._started.set()
            if self._given_up:
                launched.end()
            return launched.wait()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            self._started.set()

    def rejoin(self, node: str) -> None:
        """Start an agent on a node that was lost, if the launcher can; returns at once."""
        if hasattr(self.launcher, "rejoin") and node not in self._rejoining:
            self._rejoining[node] = None
            threading.Thread(target=self._rejoin, args=(node,), name="mainstay-rejoin", daemon=True).start()

    def _rejoin(self, node: str) -> None:
        try:
            launched = self._rejoining[node] = self.launcher.rejoin(self._invitation, node)  # type: ignore[attr-defined]
            if self._given_up:
                launched.end()
            launched.wait()
        except Exception:  # noqa: S110  the node is not back yet; it is tried again
            pass
        finally:
            del self._rejoining[node]

    @property
    def nodes(self) -> int:
        """How many agents will come."""
        self._started.wait(GRACE)  # an agent may come before `start` has returned
        return 1 if self._launched is None else self._launched.nodes

    @property
    def absent(self) -> dict[str, str]:
        """The nodes that were left out, and why."""
        return dict(getattr(self._launched, "absent", {}))

    def end(self) -> None:
        """Kill whatever the launch has started."""
        self._given_up = True
        for launched in [self._launched, *list(self._rejoining.values())]:
            if launched is not None:
                launched.end()

    def finish(self) -> None:
        """Let the launch end by itself, for `GRACE` seconds; then kill it."""
        self._thread.join(GRACE)
        self.end()


class Launches:
    """Tries launchers in their order.

    Args:
        chain: the launchers.
        start_timeout: seconds within which an attempt must bring a worker.
        invitation: for agents; each launch is given its own number in it.
        post: runs a call in the broker's thread.
    """

    def __init__(
        self, chain: list[Launcher], start_timeout: float, invitation: Invitation, post: Post, log: Log
    ) -> None:
        self._chain, self.start_timeout, self._invitation = chain, start_timeout, invitation
        self._post, self._log = post, log
        self.current: Attempt | None = None
        self.reasons: list[tuple[str, str]] = []
        self.deadline: float | None = None
        self._late = ""  # the reason if the deadline passes
        self._count = 0
        self._fruitless = 0
        self._brought_workers = False
        self._missing: dict[str, float] = {}  # nodes that were lost, and when an agent is to be started there
        self._absent: set[str] = set()  # nodes of which was told that they are left out
        self.closing = False  # a launch that ends now has done its work
        self.on_lost: Callable[[], None]
        self.on_exhausted: Callable[[LaunchError], None]

    @property
    def stage(self) -> Bootstrap | None:
        """The packed environment that agents run from; None: the one that runs this program."""
        return self._invitation.stage

    @stage.setter
    def stage(self, stage: Bootstrap | None) -> None:
        self._invitation = self._invitation._replace(stage=stage)

    def begin(self) -> None:
        """Try the launcher that stands first."""
        if not self._chain:
            self.on_exhausted(LaunchError(self.reasons))
            return
        self._count += 1
        self._fruitless += 1
        self._brought_workers = False
        self._missing.clear()
        self._absent.clear()
        attempt = self.current = Attempt(self._count, self._chain[0], self._invitation._replace(launch=self._count))
        self.deadline = attempt.begun + self.start_timeout
        self._late = f"brought no worker within start_timeout={self.start_timeout:g} s"
        attempt.begin(lambda reason: self._post(lambda: self._ended(attempt, reason)))

    def _ended(self, attempt: Attempt, reason: str) -> None:
        if attempt is self.current and not self.closing:
            self.fail(reason)

    @property
    def in_process(self) -> bool:
        """Whether workers share this process's modules; before one stands, they may."""
        attempt = self.current
        return attempt is None or not self._brought_workers or getattr(attempt.launcher, "in_process", False)

    def stands(self) -> None:
        """A worker has come."""
        self._brought_workers = True
        self.deadline = None

    def standing(self) -> Launcher | None:
        """Return the launcher whose agents stand or are to come."""
        return None if self.current is None else self.current.launcher

    def bears(self) -> None:
        """A result has come."""
        self._fruitless = 0

    def lost(self, node: str, now: float) -> None:
        """An agent is gone, and perhaps its node: it is taken back when it returns."""
        self._missing[node] = now + REJOIN

    def came(self, node: str, now: float) -> bool:
        """An agent stands on that node; say whether one was lost there.

        Others may have been left out, as the launcher has found by now.
        """
        is_back = self._missing.pop(node, None) is not None
        absent = {} if self.current is None else self.current.absent
        for name in absent.keys() - self._absent:
            self._log(logging.WARNING, f"node {name} is left out: {absent[name]}")
            self._absent.add(name)
            self.lost(name, now)
        return is_back

    def lost_all(self, now: float) -> None:
        """The last agent is gone: the launch has `GRACE` seconds to end and say why."""
        self.deadline = now + GRACE
        self._late = "every agent that it had started is gone"

    def next_deadline(self) -> float | None:
        return min((at for at in (self.deadline, *self._missing.values()) if at is not None), default=None)

    def tick(self, now: float) -> None:
        for node in [node for node, at in self._missing.items() if at <= now]:
            self._missing[node] = now + REJOIN
            if self.current is not None:
                self.current.rejoin(node)
        if self.deadline is not None and self.deadline <= now:
            self.fail(self._late)

    def fail(self, reason: str) -> None:
        """Give the current launch up, and begin the next."""
        attempt, self.current, self.deadline = self.current, None, None
        assert attempt is not None
        self.on_lost()
        attempt.end()
        again = self._brought_workers and self._fruitless < MOST_FRUITLESS
        if not again:
            self.reasons.append((attempt.launcher.name, reason))
            self._chain.pop(0)
            self._fruitless = 0
        level = logging.WARNING if attempt.willing else logging.INFO
        self._log(level, f"launcher {attempt.launcher.name}: {reason}; {self._what_next(again)}")
        self.begin()

    def _what_next(self, again: bool) -> str:
        if again:
            return "it is started again"
        return f"next: {self._chain[0].name}" if self._chain else "no other is left"

    def close(self) -> None:
        attempt, self.current, self.deadline = self.current, None, None
        if attempt is not None:
            attempt.finish()


def prepare_stage(stage: str | os.PathLike[str] | Stage | None, setup: dict[str, Any], log: Log) -> Bootstrap | None:
    """Return what makes agents run from a packed environment, if they are to; see `mainstay.stage.staged.prepare`."""
    if stage is None:
        return None
    from mainstay.stage.staged import prepare

    return prepare(stage, setup, log)
