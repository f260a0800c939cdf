"""HYMOD, a rainfall-runoff model, on a real catchment: the model, its data and its scores.

The forcing and the discharge are those that spotpy ships with its examples (Houska et al. 2015,
doi:10.1371/journal.pone.0145180): daily values of 2012 to 2016 of a catchment of 1.783 km².
"""

from __future__ import annotations

import csv
import functools
import importlib.util
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
MISSING = "the data come with spotpy: pip install 'mainstay[examples]'"
AREA = 1.783  # km²
LITRES_PER_SECOND = AREA * 1e6 / 86_400  # of 1 mm/day over the catchment

# name: (lower bound, upper bound, meaning)
PARAMETERS = {
    "cmax": (1.0, 500.0, "largest soil moisture capacity, mm"),
    "bexp": (0.1, 2.0, "its spread over the catchment"),
    "alpha": (0.1, 0.99, "share of quick flow"),
    "Ks": (0.001, 0.10, "slow reservoir's rate, 1/day"),
    "Kq": (0.1, 0.99, "quick reservoirs' rate, 1/day"),
}
LOWER = np.array([low for low, _, _ in PARAMETERS.values()])
UPPER = np.array([high for _, high, _ in PARAMETERS.values()])


class Catchment(NamedTuple):
    """Daily series: dates, rain and potential evapotranspiration (mm/day), observed discharge (l/s)."""

    days: list[date]
    rain: list[float]
    evaporation: list[float]
    discharge: Series

    def year(self, *years: int) -> NDArray[np.bool_]:
        """Return the mask of the days in these years that have an observation."""
        return np.array([day.year in years for day in self.days]) & ~np.isnan(self.discharge)


@functools.cache
def catchment() -> Catchment:
    """Read the catchment's data; a worker does so once, and keeps them."""
    with data_file().open(newline="") as file:
        rows = list(csv.reader(file, delimiter=";"))[1:]
    days = [datetime.strptime(row[0], "%d.%m.%Y").date() for row in rows]
    rain, evaporation, discharge = (np.array([float(row[i]) for row in rows]) for i in (1, 2, 3))
    return Catchment(days, rain.tolist(), evaporation.tolist(), discharge)


def data_file() -> Path:
    """Return the path of spotpy's data, without the seconds that importing spotpy takes."""
    spec = importlib.util.find_spec("spotpy")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(MISSING)
    path = Path(spec.origin).parent / "examples" / "hymod_python" / "hymod_input.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; {MISSING}")
    return path


def simulate(parameters: Series) -> Series:
    """Return the simulated discharge (l/s) of each day.

    A soil whose moisture capacity varies over the catchment (probability-distributed, Moore 1985,
    doi:10.1080/02626668509490989) sheds water, which runs through one slow and, in parallel, three equal quick
    linear reservoirs in a row (Boyle 2000; as in Quan et al. 2015, doi:10.5194/piahs-368-180-2015).
    """
    cmax, bexp, alpha, ks, kq = map(float, parameters)
    data = catchment()
    soil, slow, quick = 0.0, 0.0, [0.0, 0.0, 0.0]
    flow = np.empty(len(data.rain))
    for day, (rain, evaporation) in enumerate(zip(data.rain, data.evaporation, strict=True)):
        soil, excess = soil_moisture(soil, rain, evaporation, cmax, bexp)
        slow = (slow + (1 - alpha) * excess) * (1 - ks)
        inflow = alpha * excess
        for i in range(3):
            quick[i] = (quick[i] + inflow) * (1 - kq)
            inflow = quick[i] * kq / (1 - kq)
        flow[day] = slow * ks / (1 - ks) + inflow
    return flow * LITRES_PER_SECOND


def soil_moisture(soil: float, rain: float, evaporation: float, cmax: float, bexp: float) -> tuple[float, float]:
    """Return the soil's water (mm) at the end of a day, and what it sheds on that day (mm)."""
    full = cmax / (bexp + 1)
    critical = cmax * (1 - max(0.0, 1 - soil / full) ** (1 / (bexp + 1)))
    overflow = max(rain - cmax + critical, 0.0)
    rain -= overflow
    wetter = full * (1 - max(0.0, 1 - (critical + rain) / cmax) ** (bexp + 1))
    shed = overflow + max(rain - (wetter - soil), 0.0)
    return max(wetter - evaporation * wetter / full, 0.0), shed


def nse(simulated: Series, observed: Series) -> float:
    """Return the Nash-Sutcliffe efficiency (1970, doi:10.1016/0022-1694(70)90255-6); 1 is perfect."""
    return float(1 - np.sum((simulated - observed) ** 2) / np.sum((observed - observed.mean()) ** 2))


def kge(simulated: Series, observed: Series) -> float:
    """Return the Kling-Gupta efficiency (Gupta et al. 2009, doi:10.1016/j.jhydrol.2009.08.003); 1 is perfect."""
    correlation = np.corrcoef(simulated, observed)[0, 1]
    variability = simulated.std() / observed.std()
    bias = simulated.mean() / observed.mean()
    return float(1 - np.sqrt((correlation - 1) ** 2 + (variability - 1) ** 2 + (bias - 1) ** 2))
