"""PMIx, by `ctypes` on the library that MPI has loaded into this process: the sets that it knows, and defining others.

Only what a set needs of PMIx's C interface is here, as its standard has it from version 4 on. With Open MPI 5.0 and its
PRRTE 3.0, queries give the sets that were named at the launch (`--pset`); those that were defined later are told by an
event to each process that listens, also to one that begins to listen later; but a process is told of each only once,
however many of its handlers come later. There is no way to take a set back.
"""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Callable
from typing import Any

Names = tuple[tuple[str, int], ...]
Found = Callable[[str, Names], None]

STRING, PROC, DATA_ARRAY = 3, 22, 39  # types of data
SUCCESS = 0
PROCESS_SET_DEFINE = -55
NO_ACTION_TAKEN = -331  # let other handlers hear of the event too
SET_NAMES, SET_MEMBERS = b"pmix.qry.psets", b"pmix.qry.pmems"
NAME, MEMBERS, DEFINE = b"pmix.pset.nm", b"pmix.pset.mems", b"pmix.jctrl.defpset"


class Unavailable(Exception):
    """There is no PMIx here; the message says why."""


class Proc(c.Structure):
    """A process: `pmix_proc_t`."""

    _fields_ = [("nspace", c.c_char * 256), ("rank", c.c_uint32)]


class DataArray(c.Structure):
    """`pmix_data_array_t`."""

    _fields_ = [("type", c.c_uint16), ("size", c.c_size_t), ("array", c.c_void_p)]


class Data(c.Union):
    """What a value is, of 24 bytes: the fields of `pmix_value_t` that are used here."""

    _fields_ = [("string", c.c_char_p), ("darray", c.POINTER(DataArray)), ("size", c.c_char * 24)]


class Value(c.Structure):
    """`pmix_value_t`."""

    _fields_ = [("type", c.c_uint16), ("data", Data)]


class Info(c.Structure):
    """A key and its value: `pmix_info_t`."""

    _fields_ = [("key", c.c_char * 512), ("flags", c.c_uint32), ("value", Value)]


class Query(c.Structure):
    """`pmix_query_t`."""

    _fields_ = [("keys", c.POINTER(c.c_char_p)), ("qualifiers", c.POINTER(Info)), ("nqual", c.c_size_t)]


Answered = c.CFUNCTYPE(None, c.c_int, c.c_void_p, c.c_size_t, c.c_void_p, c.c_void_p, c.c_void_p)
Handler = c.CFUNCTYPE(
    None,
    c.c_size_t,
    c.c_int,
    c.POINTER(Proc),
    c.POINTER(Info),
    c.c_size_t,
    c.POINTER(Info),
    c.c_size_t,
    c.c_void_p,
    c.c_void_p,
)


handlers: list[Any] = []  # PMIx calls them as long as this process lives


class Pmix:
    """This process as a client of PMIx; MPI has been initialised, so it is one already. Raises `Unavailable`."""

    def __init__(self) -> None:
        self._lib = loaded()
        me = Proc()
        status = self._lib.PMIx_Init(c.byref(me), None, c.c_size_t(0))
        if status != SUCCESS:
            raise Unavailable(f"PMIx_Init: {self._words(status)}")
        self.namespace, self.rank = me.nspace.decode(), int(me.rank)
        self.version = self._lib.PMIx_Get_version().decode().partition("(")[0].strip()
        if self.namespace != os.environ.get("PMIX_NAMESPACE"):
            raise Unavailable(f"{self.version} calls this process {self.namespace!r}; its layout is not known")

    def sets(self) -> dict[str, Names]:
        """Return the sets that were named at the launch, with their members."""
        names = [name for value in self._query(SET_NAMES) for name in strings(value)]
        return {name: members for name in names if (members := self._members(name))}

    def _members(self, name: str) -> Names:
        of_that_name = info(NAME, name.encode())
        return tuple(process for value in self._query(SET_MEMBERS, of_that_name) for process in processes(value))

    def define(self, name: str, members: Names) -> str | None:
        """Define a set, of which each listening process of the namespace hears; return why not, if it cannot be."""
        procs = (Proc * len(members))(*(Proc(space.encode(), rank) for space, rank in members))
        directive = info(DEFINE, name.encode())
        status = self._lib.PMIx_Job_control(
            procs, c.c_size_t(len(members)), c.byref(directive), c.c_size_t(1), None, None
        )
        return None if status == SUCCESS else self._words(status)

    def listen(self, found: Found) -> None:
        """Have sets told of that are defined, and that were defined before; `found` runs in a thread of PMIx."""

        def on_event(*given: Any) -> None:
            _, _, _, infos, count, _, _, answer, data = given
            values = {infos[place].key: infos[place].value for place in range(count)}
            try:
                if NAME in values and MEMBERS in values:
                    found(strings(values[NAME])[0], tuple(processes(values[MEMBERS])))
            finally:
                if answer:
                    Answered(answer)(NO_ACTION_TAKEN, None, 0, None, None, data)

        handler = Handler(on_event)
        handlers.append(handler)
        codes = (c.c_int * 1)(PROCESS_SET_DEFINE)
        self._lib.PMIx_Register_event_handler(codes, c.c_size_t(1), None, c.c_size_t(0), handler, None, None)

    def _query(self, key: bytes, qualifier: Info | None = None) -> list[Value]:
        keys = (c.c_char_p * 2)(key, None)
        query = Query(c.cast(keys, c.POINTER(c.c_char_p)))
        if qualifier is not None:
            query.qualifiers, query.nqual = c.pointer(qualifier), 1
        infos, count = c.POINTER(Info)(), c.c_size_t()
        status = self._lib.PMIx_Query_info(c.byref(query), c.c_size_t(1), c.byref(infos), c.byref(count))
        return [infos[place].value for place in range(count.value)] if status == SUCCESS else []

    def _words(self, status: int) -> str:
        return str(self._lib.PMIx_Error_string(status).decode())


def loaded() -> Any:
    """Return the PMIx library that is loaded into this process."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "libpmix.so" in line}
    if not paths:
        raise Unavailable("MPI has not loaded a libpmix into this process")
    library = c.CDLL(min(paths))
    library.PMIx_Get_version.restype = library.PMIx_Error_string.restype = c.c_char_p
    return library


def info(key: bytes, text: bytes) -> Info:
    """Return a key with a string as its value."""
    return Info(key, 0, Value(STRING, Data(string=text)))


def strings(value: Value) -> list[str]:
    """Return the strings of a value: some, joined by commas in one, or an array of them."""
    if value.type == STRING:
        text: bytes | None = value.data.string
        return text.decode().split(",") if text else []
    return [word.decode() for word in elements(value, STRING, c.c_char_p)]


def processes(value: Value) -> list[tuple[str, int]]:
    """Return the processes in a value."""
    return [(proc.nspace.decode(), int(proc.rank)) for proc in elements(value, PROC, Proc)]


def elements(value: Value, kind: int, structure: Any) -> list[Any]:
    """Return what is in a value that is an array of one kind of data; nothing, if it is another."""
    if value.type != DATA_ARRAY or value.data.darray.contents.type != kind:
        return []
    array = value.data.darray.contents
    found = c.cast(array.array, c.POINTER(structure))
    return [found[place] for place in range(array.size)]
