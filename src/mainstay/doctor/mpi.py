"""MPI: the library that mpi4py loads, the launcher that would be typed, and what srun offers to both.

MPI is never loaded into this process: a library that hangs or aborts is a finding.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from mainstay.doctor.check import QUICK, Case, Check, Said, State, last_line, listed
from mainstay.launch.srun import OVERLAP_SINCE, version_of
from mainstay.slurm import Allocation

LIBRARIES = (  # what a library or a launcher says of itself: its kind and version
    ("Intel MPI", r"Intel\(R\) MPI Library[^\d]*([\d.]+)"),
    ("Cray MPICH", r"CRAY MPICH\D*([\d.]+)"),
    ("MVAPICH", r"MVAPICH2?\D*([\d.]+)"),
    ("MPICH", r"MPICH Version:\s*([\d.]+)"),
    ("MPICH", r"HYDRA[^$]*?Version:\s*([\d.]+)"),
    ("Open MPI", r"Open MPI[^\d]*([\d.]+)"),
    ("Open MPI", r"OpenRTE\D*([\d.]+)"),
    ("PRRTE", r"PRRTE\D*([\d.]+)"),
)
FAMILY = {"Intel MPI": "MPICH", "Cray MPICH": "MPICH", "MVAPICH": "MPICH", "PRRTE": "Open MPI"}
PMI = {"MPICH": ("pmi2", "cray_shasta"), "Open MPI": ("pmix",)}  # what each can use, by its family
LOOK = """
import json, sys
sys.path[:] = filter(None, sys.path)
told = {}
try:
    import mpi4py
    told["mpi4py"] = mpi4py.__version__
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI
    told["library"] = MPI.Get_library_version().strip("\\0")
    maps = [line.split()[-1] for line in open("/proc/self/maps") if "/libmpi" in line]
    told["file"] = maps[0] if maps else ""
except BaseException as error:
    told["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""
RANK = (
    "import sys; sys.path[:] = filter(None, sys.path); from mpi4py import MPI; import socket; "
    "print('size', MPI.COMM_WORLD.size, socket.gethostname(), flush=True)"
)
WORLD = 20.0  # seconds for a world of two


class Program(NamedTuple):
    """A library or launcher: its kind, version, and where it is."""

    kind: str
    version: str
    path: str

    @property
    def family(self) -> str:
        return FAMILY.get(self.kind, self.kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.version}".strip() if self.kind else "of an unknown kind"


class Offer(NamedTuple):
    """The kinds of PMI that srun offers, and the one that it gives unasked."""

    kinds: tuple[str, ...]
    default: str


def examine(case: Case) -> list[Check]:
    if case.quick:
        return [Check("mpi4py", State.NONE, QUICK)]
    said = case.ask([sys.executable, "-c", LOOK], 30)
    library, check = binding(said)
    checks = [check, launcher(library, *_launchers(case))]
    if shutil.which("srun", path=case.environ.get("PATH")):
        offered = _offered(case)
        checks.append(pmi(library, offered))
        if case.allocation is not None and library is not None:
            checks += [*_world(case, case.allocation, library, offered), *spawn(library, case.allocation)]
    return checks


# -- the library


def binding(said: Said) -> tuple[Program | None, Check]:
    """Return the library that mpi4py loads, and a check of both."""
    try:
        told: dict[str, str] = json.loads(last_line(said.text))
    except ValueError:
        why = last_line(said.errors) or said.problem
        advice = f"It fails while it is loaded; try {sys.executable} -c 'from mpi4py import MPI'"
        return None, Check("mpi4py", State.BAD, why, advice)
    if "mpi4py" not in told:
        return None, Check("mpi4py", State.NONE, "not installed: only tasks that use MPI themselves need it")
    if "error" in told:
        advice = "pip install 'mainstay[mpich]' brings a library, or load the module of the one it was built with"
        return None, Check("mpi4py", State.BAD, f"{told['mpi4py']}, but no MPI library: {told['error']}", advice)
    found = recognized(told["library"], told["file"])
    return found, Check("mpi4py", State.GOOD, f"{told['mpi4py']} loads {found} ({found.path or 'built in'})")


def recognized(text: str, path: str) -> Program:
    """Return the kind and version of a library or launcher, by what it says of itself."""
    for kind, pattern in LIBRARIES:
        found = re.search(pattern, text)
        if found:
            return Program(kind, found[1].strip("."), path)
    return Program("", "", path)


# -- the launcher


def _launchers(case: Case) -> tuple[Program | None, Program | None]:
    """Return the mpiexec that Mainstay takes, and the one that is started by typing its name."""
    typed = shutil.which("mpiexec", path=case.environ.get("PATH"))
    beside = str(Path(sys.executable).parent / "mpiexec")
    taken = beside if os.access(beside, os.X_OK) else typed
    paths = {path: _known(case, path) for path in {taken, typed} if path is not None}
    return paths.get(taken or ""), paths.get(typed or "")


def _known(case: Case, path: str) -> Program:
    said = case.ask([path, "--version"])
    return recognized(said.text + said.errors, path)


def launcher(library: Program | None, taken: Program | None, typed: Program | None) -> Check:
    """Judge the launchers by the library: with another's, each rank is a world of its own."""
    if taken is None:
        state = State.NONE if library is None else State.ODD
        advice = "" if library is None else "pip install 'mainstay[mpich]' brings one, or load the module of the MPI"
        return Check("mpiexec", state, "none beside the interpreter or on PATH", advice)
    found = f"{taken} ({taken.path})"
    if library is not None and taken.family != library.family:
        advice = (
            f"Each rank would be a world of its own: take the mpiexec of {library}, put its directory first on PATH"
        )
        return Check("mpiexec", State.BAD, f"{found}, but mpi4py loads {library}", advice)
    if typed is not None and typed.family != taken.family:
        advice = f"Type {taken.path}, or put its directory first on PATH"
        return Check("mpiexec", State.ODD, f"{found}; but typed it is {typed} ({typed.path})", advice)
    if library is not None and not same_release(library, taken):
        advice = "Mixed versions may fail at the start: take the launcher and the library of one release"
        return Check("mpiexec", State.ODD, f"{found}, but mpi4py loads {library}", advice)
    return Check("mpiexec", State.GOOD, found)


def same_release(one: Program, other: Program) -> bool:
    """Whether the first two numbers of two versions agree, where the kinds can be compared."""
    return one.kind != other.kind or one.version.split(".")[:2] == other.version.split(".")[:2]


# -- what srun offers


def _offered(case: Case) -> Offer:
    said = case.ask(["srun", "--mpi=list"])
    asked = case.environ.get("SLURM_MPI_TYPE")
    config = "" if asked else case.ask(["scontrol", "show", "config"]).text
    return offered(said.text + said.errors, config, asked)


def offered(listing: str, config: str, asked: str | None = None) -> Offer:
    """Return what `srun --mpi=list` and `scontrol show config` tell; `asked`: what SLURM_MPI_TYPE says instead."""
    words = re.findall(r"^(?:srun:)?\s*(?:MPI types are\S*)?\s*([a-z0-9_]+)$", listing, re.MULTILINE)
    default = re.search(r"^MpiDefault\s*=\s*(\S+)", config, re.MULTILINE)
    return Offer(tuple(dict.fromkeys(words)), asked or (default[1] if default else ""))


def usable(library: Program, offered: Offer) -> list[str]:
    """Return the kinds of PMI on offer that a library can use."""
    return [kind for kind in offered.kinds if kind.startswith(PMI.get(library.family, ()))]


def pmi(library: Program | None, offered: Offer) -> Check:
    """Judge whether plain `srun` makes a world of the library's ranks."""
    found = f"srun offers {listed(offered.kinds, 8) or 'nothing'}; unasked {offered.default or '(unknown)'}"
    if library is None or library.family not in PMI or not offered.kinds:
        return Check("PMI", State.NONE, found)
    fitting = usable(library, offered)
    if not fitting:
        advice = f"{library} wants {' or '.join(PMI[library.family])}: start MPI programs by mpiexec, not by srun"
        return Check("PMI", State.ODD, found, advice)
    if offered.default not in fitting:
        advice = f"With it, each rank of {library} is a world of its own: type srun --mpi={fitting[0]}"
        return Check("PMI", State.ODD, found, advice)
    return Check("PMI", State.GOOD, f"{found}, which {library} can use")


def _world(case: Case, here: Allocation, library: Program, offered: Offer) -> list[Check]:
    """Start two ranks by srun, on two nodes where there are two."""
    nodes = min(2, len(here.nodes))
    if sum(node.cpus for node in here.nodes) < 2:
        return []
    overlap = ["--overlap"] if version_of("srun") >= OVERLAP_SINCE else []
    words = ["srun", *overlap, f"--jobid={here.job}", f"--nodes={nodes}", "--ntasks=2", "--job-name=mainstay-doctor"]
    kind = [f"--mpi={offered.default}"] if offered.default else []
    said = case.ask([*words, *kind, "--input=none", sys.executable, "-c", RANK], WORLD)
    return [world(library, offered, said)]


def world(library: Program, offered: Offer, said: Said) -> Check:
    """Judge what two ranks said of their world."""
    lines = [line.split() for line in said.text.splitlines() if line.startswith("size ")]
    sizes, hosts = [line[1] for line in lines], sorted({line[2] for line in lines})
    by = f"srun --mpi={offered.default}" if offered.default else "srun"
    if sizes == ["2", "2"]:
        return Check("World by srun", State.GOOD, f"two ranks on {listed(hosts)} are one world by {by}")
    others = [kind for kind in usable(library, offered) if kind != offered.default]
    advice = f"Type srun --mpi={others[0]}, or use mpiexec" if others else "Start MPI programs by mpiexec, not by srun"
    if sizes == ["1", "1"]:
        return Check("World by srun", State.BAD, f"{by} with {library}: two worlds of one rank each", advice)
    why = said.problem or f"{len(lines)} of 2 ranks answered"
    return Check("World by srun", State.BAD, f"{by} with {library}: {why}; {last_line(said.errors)}", advice)


def spawn(library: Program, here: Allocation) -> list[Check]:
    """Tell of what is known to fail: more than a few spawned ranks over several nodes, seen with MPICH 5.0.2."""
    if library.family != "MPICH" or len(here.nodes) < 2:
        return []
    found = f"{library}: MPI_Comm_spawn over several nodes can end in an assertion of mpiexec"
    advice = (
        "mpi4py's MPIPoolExecutor spawns: use mainstay.Executor, or srun -n N python -m mpi4py.futures, "
        "which does not spawn"
    )
    return [Check("Spawn", State.ODD, found, advice)]
