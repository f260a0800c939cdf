"""What becomes of pools that are still open when the program ends or forks."""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from mainstay.broker import Broker

_live: weakref.WeakSet[Broker] = weakref.WeakSet()


def add(broker: Broker) -> None:
    """Look after a pool from now on."""
    _live.add(broker)


def _close_all() -> None:
    """Finish what was submitted, as the stdlib's pools do; after Ctrl-C, end at once."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    brokers = list(_live)
    for broker in brokers:
        broker.close(abort=interrupted)
    for broker in brokers:
        broker.join()


def _abandon_all() -> None:
    for broker in list(_live):
        broker.abandon()
    _live.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)
