"""`mainstay journal FILE`: what is in a journal, and its care."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

from mainstay.cli import journal_texts as texts
from mainstay.errors import JournalError
from mainstay.journal.record import STATES, Choice

HELP = "list, show, export, prune, merge, verify or copy the finished calls that a journal keeps"
PASSES_ON = True  # what follows is parsed here: options may stand before and after the action
FILTERS = ("state", "function", "label", "host", "key", "since", "before")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
ACTIONS = """\
actions:
  list              the calls, the newest last; this is what is done where nothing else is said
  show KEY          one call: its provenance, and its result; the first digits of the key are enough
  export OUT        to OUT, as its suffix tells: .csv, .json, .jsonl or .parquet
  prune             remove the calls that the filters choose, and give their room back
  merge OTHER...    add to FILE the calls of other journals that it lacks
  verify            tell what is wrong with the file
  copy OUT          copy a journal that may be in use
"""
EPILOG = (
    ACTIONS
    + """
A TIME is a date such as 2025-01-31 or 2025-01-31T12:00, or an age such as 30d, 12h or 45m.
A PATTERN is one of the shell's, such as 'sim*'. The exit code is 0, 1 if something was found wrong or nothing was
found, and 2 for a bad command line."""
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """All arguments are parsed by `parser`."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's own arguments."""
    own = argparse.ArgumentParser(
        prog="mainstay journal",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="mainstay journal FILE [action] [options]",
        allow_abbrev=False,
    )
    own.add_argument("file", metavar="FILE", help="the journal")
    own.add_argument("action", nargs="?", default="list", help="see below; list if it is not given")
    own.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    which = own.add_argument_group("which calls (list, export, prune)")
    which.add_argument("--state", choices=STATES)
    which.add_argument("--function", metavar="PATTERN")
    which.add_argument("--label", metavar="PATTERN")
    which.add_argument("--host", metavar="PATTERN")
    which.add_argument("--key", metavar="PREFIX", type=str.lower, help="the first hexadecimal digits")
    which.add_argument("--since", metavar="TIME", type=instant, help="those that started then or later")
    which.add_argument("--before", metavar="TIME", type=instant, help="those that started before")
    which.add_argument("--older-than", metavar="TIME", dest="before", type=instant, help="the same as --before")
    own.add_argument("--limit", metavar="N", type=natural, help="list: the newest N only")
    own.add_argument("--json", action="store_true", help="list, show, prune, merge, verify: for programs")
    own.add_argument("--results", action="store_true", help="export: with the results")
    own.add_argument("--no-result", action="store_true", help="show: do not load the result")
    own.add_argument("--deep", action="store_true", help="verify: read each result to its end")
    own.add_argument("--all", action="store_true", help="prune: remove all calls")
    own.add_argument("--force", action="store_true", help="copy: replace a file that is there")
    return own


def instant(text: str) -> float:
    """Return a point of time (s since 1970), given as a date or as an age."""
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if age:
        return time.time() - float(age[1]) * UNITS[age[2]]
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; give a date such as 2025-01-31 or 2025-01-31T12:00, or an age such as 30d or 12h"
        ) from None


def natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls; give a whole number from 1 on")
    return int(text)


def run(given: argparse.Namespace) -> int:
    """Do the action; return its exit code."""
    own = parser()
    asked = own.parse_intermixed_args(given.others)
    _check(own, asked)
    try:
        code = RUN[asked.action](asked)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads us, `head` for one, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (JournalError, OSError, ValueError) as error:
        print(f"mainstay journal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


# What each action wants: how many arguments (the most; None: any number from 1 on), what they are, which options.
WANTS: dict[str, tuple[int | None, str, tuple[str, ...]]] = {
    "list": (0, "", (*FILTERS, "limit", "json")),
    "show": (1, "the first digits of a KEY", ("json", "no_result")),
    "export": (1, "the file OUT", (*FILTERS, "results")),
    "prune": (0, "", (*FILTERS, "all", "json")),
    "merge": (None, "the OTHER journals", ("json",)),
    "verify": (0, "", ("deep", "json")),
    "copy": (1, "the file OUT", ("force",)),
}


def _check(own: argparse.ArgumentParser, asked: argparse.Namespace) -> None:
    """End the program with code 2 and a word on it, where the command line makes no sense."""
    if asked.action not in WANTS:
        own.error(f"there is no action {asked.action!r}; give FILE first, then one of {', '.join(WANTS)}")
    most, what, options = WANTS[asked.action]
    if what and not asked.arguments:
        own.error(f"{asked.action} wants {what}")
    if most is not None and len(asked.arguments) > most:
        own.error(f"{asked.action} does not know what to do with {asked.arguments[most]!r}")
    others = set(vars(asked)) - {"file", "action", "arguments", *options}
    for name in sorted(others):
        if getattr(asked, name) not in (None, False):
            _refuse(own, asked, name)
    if asked.action == "prune" and not asked.all and _choice(own, asked) == Choice():
        own.error("prune wants to know which calls: give a filter such as --state failed, or --all to remove all")
    _choice(own, asked)


def _refuse(own: argparse.ArgumentParser, asked: argparse.Namespace, name: str) -> NoReturn:
    actions = [action for action, (_, _, options) in WANTS.items() if name in options]
    own.error(f"--{name.replace('_', '-')} is for {', '.join(actions)}; given with {asked.action}")


def _choice(own: argparse.ArgumentParser | None, asked: argparse.Namespace) -> Choice:
    try:
        return Choice(**{name: getattr(asked, name) for name in FILTERS})
    except ValueError as error:
        assert own is not None  # it was checked before
        own.error(str(error))


# -- the actions


def _list(asked: argparse.Namespace) -> int:
    from mainstay.journal.sqlite import Store

    store = Store(asked.file, write=False)
    try:
        texts.listing(store, _choice(None, asked), asked.limit, as_json=asked.json)
    finally:
        store.close()
    return 0


def _show(asked: argparse.Namespace) -> int:
    from mainstay.journal.sqlite import Store

    store = Store(asked.file, write=False)
    try:
        texts.one(store, asked.arguments[0].lower(), with_result=not asked.no_result, as_json=asked.json)
    finally:
        store.close()
    return 0


def _export(asked: argparse.Namespace) -> int:
    from mainstay.journal.export import export

    count = export(asked.file, asked.arguments[0], _choice(None, asked), results=asked.results)
    print(f"{texts.counted(count)} in {asked.arguments[0]}")
    return 0


def _prune(asked: argparse.Namespace) -> int:
    from mainstay.journal.upkeep import prune

    pruned = prune(asked.file, _choice(None, asked), everything=asked.all)
    words = f"{texts.counted(pruned.calls)} removed; the file is {texts.size(max(pruned.bytes, 0))} smaller"
    print(json.dumps(pruned._asdict()) if asked.json else words)
    return 0


def _merge(asked: argparse.Namespace) -> int:
    from mainstay.journal.merge import merge

    merged = merge(asked.file, asked.arguments)
    if asked.json:
        print(json.dumps(vars(merged)))
    else:
        print(
            f"{texts.counted(merged.added)} added, {merged.replaced} that had failed replaced by done ones, "
            f"{merged.present} there already"
        )
        for line in merged.damage:
            print(f"mainstay journal: {line}", file=sys.stderr)
        if merged.unreadable:
            print(f"mainstay journal: {texts.counted(merged.unreadable)} could not be read", file=sys.stderr)
    return 1 if merged.unreadable or merged.damage else 0


def _verify(asked: argparse.Namespace) -> int:
    from mainstay.journal.verify import verify

    findings = verify(asked.file, deep=asked.deep)
    if asked.json:
        print(json.dumps({"sound": not findings, "findings": findings}))
    else:
        print("\n".join(findings) or f"{asked.file} is sound")
    return 1 if findings else 0


def _copy(asked: argparse.Namespace) -> int:
    from mainstay.journal.upkeep import copy

    size = copy(asked.file, asked.arguments[0], force=asked.force)
    print(f"{asked.arguments[0]}: {texts.size(size)}")
    return 0


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "prune": _prune,
    "merge": _merge,
    "verify": _verify,
    "copy": _copy,
}
