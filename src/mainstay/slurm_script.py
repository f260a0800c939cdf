"""The batch script of `mainstay sbatch`, and what to say of the flags that it is given. Pure.

The script runs the program once, on the first node. The pool that the program opens reaches the other nodes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MARK = "# Written by `mainstay sbatch`."
AHEAD = 120  # seconds before the time limit at which the program is told, if the limit leaves room for them
# Flags of sbatch that take no value, or one only behind "="; and one of ours.
SWITCHES = {
    "contiguous", "dry-run", "exclusive", "get-user-env", "help", "hold", "ignore-pbs", "nice", "no-kill", "no-requeue",
    "overcommit", "oversubscribe", "parsable", "propagate", "quiet", "reboot", "requeue", "spread-job", "test-only",
    "usage", "use-min-nodes", "verbose", "version", "wait",
}  # fmt: skip
SHORT = {
    "A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus", "H": "hold",
    "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "O": "overcommit", "Q": "quiet",
    "S": "core-spec", "V": "version", "W": "wait", "a": "array", "b": "begin", "c": "cpus-per-task", "d": "dependency",
    "e": "error", "h": "help", "i": "input", "k": "no-kill", "m": "distribution", "n": "ntasks", "o": "output",
    "p": "partition", "q": "qos", "s": "oversubscribe", "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
}  # fmt: skip
# Flags that are for the submission and not for the job.
OF_THE_SUBMISSION = {"help", "parsable", "quiet", "test-only", "usage", "verbose", "version", "wait"}


class Flag(NamedTuple):
    """A flag of sbatch by its long name; `value` is None where it has none."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        if len(self.name) == 1:  # one that is not known here
            return f"-{self.name}{self.value or ''}"
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


class Request(NamedTuple):
    """What a batch script is to run: the interpreter, the program's path and arguments, lines of shell before it."""

    python: str
    program: str
    arguments: Sequence[str] = ()
    flags: Sequence[Flag] = ()
    setup: Sequence[str] = ()


def batch_script(request: Request) -> str:
    """Return the text of the batch script."""
    given = [flag for flag in request.flags if flag.name not in OF_THE_SUBMISSION]
    lines = ["#!/bin/bash", MARK, *map(_line, given)]
    for flag, why in _defaults(request):
        lines += [f"# {why}", _line(flag)]
        given.append(flag)
    lines += ["", *request.setup]
    if any(flag.name == "signal" and (flag.value or "").startswith("B:USR1") for flag in given):
        lines.append("trap '' USR1  # so that it ends no program that has no pool to hear it")
    command = shlex.join([request.python, request.program, *request.arguments])
    return "\n".join([*lines, "# exec: signals of Slurm reach Python itself", f"exec {command}", ""])


def _line(flag: Flag) -> str:
    if "\n" in str(flag):
        raise ValueError(f"--{flag.name}={flag.value!r} has a line break, which no #SBATCH line can hold")
    return f"#SBATCH {shlex.quote(str(flag))}"


def _defaults(request: Request) -> Iterator[tuple[Flag, str]]:
    """Yield the flags that the user left out, and why they are there."""
    given = named(request.flags)
    if "job-name" not in given:
        yield Flag("job-name", stem(request.program)), "named after the program"
    if "output" not in given:
        number = "%A_%a" if "array" in given else "%j"
        yield Flag("output", f"%x-{number}.out"), "the name and number of the job, so that no job writes over another's"
    limit = seconds(given.get("time") or "")
    if limit and "signal" not in given:
        ahead = min(AHEAD, limit // 4)
        yield Flag("signal", f"B:USR1@{ahead}"), f"{ahead} s before the time limit: the pool finishes what runs"
    if "no-kill" not in given:
        yield Flag("no-kill"), "a node that fails does not end the job; the pool goes on with the others"
    if "requeue" in given and "open-mode" not in given:
        yield Flag("open-mode", "append"), "a job that is requeued keeps what it had written"


def warnings(flags: Sequence[Flag]) -> list[str]:
    """Return what is known to lead astray in these flags of sbatch."""
    given = named(flags)
    return [said for check in (_tasks, _signal, _array) for said in check(given)]


def _tasks(given: dict[str, str | None]) -> Iterator[str]:
    nodes, tasks, each = (_number(given.get(name)) for name in ("nodes", "ntasks", "ntasks-per-node"))
    if nodes and tasks and tasks < nodes:
        yield (
            f"--ntasks={tasks} is less than --nodes={nodes}: Slurm lowers the nodes to {tasks}; "
            f"give --ntasks={nodes} or more, or --ntasks-per-node"
        )
    elif nodes and tasks and each and tasks != nodes * each:
        yield (
            f"--ntasks={tasks} goes before --ntasks-per-node={each}: {tasks} workers, and not {nodes * each}; "
            "leave one of them out"
        )
    elif nodes and not {"ntasks", "ntasks-per-node", "cpus-per-task", "exclusive"} & given.keys():
        yield (
            f"--nodes={nodes} alone gives one task and one CPU on each node: {nodes} workers in all; "
            "add --ntasks-per-node=CPUS, or --exclusive for whole nodes"
        )


def _signal(given: dict[str, str | None]) -> Iterator[str]:
    value = given.get("signal") or ""
    to, _, what = value.rpartition(":")
    if value and "B" not in to:
        yield f"--signal={value} goes to steps and not to the program; give --signal=B:{what}"


def _array(given: dict[str, str | None]) -> Iterator[str]:
    output = given.get("output") or ""
    if "array" in given and output and not re.search(r"%\d*[aj]", output):
        yield f"--output={output} is one file for all tasks of the array; have %A_%a in its name"


def _number(text: str | None) -> int | None:
    """Return the number of a flag (the least one of `2-4`); None where it is missing, or none."""
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def named(flags: Sequence[Flag]) -> dict[str, str | None]:
    """Return the flags by name; the last one of a name counts, as it does for sbatch."""
    return {flag.name: flag.value for flag in flags}


def stem(program: str) -> str:
    """Return the name of a program without its folder and ending."""
    return program.rpartition("/")[2].removesuffix(".py")


def seconds(limit: str) -> int | None:
    """Return a time limit in seconds, of `90`, `90:30`, `2:00:00`, `1-12`, `1-12:30` or `1-12:30:00`; None for none."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        return None
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:  # minutes, and perhaps seconds
        return first * 60 + second
    return days * 86400 + first * 3600 + second * 60 + third


def read_flags(words: list[str]) -> list[Flag]:
    """Take the flags that stand first off a list of words, and return them. Raises `ValueError`."""
    flags = []
    while words and words[0].startswith("-") and words[0] != "--":
        flags.append(_read_flag(words))
    return flags


def _read_flag(words: list[str]) -> Flag:
    word = words.pop(0)
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
    else:
        name, value = SHORT.get(word[1:2], word[1:2]), word[2:].removeprefix("=")
        equals = "" if name in SWITCHES else value
        words[:0] = [f"-{value}"] if value and not equals else []  # switches may stand together: -Hk
    if equals:
        return Flag(name, value)
    if name in SWITCHES:
        return Flag(name)
    if not words:
        raise ValueError(f"{word} wants a value")
    return Flag(name, words.pop(0))
