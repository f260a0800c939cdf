"""Runs in each interpreter of an audited program, as its `sitecustomize`: a copy of this file, alone in a directory.

It tells where imports begin and end by marks among the system calls (see `mainstay.marks`), and writes into the file
MAINSTAY_AUDIT/log what only the interpreter knows, a line for each, with one `write`:

    ('interpreter', pid, prefix, base_prefix, directory, path)
    ('module', pid, name, file, importer)
    ('used', pid, file or module)             once: a function of it was called, or is in a variable that one which
                                              ran names; while no import was under way
    ('silent', pid)                           use is not looked at here
    ('operation', pid, at, thread, kind, path), ('program', …), ('mark', …), ('fork', …)     where strace does not count

Python 3.12 tells of each function's first call only (`sys.monitoring`), which costs next to nothing; before that, of
all calls (`sys.setprofile`).
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident, get_native_id
from time import time
from typing import Any

PLACE = "/mainstay-audit/"
KINDS = {
    "open": "open",
    "os.listdir": "list",
    "os.scandir": "list",
    "os.chdir": "access",
    "os.getxattr": "xattr",
    "os.listxattr": "xattr",
}
Module, Function, Builtin = type(sys), type(lambda: None), type(len)
CHANGES = ("chmod", "chown", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate", "utime", "setxattr")
KINDS |= {f"os.{name}": "change" for name in CHANGES}


class Hook:
    """What listens in one interpreter; after a fork, in both."""

    def __init__(self, place: str, counts: bool) -> None:
        self._log, self._counts = os.path.join(place, "log"), counts
        self._importing: dict[int, list[str]] = {}  # by thread: the modules under way, the innermost last
        self._used: set[str] = set()
        self._codes: dict[int, Any] = {}  # functions that ran, by their ids; kept, so that ids stay theirs
        self._busy: set[int] = set()  # threads that are writing
        self._pid = 0

    def install(self) -> None:
        self._enter_process()
        self.tell("interpreter", sys.prefix, sys.base_prefix, os.getcwd(), tuple(sys.path))
        if self._counts:
            self.tell("program", time(), os.getppid(), tuple(sys.orig_argv))
            sys.addaudithook(self._hear)
        self._wrap_imports()
        if "MAINSTAY_AUDIT_USE" not in os.environ:
            self.tell("silent")
        elif sys.version_info >= (3, 12):
            self._monitor()
        else:
            sys.setprofile(self._profile)
        os.register_at_fork(after_in_child=self._enter_process)
        self.mark("up")

    def tell(self, *words: Any) -> None:
        """Write a line; nothing when this thread is doing so."""
        me = get_ident()
        if me in self._busy:
            return
        self._busy.add(me)
        try:
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(log, (ascii((words[0], self._pid, *words[1:])) + "\n").encode())
            finally:
                os.close(log)
        except OSError:
            pass  # the audit is over
        finally:
            self._busy.discard(me)

    def mark(self, name: str) -> None:
        """Leave a mark among the system calls; the audit hook hears of it as well."""
        try:
            os.close(os.open(PLACE + name, os.O_RDONLY))
        except OSError:
            pass

    def _enter_process(self) -> None:
        parent, self._pid = self._pid, os.getpid()
        self._busy.clear()
        if parent and self._counts:
            self.tell("fork", time(), parent)

    # -- operations

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        kind = KINDS.get(event)
        if kind is None or not given or get_ident() in self._busy:
            return
        path = "" if isinstance(given[0], int) else os.fsdecode(given[0] or ".")
        if path.startswith(PLACE):
            self.tell("mark", time(), get_native_id(), path[len(PLACE) :])
        elif path and path != self._log:
            is_new = event == "open" and isinstance(given[2], int) and given[2] & os.O_CREAT
            self.tell("operation", time(), get_native_id(), "create" if is_new else kind, os.path.abspath(path))

    # -- imports

    def _wrap_imports(self) -> None:
        """Stand between Python and what it calls for a module that is not there yet."""
        bootstrap: Any = sys.modules["_frozen_importlib"]
        find_and_load: Any = bootstrap._find_and_load

        def find_and_load_and_tell(name: str, import_: Any) -> Any:
            return self._import(find_and_load, name, import_)

        bootstrap._find_and_load = find_and_load_and_tell

    def _import(self, find_and_load: Any, name: str, import_: Any) -> Any:
        if name in sys.modules:
            return find_and_load(name, import_)
        stack = self._importing.setdefault(get_ident(), [])
        if not stack:
            self.mark("begin/import")
        importer = stack[-1] if stack else ""
        stack.append(name)
        try:
            module = find_and_load(name, import_)
        finally:
            stack.pop()
            if not stack:
                del self._importing[get_ident()]
                self.mark("end/import")
        self.tell("module", name, str(getattr(module, "__file__", None) or ""), importer)
        if name == "threading" and sys.getprofile() is not None:
            module.setprofile(self._profile)
        return module

    # -- calls

    def _use(self, of: Any) -> None:
        if type(of) is str and of not in self._used:
            self._used.add(of)
            self.tell("used", of)

    def _ran(self, code: Any, variables: dict[str, Any]) -> None:
        """A function runs for the first time: it is used, and so is what it names."""
        self._codes[id(code)] = code
        self._use(code.co_filename)
        for name in code.co_names if code.co_name != "<module>" else ():
            value = variables.get(name)
            if value is not None:
                self._use(home_of(value))

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call" and id(frame.f_code) not in self._codes:
            if get_ident() not in self._importing:
                self._ran(frame.f_code, frame.f_globals)
        elif event == "c_call":
            of = home_of(argument)
            if of not in self._used and get_ident() not in self._importing:
                self._use(of)

    def _monitor(self) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool = next((number for number in (4, 3) if monitoring.get_tool(number) is None), None)
        if tool is None:
            self.tell("silent")
            return

        def started(code: Any, offset: int) -> Any:
            if get_ident() in self._importing:
                return None  # ask again at the next call
            self._ran(code, sys._getframe(1).f_globals)
            return monitoring.DISABLE

        def called(code: Any, offset: int, function: Any, first: Any) -> Any:
            if get_ident() in self._importing:
                return None
            self._use(home_of(function))
            return monitoring.DISABLE

        events = monitoring.events
        monitoring.use_tool_id(tool, "mainstay-audit")
        monitoring.register_callback(tool, events.PY_START, started)
        monitoring.register_callback(tool, events.CALL, called)
        monitoring.set_events(tool, events.PY_START | events.CALL)


def home_of(value: Any) -> Any:
    """Return the module that a value is, or is of; nothing of the value runs (a lazy module stays unread)."""
    kind = type(value)
    if issubclass(kind, Module):
        return Module.__getattribute__(value, "__dict__").get("__name__")
    if issubclass(kind, (type, Function, Builtin)):
        return getattr(value, "__module__", None)
    return kind.__module__


def run_the_next() -> None:
    """Be the `sitecustomize` that would have been found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    sys.path_importer_cache.pop(here, None)
    own = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, own)


if __name__ == "sitecustomize":
    if "MAINSTAY_AUDIT" in os.environ:
        Hook(os.environ["MAINSTAY_AUDIT"], "MAINSTAY_AUDIT_COUNTS" in os.environ).install()
    run_the_next()
