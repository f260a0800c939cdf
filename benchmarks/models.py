"""The task of the storm: a function whose module imports what a model of some size imports."""

from __future__ import annotations

import importlib.util
import os
import socket
import time

import numpy
import pandas
import scipy.stats
import xarray

PACKAGES = ["numpy", "scipy.stats", "pandas", "xarray"]
if importlib.util.find_spec("dask") is not None:
    PACKAGES.append("dask.array")  # xarray imports it when it is first used, where it is installed


def run(number: int) -> tuple[str, float]:
    """Return which process has run it, with its host, and a number that took all packages."""
    time.sleep(0.002)  # so that other workers have their part of a batch
    series = pandas.Series(numpy.arange(8) + number)
    who = f"{socket.gethostname()} {os.getpid()}"
    return who, float(scipy.stats.norm.pdf(xarray.DataArray(series).mean().item()))
