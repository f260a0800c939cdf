"""Canonical bytes of what NumPy and pandas hold: dtype, shape and content, not how they lie in memory.

    array   dtype · shape · the bytes in C order   hashed in place where they lie so; an array in Fortran order is read
                                                   in slabs, and has the same key as its equal in C order
    frame   labels · index · each column by itself however it was put together

Neither library is imported here: what is not in `sys.modules` has made no object. Their versions do not count with the
data. A structured array is read field by field, since what lies between the fields is anything; objects are encoded
one by one, and so is every dtype whose bytes are not the value (NumPy's strings of any length, long doubles).
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from mainstay.errors import UnreliableKey
from mainstay.journal import code, installed
from mainstay.journal.packing import Canon, pack, text, texts

SLAB = 1 << 24  # bytes that are copied at a time of an array that does not lie in C order
PLAIN = "biufcmMSUV"  # kinds of dtypes whose bytes are the value
LABELS = ("object", "str", "string")  # dtypes of labels that are told by the labels alone


_handlers: dict[type, Callable[[Any, Any], bytes]] = {}


def handler(obj: Any) -> Callable[[Any, Any], bytes] | None:
    """Return how an object of NumPy or pandas is encoded; None for all others."""
    found = _handlers.get(type(obj)) or _find(obj)
    if found is not None:
        _handlers[type(obj)] = found
    return found


def _find(obj: Any) -> Callable[[Any, Any], bytes] | None:
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    known = _numpy_types(numpy) if numpy is not None and hasattr(numpy, "ndarray") else []
    known += _pandas_types(pandas) if pandas is not None and hasattr(pandas, "DataFrame") else []
    found = next((encode for base, encode in known if issubclass(type(obj), base)), None)
    if found in WHOLE and installed.top_of(type(obj)) != "numpy":
        return None  # a class of the user's may hold and do more: told by what pickle would write of it
    return found


def _numpy_types(np: Any) -> list[tuple[type, Callable[[Any, Any], bytes]]]:
    return [
        (np.ma.MaskedArray, _masked),
        (np.ndarray, _ndarray),
        (np.generic, _scalar),
        (np.dtype, _dtype),
        (np.random.Generator, _generator),
        (np.random.RandomState, _random_state),
        (np.random.BitGenerator, _bit_generator),
        (np.random.SeedSequence, _seed_sequence),
        (np.ufunc, _ufunc),
        (np.vectorize, _vectorize),
    ]


def _pandas_types(pd: Any) -> list[tuple[type, Callable[[Any, Any], bytes]]]:
    return [
        (pd.DataFrame, _frame),
        (pd.Series, _series),
        (pd.Index, lambda canon, obj: pack(b"Index", _index(canon, obj))),
        (pd.api.extensions.ExtensionArray, _column),
    ]


def _kind(canon: Canon, obj: Any, *plain: type) -> bytes:
    """Return the class of a subclass; nothing for the plain type, or for one of its own library."""
    cls = type(obj)
    own = cls in plain or installed.top_of(cls) == installed.top_of(plain[0])
    return text(cls.__name__) if own and cls not in plain else b"" if own else canon.value(cls)


def _ndarray(canon: Canon, array: Any) -> bytes:
    np = sys.modules["numpy"]
    state = {} if type(array) is np.memmap else _attributes(array)
    kind = _kind(canon, array, np.ndarray, np.memmap)
    return pack(b"ndarray", kind, _content(canon, array.view(np.ndarray)), canon.named(state, ".{}"))


def _attributes(obj: Any) -> dict[str, Any]:
    """Return what an object holds besides its content: its attributes, and what stands in its slots."""
    slots = [
        name
        for cls in type(obj).__mro__
        for name, value in vars(cls).items()
        if isinstance(value, types.MemberDescriptorType) and installed.top_of(cls) != "numpy"
    ]
    return {name: getattr(obj, name) for name in slots if hasattr(obj, name)} | getattr(obj, "__dict__", {})


def _masked(canon: Canon, array: Any) -> bytes:
    np = sys.modules["numpy"]
    parts = _content(canon, np.asarray(array.data)), _content(canon, np.ma.getmaskarray(array))
    fill = _content(canon, np.asarray(array.fill_value))
    return pack(b"masked", _kind(canon, array, np.ma.MaskedArray), *parts, fill, b"%d" % array.hardmask)


def _scalar(canon: Canon, scalar: Any) -> bytes:
    return pack(b"npscalar", _content(canon, sys.modules["numpy"].asarray(scalar)))


def _content(canon: Canon, array: Any) -> bytes:
    dtype = array.dtype
    head = _dtype(canon, dtype), text(repr(tuple(map(int, array.shape))))
    if dtype.names is not None:
        return pack(b"fields", *head, *[_content(canon, array[name]) for name in dtype.names])
    if dtype.kind in PLAIN and dtype.char not in "gG":
        return pack(b"plain", *head, _bytes(array))
    if dtype.char in "gG":  # its bytes have gaps
        return pack(b"texts", *head, texts(b"long", map(repr, array.ravel().tolist())))
    return pack(b"objects", *head, canon.value(tuple(array.ravel().tolist())))


def _bytes(array: Any) -> bytes:
    """Return the digest of the bytes in C order."""
    seen = blake2b(digest_size=32)
    rows = [array] if array.flags.c_contiguous or array.ndim == 0 else _slabs(array)
    for slab in rows:
        flat = sys.modules["numpy"].ascontiguousarray(slab).reshape(-1)
        if flat.nbytes:
            seen.update(flat.view("u1").data)
    return seen.digest()


def _slabs(array: Any) -> list[Any]:
    step = max(1, SLAB // max(1, array.nbytes // max(1, len(array))))
    return [array[start : start + step] for start in range(0, len(array), step)]


def _dtype(canon: Canon, dtype: Any) -> bytes:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return pack(b"subdtype", _dtype(canon, base), text(repr(shape)))
    extra = [] if dtype.metadata is None else [canon.value(dict(dtype.metadata))]
    if dtype.names is None:
        word = dtype.str if dtype.kind in PLAIN else str(dtype)
        return pack(b"dtype", text(word), text(dtype.name), *extra)
    fields = [
        pack(b"field", text(name), _dtype(canon, field[0]), b"%d" % field[1], text(repr(field[2:])))
        for name, field in ((name, dtype.fields[name]) for name in dtype.names)
    ]
    return pack(b"dtypes", b"%d" % dtype.itemsize, *fields, *extra)


def _generator(canon: Canon, generator: Any) -> bytes:
    return pack(b"Generator", canon.value(generator.bit_generator))


def _bit_generator(canon: Canon, bits: Any) -> bytes:
    """A generator is where it stands, and what it would spawn."""
    seeds = getattr(bits, "seed_seq", None) or getattr(bits, "_seed_seq", None)
    known = isinstance(seeds, sys.modules["numpy"].random.SeedSequence)
    return pack(b"bits", canon.value(bits.state), canon.value(seeds) if known else b"")


def _random_state(canon: Canon, state: Any) -> bytes:
    return pack(b"RandomState", canon.value(state.get_state(legacy=False)))


def _seed_sequence(canon: Canon, seeds: Any) -> bytes:
    return pack(b"SeedSequence", canon.value(seeds.state))


def _ufunc(canon: Canon, ufunc: Any) -> bytes:
    return code.named(canon, ufunc, ufunc.__name__)


def _vectorize(canon: Canon, obj: Any) -> bytes:
    names = ("pyfunc", "otypes", "excluded", "signature", "cache")
    return pack(b"vectorize", canon.named({name: getattr(obj, name) for name in names}, ".{}"))


def _frame(canon: Canon, frame: Any) -> bytes:
    columns = [_at(f"column {i}", _column, canon, frame.iloc[:, i].array) for i in range(frame.shape[1])]
    return pack(b"DataFrame", _about(canon, frame), _index(canon, frame.columns, is_labels=True), *columns)


def _series(canon: Canon, series: Any) -> bytes:
    return pack(b"Series", _about(canon, series), canon.value(series.name), _column(canon, series.array))


def _about(canon: Canon, obj: Any) -> bytes:
    """Return what a frame and a series have in common: class, index, attributes."""
    pd = sys.modules["pandas"]
    kept = {name: getattr(obj, name, None) for name in obj._metadata if name not in ("_name", "name")}
    flag = b"%d" % obj.flags.allows_duplicate_labels
    attributes = canon.mapping(obj.attrs), canon.named(kept, ".{}")
    return pack(b"about", _kind(canon, obj, pd.DataFrame, pd.Series), _index(canon, obj.index), *attributes, flag)


def _index(canon: Canon, index: Any, is_labels: bool = False) -> bytes:
    """Return an index by its labels, names and frequency; a range is as good as the numbers in it."""
    names = canon.value(tuple(index.names))
    if installed.top_of(type(index)) != "pandas":
        names = pack(b"of class", names, canon.value(type(index)))
    if index.nlevels > 1:
        levels = [_index(canon, index.get_level_values(i), is_labels) for i in range(index.nlevels)]
        return pack(b"levels", names, *levels)
    if is_labels and str(index.dtype) in LABELS:
        return pack(b"labels", names, canon.value(tuple(index)))
    return pack(b"index", names, text(str(getattr(index, "freqstr", None))), _column(canon, index.array))


def _column(canon: Canon, array: Any) -> bytes:
    """Return the array of a column: by codes, by integers of time, by values and mask, or object by object."""
    word = text(str(array.dtype))
    if installed.top_of(type(array)) != "pandas":
        return canon.reduced(array)
    kind = type(array).__name__
    if kind == "Categorical":
        parts = _content(canon, array.codes), _index(canon, array.categories)
        return pack(b"categorical", *parts, b"%d" % array.ordered)
    if hasattr(array, "asi8"):
        return pack(b"times", word, _content(canon, array.asi8))
    if hasattr(array.dtype, "numpy_dtype") and kind in ("IntegerArray", "FloatingArray", "BooleanArray"):
        filled = array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0)
        return pack(b"nullable", word, _content(canon, filled), _content(canon, array.isna()))
    if kind in ("NumpyExtensionArray", "PandasArray"):
        return pack(b"column", _content(canon, array.to_numpy()))
    return pack(b"each", word, canon.value(tuple(array.astype(object))))


def _at(step: str, encode: Callable[[Any, Any], bytes], canon: Canon, obj: Any) -> bytes:
    try:
        return encode(canon, obj)
    except UnreliableKey as error:
        raise error.inside(step) from error.__cause__


WHOLE = {_scalar, _generator, _random_state, _bit_generator, _seed_sequence, _vectorize}  # tell all, of NumPy's own
LEAVES = {_scalar, _dtype}  # cannot be changed in place
