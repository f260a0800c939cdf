"""Tile and unroll a matrix multiply, compile it with several sets of flags, and find the fastest on each kind of node.

    mainstay tune examples/tune_gemm.py --plot gemm.png

The source is a template: @tile@ and @unroll@ are written into it before the compiler sees it. The result of each
variant is checked against a plain triple loop before it is timed.
"""

from __future__ import annotations

import ctypes
import time

from mainstay.tune import Build, Variant

N = 192  # rows and columns

SOURCE = """
#include <stddef.h>
#define N @n@
#define MIN(a, b) ((a) < (b) ? (a) : (b))

void gemm(const double *restrict a, const double *restrict b, double *restrict c) {
    for (size_t i = 0; i < N * N; i++) c[i] = 0;
    for (size_t kk = 0; kk < N; kk += @tile@)
        for (size_t jj = 0; jj < N; jj += @tile@)
            for (size_t i = 0; i < N; i++)
                for (size_t k = kk; k < MIN(kk + @tile@, N); k++) {
                    const double x = a[i * N + k];
#pragma GCC unroll @unroll@
                    for (size_t j = jj; j < MIN(jj + @tile@, N); j++) c[i * N + j] += x * b[k * N + j];
                }
}

/* Return the greatest difference from the product by its definition. */
double wrong_by(const double *a, const double *b, const double *c) {
    double worst = 0;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) {
            double sum = 0;
            for (size_t k = 0; k < N; k++) sum += a[i * N + k] * b[k * N + j];
            const double off = sum > c[i * N + j] ? sum - c[i * N + j] : c[i * N + j] - sum;
            if (!(off <= worst)) worst = off;
        }
    return worst;
}
""".replace("@n@", str(N))

build = Build(
    ["cc", "{flags}", "-fPIC", "-shared", "gemm.c", "-o", "gemm.so"],
    "gemm.so",
    {"gemm.c": SOURCE},
)


def setup():
    """Make the matrices, once in each worker."""
    matrix = ctypes.c_double * (N * N)
    a = matrix(*((i * 7 % 31) / 31 for i in range(N * N)))
    b = matrix(*((i * 5 % 29) / 29 for i in range(N * N)))
    return a, b, matrix()


def run(artifact, matrices):
    """Multiply once; what that takes, and not the loading, is the sample."""
    gemm = ctypes.CDLL(artifact).gemm
    began = time.perf_counter()
    gemm(*matrices)
    return time.perf_counter() - began


def check(artifact, matrices):
    library = ctypes.CDLL(artifact)
    library.wrong_by.restype = ctypes.c_double
    library.gemm(*matrices)
    return library.wrong_by(*matrices) < 1e-9


FLAGS = ("-O1", "-O2", "-O3 -march=native", "-O3 -march=native -ffast-math")
variants = [Variant(tile=t, unroll=u, flags=f) for t in (16, 64, 192) for u in (1, 4) for f in FLAGS]
baseline = Variant(tile=192, unroll=1, flags="-O2")
options = {"rounds": (8, 20), "precision": 0.02}
