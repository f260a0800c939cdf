"""What a start without a storm is to reach, measured: the second table of `storm.py`.

Counted are the metadata operations of all processes but the program that uses the pool: its own start and imports are
those of any Python, once for the pool, and told apart. The client keeps no names and no attributes, so each directory
of a path counts each time; the packed environment lies three directories deep.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mounted
from mounted import Failed
from slowmount import Cache, SlowMount
from summary import short

MANY, FIFTY, MOST = 32, 50, 64  # workers
SHARING = 16  # of those whose memory is looked at
BATCHES = 100
DEATHS = 15
ROUNDS = 3  # of what is timed
SETTLED = 45.0  # seconds after which ext4 takes inodes of removed files again as it takes others
MEMORY = "/dev/shm"  # to which an environment is unpacked, where the disk's own changes of mind are not asked for
DELAY = 0.0005  # seconds that an operation takes
HOSTS = 3
WORKERS_OF_A_HOST = 4
STAGED, IMAGE, PRELOADED = "mainstay_staged", "mainstay_staged_image", "mainstay_staged_preload"
WHOLE, FEW, MANY_PACKAGES = "whole", "one", "thousand"  # environments, with the packages of the task
SMALL = {FEW: 1, MANY_PACKAGES: 1000}


class Figure(NamedTuple):
    """What was measured: the worst that came, what it is to be at most, and how it came about."""

    what: str
    reached: float
    limit: float
    unit: str = ""
    seen: str = ""

    @property
    def row(self) -> str:
        kept = "reached" if self.reached <= self.limit else "missed"
        seen = f" ({self.seen})" if self.seen else ""
        return f"| {self.what} | {short(self.reached)}{self.unit}{seen} | {short(self.limit)}{self.unit} | {kept} |"


def table(figures: list[Figure]) -> str:
    """Return a Markdown table."""
    head = "| figure | measured | at most | |\n| --- | ---: | ---: | --- |"
    return "\n".join([head, *(figure.row for figure in figures)])


class Aims:
    """Measures on a mount on which the environments `WHOLE` and those of `SMALL` lie, packed."""

    def __init__(self, mount: SlowMount, folder: str | None) -> None:
        self._mount, self._folder = mount, folder

    def _run(self, name: str, place: str, workers: int, folder: str | None = None, delay: float = 0.0) -> Any:
        return mounted.running(name, self._mount, place, workers, 10 * workers, folder or self._folder, delay)

    def starts(self) -> Iterator[Figure]:
        """For one worker and many, and for one package and many. Raises `Failed`."""
        for name, what, most in ((STAGED, "archive", 12), (IMAGE, "image", 5)):
            cases = [(place, workers) for place in SMALL for workers in (1, MOST)]
            found = {case: self._start(name, *case) for case in cases}
            counts = {case: start.pool.others for case, start in found.items()}
            seen = ", ".join(f"{SMALL[place]:,} × {workers}: {count}" for (place, workers), count in counts.items())
            said = f"operations at start per node, {what}, packages × workers"
            yield Figure(said, max(counts.values()), most, seen=seen)
            yield Figure(f"peak per second at start, {what}", max(start.peak for start in found.values()), 100)

    def _start(self, name: str, *given: Any) -> mounted.Start:
        with self._run(name, *given) as run:
            return run.start  # type: ignore[no-any-return]

    def whole(self) -> Iterator[Figure]:
        """With all that a model of some size imports. Raises `Failed`."""
        yield from self.arrivals()
        yield from self.batches()
        yield from self.deaths()

    def batches(self) -> Iterator[Figure]:
        """Batches of tasks that need it all."""
        with self._run(PRELOADED, WHOLE, FIFTY) as run:
            yield Figure(f"operations at start, {FIFTY} workers that import it all", run.start.pool.others, 12)
            before = run.count()
            for _ in range(BATCHES):
                run.led.ask("batch")
            what = f"operations in {BATCHES} batches of {FIFTY} workers, the program's included"
            yield Figure(what, (run.count() - before).all, 0)

    def deaths(self) -> Iterator[Figure]:
        """Workers are killed."""
        with self._run(PRELOADED, WHOLE, 4) as run:
            before = run.count()
            times = [run.led.ask("replace")["s"] * 1000 for _ in range(DEATHS)]
            yield Figure("new worker after a death, median", statistics.median(times), 30, " ms", spread(times))
            yield Figure(f"operations for {DEATHS} new workers, the program's included", (run.count() - before).all, 0)

    def arrivals(self) -> Iterator[Figure]:
        """The environment comes to a node."""
        time.sleep(SETTLED)
        yield self._arrival(f"{self._sizes()} unpacked to disk", STAGED, 5)
        yield self._arrival("the same to memory", STAGED, 5, MEMORY)
        yield self._arrival("image of the same", IMAGE, 0.1)

    def _arrival(self, what: str, name: str, limit: float, folder: str | None = None) -> Figure:
        with ExitStack() as stack:  # nothing is removed meanwhile: after that, new files cost ext4 three times as much
            times = [stack.enter_context(self._run(name, WHOLE, 1, folder)).start.stage for _ in range(ROUNDS)]
        return Figure(f"{what}, median", statistics.median(times), limit, " s", spread(times))

    def _sizes(self) -> str:
        place = self._mount.behind / WHOLE
        unpacked = sum(file.lstat().st_size for file in (place / "env").rglob("*"))
        return f"{unpacked / 1e6:.0f} MB ({(place / 'work' / 'env.tar.zst').stat().st_size / 1e6:.0f} MB packed)"

    def slow(self) -> Iterator[Figure]:
        """Where each operation takes its time; then, what memory these pools have. Raises `Failed`."""
        stood: dict[int, list[float]] = {1: [], MANY: []}
        for _ in range(ROUNDS):
            for workers, times in stood.items():
                times.append(self._start(PRELOADED, WHOLE, workers, MEMORY, DELAY).stood)
        one, many = map(statistics.median, stood.values())
        what = f"until {MANY} workers stand against 1, {DELAY * 1000:g} ms an operation, preloaded, medians"
        yield Figure(what, many / one, 1.2, " ×", "; ".join(f"{spread(times)} s" for times in stood.values()))
        alone, shared = map(self._memory, (1, SHARING))
        what = f"memory of {SHARING} workers against one, preloaded (PSS)"
        yield Figure(what, shared / alone, 3, " ×", f"{shared:.0f} MB, {alone:.0f} MB")

    def _memory(self, workers: int) -> float:
        with self._run(PRELOADED, WHOLE, workers) as run:
            return float(run.led.ask("memory")["MB"])


def spread(times: list[float]) -> str:
    return f"{short(min(times))} to {short(max(times))}"


def passed_on(source: Path) -> Iterator[Figure]:
    """A small environment and its packed file on three hosts of a Slurm cluster; wants root. Raises `Failed`."""
    from cluster.bed import Cluster
    from cluster.install import Unavailable, ensure_slurm

    try:
        ensure_slurm()
    except Unavailable as error:
        raise Failed(f"no Slurm cluster: {error}") from error
    with Cluster(nodes=HOSTS, cpus=WORKERS_OF_A_HOST) as cluster, cluster.counted(cache=Cache.NONE) as mount:
        shutil.copytree(source, mount.behind / FEW, symlinks=True)
        environment, work = mount.path / FEW / "env", mount.path / FEW / "work"
        workers = HOSTS * WORKERS_OF_A_HOST
        job = ["salloc", "--quiet", f"-N{HOSTS}", f"--ntasks-per-node={WORKERS_OF_A_HOST}"]
        command = [*job, *mounted.line(STAGED, work, environment, workers, 10 * workers, "srun")]
        with mounted.led(partial(cluster.popen, command, cwd=work)) as way:
            way.hear("begin")
            program = way.hear("ready")["pid"]
            login = mounted.counted(mount["login"].operations(), program).others
            nodes = [mount[name].counts().total() for name in cluster.names]
            what = f"operations at start in all, {HOSTS} hosts × {WORKERS_OF_A_HOST}"
            yield Figure(what, login + sum(nodes), 12, seen=f"login {login}, nodes {', '.join(map(str, nodes))}")
            asked = mount.counts()
            for _ in range(BATCHES):
                way.ask("batch")
            more = sum((counts - asked[name]).total() for name, counts in mount.counts().items())
            yield Figure(f"operations in {BATCHES} batches on these, the program's included", more, 0)
