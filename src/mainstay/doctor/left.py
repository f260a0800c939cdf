"""What earlier pools and jobs left on the nodes, judged by the nodes' reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstay.doctor.check import Check, State, amount, listed
from mainstay.doctor.probe import is_network
from mainstay.errors import size

LITTLE = 1e9  # bytes of scratch
Report = dict[str, Any]


def examine(reports: Sequence[Report], in_job: bool) -> list[Check]:
    checks = [processes(reports), scratch(reports)]
    return [*checks, own_files(reports)] if in_job else checks


def processes(reports: Sequence[Report]) -> Check:
    """Judge the agents and launchers that were found."""
    everything = [(report["host"], process) for report in reports for process in report["processes"] or ()]
    lost = [f"{process['what']} {process['pid']} on {host}" for host, process in everything if not process["alive"]]
    if lost:
        advice = "Their client has gone: end them there with kill PID, or scancel their job"
        return Check("Leftovers", State.ODD, f"{amount(len(lost), 'process')} of earlier pools: {listed(lost)}", advice)
    living = f"none; {amount(len(everything), 'agent')} of living pools" if everything else "none"
    return Check("Leftovers", State.GOOD, f"processes of earlier pools: {living}")


def scratch(reports: Sequence[Report]) -> Check:
    """Judge the scratch directories: where they are, their room, and what pools left there."""
    told = [(str(report["host"]), report["scratch"]) for report in reports if report["scratch"]]
    if not told:
        advice = "TMPDIR must name a directory that is there: correct it, or unset it"
        return Check("Scratch", State.BAD, "; ".join(reports[0].get("errors", [])), advice)
    places = sorted({f"{place['path']} ({place['kind']})" for _, place in told})
    least = min(place["free"] for _, place in told)
    found = f"{listed(places)}, {size(least)} free" + (" at the least" if len(told) > 1 else "")
    left = [f"{report['host']}:{path}" for report in reports for path in report["left_scratch"] or ()]
    if left:
        advice = "Results that were not brought back may be in them: look, then remove them"
        return Check("Scratch", State.ODD, f"{found}; left by earlier pools: {listed(left)}", advice)
    return Check("Scratch", *_room(found, least, [place["kind"] for _, place in told]))


def _room(found: str, least: float, kinds: Sequence[str]) -> tuple[State, str, str]:
    if least < LITTLE:
        return State.ODD, found, "Little room: name another place with Executor(scratch=…), or TMPDIR"
    if any(map(is_network, kinds)):
        return State.ODD, found, "It is on the network, so it is slow: set TMPDIR to a disk of the node's own"
    return State.GOOD, found, ""


def own_files(reports: Sequence[Report]) -> Check:
    """Judge what lies on the nodes' own disks besides: results that nobody brings back are lost with them."""
    found = [f"{report['host']}:{path}" for report in reports for path in report["own_files"] or ()]
    if found:
        advice = (
            "No other node sees them, and they may go with the job: copy results to a shared directory, "
            "by Executor's stage_out or at the end of each task; remove the rest"
        )
        return Check("Files on nodes", State.ODD, f"yours, on one node only: {listed(found)}", advice)
    return Check("Files on nodes", State.GOOD, "none of yours in their scratch directories")
