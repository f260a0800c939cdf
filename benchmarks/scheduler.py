"""What an event costs the scheduler, with few and with very many workers and tasks. No process is started.

The events go to workers in random order. A figure is the median of some rounds' CPU time, so other programs disturb
it little. What remains of the ratio is the memory's: a million tasks do not fit into a processor's cache.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from mainstay.hands import AHEAD, NEXT
from mainstay.orders import Task
from mainstay.scheduler import Scheduler

BATCH = 10  # results of short tasks that come together
LONG, SHORT, STEADY = 1, 2, 3  # functions: never sent ahead; `BATCH` at a time; one waits behind another
MEANS = {LONG: 10.0, SHORT: AHEAD / BATCH, STEADY: NEXT / 2}  # seconds
ROUNDS = 9

Event = Callable[[int], object]
numbers = itertools.count()


class Standing:
    """A scheduler with so many workers, all busy, and so many tasks of one function queued."""

    def __init__(self, workers: int, tasks: int, function: int) -> None:
        self.scheduler, self.function = Scheduler(), function
        self.scheduler.times._means.update(MEANS)
        for worker in range(workers):
            self.scheduler.joined(worker, 0.0)
        for task in self.tasks(workers * (BATCH if function == SHORT else 2) + tasks):
            self.scheduler.submit(task, 0.0)
        self.scheduler.top_up(0.0)
        order = list(range(workers))
        random.Random(0).shuffle(order)
        self.turns = itertools.cycle(order)

    def tasks(self, count: int, **options: Any) -> list[Task]:
        return [Task(next(numbers), self.function, **options) for _ in range(count)]

    def next_hand(self) -> tuple[int, list[int]]:
        """Return whose turn it is, and the tasks in its hand."""
        worker = next(self.turns)
        return worker, list(self.scheduler.workers[worker].hand)

    def finish(self, most: int) -> None:
        worker, hand = self.next_hand()
        self.scheduler.finished(worker, [(number, MEANS[self.function]) for number in hand[:most]], 0.001)


def finished(standing: Standing, count: int) -> Event:
    return lambda i: standing.finish(1)


def finished_batch(standing: Standing, count: int) -> Event:
    return lambda i: standing.finish(BATCH)


def submit(standing: Standing, count: int) -> Event:
    tasks = standing.tasks(count)
    return lambda i: standing.scheduler.submit(tasks[i], 0.001)


def submit_priorities(standing: Standing, count: int) -> Event:
    tasks = [task for _ in range(count) for task in standing.tasks(1, priority=-next(numbers))]
    return lambda i: standing.scheduler.submit(tasks[i], 0.001)


def finished_timeout(standing: Standing, count: int) -> Event:
    tasks = standing.tasks(count, priority=1, timeout=3600.0)

    def event(i: int) -> None:
        standing.scheduler.submit(tasks[i], 0.001)
        standing.finish(1)
        standing.scheduler.next_tick()

    return event


def retry(standing: Standing, count: int) -> Event:
    tasks = standing.tasks(count, retries=1)
    return lambda i: standing.scheduler.retry(tasks[i], 0.001)


def refused(standing: Standing, count: int) -> Event:
    """Every worker has room, and the first in the queue must be alone."""
    standing.scheduler.drain()
    for worker in standing.scheduler.workers.values():
        standing.scheduler.finished(worker.id, [(number, NEXT / 2) for number in list(worker.hand)[1:]], 0.001)
    for task in standing.tasks(1, worker_retries=0):
        standing.scheduler.submit(task, 0.001)
    assert len(standing.scheduler._roomy) == len(standing.scheduler.workers)
    return lambda i: standing.scheduler.top_up(0.001)


def dropped(standing: Standing, count: int) -> Event:
    return lambda i: standing.scheduler.dropped(*standing.next_hand(), 0.001)


def returned(standing: Standing, count: int) -> Event:
    def event(i: int) -> None:
        worker, hand = standing.next_hand()
        standing.scheduler.returned(worker, hand[1:], 0.001)

    return event


def left_joined(standing: Standing, count: int) -> Event:
    def event(i: int) -> None:
        worker = next(standing.turns)
        standing.scheduler.left(worker, 0.001)
        standing.scheduler.joined(worker, 0.001)

    return event


def next_tick(standing: Standing, count: int) -> Event:
    return lambda i: standing.scheduler.next_tick()


def tick(standing: Standing, count: int) -> Event:
    return lambda i: standing.scheduler.tick(0.001)


EVENTS = [
    ("finished: a long task", finished, LONG),
    ("finished: one that had company", finished, STEADY),
    (f"finished: {BATCH} short ones", finished_batch, SHORT),
    ("submit, finished, next_tick: with a timeout", finished_timeout, LONG),
    ("submit", submit, LONG),
    ("submit: a priority of its own", submit_priorities, LONG),
    ("top_up: none may", refused, STEADY),
    ("retry", retry, LONG),
    ("dropped", dropped, LONG),
    ("returned", returned, STEADY),
    ("left, joined", left_joined, LONG),
    ("next_tick", next_tick, STEADY),
    ("tick", tick, STEADY),
]


def cost(make: Callable[[Standing, int], Event], standing: Standing, count: int) -> float:
    """Return microseconds per event: the median of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        event = make(standing, count)
        began = time.process_time()
        for i in range(count):
            event(i)
        rounds.append((time.process_time() - began) / count * 1e6)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks and workers")
    scale = 10 if parser.parse_args().quick else 1
    few, many, tasks, count = 10, 100_000 // scale, 1_000_000 // scale, 2000
    gc.disable()  # its cost depends on the whole program's objects
    print(f"| event | {few} workers (µs) | {many:,} workers, {tasks:,} tasks (µs) | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name, make, function in EVENTS:
        enough = ROUNDS * count * (BATCH if function == SHORT else 1)  # for the events, and no more
        small = cost(make, Standing(few, enough, function), count)
        large = cost(make, Standing(many, tasks, function), count)
        print(f"| {name} | {small:.2f} | {large:.2f} | {large / small:.2f} |", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
