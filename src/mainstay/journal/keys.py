"""What a call is known by in the journal: what it computes, which is its function and its arguments.

    function_key(fn)          once per function: its code and all that it names and captured      milliseconds
    call_key(key, args, …)    for every call; plain numbers and strings take the short way        microseconds
    explicit_key("run-17")    the user's own word for it

Two calls that compute different things must never have one key; two that compute the same and have two keys only cost
a run. What cannot be told apart reliably raises `UnreliableKey`, which says where it is and what to do.

`memo` is here too, and a worker meets it when it imports the user's modules. So what makes the keys is imported when
the first one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType

    from mainstay.journal.canon import Encoder
    from mainstay.journal.reach import Reach

Function = TypeVar("Function", bound="Callable[..., Any]")
Mark = tuple[str, tuple[str, ...], str]  # version, ignored parameters, module

MARK = "__mainstay_memo__"
SIZE = 16  # bytes of a key
LONGEST = 4000  # characters that are keyed by their repr; a longer int has none, and a longer str is better hashed
_ATOMS = frozenset((int, float, str, bool, type(None)))
_VARIABLE = 0x04, 0x08  # code flags: *args, **kwargs


def call_key(
    function: bytes, args: tuple[Any, ...], kwargs: dict[str, Any], fn: Any = None, reach: Reach | None = None
) -> bytes:
    """Return the key of a call; `function` is `function_key(fn)`, and `fn` tells which arguments do not count.

    `reach` notes what is read of modules.

    Raises `UnreliableKey`.
    """
    if hasattr(fn, MARK):
        args, kwargs = _counted(fn, args, kwargs)
    key = plain_key(function, args, kwargs)
    return key or blake2b(function + _encoded(args, kwargs, fn, reach), digest_size=SIZE).digest()


def gang_key(key: bytes, ranks: int | tuple[int, int] | str, gather: str, on: str) -> bytes:
    """Return the key of a call that runs as a gang, given that of the call: with other ranks, it is another."""
    return blake2b(key + repr((ranks, gather, on)).encode(), digest_size=SIZE).digest()


def plain_key(function: bytes, args: tuple[Any, ...], kwargs: dict[str, Any], fn: Any = None) -> bytes | None:
    """Return what `call_key` does, for arguments that are plain and all count; None for others."""
    if kwargs or hasattr(fn, MARK) or not (_ATOMS.issuperset(map(type, args)) or all(map(_is_plain, args))):
        return None
    words = _words(args)
    return None if words is None else blake2b(function + words, digest_size=SIZE).digest()


def _is_plain(arg: object) -> bool:
    return type(arg) in _ATOMS or (type(arg) is tuple and _ATOMS.issuperset(map(type, arg)))


def _words(plain: object) -> bytes | None:
    """Return the repr of plain values, which tells them and their types apart; None where it is long or none."""
    try:
        words = repr(plain)
    except ValueError:  # an int of more than 4300 digits
        return None
    return words.encode() if len(words) <= LONGEST else None


def _encoded(args: tuple[Any, ...], kwargs: dict[str, Any], fn: Any, reach: Reach | None) -> bytes:
    """Return arguments of any kind as bytes; keywords count in any order."""
    from mainstay.journal.canon import Encoder
    from mainstay.journal.reach import Reach

    if all(type(arg) in _ATOMS for arg in (*args, *kwargs.values())):
        words = _words((args, sorted(kwargs.items())))
        if words is not None:
            return words
    reach = Reach() if reach is None else reach
    return reach.in_full(lambda: _packed(Encoder(reach), args, kwargs, fn))


def _packed(encoder: Encoder, args: tuple[Any, ...], kwargs: dict[str, Any], fn: Any) -> bytes:
    from mainstay.errors import UnreliableKey
    from mainstay.journal.canon import telling
    from mainstay.journal.packing import pack, text

    parts, at = [b"%d" % len(args)], ""
    try:
        for place, value in (*enumerate(args), *sorted(kwargs.items())):
            at = str(place)
            with telling(type(value).__name__):
                parts += [text(at), encoder.value(value)]
    except UnreliableKey as error:
        raise _located(error.inside(f"argument {_parameter(fn, at)}"), fn) from error.__cause__
    return pack(b"call", *parts)


def _parameter(fn: Any, at: str) -> str:
    """Return what a person calls an argument: its name, or its place from 1."""
    if not at.isdigit():
        return repr(at)
    names = _positional(fn)
    return repr(names[int(at)]) if int(at) < len(names) else str(int(at) + 1)


def _located(error: Any, fn: Any) -> Any:
    from mainstay.wire.functions import name_of

    error.function = "" if fn is None else name_of(fn)
    return error


def function_key(fn: Callable[..., Any], reach: Reach | None = None) -> bytes:
    """Return the key of a function, or of anything that can be called; `reach` notes what is read of modules.

    Raises `UnreliableKey`.
    """
    from mainstay.errors import UnreliableKey
    from mainstay.journal.canon import encode

    try:
        encoded = encode(fn, reach)
    except UnreliableKey as error:
        raise _located(error, fn) from error.__cause__
    return blake2b(encoded, digest_size=SIZE, person=b"function").digest()


def explicit_key(key: str) -> bytes:
    """Return the key of the call that the user calls so. Raises `TypeError` or `ValueError`."""
    if not isinstance(key, str):
        raise TypeError(f'key must be a str, as in ex.options(key="run-17"); given: {key!r}')
    if not key:
        raise ValueError('key must not be empty; ex.options(key="run-17") would do')
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=SIZE, person=b"explicit").digest()


# -- what the user says of a function


def memo(*misplaced: object, version: str = "", ignore: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Let a function's name and `version` stand for its code in the journal.

    Change `version` when the function is to run anew. The function's code and globals are then not read; its defaults
    and what it captured count still, since functions that are made in one place share their name.

    Args:
        version: what tells this state of the function from others, as "1".
        ignore: names of parameters that do not change the result and so do not count.

    Returns: a decorator, which returns the function itself. Raises `TypeError` or `ValueError` for what it cannot mark.
    """
    if misplaced:
        raise TypeError('memo takes a version by name: write @mainstay.memo(version="1"), with the parentheses')
    if not isinstance(version, str):
        raise TypeError(f'version must be a str: write @mainstay.memo(version="{version}"); given: {version!r}')
    if not version:
        raise ValueError('version must be given, and not be empty: write @mainstay.memo(version="1")')
    if isinstance(ignore, str) or not all(isinstance(name, str) for name in ignore):
        raise TypeError(f'ignore must be a sequence of names: write ignore=["verbose"]; given: {ignore!r}')
    ignored = tuple(ignore)

    def mark(fn: Function) -> Function:
        _check(fn, ignored)
        setattr(fn, MARK, (version, ignored, _module(fn)))
        return fn

    return mark


def version_of(fn: Any) -> str:
    """Return the version that `memo` gave a function; empty where it gave none."""
    mark = mark_of(getattr(fn, "__func__", fn))
    return mark[0] if mark else ""


def mark_of(fn: Any) -> Mark | None:
    """Return the mark of a function. A wrapper that took it over with `functools.wraps` is not marked by that."""
    mark: Mark | None = getattr(fn, "__dict__", {}).get(MARK)
    inner = getattr(getattr(fn, "__wrapped__", None), "__dict__", {})
    return None if mark is None or inner.get(MARK) is mark else mark


def _check(fn: Any, ignored: Iterable[str]) -> None:
    """Raise for what cannot be marked, or has no such parameters."""
    if isinstance(fn, type) or not callable(fn) or not hasattr(fn, "__qualname__") or not hasattr(fn, "__dict__"):
        _refuse(fn)
    code = _code(fn)
    if code is None:
        if tuple(ignored):
            raise TypeError(f"the parameters of {fn!r} are not known, so none can be ignored; wrap it in a def")
        return
    allowed = _parameters(code)
    takes_any = bool(code.co_flags & _VARIABLE[1])
    unknown = [name for name in ignored if name not in allowed and not takes_any]
    if unknown:
        raise ValueError(f"{fn.__qualname__!r} has no parameter {unknown[0]!r} to ignore; it has: {', '.join(allowed)}")


def _refuse(fn: object) -> NoReturn:
    raise TypeError(f"memo marks functions; given: {fn!r}. Wrap it in a def, and mark that")


def _module(fn: Any) -> str:
    """Return a function's module; for the script, the name that it would be imported by."""
    name = str(fn.__module__)
    if name != "__main__":
        return name
    import sys

    main = sys.modules[name]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    stem = str(file or name).replace("\\", "/").rpartition("/")[2].removesuffix(".py")
    return str(spec.name) if spec is not None else stem


def _code(fn: Any) -> CodeType | None:
    while not hasattr(fn, "__code__") and hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    code: CodeType | None = getattr(fn, "__code__", None)
    return code


def _parameters(code: CodeType) -> tuple[str, ...]:
    variable = sum(bool(code.co_flags & flag) for flag in _VARIABLE)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + variable]


def _positional(fn: Any) -> tuple[str, ...]:
    """Return the names of parameters that positional arguments fill; without `self` for a bound method."""
    code = _code(getattr(fn, "__func__", fn))
    return () if code is None else code.co_varnames[hasattr(fn, "__func__") : code.co_argcount]


def _counted(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that count, all that can be by name; a call that will fail is left as it is."""
    target = getattr(fn, "__func__", fn)
    mark, code, names = mark_of(target), _code(target), _positional(fn)
    if mark is None or not mark[1] or code is None:
        return args, kwargs
    given = dict(zip(names, args, strict=False))
    if not kwargs.keys().isdisjoint({*given, *code.co_varnames[: code.co_posonlyargcount]}):
        return args, kwargs
    given.update(kwargs)
    extra, own = args[len(names) :], _parameters(code)
    dropped = set(mark[1]) | _swallowed(code, own, mark[1], given)
    keeps_extra = not (code.co_flags & _VARIABLE[0] and own[_place_of_args(code)] in dropped)
    return extra if keeps_extra else (), {name: value for name, value in given.items() if name not in dropped}


def _place_of_args(code: CodeType) -> int:
    return code.co_argcount + code.co_kwonlyargcount


def _swallowed(code: CodeType, own: tuple[str, ...], ignored: tuple[str, ...], given: dict[str, Any]) -> set[str]:
    """Return the names that **kwargs takes, where these are ignored."""
    if not code.co_flags & _VARIABLE[1] or own[-1] not in ignored:
        return set()
    return set(given) - set(own[: _place_of_args(code)])
