"""What an event costs the scheduler, with few and with very many workers and tasks. No process is started."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from mainstay.scheduler import Scheduler, Task

LONG = 10.0  # seconds; such tasks are not sent ahead


def standing(workers: int, tasks: int) -> tuple[Scheduler, list[int]]:
    """Return a scheduler with every worker busy and so many tasks queued; and the ids of the running tasks."""
    scheduler = Scheduler()
    scheduler._means[1] = LONG
    for number in range(workers):
        scheduler.joined(number, 0.0)
    for number in range(workers + tasks):
        scheduler.submit(Task(number, 1), 0.0)
    return scheduler, [next(iter(worker.hand)) for worker in scheduler.workers.values()]


def microseconds(call: Callable[[int], object], count: int) -> float:
    """Return what one call costs: the median of five goes."""
    goes = []
    for go in range(5):
        began = time.perf_counter()
        for i in range(go * count, (go + 1) * count):
            call(i)
        goes.append((time.perf_counter() - began) / count * 1e6)
    return statistics.median(goes)


def costs(workers: int, tasks: int, count: int) -> dict[str, float]:
    """Return microseconds per event."""
    scheduler, _ = standing(workers, tasks)
    running = {number: next(iter(worker.hand)) for number, worker in scheduler.workers.items()}

    def finish(i: int) -> None:
        number = i % workers
        _, actions = scheduler.finished(number, [(running[number], LONG)], 1.0)
        running[number] = actions[0].tasks[0].id  # type: ignore[union-attr]

    def leave(i: int) -> None:
        scheduler.left(i, 1.0, blame=False)
        scheduler.joined(10**9 + i, 1.0)

    def overrun(i: int) -> None:
        scheduler.submit(Task(10**9 + i, 2, timeout=5.0, priority=1), 1.0)
        scheduler.next_tick()

    results = {"finished": microseconds(finish, count)}
    results["submit"] = microseconds(lambda i: scheduler.submit(Task(10**10 + i, 1), 1.0), count)
    results["next_tick"] = microseconds(lambda i: scheduler.next_tick(), count)
    results["tick"] = microseconds(lambda i: scheduler.tick(1.0), count)
    results["submit with timeout"] = microseconds(overrun, count)
    results["left, joined"] = microseconds(leave, 2 if workers < count else count // 10)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks and workers")
    scale = 10 if parser.parse_args().quick else 1
    few, many = 10, 100_000 // scale
    tasks = 1_000_000 // scale
    small, large = costs(few, 100_000 // scale, 4000), costs(many, tasks, 4000)
    print(f"| event | {few} workers (µs) | {many:,} workers, {tasks:,} tasks (µs) | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for event, value in small.items():
        print(f"| {event} | {value:.2f} | {large[event]:.2f} | {large[event] / value:.2f} |")


if __name__ == "__main__":
    main()
