"""The tuner's figures, each by itself:

    python benchmarks/tune.py overlap    1,000 measurements on three hosts, among builds and other calls (wants root)
    python benchmarks/tune.py sweep      a sweep whose builds sleep, on three hosts and on one (wants root)
    python benchmarks/tune.py spread     the median of a fixed kernel, 20 runs each, and pytest-benchmark's, hyperfine's
    python benchmarks/tune.py apart      a true difference of 3 % found, two equal kernels not told apart; 100 runs
    python benchmarks/tune.py apart_cpu  the same by the CPU's time, which other programs disturb less
    python benchmarks/tune.py killed     a sweep that is killed half-way and started again

`overlap` and `sweep` bring up the cluster of the tests on this machine. `spread` and `apart` say
little on a machine that does other things meanwhile: they print its load, and the spread of the calibration kernel.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mainstay import Executor
from mainstay.tune import Build, Tuner, Variant, call
from mainstay.tune.report import tables

KERNEL = """
/* A chain of dependent operations: so many steps take so long, whatever the caches hold. */
unsigned long spin(unsigned long steps) {
    unsigned long x = steps;
    for (unsigned long i = 0; i < steps; i++) x = x * 6364136223846793005UL + 1442695040888963407UL;
    return x;
}
"""
STEPS = 1_000_000
SAMPLES = 256
MAIN = f"int main(void) {{ return spin({STEPS}ul) == 1; }}"
program = Build(["cc", "-O2", "k.c", "-o", "k"], "k", {"k.c": KERNEL + MAIN})
spin = Build(["cc", "-O2", "-fPIC", "-shared", "k.c", "-o", "k.so"], "k.so", {"k.c": KERNEL})


# -- on three hosts

OVERLAP = """
import json, time
from mainstay import Executor
from mainstay.timeline import overlaps
from mainstay.tune import Tuner, Variant

def build(variant, directory):
    time.sleep(0.05)
    (directory / "made").write_text(str(variant))

def run(artifact):
    time.sleep(0.001)

with Executor(launcher="srun", drain=0, timeline=True) as ex:
    tuner = Tuner(ex, run, build=build, nodes=3, rounds=(28, 28), repeats=1, warmups=0, slower=1e9)
    others = [ex.submit(time.sleep, 0.01) for _ in range(2000)]
    began = time.monotonic()
    table = tuner.measure([Variant(x=x) for x in range(12)])
    seconds = time.monotonic() - began
    [other.result() for other in others]
    visits = sum(len(row.visits) for row in table)
    spans = ex.timeline
    print("FIGURES", json.dumps({"measurements": visits, "overlaps": len(overlaps(spans)), "spans": len(spans),
        "hosts": len({row.host for row in table}), "seconds": seconds}))
"""
SWEEP = """
import json, time
from mainstay import Executor
from mainstay.tune import Tuner, Variant

def build(variant, directory):
    time.sleep({build})
    (directory / "made").write_text(str(variant))

with Executor(launcher="srun", drain=0, preload=["mainstay.tune.visiting"]) as ex:
    tuner = Tuner(ex, lambda artifact: 1.0, build=build, rounds=(2, 2), repeats=1, warmups=0)
    began = time.monotonic()
    table = tuner.measure([Variant(x=x) for x in range(48)])
    print("FIGURES", json.dumps({"seconds": time.monotonic() - began, "rows": len(table)}))
"""


def job(cluster: Any, text: str, *flags: str) -> dict[str, Any]:
    """Run a script as a job of the cluster; return the figures that it printed."""
    (cluster.shared / "job.py").write_text(text)
    ended = cluster.wait(cluster.submit(f"exec {sys.executable} job.py", *flags))
    if "FIGURES" not in ended.output:
        raise SystemExit(ended.output)
    figures: dict[str, Any] = json.loads(ended.output.partition("FIGURES")[2].splitlines()[0])
    return figures


def cluster_of_three() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from cluster.bed import Cluster
    from cluster.install import ensure_slurm

    ensure_slurm()
    return Cluster(nodes=3, cpus=4)


def overlap() -> None:
    with cluster_of_three() as cluster:
        told = job(cluster, OVERLAP, "-N3", "--ntasks-per-node=2")
    print(f"{told['measurements']} measurements on {told['hosts']} hosts in {told['seconds']:.1f} s, among", end=" ")
    print(f"{told['spans']} runs of tasks: {told['overlaps']} overlaps")


def sweep() -> None:
    print(load())
    with cluster_of_three() as cluster:
        for build in (1, 3):
            text = SWEEP.replace("{build}", str(build))
            one, three = (job(cluster, text, f"-N{n}", "--ntasks-per-node=4")["seconds"] for n in (1, 3))
            print(f"48 builds of {build} s, measured on every host: 1 host {one:.2f} s,", end=" ")
            print(f"3 hosts {three:.2f} s: {one / three:.2f} ×; {load()}")


# -- on this machine


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def steps(artifact: str) -> float:
    spin, count = ctypes.CDLL(artifact).spin, ctypes.c_ulong(STEPS)
    began = time.perf_counter()  # what the other times, too: the function has been looked up before
    spin(count)
    return time.perf_counter() - began


BENCHMARK = """
import ctypes
def test_it(benchmark):
    spin = ctypes.CDLL({path!r}).spin
    benchmark.pedantic(spin, args=(ctypes.c_ulong({steps}),), rounds={rounds}, warmup_rounds=16)
"""


def core() -> str:
    return str(min(os.sched_getaffinity(0)))


def of_pytest_benchmark(directory: Path) -> float:
    """Return the median (s) that pytest-benchmark finds in a run of its own."""
    test, out = directory / "test_it.py", directory / "out.json"
    test.write_text(BENCHMARK.format(path=str(directory / "k.so"), steps=STEPS, rounds=SAMPLES))
    command = ["taskset", "-c", core(), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--benchmark-json={out}", str(test)]
    subprocess.run(command, check=True, capture_output=True, cwd=directory)
    median: float = json.loads(out.read_text())["benchmarks"][0]["stats"]["median"]
    return median


def of_mainstay(run: Any, build: Build) -> float:
    """Return the median (s) that a tuner finds, in a pool of its own."""
    with Executor(2, launcher="local") as executor:
        how: dict[str, Any] = {"rounds": (16, 16), "repeats": SAMPLES // 16, "warmups": 1, "counters": False}
        table = Tuner(executor, run, build=build, **how).measure([Variant(x=1)])
        found = table.rows[0].median
        assert found is not None
        return found


def of_hyperfine(directory: Path) -> float:
    """Return the median (s) that hyperfine finds of the kernel as a program."""
    out = directory / "hyperfine.json"
    how = ["--shell=none", "--warmup=16", f"--runs={SAMPLES}", "--style=none", f"--export-json={out}"]
    call(["taskset", "-c", core(), "hyperfine", *how, directory / "k"])
    median: float = json.loads(out.read_text())["results"][0]["median"]
    return median


def spread(runs: int = 20) -> None:
    """By turns, all on the core that the tuner measures on, so that they meet the same of what else runs there."""
    if shutil.which("hyperfine") is None:
        print("hyperfine is not here (apt-get install hyperfine), and so has no row")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for build in (spin, program):
            build(Variant(), directory)
        ways: dict[str, Callable[[], float]] = {
            "mainstay, a library": lambda: of_mainstay(steps, spin),
            "pytest-benchmark, the same library": lambda: of_pytest_benchmark(directory),
            "mainstay, a program": lambda: of_mainstay(["{artifact}"], program),
        }
        if shutil.which("hyperfine"):
            ways["hyperfine, the same program"] = lambda: of_hyperfine(directory)
        found: dict[str, list[float]] = {who: [] for who in ways}
        for number in range(runs):
            for who, way in ways.items():
                found[who].append(way())
            print(f"\r{number + 1} of {runs}", end="", file=sys.stderr)
    print(f"\n{runs} runs of each, by turns, on one core, {SAMPLES} samples a run; {load()}")
    for who, medians in found.items():
        middle = statistics.median(medians)
        quarters = statistics.quantiles(medians, n=4)
        print(
            f"{who:34} median {middle * 1e3:.4f} ms, quartiles {(quarters[2] - quarters[0]) / middle:.2%} apart, "
            f"least to most {(max(medians) - min(medians)) / middle:.2%}"
        )


def apart(runs: int = 100, clock: Callable[[], float] = time.perf_counter) -> None:
    def run(artifact):
        path, count = artifact
        library, count = ctypes.CDLL(path), ctypes.c_ulong(count)
        began = clock()
        library.spin(count)
        return clock() - began

    def make(variant, directory):
        return [spin(variant, directory), round(STEPS * (1 + variant.more))]

    base, equal, slower = Variant(more=0.0, copy=0), Variant(more=0.0, copy=1), Variant(more=0.03, copy=0)
    verdicts: dict[Variant, list[str]] = {equal: [], slower: []}
    ratios: dict[Variant, list[float]] = {equal: [], slower: []}
    with Executor(2, launcher="local") as executor:
        for number in range(runs):
            how: dict[str, Any] = {"rounds": (20, 20), "repeats": 9, "counters": False, "seed": number}
            table = Tuner(executor, run, build=make, **how).measure([base, equal, slower])
            for variant in verdicts:
                of = table.compare(base, variant)
                verdicts[variant].append(of.verdict)
                ratios[variant].append(1 / of.ratio)
            print(f"\r{number + 1} of {runs}", end="", file=sys.stderr)
    noise = table.noise(table.rows[0].host)
    print(f"\n{runs} runs, each of 20 rounds of 9 samples, {clock.__name__}; {load()}; noise of the last: {noise:.1%}")
    print(f"3 % slower: found in {verdicts[slower].count('a is faster')} ({_range(ratios[slower])})")
    print(f"equal: not told apart in {verdicts[equal].count('not told apart')} ({_range(ratios[equal])})")


def apart_cpu() -> None:
    apart(clock=time.thread_time)


def _range(ratios: list[float]) -> str:
    return f"ratio {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}"


KILLED = """
import sys, time
from mainstay import Executor
from mainstay.tune import Tuner, Variant

def run(variant):
    with open(sys.argv[2], "a") as file:
        file.write("x")
    time.sleep(0.01)
    return 1 + variant.x / 100

with Executor(2, launcher="local", journal=sys.argv[1], journal_sync="each") as ex:
    tuner = Tuner(ex, run, rounds=(8, 8), repeats=1, warmups=0)
    for row in tuner.measure([Variant(x=x) for x in range(20)]):
        print(row.variant, row.status, sorted(row.medians.items()))
"""


def killed() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "sweep.py").write_text(KILLED)
        log, journal = directory / "log", directory / "sweep.db"
        log.touch()
        command = [sys.executable, str(directory / "sweep.py"), str(journal), str(log)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
            until = random.Random(0).randint(60, 100)  # samples
            while log.stat().st_size < until:
                time.sleep(0.01)
            first.kill()
        ran, kept = log.stat().st_size, _visits(journal)
        again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rest = log.stat().st_size - ran
        third = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        repeated = rest - (_visits(journal) - kept)
        print(f"killed after {ran} samples, {kept} of them in the journal; started again: {rest} more", end=", ")
        print(f"of which {repeated} were there; a third start measured {log.stat().st_size - ran - rest}", end=", ")
        print("and its table is " + ("the same" if again == third else "another"))
        whole = [sys.executable, str(directory / "sweep.py"), str(directory / "whole.db"), os.devnull]
        other = subprocess.run(whole, check=True, capture_output=True, text=True).stdout
        print("the table of a run that was not killed is " + ("the same" if other == again else "another"))


def _visits(journal: Path) -> int:
    return sum(len(row.visits) for table in tables(journal) for row in table)


FIGURES = {
    "overlap": overlap,
    "sweep": sweep,
    "spread": spread,
    "apart": apart,
    "apart_cpu": apart_cpu,
    "killed": killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", nargs="*", help=f"one or more of {', '.join(FIGURES)}; all, if none is given")
    for name in parser.parse_args().figure or FIGURES:
        if name not in FIGURES:
            parser.error(f"{name!r} is none of {', '.join(FIGURES)}")
        FIGURES[name]()


if __name__ == "__main__":
    main()
