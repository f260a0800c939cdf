"""Mainstay and its peers, in one go on the same work, 2 workers each.

    make bench        or        python benchmarks/peers.py --rounds 3 --only mainstay_local,loky

Each round runs every contestant once, each in a process of its own, so that a noisy minute hits all alike. The
table gives medians and, in brackets, the least and the most; what a figure means is told in `contest.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

from contestants import RANKS

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TIMEOUT = 150.0  # seconds for one contestant in one round
FIGURES = {
    "call": "one call (µs)",
    "many": "many calls (1/s)",
    "map": "map (items/s)",
    "chunked": "map, chunks of 250 (items/s)",
    "array": "8 MB there and back (MB/s)",
    "first": "first result (s)",
    "batches": "batches of 10 ms (% of ideal)",
    "idle": "idle (% of a core)",
}
PACKAGES = {"process_pool": "concurrent", "mainstay_local": "mainstay", "mainstay_mpiexec": "mainstay"}
Results = dict[str, list[dict[str, float]]]


def package_of(name: str) -> str:
    return PACKAGES.get(name, name.partition("_")[0])


def run(name: str, batches: int, folder: str) -> dict[str, float] | str:
    """Return the contestant's figures, or why there are none. Ends all that it started."""
    if importlib.util.find_spec(package_of(name)) is None:
        return "not installed"
    ranks = RANKS[name]
    mpiexec = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks)] if ranks else []
    process = subprocess.Popen(
        [*mpiexec, sys.executable, str(HERE / "contest.py"), name, str(batches)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=folder,
        env=environment(),
    )
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT:g} s"
    finally:
        end(process)
    lines = [line for line in said.splitlines() if line.startswith("FIGURES ")]
    if not lines:
        return f"failed: {said.strip().splitlines()[-1][:150] if said.strip() else 'no word'}"
    figures: dict[str, float] = json.loads(lines[-1].removeprefix("FIGURES "))
    return figures


def environment() -> dict[str, str]:
    """Return the environment in which contestants find their programs and the tasks."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": programs, "PYTHONPATH": str(HERE), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def contest(names: list[str], rounds: int, batches: int) -> tuple[Results, dict[str, str]]:
    results: Results = {name: [] for name in names}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name in names:
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                figures = run(name, batches, folder)
                if isinstance(figures, str):
                    failures[name] = figures
                else:
                    results[name].append(figures)
    return results, failures


def values(results: Results, name: str, figure: str) -> list[float]:
    return [figures[figure] for figures in results[name] if figure in figures]


def cell(found: list[float]) -> str:
    if not found:
        return ""
    return f"{short(statistics.median(found))} ({short(min(found))}-{short(max(found))})"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Results, failures: dict[str, str]) -> str:
    """Return a Markdown table, and below it who failed and why."""
    lines = ["| contestant | " + " | ".join(FIGURES.values()) + " |", "| --- |" + " ---: |" * len(FIGURES)]
    for name, rounds in results.items():
        if rounds:
            cells = (cell(values(results, name, figure)) for figure in FIGURES)
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    lines += [f"\n{name}: {reason}" for name, reason in failures.items()]
    return "\n".join(lines)


def ratios(results: Results) -> str:
    """Return mainstay_local against the best peer that has futures (in `map`: of all), figure by figure."""
    lines = []
    for figure, title in FIGURES.items():
        ours = values(results, "mainstay_local", "map" if figure == "chunked" else figure)
        names = [n for n in results if "mainstay" not in n and (figure == "map" or values(results, n, "many"))]
        peers = {n: statistics.median(v) for n in names if (v := values(results, n, figure))}
        if not ours or not peers or figure == "idle":
            continue
        less_is_more = figure in ("call", "first")
        best = (min if less_is_more else max)(peers, key=lambda name: peers[name])
        median = statistics.median(ours)
        ratio = peers[best] / median if less_is_more else median / peers[best]
        lines.append(f"- {title}: {ratio:.2f} × the best peer ({best.replace('_', ' ')})")
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    figures = ["call", "many", "map", "array", "first"]
    names = [name for name, rounds in results.items() if rounds]
    figure, axes = plt.subplots(
        1, len(figures), figsize=(15, 0.4 * len(names) + 1.5), sharey=True, layout="constrained"
    )
    for axis, key in zip(axes, figures, strict=True):
        medians = [statistics.median(values(results, name, key) or [0.0]) for name in names]
        colors = ["#d9822b" if "mainstay" in name else "#1f5fa8" for name in names]
        axis.barh([name.replace("_", " ") for name in names], medians, color=colors)
        axis.set(title=FIGURES[key], xscale="log")
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores, {model}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of 50 tasks of 10 ms (default: 20)")
    parser.add_argument("--only", default=",".join(RANKS), help="contestants, with commas between them")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    names = given.only.split(",")
    unknown = [name for name in names if name not in RANKS]
    if unknown:
        parser.error(f"unknown contestant {unknown[0]!r}; known: {', '.join(RANKS)}")
    results, failures = contest(names, given.rounds, given.batches)
    given.out.mkdir(parents=True, exist_ok=True)
    report = f"{machine()}; medians of {given.rounds} rounds\n\n{table(results, failures)}\n\n{ratios(results)}\n"
    print(report)
    (given.out / "peers.md").write_text(report)
    (given.out / "peers.json").write_text(json.dumps({"results": results, "failures": failures}, indent=1))
    draw(results, given.out / "peers.png")


if __name__ == "__main__":
    main()
