"""The pool as a tuner uses it: builds and visits as calls, with their keys for the journal and their failures by class.

    build(variant, kind) ─▶ a call on a node of that kind ─▶ Built
    visit(variant, host, round) ─▶ an exclusive call on that node ─▶ Visit

What a call is known by in the journal is made of all that its result depends on; so what was built and measured once is
not built and measured again, also by another program that does the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from queue import SimpleQueue
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

from mainstay.errors import GangError, MainstayError, TaskTimeout, WorkerDied
from mainstay.keeping import Keeper
from mainstay.options import Options
from mainstay.staging import look
from mainstay.tune import visiting
from mainstay.tune.artifacts import Artifacts
from mainstay.tune.building import ERROR, NO_MEMORY, OK, TIMEOUT, Build, Built
from mainstay.tune.plan import Plan, Unbuilt
from mainstay.tune.rules import Rules
from mainstay.tune.session import CALIBRATION
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import CRASH, LOST, About, Order, Stages, Visit

if TYPE_CHECKING:
    from mainstay.executor import Executor

T = TypeVar("T")
R = TypeVar("R", Built, Visit)
Then = Callable[["Future[Any]"], None]
VERSION = "3"  # of what the nodes do: another one measures anew
MOST_LOSSES = 3  # times that a call is sent again since its node was lost under it: it may be what brings nodes down


class Node(NamedTuple):
    """A node that measures: its name, its kind, and the versions of compilers there."""

    host: str
    kind: str
    tools: tuple[tuple[str, str], ...]


class Asks(NamedTuple):
    """What is asked of the pool for each call.

    cores: that a measurement is pinned to; None: not at all. ship: files that all nodes get. timeouts in seconds.
    """

    cores: int | None
    ship: tuple[str, ...]
    build_timeout: float | None
    run_timeout: float | None
    counters: bool

    def validate(self) -> None:
        """Raise `ValueError` or `OSError` for what the pool would refuse later, in the midst of a sweep."""
        Options().changed({"cores": self.cores, "timeout": self.build_timeout, "stage_in": list(self.ship)})
        Options().changed({"timeout": self.run_timeout})


class Crew:
    """Sends builds and visits to nodes, and calls back with what came of them, in the thread that is in `run`."""

    def __init__(self, executor: Executor, stages: Stages, rules: Rules, asks: Asks, artifacts: Artifacts) -> None:
        self._executor, self._rules, self._asks, self.artifacts = executor, rules, asks, artifacts
        self.keeper: Keeper | None = executor._keeper  # of the journal
        words = _words(stages, asks.ship) if self.keeper else {}
        self.token = hash_of(*words.values()) if words else uuid4().hex
        self._build_word = hash_of(*(words[name] for name in ("build", "setup", "ship"))) if words else self.token
        self._stages = stages = stages._replace(token=self.token)
        self._events: SimpleQueue[tuple[Future[Any], Then]] = SimpleQueue()
        self._under_way: set[Future[Any]] = set()
        self.gone: set[str] = set()  # nodes that were lost and did not come back
        self._builds: dict[str, list[Callable[[Built], None]]] = {}
        self._built: dict[str, Built] = {}

        def built(variant: Variant, kind: str) -> Built:
            return visiting.built(stages, variant, kind)

        def visited(order: Order) -> Visit:
            return visiting.visit(stages, order)

        self._build_there, self._visit_there = built, visited

    @property
    def manner(self) -> str:
        """How visits are made, in words: what else than that is measured tells one from another."""
        rules, asks = self._rules, self._asks
        return repr((rules.repeats, rules.warmups, asks.cores, asks.counters))

    # -- the loop

    def run(self, begin: Callable[[], object]) -> None:
        """Begin, and call back until nothing is under way any more; after an exception (Ctrl-C), nothing is either."""
        try:
            begin()
            while self._under_way:
                future, then = self._events.get()
                self._under_way.discard(future)
                then(future)
        finally:
            self._events = SimpleQueue()
            for future in self._under_way:
                future.cancel()
            self._under_way.clear()
            self._builds.clear()
            self.gone.clear()  # it may be there again when something else is measured

    def _send(self, options: dict[str, Any], call: Sequence[Any], then: Then, losses: int = 0) -> None:
        """Have a call run, and then call back; where its node is lost under it, it runs again as if it never had."""
        key = {"key": f"{options['key']}/again {losses}"} if losses and self.keeper else {}
        future = self._submit(options | key, call)

        def done(future: Future[Any]) -> None:
            if is_lost(future.exception()) and losses < MOST_LOSSES:
                self._send(options, call, then, losses + 1)
            else:
                then(future)

        events = self._events  # of this run: what ends after that tells nobody
        self._under_way.add(future)
        future.add_done_callback(lambda future: events.put((future, done)))

    def _later(self, call: Callable[[], None]) -> None:
        """Call from the loop: one search point after another may be known at once, and calls would nest."""
        future: Future[Any] = Future()
        future.set_result(None)
        self._under_way.add(future)
        self._events.put((future, lambda _: call()))

    def _submit(self, options: dict[str, Any], call: Sequence[Any]) -> Future[Any]:
        """Return the future of a call; one that has failed, where all nodes that it may run on are gone."""
        nodes = set(options.get("nodes", ()))
        why = f"{', '.join(sorted(nodes))} did not come back"
        if not nodes or not nodes <= self.gone:
            try:
                return self._executor.options(**options).submit(*call)
            except ValueError as error:
                if not nodes or not nodes.isdisjoint(self._executor.describe().hosts):
                    raise
                why = str(error)  # the pool has given the node back
        future: Future[Any] = Future()
        future.set_exception(GangError(why))
        return future

    # -- builds

    def check(self, variants: Sequence[Variant]) -> None:
        """Raise `ValueError` for a variant whose commands could not be spelt."""
        build = self._stages.build
        if isinstance(build, Build):
            for variant in variants:
                build.content(variant)

    def build(self, variant: Variant, kind: str, nodes: Sequence[Node], then: Callable[[Built], None]) -> None:
        """Build a variant for a kind of node, on one of these, once; then call back."""
        if self._stages.build is None:
            then(Built(OK, variant, digest=variant.key))
            return
        key = self._build_key(variant, kind, nodes[0])
        if key in self._built:
            self._later(lambda: then(self._built[key]))
        elif key in self._builds:
            self._builds[key].append(then)
        else:
            self._builds[key] = [then]
            self._submit_build(key, variant, kind, nodes, tries=2)

    def _submit_build(self, key: str, variant: Variant, kind: str, nodes: Sequence[Node], tries: int) -> None:
        asks = self._asks
        options: dict[str, Any] = {"label": f"build [{variant}] for {kind}", "worker_retries": 0}
        options |= {"stage_in": list(asks.ship), "timeout": asks.build_timeout, "retry_failed": False}
        if tries == 1:  # it wanted more memory than its node had beside others
            options |= {"exclusive": True}
        hosts = [node.host for node in nodes]
        if tries == 1 or not set(hosts) >= self._executor.describe().hosts.keys():
            options |= {"cores": None if tries == 1 else 1, "nodes": hosts}
        if self.keeper:
            options["key"] = f"{key}/{tries}"

        def done(future: Future[Built], built: Built) -> None:
            if built.status == NO_MEMORY and tries > 1:
                self._submit_build(key, variant, kind, nodes, tries - 1)
                return
            if isinstance(future.exception(), GangError):
                self.gone.update(hosts)
            if built.status != LOST:
                self._built[key] = built
            for call in self._builds.pop(key):
                call(built)

        def made(future: Future[Built]) -> Built:
            return _built_of(future)._replace(variant=variant, kind=kind)

        build = self._stages.build
        limits = (asks.build_timeout, *((build.timeout, build.memory) if isinstance(build, Build) else ()))
        self._send_limited(options, (self._build_there, variant, kind), limits, made, done)

    def _build_key(self, variant: Variant, kind: str, node: Node) -> str:
        build = self._stages.build
        content = build.content(variant) if isinstance(build, Build) else f"{self._build_word} {variant.key}"
        return "tune/build/" + hash_of(VERSION, content, kind, repr(node.tools))

    # -- visits

    def visit(self, about: About, built: Built, checks: bool, then: Callable[[Visit], None]) -> None:
        """Visit a variant on a node, in a round of a session, and check it before if so said; then call back."""
        asks, rules, host = self._asks, self._rules, about.host
        options: dict[str, Any] = {"exclusive": True, "cores": asks.cores, "nodes": [host], "worker_retries": 0}
        options |= {"retry_failed": False, "label": f"measure [{about.variant}] on {host}, round {about.round}"}
        if self.keeper:
            options["key"] = self._visit_key(about, built)
        if about.variant == CALIBRATION:
            call: tuple[Any, ...] = (visiting.calibrated, about, rules.repeats)
        else:
            files = self.artifacts.place(built)
            options |= {"timeout": asks.run_timeout, "stage_in": [*asks.ship, *([files] if files else [])]}
            order = Order(files, built.value, rules.repeats, rules.warmups, checks, asks.counters, about, built.by)
            call = (self._visit_there, order)

        def done(future: Future[Visit], visit: Visit) -> None:
            if isinstance(future.exception(), GangError):
                self.gone.add(host)
            then(visit)

        self._send_limited(options, call, (asks.run_timeout,), lambda future: _visit_of(future, about, built.by), done)

    # -- failures in the journal

    def _send_limited(
        self,
        options: dict[str, Any],
        call: Sequence[Any],
        limits: tuple[Any, ...],
        made: Callable[[Future[Any]], R],
        then: Callable[[Future[Any], R], None],
    ) -> None:
        """Have a call run; where a limit ended it in an earlier run, and there are others now, it runs again.

        Only what failed so is known by its limits too: what ends within them does not depend on them.
        """
        was_kept = self.keeper is not None and self.keeper.has(options["key"], failed_too=True)

        def done(future: Future[Any]) -> None:
            what = made(future)
            if self.keeper is None or what.status not in (TIMEOUT, NO_MEMORY):
                last(future)
            elif was_kept:
                self._send(options | {"key": self._under(options, limits)}, call, last)
            else:
                self._note(self._under(options, limits), what, options["label"])
                then(future, what)

        def last(future: Future[Any]) -> None:
            what = made(future)
            self._note_failure(future, what, options)
            then(future, what)

        self._send(options, call, done)

    def _under(self, options: dict[str, Any], limits: tuple[Any, ...]) -> str:
        return f"{options['key']}/under {limits}"

    def _note_failure(self, future: Future[Any], what: Built | Visit, options: dict[str, Any]) -> None:
        """What ended by an exception left nothing in the journal that a report could be made from: put it there."""
        if self.keeper and future.exception() is not None:
            self._note(f"{options['key']}/failed", what, options["label"])

    def _note(self, key: str, what: Built | Visit | Plan | Unbuilt, label: str) -> None:
        self._executor.options(key=key, label=label).submit(noted, what)

    # -- what a report is made from, besides builds and visits

    def note_plan(self, plan: Plan) -> None:
        """A trial begins."""
        if self.keeper:
            key = f"tune/plan/{hash_of(VERSION, *plan.place)}/{plan.began}"
            self._note(key, plan, f"plan of {len(plan.variants)} variants on {plan.machine.host}")

    def note_unbuilt(self, plan: Plan, variant: Variant, built: Built) -> None:
        """A build failed, and so its variant has no part in a trial."""
        if self.keeper:
            key = f"tune/unbuilt/{hash_of(VERSION, *plan.place, variant.key)}/{plan.began}"
            left_out = built._replace(files=())  # these are with the build's own record
            self._note(key, Unbuilt(plan.place, variant, left_out, plan.began), f"unbuilt [{variant}]")

    def _visit_key(self, about: About, built: Built) -> str:
        where = (about.host, about.kind, about.session, str(about.round))
        return "tune/visit/" + hash_of(VERSION, self.token, built.digest, about.variant.key, *where, self.manner)


def noted(what: T) -> T:
    """Return what is given: a call, so that the journal keeps it."""
    return what


def _built_of(future: Future[Built]) -> Built:
    """Return what came of a build, also where its worker was killed. Raises what is no fault of the build."""
    error = future.exception()
    if error is None:
        return future.result()
    return Built(_class_of(error, ERROR, ERROR), stderr=_said(error), host=getattr(error, "host", ""))


def _visit_of(future: Future[Visit], about: About, by: str) -> Visit:
    error = future.exception()
    if error is None:
        return future.result()
    return Visit(_class_of(error, CRASH, visiting.ERROR), about, message=_said(error), host=about.host, built_by=by)


def _class_of(error: BaseException, died: str, otherwise: str) -> str:
    """Return the class of a call's failure. Raises the error where it is the pool's."""
    if isinstance(error, TaskTimeout):
        return TIMEOUT
    if isinstance(error, GangError) or is_lost(error):
        return LOST
    if isinstance(error, WorkerDied):
        return NO_MEMORY if error.signal == SIGKILL else died
    if isinstance(error, MainstayError) or not isinstance(error, Exception):
        raise error
    return otherwise  # the function could not be unpickled, or its result not pickled


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, MainstayError) else f"{type(error).__name__}: {error}"


def paths_of(ship: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the absolute paths of what is shipped. Raises `TypeError` for a single path."""
    if isinstance(ship, (str, os.PathLike)):
        raise TypeError(f"ship is a list of paths, as [{os.fspath(ship)!r}]; given: {ship!r}")
    return tuple(map(os.path.abspath, ship))


def is_lost(error: BaseException | None) -> bool:
    """Whether a call ended since its node did: then nobody was left to see how its worker ended."""
    return isinstance(error, WorkerDied) and error.signal is None and error.exitcode is None


def hash_of(*words: str) -> str:
    return blake2b("\0".join(words).encode(), digest_size=16).hexdigest()


def _words(stages: Stages, ship: Sequence[str]) -> dict[str, str]:
    """Return what the user's functions and files are known by. Raises `UnreliableKey`."""
    named = {name: word_of(getattr(stages, name)) for name in ("build", "run", "check", "setup")}
    return named | {"ship": repr([one.key for one in look(list(ship))])}


def word_of(stage: Any) -> str:
    """Return what one of the user's functions is known by. Raises `UnreliableKey`."""
    from mainstay.journal.keys import function_key

    if isinstance(stage, Build):
        return repr((stage.commands, sorted(stage.sources.items()), stage.output))
    return function_key(stage).hex() if callable(stage) else repr(stage)
