"""Keys hold from run to run: over processes, hash seeds, versions of Python, and edits of what does not count."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mainstay.errors import UnreliableKey
from mainstay.journal.keys import call_key, function_key

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = '''
import collections, dataclasses, datetime, decimal, enum, functools, itertools, json, math, pathlib, random, re, typing
import contextlib, operator, sys
import model
from mainstay.journal.keys import call_key, function_key

class Base:
    factor = 3
    def scale(self, x): return x * self.factor

class Solver(Base):
    """Doc."""
    def __init__(self, tolerance): self.tolerance, self.__steps = tolerance, {"b", "a", "c"}
    def scale(self, x): return super().scale(x) + math.sqrt(x) + self.__steps.pop()
    @property
    def inner(self): return self.tolerance
    @classmethod
    def make(cls): return cls(1)
    @functools.cached_property
    def cached(self): return fact(3)

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: typing.List[int] = dataclasses.field(default_factory=list)
    def norm(self): return abs(self.x)

class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    def twice(self): return self.name * 2

class Pair(typing.NamedTuple):
    a: int
    b: str = "x"

def fact(n): return 1 if n < 2 else n * fact(n - 1)

@contextlib.contextmanager
def opened(name):
    try:
        yield f"{name!r:>{20}}" f"{1 + 1}" "end"
    finally:
        print("closed")

@functools.lru_cache(maxsize=None)
def cached(x): return [i * j for i in range(x) for j in {1, 2} if i] + [fact(x)]

def matched(x):
    import model.parts as parts
    from collections import deque
    match x:
        case {"a": [1, *rest]} if rest: return parts.run(rest)
        case _: return deque(x, maxlen=len(CONFIG))

async def awaits(x):
    async with x as y:
        return [z async for z in y]

def closure(n):
    def inner(x, *, k=(n, {"a": 1})): return x + n
    return inner

CONFIG = {"z": 1, "a": {"x", "y", "zz"}, ("t", 1): frozenset("abc")}
FUNCTIONS = dict(
    fact=fact, opened=opened, cached=cached, matched=matched, awaits=awaits, closure=closure(3), solver=Solver(2).scale,
    make=Solver.make, cls=Solver, point=Point, norm=Point(1).norm, color=Color, twice=Color.RED.twice, pair=Pair,
    lambdas=[lambda x: x, lambda x: x + 1][1], partial=functools.partial(fact, n=3), model=model.run, length=len,
    sample=random.random, choice=random.choice, get=operator.itemgetter(1),
)
VALUES = dict(
    config=CONFIG, point=Point(1, [2]), pair=Pair(1), color=Color.BLUE, words={"a", "b", "c", "d"}, solver=Solver(1),
    mixed={1, "a", (2, "b"), None, frozenset({"x", "y"})},
    dt=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    path=pathlib.Path("a/b"), decimal=decimal.Decimal("1.5"), pattern=re.compile("a+", re.I), big=10**5000,
    counter=collections.Counter("abca"), default=collections.defaultdict(list, a=[1]), rng=random.Random(3),
    queue=collections.deque([1, 2], 5), alias=list[int], union=int | None, function=fact, kinds=[int, Solver, Color],
)
keys = {name: function_key(f).hex() for name, f in FUNCTIONS.items()}
keys.update({"value " + name: call_key(bytes(16), (value,), {}).hex() for name, value in VALUES.items()})
keys["keywords"] = call_key(bytes(16), (1,), {"b": [1], "a": {"x", "y"}}).hex()
if __name__ == "__main__":
    json.dump(keys, sys.stdout)
'''
MODEL = "from model.parts import run\n"
PARTS = "LIMIT = 3\n\ndef half(x):\n    return x / 2\n\ndef run(x):\n    return half(x) + LIMIT\n"


def pythons():
    """Return the interpreters from 3.10 to 3.13 that are found, as `.ci/pythons` finds them."""
    versions = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for minor in range(10, 14):
        found = [shutil.which(f"python3.{minor}"), *glob.glob(f"{versions}/versions/3.{minor}.*/bin/python")]
        yield from [python for python in found if python and _runs(python, minor)][:1]


def _runs(python, minor):
    done = subprocess.run([python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
    return done.stdout.strip() == str(minor)


def output(*command, python=sys.executable, seed="0", cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, *command], capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def keys(folder, **how):
    import json

    return json.loads(output("script.py", cwd=folder, **how))


@pytest.fixture
def project(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text(MODEL)
    (tmp_path / "model" / "parts.py").write_text(PARTS)
    return tmp_path


def test_keys_hold_over_runs_and_hash_seeds(project):
    first = keys(project)
    assert len(set(first.values())) == len(first)
    assert keys(project, seed="1") == keys(project, seed="2") == first


def test_keys_hold_over_versions_of_python(project):
    first = keys(project)
    for python in pythons():
        other = keys(project, python=python, seed="7")
        assert {name for name in first if other[name] != first[name]} == set(), python


def test_a_function_of_the_script_is_that_of_the_module(project):
    imported = output("-c", "import json, sys, script; json.dump(script.keys, sys.stdout)", cwd=project)
    assert imported == output("script.py", cwd=project)


def changed(project, file, old, new):
    before = keys(project)
    path = project / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = keys(project)
    return {name for name in before if before[name] != after[name]}


def test_what_does_not_count_changes_no_key(project):
    edited = SCRIPT.replace("\nclass Base", "\n# why\n\nclass Base").replace('"""Doc."""', '"""Other."""')
    edited = edited.replace("def fact(n): return", "def fact(n: int) -> int:\n    return").replace(
        "\nmatch", "\n\nmatch"
    )
    before = keys(project)
    (project / "script.py").write_text(edited.replace("FUNCTIONS", "CALLED"))
    (project / "model" / "parts.py").write_text("# A model.\n" + PARTS.replace("x / 2", "(x\n        / 2)"))
    assert keys(project) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "touched"),
    [
        ("script.py", "abs(self.x)", "abs(self.x) + 1", {"point", "norm", "value point"}),
        ("script.py", "x + n", "x - n", {"closure"}),
        ("script.py", '"z": 1', '"z": 2', {"matched", "value config"}),
        ("script.py", "factor = 3", "factor = 4", {"solver", "make", "cls", "value solver", "value kinds"}),
        ("script.py", 'BLUE = "b"', 'BLUE = "c"', {"color", "twice", "value color", "value kinds"}),
        ("model/parts.py", "x / 2", "x / 3", {"model", "matched"}),
        ("model/parts.py", "LIMIT = 3", "LIMIT = 4", {"model", "matched"}),
        ("model/parts.py", "LIMIT = 3", "LIMIT = 3\nUNUSED = 1", {"matched"}),  # which imports the whole
    ],
)
def test_an_edit_changes_the_keys_of_what_it_touches(project, file, old, new, touched):
    assert changed(project, file, old, new) == touched


LATER = """
import sys
from mainstay.journal.keys import function_key

def run(x):
    from {module} import half
    return half(x)

def whole(x):
    return call(model, x)

{imports}
call = len
print(function_key(run).hex(), function_key({what}).hex())
"""


@pytest.mark.parametrize(
    ("imports", "module", "what"), [("", "model.parts", "run"), ("import model.parts as model", "model.parts", "whole")]
)
def test_a_module_counts_that_is_not_reached_yet(project, imports, module, what):
    (project / "later.py").write_text(LATER.format(imports=imports, module=module, what=what))

    def key(words):
        (project / "model" / "parts.py").write_text(words)
        return output("later.py", cwd=project).split()[1]

    assert key(PARTS) == key(PARTS.replace("x / 2", "(x / 2)  # half")) != key(PARTS.replace("x / 2", "x / 3"))


EDITED = """
import importlib, pathlib, sys
import model.parts as parts
from mainstay.journal.keys import function_key

def whole():
    return call(parts)

call = len
file = pathlib.Path(parts.__file__)
first = [function_key(parts.run), function_key(whole)] if sys.argv[1] == "seen" else []
file.write_text(file.read_text().replace("x / 2", "x / 33"))
stale = [function_key(parts.run), function_key(whole)]
importlib.reload(parts)
fresh = [function_key(parts.run), function_key(whole)]
print(stale[0] == fresh[0], stale[1] == fresh[1], fresh[0].hex(), fresh[1].hex(), *[key.hex() for key in first])
"""


@pytest.mark.parametrize("when", ["seen", "unseen"])
def test_a_file_that_was_edited_after_its_import_finds_nothing_of_the_new(project, when):
    (project / "edited.py").write_text(EDITED)
    first = output("edited.py", when, cwd=project).split()
    assert first[:2] == ["False", "False"]
    again = output("edited.py", "seen", cwd=project).split()  # from the start with what was edited
    assert again[4:] == first[2:4]


FRAME = """
import sys
import numpy as np, pandas as pd
from mainstay.journal.keys import call_key, function_key

built = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [1.0, np.nan]})
grown = pd.DataFrame()
for name in built:
    grown[name] = built[name].tolist()
key = lambda *args: call_key(bytes(16), args, {}).hex()
assert key(built) == key(grown) == key(pd.concat([built[["a"]], built[["b", "c"]]], axis=1)) == key(built.copy())
rich = built.assign(
    t=pd.date_range("2020", periods=2, tz="Europe/Berlin"), k=pd.Categorical(["u", "v"]),
    n=pd.array([1, None], dtype="Int64"), s=pd.array(["a", None], dtype="string"), o=[[1], {2: 3}],
    p=pd.period_range("2020", periods=2, freq="D"), i=pd.interval_range(0, 2),
)
masked = pd.array([1, 5], dtype="Int64")
masked[1] = pd.NA
others = [
    rich, rich.copy(deep=True), rich.iloc[[0, 1]], built[["b", "a", "c"]], built.rename(columns={"a": "z"}),
    built.astype({"a": "int32"}), built.set_index(["a", "b"]), built["a"], built["a"].rename("z"), built.columns,
    masked, pd.array([1, None], dtype="Int64"), pd.array([1, None], dtype="Int32"), pd.Categorical(["a", "b"]),
    pd.Categorical(["a", "b"], categories=["b", "a"]), pd.Timestamp("2020"), pd.Timestamp("2020", tz="UTC"),
    pd.NA, pd.NaT,
]
keys = [key(other) for other in others]
assert keys[0] == keys[1] == keys[2] and keys[10] == keys[11]
assert len(set(keys)) == len(keys) - 3
assert key(pd.RangeIndex(3)) == key(pd.Index([0, 1, 2]))
print(*keys)
"""


def test_frames_are_told_by_their_content(project):
    pytest.importorskip("pandas")
    (project / "frame.py").write_text(FRAME)
    assert output("frame.py", cwd=project, seed="1") == output("frame.py", cwd=project, seed="2")


def key(*args):
    return call_key(bytes(16), args, {})


def test_arrays_are_told_by_dtype_shape_and_content():
    a = np.arange(12.0).reshape(3, 4)
    assert key(a) == key(np.asfortranarray(a)) == key(a.copy()) == key(np.arange(24.0).reshape(3, 8)[:, ::2] / 2)
    record = np.zeros(3, dtype=[("a", "i4"), ("b", "O"), ("c", "f8", (2,))])
    others = [
        a, a.astype("f4"), a.astype(">f8"), a.reshape(4, 3), a.T, -a, a.tolist(), a[0], a[0, 1], a[:0],
        a[:, :0], np.float32(1), 1.0, np.array(1.0), np.ma.array(a, mask=a > 3), np.ma.array(a), record, record[:2],
        np.array(["a", "b"]), np.array(["a", "b"], dtype=object), np.array(["2020"], "M8[s]"), np.dtype("f8"),
        np.random.default_rng(1), np.random.default_rng(2), np.random.RandomState(1), np.sqrt, np.cos, np.mean,
        np.random.SeedSequence(1), np.longdouble([1, 2]), np.array([[1], "x"], dtype=object),
    ]  # fmt: skip
    assert len({key(other) for other in others}) == len(others)
    assert [key(other) for other in others] == [key(other) for other in others]
    assert key(np.random.default_rng(1)) == key(np.random.default_rng(1))
    assert key(np.ma.array(a)) == key(np.ma.array(a, mask=False))


def test_a_memory_map_is_an_array(tmp_path):
    mapped = np.memmap(tmp_path / "map", dtype="f8", mode="w+", shape=(3,))
    assert key(mapped) == key(np.zeros(3))


def test_what_numpy_makes_of_functions():
    def f(x):
        return x + 1

    vectorized = np.vectorize(f)
    before = function_key(vectorized)
    vectorized([1, 2])
    assert function_key(vectorized) == before
    with pytest.raises(UnreliableKey, match="no module has it"):
        function_key(np.frompyfunc(f, 1, 1))


def test_large_arrays_are_not_copied():
    import tracemalloc

    a = np.zeros(2_000_000)
    tracemalloc.start()
    key(a)
    key(a.reshape(1000, 2000).T)
    assert tracemalloc.get_traced_memory()[1] < a.nbytes * 1.2
    tracemalloc.stop()


def test_marking_a_function_imports_next_to_nothing():
    words = "import mainstay, sys; mainstay.memo(version='1')(lambda: 1); print(*sys.modules)"
    assert "mainstay.journal.canon" not in output("-c", words).split()
