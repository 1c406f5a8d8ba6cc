"""Synthetic intensity, plausible enough to plan with: hourly forecasts, and actuals that differ from them.

Levels and swings of the 24 zones are the summary figures in ``zone-figures.csv`` (mean, daily swing and
cleanest hour in December-February and June-August, spread and persistence of daily means, swing over the
year, weekend ratio), computed from the actuals of 2022-2023 in the Electricity Maps Data Portal (ODbL,
attribution: Electricity Maps). Everything else is invented, and every table says ``synthetic``.

In hour t the intensity of a zone is a regular part times ``exp(x(t) - var(x) / 2)``, where the weather x is
a sum of independent Gaussian parts that forget: after h hours a part of x(t) is left, w(h) = ar1^(h / knot).
A forecast made after hour t is the expectation given x(t)::

    E[exp(x(t + h) - var / 2) | x(t)] = exp(w(h) x(t) - w(h)^2 var / 2)

So a newer issue is better, errors run over hours and from issue to issue, far ahead little but the regular
part is left, and no plan gains by betting that the next issue will differ: forecasts are a martingale.

No state is kept: a value depends on seed, zone and hour, by a counter-based generator [1]_.

References
----------
.. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, from_us, to_us, to_utc
from lowcarb_scheduler.errors import unknown_name
from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource, Names, Timeout, distinct, period
from lowcarb_scheduler.intensity import IntensityTable, Provenance

if TYPE_CHECKING:
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.settings import Settings

HORIZON_HOURS: Final = 96  # of a forecast
MEMORY_KNOTS: Final = 48  # memory of a part of the weather
DAY_HOURS: Final = 24
PASSING_KNOT_HOURS: Final = 3  # the passing part: noise within the day, soon forgotten
PASSING_AR1: Final = 0.6
# Its spread as a share of the spread of daily levels. It makes the error of forecasts 17, 24, 27, 29 % of
# the mean on lead days 1 to 4 over all zones, about what real forecasts without weather data have.
PASSING_SHARE: Final = 0.45


@dataclass(frozen=True, slots=True)
class Zone:
    """One row of ``zone-figures.csv``; amplitudes are half the swing over the mean."""

    zone: str
    mean_g_per_kwh: float
    winter_amp: float
    winter_min_utc: float
    summer_amp: float
    summer_min_utc: float
    daily_log_sd: float
    daily_ar1: float
    seasonal_amp: float
    cleanest_month: float
    weekend_ratio: float
    azure_regions: tuple[str, ...]  # on this grid, as the Carbon Aware SDK names them


class Synthetic(ForecastSource):
    """Forecast source of made-up values, equal for equal seeds on every machine.

    Parameters
    ----------
    seed : int
        Seed of the weather.
    """

    name = "synthetic"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.locations: tuple[str, ...] = tuple(sorted(zones()))

    @classmethod
    def from_settings(cls, settings: Settings) -> Synthetic:
        """Open the source."""
        return cls()

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the hourly forecast issued at the last full hour, 96 h long.

        Raises
        ------
        InputError
            If a location is unknown.
        """
        issued_us = to_us(to_utc(now, "now")) // HOUR_US * HOUR_US
        hours = issued_us // HOUR_US + np.arange(HORIZON_HOURS, dtype=np.int64)
        # An issue knows the hours that have ended; the current hour is the first that it forecasts.
        lead_hours = np.arange(1, HORIZON_HOURS + 1, dtype=float)
        table = self._table(distinct(locations), hours, lead_hours)
        return Forecast(table, from_us(issued_us))

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the hourly intensity in [start, end), past or future.

        Raises
        ------
        InputError
            If a location is unknown, or the period is empty.
        """
        first, last = period(start, end)
        hours = np.arange(to_us(first) // HOUR_US, -(-to_us(last) // HOUR_US), dtype=np.int64)
        table = self._table(distinct(locations), hours).slice(first, last)
        assert table is not None  # the hours cover the period
        return table

    def _table(
        self, locations: tuple[str, ...], hours: Ints, lead_hours: Floats | None = None
    ) -> IntensityTable:
        """Return intensity in ``hours`` since 1970: actual, or as forecast ``lead_hours`` before."""
        values = np.empty((len(hours), len(locations)))
        for column, location in enumerate(locations):
            zone = zones().get(location)
            if zone is None:
                raise unknown_name("location", location, self.locations)
            values[:, column] = _regular(zone, hours) * self._weather(zone, hours, lead_hours)
        # Two decimals: the last bits of exp and cos are not the same on every machine.
        edges = np.append(hours, hours[-1] + 1) * HOUR_US
        return IntensityTable(
            edges, locations, values.round(2), Provenance("synthetic", "average", synthetic=True)
        )

    def _weather(self, zone: Zone, hours: Ints, lead_hours: Floats | None) -> Floats:
        """Return the factor of the weather: mean 1, shape of ``hours``."""
        # A weekend that differs is itself part of the spread of daily means.
        weekend_var = np.log(zone.weekend_ratio) ** 2 * (2 / 7) * (5 / 7)
        daily_sd = np.sqrt(max(zone.daily_log_sd**2 - weekend_var, 0.0))
        parts = (
            (daily_sd, DAY_HOURS, zone.daily_ar1),
            (PASSING_SHARE * daily_sd, PASSING_KNOT_HOURS, PASSING_AR1),
        )
        ahead = np.zeros(len(hours)) if lead_hours is None else lead_hours
        log_factor = np.zeros(len(hours))
        for number, (sd, knot_hours, ar1) in enumerate(parts):
            key = blake2b(f"{self.seed}/{zone.zone}/{number}".encode(), digest_size=8).digest()
            seen = hours - ahead.astype(np.int64)  # the last hour that had ended
            noise = sd * _smooth_noise(int.from_bytes(key, "big"), seen, knot_hours, ar1)
            left = ar1 ** (ahead / knot_hours)
            log_factor += left * noise - (left * sd) ** 2 / 2
        factor: Floats = np.exp(log_factor)
        return factor


@cache
def zones() -> dict[str, Zone]:
    """Return the grid zones by their own names and by those of the Azure regions in them."""
    file = resources.files("lowcarb_scheduler.forecasts.sources").joinpath("zone-figures.csv")
    known: dict[str, Zone] = {}
    for row in csv.DictReader(file.read_text("utf-8").splitlines()):
        # Chicago, northcentralus, is in PJM: its utility ComEd is not part of MISO.
        zone, regions = row.pop("zone"), tuple(row.pop("azure_regions").split())
        figures = {name: float(figure) for name, figure in row.items()}
        known |= dict.fromkeys((zone, *regions), Zone(zone=zone, azure_regions=regions, **figures))
    return known


def _regular(zone: Zone, hours: Ints) -> Floats:
    """Return the part that follows from season, weekday and hour of the day [gCO2eq/kWh]."""
    days = hours // DAY_HOURS
    year_turn = 2 * np.pi * ((hours / DAY_HOURS + 719_528) % 365.2425) / 365.2425  # 0 at the turn of the year
    # A swing over the year larger than the mean itself: an exponential keeps it positive, i0 keeps its mean.
    swing = np.arcsinh(zone.seasonal_amp)
    season = np.exp(-swing * np.cos(year_turn - 2 * np.pi * (zone.cleanest_month - 0.5) / 12)) / np.i0(swing)
    summer = (1 - np.cos(year_turn - 2 * np.pi * 0.5 / 12)) / 2  # 0 in mid January, 1 in mid July
    day_turn = 2 * np.pi * (hours % DAY_HOURS) / DAY_HOURS
    diurnal = (
        1
        - (1 - summer) * zone.winter_amp * np.cos(day_turn - 2 * np.pi * zone.winter_min_utc / DAY_HOURS)
        - summer * zone.summer_amp * np.cos(day_turn - 2 * np.pi * zone.summer_min_utc / DAY_HOURS)
    )
    weekend = np.isin((days + 3) % 7, (5, 6))  # 1970-01-01 was a Thursday
    week = np.where(weekend, zone.weekend_ratio, 1.0) / ((5 + 2 * zone.weekend_ratio) / 7)
    regular: Floats = zone.mean_g_per_kwh * season * diurnal * week
    return regular


def _smooth_noise(key: int, hours: Ints, knot_hours: int, ar1: float) -> Floats:
    """Return standard normal noise that runs over hours: an AR(1) over knots, lines between them.

    The AR(1) is a moving average of white noise cut after ``MEMORY_KNOTS``: any hour stands alone.
    """
    position = hours / knot_hours - 0.5  # a knot in the middle of each day
    left = np.floor(position).astype(np.int64)
    share = position - left
    first = int(left.min())
    knots = np.arange(first - MEMORY_KNOTS + 1, int(left.max()) + 2, dtype=np.int64)
    weights = ar1 ** np.arange(MEMORY_KNOTS)
    weights /= np.sqrt((weights**2).sum())
    level = np.convolve(_normals(key, knots), weights, mode="valid")  # level[i] belongs to knot first + i
    between = (1 - share) * level[left - first] + share * level[left - first + 1]
    spread = np.sqrt((1 - share) ** 2 + share**2 + 2 * share * (1 - share) * ar1)
    noise: Floats = between / spread
    return noise


def _normals(key: int, counters: Ints) -> Floats:
    """Return one standard normal number a counter, by Box and Muller."""
    state = counters.astype(np.uint64) * np.uint64(2) + np.uint64(key)
    radius = np.sqrt(-2 * np.log(_uniform(state)))
    normals: Floats = radius * np.cos(2 * np.pi * _uniform(state + np.uint64(1)))
    return normals


def _uniform(state: np.ndarray[tuple[int, ...], np.dtype[np.uint64]]) -> Floats:
    """Return one number in (0, 1) a state: SplitMix64 [1]_."""
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    uniform: Floats = ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform
