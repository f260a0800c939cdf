"""The chain of launchers: which is tried, how long, why it was given up, and when it is started again.

why_not ──no──▶ start ──▶ agents come ──▶ it ends, or brings no worker within `start_timeout`
   │                                             │
   └── a reason ──▶ the next launcher ◀──────────┴── the same again, while its launches bear results

A pool that grows has further launches beside the current one. When one of these ends, the pool is smaller.
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
    """One launch, in a thread of its own: to ask a launcher, to start it and to wait for its end may all block.

    wanted: how many workers it is to have (None: as many as there is room for).  missing: nodes that were lost, and
    when an agent is to be started there.
    """

    def __init__(self, number: int, launcher: Launcher, invitation: Invitation) -> None:
        self.number, self.launcher, self._invitation = number, launcher, invitation
        self.wanted = invitation.most
        self.begun = time.monotonic()
        self.missing: dict[str, float] = {}
        self.told_absent: set[str] = set()
        self.arrived: set[str] = set()  # the nodes from which an agent has come
        self.is_released = False  # its last worker has left, so that its end is none to be told of
        self.on_failed: Callable[[str], None] = lambda reason: None
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
    def site(self) -> int:
        """Which job its nodes are in, as a number; 0: this program's own, or none."""
        return self.number if getattr(self.launcher, "has_its_own_job", False) else 0

    @property
    def nodes(self) -> int:
        """How many agents will come."""
        self._started.wait(GRACE)  # an agent may come before `start` has returned
        return 1 if self._launched is None else self._launched.nodes

    @property
    def absent(self) -> dict[str, str]:
        """The nodes that were left out, and why."""
        return dict(getattr(self._launched, "absent", {}))

    @property
    def unsent(self) -> dict[str, str]:
        """The nodes to which the packed environment could not be sent, and why."""
        return dict(getattr(self._launched, "unsent", {}))

    @property
    def unpacked(self) -> list[dict[str, Any]]:
        """What nodes said that unpacked it before agents were started there."""
        return list(getattr(self._launched, "unpacked", []))

    def end(self) -> None:
        """Kill whatever the launch has started."""
        self._given_up = True
        for launched in [self._launched, *list(self._rejoining.values())]:
            if launched is not None:
                launched.end()

    def finish(self, until: float) -> None:
        """Let the launch end by itself until that time; then kill it."""
        self._thread.join(max(0.0, until - time.monotonic()))
        self.end()

    def give_back(self, host: str, is_further: bool) -> None:
        """Give a host back on which nobody is left; with the last one, a further launch ends. Raises `OSError`."""
        if self.is_released and is_further:
            self.finish(time.monotonic() + GRACE)
        if hasattr(self.launcher, "give_back"):
            self.launcher.give_back(host)


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
        self.most = invitation.most  # workers of the current launch
        self.current: Attempt | None = None
        self.further: dict[int, Attempt] = {}  # by number
        self.reasons: list[tuple[str, str]] = []
        self.deadline: float | None = None
        self._late = ""  # the reason if the deadline passes
        self._count = 0
        self._fruitless = 0
        self._brought_workers = False
        self.closing = False  # a launch that ends now has done its work
        self.on_lost: Callable[[Attempt], None]
        self.on_exhausted: Callable[[LaunchError], None]
        self.why_late: Callable[[], str] = str  # what the agents are at that came, for the reason

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
            if not self.further:
                self.on_exhausted(LaunchError(self.reasons))
            return
        self._fruitless += 1
        self.most = self.most if self.most is None else max(1, self.most)
        self._brought_workers = False
        attempt = self.current = self._attempt(self._chain[0], self.most)
        self.deadline = attempt.begun + self.start_timeout
        self._late = f"brought no worker within start_timeout={self.start_timeout:g} s"
        self._start(attempt)

    def begin_further(self, launcher: Launcher, wanted: int | None, on_failed: Callable[[str], None]) -> Attempt:
        """Start so many workers more (None: as many as there is room for) beside those that stand."""
        attempt = self._attempt(launcher, wanted)
        self.further[attempt.number], attempt.on_failed = attempt, on_failed
        self._start(attempt)
        return attempt

    def _attempt(self, launcher: Launcher, wanted: int | None) -> Attempt:
        self._count += 1
        return Attempt(self._count, launcher, self._invitation._replace(launch=self._count, most=wanted))

    def _start(self, attempt: Attempt) -> None:
        attempt.begin(lambda reason: self._post(lambda: self._ended(attempt, reason)))

    def _ended(self, attempt: Attempt, reason: str) -> None:
        if self.closing or self.attempt(attempt.number) is not attempt:
            return
        if not attempt.is_released:
            self.fail(attempt, reason)
        else:
            self.further.pop(attempt.number, None)

    def attempt(self, number: int) -> Attempt | None:
        """Return the launch of that number, if it was not given up."""
        current = self.current
        return current if current is not None and current.number == number else self.further.get(number)

    @property
    def wanted(self) -> int | None:
        """How many workers the launches are to have; None: as many as there is room for."""
        counts = [self.most, *(attempt.wanted for attempt in self.further.values())]
        return None if None in counts else sum(count for count in counts if count is not None)

    def resize(self, attempt: Attempt, wanted: int) -> None:
        """Let a launch have so many workers, also when it is started again."""
        attempt.wanted = wanted
        if attempt is self.current:
            self.most = wanted

    @property
    def in_process(self) -> bool:
        """Whether workers share this process's modules; before one stands, they may."""
        attempt = self.current
        return attempt is None or not self._brought_workers or getattr(attempt.launcher, "in_process", False)

    def stands(self, number: int) -> None:
        """A worker of that launch has come."""
        if self.current is not None and self.current.number == number:
            self._brought_workers = True
            self.deadline = None

    def standing(self) -> Launcher | None:
        """Return the launcher whose agents stand or are to come."""
        return None if self.current is None else self.current.launcher

    def bears(self) -> None:
        """A result has come."""
        self._fruitless = 0

    def lost(self, attempt: Attempt, node: str, now: float) -> None:
        """An agent is gone, and perhaps its node: it is taken back when it returns."""
        attempt.missing[node] = now + REJOIN

    def came(self, attempt: Attempt, node: str, now: float) -> bool:
        """An agent stands on that node; say whether one was lost there.

        Others may have been left out, as the launcher has found by now.
        """
        attempt.arrived.add(node)
        is_back = attempt.missing.pop(node, None) is not None
        absent = attempt.absent
        for name in absent.keys() - attempt.told_absent:
            self._log(logging.WARNING, f"node {name} is left out: {absent[name]}")
            attempt.told_absent.add(name)
            self.lost(attempt, name, now)
        return is_back

    def lost_all(self, attempt: Attempt | None, now: float) -> None:
        """The last agent of a launch is gone: the current one has `GRACE` seconds to end and say why."""
        if attempt is not None and attempt is self.current:
            self.deadline = now + GRACE
            self._late = "every agent that it had started is gone"
        elif attempt is not None:
            attempt.end()

    @property
    def _all(self) -> list[Attempt]:
        return [*([] if self.current is None else [self.current]), *self.further.values()]

    def next_deadline(self) -> float | None:
        missing = [at for attempt in self._all for at in attempt.missing.values()]
        return min((at for at in (self.deadline, *missing) if at is not None), default=None)

    def tick(self, now: float) -> None:
        for attempt in self._all:
            for node in [node for node, at in attempt.missing.items() if at <= now]:
                attempt.missing[node] = now + REJOIN
                attempt.rejoin(node)
        if self.deadline is not None and self.deadline <= now:
            assert self.current is not None
            self.fail(self.current, self._late + self.why_late())

    def fail(self, attempt: Attempt, reason: str) -> None:
        """Give a launch up; begin the next, if it was the current one."""
        if attempt is not self.current:
            self._fail_further(attempt, reason)
            return
        self.current = self.deadline = None
        self.on_lost(attempt)
        attempt.end()
        again = self._brought_workers and self._fruitless < MOST_FRUITLESS
        if not again:
            self.reasons.append((attempt.launcher.name, reason))
            self._chain.pop(0)
            self._fruitless = 0
        level = logging.WARNING if attempt.willing else logging.INFO
        self._log(level, f"launcher {attempt.launcher.name}: {reason}; {self._what_next(again)}")
        self.begin()

    def _fail_further(self, attempt: Attempt, reason: str) -> None:
        self.on_lost(attempt)
        attempt.end()
        if self.further.pop(attempt.number, None) is None:
            return
        then = "the pool is smaller" if attempt.arrived else "the pool is as it was"
        self._log(logging.WARNING, f"launcher {attempt.launcher.name}, started to grow: {reason}; {then}")
        attempt.on_failed(reason)
        if not self.further and not self.most:
            self.most = attempt.wanted  # all were there; the current launch is begun again
        if self.current is None and not self.further:
            self.on_exhausted(LaunchError(self.reasons))

    def _what_next(self, again: bool) -> str:
        if again:
            return "it is started again"
        return f"next: {self._chain[0].name}" if self._chain else "no other is left"

    def close(self) -> None:
        attempts, self.current, self.deadline = self._all, None, None
        self.further.clear()
        until = time.monotonic() + GRACE
        for attempt in attempts:
            attempt.finish(until)


def prepare_stage(stage: str | os.PathLike[str] | Stage | None, setup: dict[str, Any], log: Log) -> Bootstrap | None:
    """Return what makes agents run from a packed environment, if they are to; see `mainstay.stage.staged.prepare`."""
    if stage is None:
        return None
    from mainstay.stage.staged import prepare

    return prepare(stage, setup, log)
