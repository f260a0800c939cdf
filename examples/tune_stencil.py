"""Search the tiles, the unrolling and the flags of a five-point stencil over a square, by Optuna's TPE.

    mainstay tune examples/tune_stencil.py

The tile sizes and the pragma are written into the source; each variant is checked against untiled sweeps.
"""

from __future__ import annotations

import ctypes
import time

from mainstay.tune import Variant, call

N, SWEEPS = 514, 4

SOURCE = """
#include <stddef.h>
#define N @n@
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static void sweep(const double *restrict from, double *restrict to) {
    for (size_t ii = 1; ii < N - 1; ii += @rows@)
        for (size_t jj = 1; jj < N - 1; jj += @columns@)
            for (size_t i = ii; i < MIN(ii + @rows@, N - 1); i++)
#pragma GCC unroll @unroll@
                for (size_t j = jj; j < MIN(jj + @columns@, N - 1); j++)
                    to[i * N + j] = 0.2 * (from[i * N + j] + from[(i - 1) * N + j] + from[(i + 1) * N + j]
                                           + from[i * N + j - 1] + from[i * N + j + 1]);
}

void heat(double *restrict a, double *restrict b, int sweeps) {
    for (int t = 0; t < sweeps; t++) {
        sweep(a, b);
        double *other = a; a = b; b = other;
    }
}

void plain(double *a, double *b, int sweeps) {
    for (int t = 0; t < sweeps; t++) {
        for (size_t i = 1; i < N - 1; i++)
            for (size_t j = 1; j < N - 1; j++)
                b[i * N + j] = 0.2 * (a[i * N + j] + a[(i - 1) * N + j] + a[(i + 1) * N + j]
                                      + a[i * N + j - 1] + a[i * N + j + 1]);
        double *other = a; a = b; b = other;
    }
}
""".replace("@n@", str(N))


def build(variant, directory, squares):
    """Write the variant's source and compile it: what a `Build` would do, as a function that could do anything else."""
    text = SOURCE
    for name, value in variant.items():
        text = text.replace(f"@{name}@", str(value))
    (directory / "heat.c").write_text(text)
    call(["cc", *variant.flags.split(), "-fPIC", "-shared", "heat.c", "-o", "heat.so"], directory)
    return directory / "heat.so"


def setup():
    """Make the two squares, once in each worker."""
    square = ctypes.c_double * (N * N)
    return square(*(i % 97 for i in range(N * N))), square()


def run(artifact, squares):
    heat = ctypes.CDLL(artifact).heat
    began = time.perf_counter()
    heat(*squares, SWEEPS)
    return time.perf_counter() - began


def check(artifact, squares):
    library = ctypes.CDLL(artifact)
    square = ctypes.c_double * (N * N)
    start = square(*(i % 89 for i in range(N * N)))
    fields = [[square.from_buffer_copy(start), square.from_buffer_copy(start)] for _ in range(2)]
    library.heat(*fields[0], SWEEPS)
    library.plain(*fields[1], SWEEPS)
    return all(abs(one - other) < 1e-9 for one, other in zip(fields[0][0][::101], fields[1][0][::101], strict=True))


space = {
    "rows": (4, 16, 64, 512),
    "columns": (32, 128, 512),
    "unroll": (1, 2, 4, 8),
    "flags": ("-O2", "-O3", "-O3 -march=native"),
}
baseline = Variant(rows=512, columns=512, unroll=1, flags="-O2")
strategy, budget = "tpe", 24
options = {"rounds": (8, 16), "precision": 0.02, "tools": ("cc",)}
