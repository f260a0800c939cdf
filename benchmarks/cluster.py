"""Mainstay and its peers on a real Slurm, in one go on the same work: 12 workers on three hosts, and on one.

    make bench-cluster      or      python benchmarks/cluster.py --rounds 3 --only srun,mainstay,parsl

It brings up the cluster of the tests (`tests/cluster/bed.py`: wants root), whose hosts share the cores of this machine.
Each round lets every contestant run as a job of its own, once on three hosts with 4 workers each and once on one host
with 12; every other round goes backwards. `srun` is `srun -N 3 -n 3 true` in such a job, by which our start is judged.
What a figure means is told in `tenants.py`; a share is the rate on three hosts by that on one, in the same round. The
tables give medians and, in brackets, the least and the most.

dask-jobqueue is not among them: it queues a job of its own for its workers, which start as those of `dask_by_srun` do.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator

import arena
import rounds
import summary
import tenants
from rounds import Round
from summary import Aim, Results, median, spoken

sys.path.insert(0, str(arena.HERE.parent / "tests"))  # first, since this file has the name of the package there
from cluster.bed import Cluster
from cluster.install import Unavailable, ensure_slurm
from cluster.namespaces import BedError

PLACES = {"three": ("-N3", "--ntasks-per-node=4"), "one": ("-N1", "-n12")}  # flags of the job
STARTS = {"first": "first result (s)", "all": "a result of each of 12 workers (s)"}
RATES = {"echo": "no-op", "nap_1": "1 ms", "nap_10": "10 ms"}
SHARES = {
    key: heading
    for task, said in RATES.items()
    for key, heading in (
        (task, f"{said}, 3 hosts × 4 (1/s)"),
        (f"{task}_one", "1 host × 12 (1/s)"),
        (f"{task}_share", "share (%)"),
    )
}
YARDSTICK = "srun"
YARDSTICK_LINE = """\
srun -N 3 -n 3 true
END=$EPOCHREALTIME
echo "FIGURES {\\"all\\": $((${END/[.,]/} - ${BEGAN/[.,]/}))e-6}"
"""
NAMES = [YARDSTICK, *tenants.LINES]
PACKAGES = ["mainstay", "mpi4py", "mpich", "executorlib", "parsl", "distributed", "dask-mpi"]


def one_round(name: str, cluster: Cluster, patience: float) -> Round:
    """Let a contestant run on three hosts and on one; return what came of both."""
    if name == YARDSTICK:
        return in_a_job(cluster, YARDSTICK_LINE, PLACES["three"])
    line = f"{tenants.line(name)} {arena.HERE}/tenants.py {name} --began ${{BEGAN/,/.}} --patience {patience}"
    three, one = (in_a_job(cluster, line, flags) for flags in PLACES.values())
    found = dict(three.figures)
    for task in RATES.keys() & three.figures.keys() & one.figures.keys():
        found[f"{task}_one"] = one.figures[task]
        found[f"{task}_share"] = 100 * three.figures[task] / one.figures[task]
    troubles = {place: outcome.trouble for place, outcome in zip(PLACES, (three, one), strict=True) if outcome.trouble}
    return Round(found, "; ".join(f"on {place}: {trouble}" for place, trouble in troubles.items()))


def in_a_job(cluster: Cluster, line: str, flags: tuple[str, ...]) -> Round:
    """Run a line of shell in a job of its own; return what it printed, and leave nothing of it."""
    cluster.wait_idle()
    mark = cluster.shared / "status"  # to ask Slurm again and again would cost the contestant CPU
    mark.unlink(missing_ok=True)
    job = cluster.submit(f"export PYTHONPATH={arena.HERE}\nBEGAN=$EPOCHREALTIME\n{line}\necho $? > {mark}", *flags)
    try:
        cluster.until(mark.exists, arena.TIMEOUT, f"job {job} ended")
    except BedError:
        cluster.run(["scancel", job])
    said = cluster.wait(job).output
    left = arena.sweep(cluster.processes)
    return arena.judge(said, int(mark.read_text()) if mark.exists() else -1, mark.exists(), left)


def aims(results: Results) -> Iterator[Aim]:
    """Yield what Mainstay is to reach in an allocation."""
    ours = median(results, "mainstay", "all")
    bound = 1.5 * median(results, YARDSTICK, "all") + 0.5
    yield Aim(f"{STARTS['all']}, against 1.5 × srun + 0.5 s", ours, " s", bound, most=True)
    peer = summary.best(results, [name for name in results if name not in ("mainstay", YARDSTICK)], "all")
    if peer is not None:
        share = 100 * ours / median(results, peer, "all")
        yield Aim(f"{STARTS['all']}, against the best peer ({spoken(peer)})", share, " %", 50, most=True)
    for task, said in RATES.items():
        yield Aim(f"{said}, share of 3 hosts", median(results, "mainstay", f"{task}_share"), " %", 90)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = rounds.parser(__doc__, NAMES)
    parser.add_argument("--patience", type=float, help="seconds for a rate (default: 2, or 0.3 when quick)")
    given = rounds.read(parser, NAMES)
    given.patience = given.patience or (0.3 if given.quick else 2.0)
    return given


def main() -> None:
    """Bring the cluster up, run the contest; print and write what came of it."""
    effort = arguments()
    try:
        ensure_slurm()
    except Unavailable as error:
        sys.exit(f"no Slurm cluster: {error}")
    with Cluster(nodes=3, cpus=tenants.WORKERS) as cluster:
        run = functools.partial(one_round, cluster=cluster, patience=effort.patience)
        contest = rounds.hold(effort.names, effort.rounds, run)
    parts = [
        summary.head(effort.rounds, PACKAGES),
        summary.table(contest.results, STARTS, "3 hosts × 4 workers"),
        summary.table(contest.results, SHARES, "12 workers"),
        rounds.told(contest.troubles, effort.rounds),
        summary.told(aims(contest.results)),
    ]
    rounds.leave(contest, effort.out, "cluster", parts, PACKAGES)


if __name__ == "__main__":
    main()
