"""What functions and classes are known by: what they compute, and not where they stand or when they were made.

    function of the user's   code (`source`) · defaults · captured variables · the globals that it names (`uses`)
    class of the user's      name · bases · all that is in it: methods as functions, the rest as values
    installed, built in      module · name · version
    marked with `memo`       module · name · version as marked · what it captured

Globals are followed by value: functions to what they name in turn, modules as far as the code reaches into them. Each
function and class has its number from when it is first met (`canon`), so recursion ends. An installed function that
its module does not have under its name (a decorator's wrapper) is known by its code and by what it captured.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import functools
import re
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from mainstay.errors import UnreliableKey
from mainstay.journal import installed, modules, source
from mainstay.journal.keys import MARK, mark_of
from mainstay.journal.packing import Canon, pack, text
from mainstay.journal.reach import Attribute
from mainstay.journal.uses import uses
from mainstay.wire.payload import is_by_name

Handler = Callable[[Any, Any], bytes]
# In every class, and told otherwise or not at all: what Python keeps there for itself, under names that have changed.
PYTHONS_OWN = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__",
    "__annotate_func__", "__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl",
    "__orig_bases__", "__parameters__", "__type_params__", "__dataclass_fields__", "__dataclass_params__",
    "__match_args__", "__protocol_attrs__", "__non_callable_proto_members__",
    "__readonly_keys__", "__mutable_keys__", "__callable_proto_members_only__", "__slotnames__",
}  # fmt: skip
GENERATED = {
    "__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__setattr__",
    "__delattr__", "__replace__",
}  # fmt: skip
HOOK = "__subclasshook__"  # every protocol has one, which `typing` wrote
PARAMETERS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
FIELD = ("default", "default_factory", "init", "repr", "hash", "compare", "kw_only", "metadata")
HEAP_TYPE = 1 << 9  # the flag of classes that were made by a class statement, or as if by one
_MISSING = modules.MISSING


# -- functions


def by_import(encode: Handler) -> Handler:
    """Let it be noted that an object was reached which workers import themselves, from a module of the user's."""

    def handler(canon: Canon, obj: Any) -> bytes:
        module, path = obj.__module__, obj.__qualname__
        if not isinstance(module, str) or not is_by_name(module) or _lookup(module, path) is not obj:
            return encode(canon, obj)
        with canon.reach.inside(None if installed.is_installed(module) else Attribute(module, path)):
            return encode(canon, obj)

    return handler


@by_import
def function(canon: Canon, fn: types.FunctionType) -> bytes:
    """Return what a function is known by."""
    if mark_of(fn) is not None:
        return _marked(canon, fn)
    if not is_of_the_user(fn):
        return _installed_function(canon, fn)
    canon.reach.entries(fn.__dict__)
    attributes = {name: value for name, value in fn.__dict__.items() if name != MARK}
    named = _globals(canon, fn)
    return pack(b"function", *_own(canon, fn), named, canon.named(attributes, ".{}"), *_told(canon, fn))


def _told(canon: Canon, fn: types.FunctionType) -> list[bytes]:
    """Return what a function tells of itself, as far as any code that was met asks for such things."""
    canon.reach.asks |= uses(fn.__code__).asks
    canon.reach.attributes(fn, *canon.reach.told)
    told = [text(name) + text(_words(getattr(fn, name))) for name in sorted(canon.reach.told)]
    return told if not canon.reach.told - {"__name__"} else [*told, source.by_bytecode(fn.__code__)]


def _words(value: Any) -> str:
    return repr({name: _written(one) for name, one in value.items()}) if isinstance(value, dict) else str(value)


def is_of_the_user(fn: types.FunctionType) -> bool:
    """Whether a function is known by its code: its module is the user's, or its file is."""
    module, file = fn.__globals__.get("__name__"), fn.__code__.co_filename
    if not isinstance(module, str) or not installed.is_installed(module):
        return True
    return not (file.startswith("<") or installed.is_installed_path(file) or module.partition(".")[0] == "mainstay")


def _own(canon: Canon, fn: types.FunctionType) -> list[bytes]:
    """Return the code of a function, and its values: defaults, captured variables."""
    chains = uses(fn.__code__).captured
    cells = [
        _captured(canon, name, cell, chains.get(name, set()))
        for name, cell in sorted(
            zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True), key=lambda one: one[0]
        )
    ]
    canon.reach.attributes(fn, "__code__", "__defaults__", "__kwdefaults__")
    canon.reach.entries(fn.__kwdefaults__ or {})
    return [
        source.by_bytecode(fn.__code__) if canon.reach.is_bare else source.identity(fn.__code__, fn.__globals__),
        canon.at("defaults", fn.__defaults__),
        canon.named(fn.__kwdefaults__ or {}, "default of {!r}"),
        pack(b"captured", *cells),
    ]


def _captured(canon: Canon, name: str, cell: types.CellType, chains: set[tuple[str, ...]]) -> bytes:
    try:
        value = cell.cell_contents
    except ValueError:
        return pack(b"empty", text(name))
    canon.reach.attributes(cell, "cell_contents")
    if isinstance(value, types.ModuleType):
        return pack(b"cell", text(name), modules.by_chains(canon, name, value, chains))
    return pack(b"cell", text(name), canon.at(f"captured {name!r}", value))


def _globals(canon: Canon, fn: types.FunctionType) -> bytes:
    used = uses(fn.__code__)
    parts = []
    for name in sorted(used.names):
        found = fn.__globals__.get(name, _MISSING)
        canon.reach.read(partial(fn.__globals__.get, name, _MISSING), found)
        value = getattr(builtins, name, _MISSING) if found is _MISSING else found
        parts += [text(name), _global(canon, name, value, used.names[name])]
    parts += [modules.imported(canon, one, fn.__globals__) for one in sorted(used.imports)]
    return pack(b"globals", *parts)


def _global(canon: Canon, name: str, value: Any, chains: set[tuple[str, ...]]) -> bytes:
    if value is _MISSING:
        return b"missing"
    if isinstance(value, types.ModuleType):
        return modules.by_chains(canon, name, value, chains)
    return canon.at(f"global {name!r}", value)


def _marked(canon: Canon, fn: Any) -> bytes:
    """A function that `memo` marked: its name and version, and what tells it from others of the same name."""
    version, _, module = mark_of(fn)  # type: ignore[misc]
    own = _own(canon, fn)[1:] if isinstance(fn, types.FunctionType) else []
    return pack(b"memo", text(module), text(fn.__qualname__), text(version), *own)


def _installed_function(canon: Canon, fn: types.FunctionType) -> bytes:
    module = str(fn.__globals__.get("__name__"))
    if _lookup(module, fn.__qualname__) is fn:
        return _by_name(module, fn.__qualname__)
    registry = getattr(fn, "registry", None)
    if module == "functools" and isinstance(registry, types.MappingProxyType):  # `singledispatch`, and its caches
        return pack(b"singledispatch", canon.value(registry))
    return pack(b"wrapper", installed.stamp(module), *_own(canon, fn))


def _by_name(module: str, name: str) -> bytes:
    return pack(b"name", text(module), text(name), installed.stamp(module))


def _lookup(module: str | None, qualname: str) -> Any:
    found: Any = sys.modules.get(module or "")
    for name in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(name, _MISSING)
        found = getattr(found, "__func__", found)  # a static or class method
    return found


def method(canon: Canon, bound: types.MethodType) -> bytes:
    """Return what a bound method is known by: its function, and its instance."""
    module = type(bound.__self__).__module__
    if installed.is_installed(module) and getattr(sys.modules[module], bound.__func__.__name__, None) is bound:
        return _by_name(module, bound.__func__.__name__)  # `random.randint`
    mark = mark_of(bound.__func__)
    is_alone = mark is not None and bound.__func__.__code__.co_varnames[:1] == mark[1][:1] != ()
    instance = b"" if is_alone else canon.at(".__self__", bound.__self__)
    return pack(b"method", canon.value(bound.__func__), instance)


def builtin(canon: Canon, fn: Any) -> bytes:
    """Return what a function of compiled code is known by; a method of a value: with its value."""
    owner = fn.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return named(canon, fn, fn.__qualname__)
    module = type(owner).__module__
    if _lookup(module, fn.__name__) is fn:  # `random.random`: a method whose instance is the module's own affair
        return _by_name(module, fn.__name__)
    return pack(b"builtin method", text(fn.__name__), canon.at(".__self__", owner))


def named(canon: Canon, obj: Any, name: str) -> bytes:
    """Return an object that its module has under a name. Raises `UnreliableKey` where it does not."""
    for module in _places(obj):
        if isinstance(module, str) and _lookup(module, name) is obj:
            is_by_version = installed.is_installed(module) or installed.is_extension(module)
            known = _by_name(module, name) if is_by_version else _singleton(canon, obj, module, name)
            return pack(b"named", text(type(obj).__name__), known)
    why = f"no module has it under its name, {name!r}, so what it does cannot be told"
    raise UnreliableKey(type(obj).__name__, why)


def _places(obj: Any) -> list[Any]:
    """Return the names of the modules that may have an object."""
    cls, owner = type(obj), getattr(obj, "__self__", None)
    places = [getattr(obj, "__module__", None), cls.__module__, installed.top_of(cls)]
    places += [owner.__name__] if isinstance(owner, types.ModuleType) else []
    return [*places, "scipy.special"] if cls.__name__ == "ufunc" else places


def _singleton(canon: Canon, obj: Any, module: str, name: str) -> bytes:
    """An object that is pickled by its name in a module of the user's: what is in it counts, where that can be seen."""
    state = {} if installed.is_installed(type(obj).__module__) else getattr(obj, "__dict__", {})
    with canon.reach.inside(Attribute(module, name) if is_by_name(module) else None):
        return pack(b"singleton", text(name), canon.value(type(obj)), canon.named(state, ".{}"))


def _cached(canon: Canon, fn: Any) -> bytes:
    """What `functools.lru_cache` made: what it remembers does not count."""
    return _marked(canon, fn) if mark_of(fn) else pack(b"cached", canon.value(fn.__wrapped__))


def _descriptor(tag: bytes, *names: str) -> Handler:
    return lambda canon, obj: pack(tag, *[canon.at(f".{name}", getattr(obj, name)) for name in names])


def _of_class(canon: Canon, obj: Any) -> bytes:
    return pack(b"of class", canon.value(obj.__objclass__), text(obj.__name__))


def module(canon: Canon, obj: types.ModuleType) -> bytes:
    """Return what a module as a value is known by: all that is in it."""
    return pack(b"module", modules.chain(canon, obj.__name__, obj, ()))


def bare(code: types.CodeType) -> bytes:
    """Return what a code object without its function is known by."""
    return source.by_bytecode(code)


def _dispatcher(canon: Canon, obj: Any) -> bytes:
    """A function that numba compiles."""
    options = sorted((name, repr(value)) for name, value in getattr(obj, "targetoptions", {}).items())
    return pack(b"numba", canon.value(type(obj)), canon.value(obj.py_func), text(repr(options)))


def handler(obj: Any) -> Handler | None:
    """Return how a callable is encoded that is neither Python's nor a plain instance; None for all else."""
    cls = type(obj)
    if not isinstance(obj, type) and mark_of(obj) is not None:
        return _marked
    if installed.top_of(cls) == "numba" and hasattr(obj, "py_func"):
        return _dispatcher
    if cls.__name__ in ("cython_function_or_method", "fused_cython_function", "nb_func"):
        return lambda canon, obj: named(canon, obj, obj.__qualname__)
    return None


# -- classes


@by_import
def class_(canon: Canon, cls: type) -> bytes:
    """Return what a class is known by."""
    module = cls.__module__ if isinstance(cls.__module__, str) else ""  # some compiled classes have none
    is_static = not cls.__flags__ & HEAP_TYPE
    is_found = installed.is_installed(module) and _lookup(module, cls.__qualname__) is cls
    if is_static or is_found or installed.is_extension(module):
        return _by_name(module, cls.__qualname__)
    canon.reach.entries(vars(cls))
    inside = _members(cls)
    parts = [canon.at(f"base {base.__qualname__}", base) for base in cls.__bases__]
    metaclass = b"enum" if type(cls) is enum.EnumMeta else canon.value(type(cls))  # its name has changed
    parts += [metaclass, canon.named(inside, ".{}"), _annotations(cls)]
    parts += [text(str(cls.__doc__))] if "__doc__" in canon.reach.told else []
    return pack(b"class", text(cls.__qualname__), *parts, _dataclass(canon, cls))


def _members(cls: type) -> dict[str, Any]:
    members = {name: value for name, value in vars(cls).items() if name not in PYTHONS_OWN}
    slots = (types.MemberDescriptorType, types.GetSetDescriptorType)
    kept = {name: value for name, value in members.items() if type(value) not in slots}
    if HOOK in kept and not _is_written(kept[HOOK]):
        del kept[HOOK]
    kept = {name: value for name, value in kept.items() if not _is_generated(cls, name, value)}
    return _enum_members(cls, kept) if issubclass(cls, enum.Enum) else kept


def _is_generated(cls: type, name: str, value: Any) -> bool:
    """Whether `dataclass` or `namedtuple` wrote a method: the fields, which they wrote it from, tell the same."""
    value = getattr(value, "__func__", value)
    if issubclass(cls, tuple) and "_fields" in vars(cls):
        where = getattr(value, "__globals__", {}).get("__name__", "")
        return name in vars(cls)["_fields"] or where == "collections" or where.startswith("namedtuple_")
    if name == "__hash__" and "__dataclass_params__" in vars(cls) and value is None:
        return True
    if "__dataclass_params__" not in vars(cls) or name not in GENERATED or not isinstance(value, types.FunctionType):
        return False
    return _was_written_by_dataclass(cls, getattr(value, "__wrapped__", value))


def _was_written_by_dataclass(cls: type, fn: types.FunctionType) -> bool:
    """Its code came from a string; so does all code of `python -c`, where it cannot be told apart."""
    if not is_of_the_user(fn):
        return True
    from_string = fn.__code__.co_filename == "<string>"
    qualname = getattr(fn.__code__, "co_qualname", "__create_fn__")  # new in Python 3.11
    return from_string and qualname.startswith("__create_fn__") and hasattr(sys.modules.get(cls.__module__), "__file__")


def _enum_members(cls: Any, members: dict[str, Any]) -> dict[str, Any]:
    """Keep what the user wrote: values of members, methods, constants; not what `enum` keeps for itself."""
    kept = {
        name: value
        for name, value in members.items()
        if name not in cls.__members__ and (_is_written(value) or not re.fullmatch("_.*_", name))
    }
    return {**kept, "_members": [(name, one._value_) for name, one in cls.__members__.items()]}


def _is_written(value: Any) -> bool:
    value = getattr(value, "__func__", value)
    return isinstance(value, types.FunctionType) and is_of_the_user(value)


def _annotations(cls: type) -> bytes:
    """Annotations of a class may be what it is made from (fields, validators): told by how they are written."""
    written = sorted(vars(cls).get("__annotations__", {}).items())
    return pack(b"annotations", *[text(f"{name}: {_written(value)}") for name, value in written])


def _written(value: Any) -> str:
    if isinstance(value, type) and not isinstance(value, types.GenericAlias):
        return value.__qualname__
    return value if isinstance(value, str) else re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))


def _dataclass(canon: Canon, cls: type) -> bytes:
    if "__dataclass_params__" not in vars(cls):
        return b""
    parameters = {name: getattr(vars(cls)["__dataclass_params__"], name) for name in PARAMETERS}
    fields = vars(cls)["__dataclass_fields__"]
    parts = [pack(b"field", text(name), _dataclass_field(canon, name, one)) for name, one in fields.items()]
    return pack(b"dataclass", canon.named(parameters, "{}"), *parts)


def _dataclass_field(canon: Canon, name: str, one: Any) -> bytes:
    values = {part: getattr(one, part) for part in FIELD}
    told = {part: value for part, value in values.items() if value is not dataclasses.MISSING}
    return canon.named(told, f"field {name!r}, {{}}")


HANDLERS: dict[type, Handler] = {
    types.FunctionType: function,
    types.MethodType: method,
    types.BuiltinFunctionType: builtin,
    types.MethodDescriptorType: _of_class,
    types.WrapperDescriptorType: _of_class,
    types.ClassMethodDescriptorType: _of_class,
    types.GenericAlias: _descriptor(b"generic", "__origin__", "__args__"),
    types.UnionType: _descriptor(b"union", "__args__"),
    types.GetSetDescriptorType: _of_class,
    types.MemberDescriptorType: _of_class,
    property: _descriptor(b"property", "fget", "fset", "fdel"),
    staticmethod: _descriptor(b"staticmethod", "__func__"),
    classmethod: _descriptor(b"classmethod", "__func__"),
    functools.singledispatchmethod: lambda canon, obj: pack(b"dispatching", canon.value(obj.dispatcher.registry)),
    functools.cached_property: _descriptor(b"cached_property", "func", "attrname"),
    type(functools.lru_cache(len)): _cached,
}
# What cannot be changed in place, or only in ways that are noted part by part.
FIXED = {class_, *(HANDLERS[kind] for kind in HANDLERS if kind is not functools.singledispatchmethod)}
