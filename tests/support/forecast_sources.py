"""Forecast sources for tests: one that is flat, one with clean hours, and one that is like one on the web."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable, Provenance

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
NOW = datetime(2026, 3, 2, tzinfo=UTC)


class Flat:
    """A source for which it is 100 g/kWh, always and everywhere."""

    def forecast(self, locations, now):
        return Forecast(self.actual(locations, now, now + 96 * HOUR), now)

    def actual(self, locations, start, end):
        edges = np.arange(to_us(start) // HOUR_US, to_us(end) // HOUR_US + 2) * HOUR_US
        values = np.full((len(edges) - 1, len(locations)), 100.0)
        return IntensityTable(edges, tuple(locations), values, Provenance("flat", "average"))


class Curve:
    """A source that says the same every time: 500 g/kWh, but 100 in some hours after midnight, or as told."""

    def __init__(self, midnight, clean=range(6, 10), changes=(), told=()):
        self.midnight, self.clean, self.changes, self.told = midnight, clean, list(changes), dict(told)

    def forecast(self, locations, now):
        if self.changes and now >= self.changes[0][0]:
            self.clean = self.changes.pop(0)[1]
        return Forecast(self.table(locations, self.midnight, self.midnight + 72 * HOUR), now)

    def actual(self, locations, start, end):
        return self.table(locations, start, end)

    def table(self, locations, start, end):
        first, last = to_us(start) // HOUR_US, to_us(end) // HOUR_US
        hours = np.arange(first, max(last, first + 1) + 1)
        hour = hours[:-1] - to_us(self.midnight) // HOUR_US
        values = np.where(np.isin(hour, list(self.clean)), 100.0, 500.0)
        for told, value in self.told.items():
            values[hour == told] = value
        table = np.repeat(values[:, None], len(locations), axis=1)
        return IntensityTable(hours * HOUR_US, tuple(locations), table, Provenance("curve", "average"))


class Web(ForecastSource):
    """A web source: what it says, and what it was asked.

    ``value`` is what it says of every place it knows; ``down`` why it does not answer; ``takes`` how long a
    call takes on its clock, at most its limit.
    """

    server = "http://server"
    issued_every = HOUR

    def __init__(self, name="web", signal="average", value=100.0, places=None, clock=None):
        self.name, self.signal, self.value, self.places = name, signal, value, places
        self.down, self.takes, self.clock, self.limit = None, timedelta(0), clock, timedelta(seconds=30)
        self.issued_at, self.missing, self.unknown_hours = None, {}, set()
        self.asked = []

    def forecast(self, locations, now, *, timeout=None):
        known, missing = self._begin(timeout, "forecast", locations)
        issued_at = self.issued_at or now
        return Forecast(self._table(known, issued_at, issued_at + DAY), issued_at, missing)

    def actual(self, locations, start, end, *, timeout=None):
        known, _ = self._begin(timeout, "actual", locations, start, end)
        return self._table(known, start, end)

    def _begin(self, timeout, *what):
        self.asked.append(what)
        limit = self.limit if timeout is None else min(timeout, self.limit)
        if self.takes:
            self.clock.sleep_until(self.clock.now() + min(self.takes, limit))
            if self.takes > limit:
                raise ForecastUnavailableError(dict.fromkeys(what[1], "no answer in time"))
        if self.down:
            raise ForecastUnavailableError(dict.fromkeys(what[1], self.down))
        missing = {name: why for name, why in self.missing.items() if name in what[1]}
        if self.places is not None:
            missing |= {name: "it is unknown" for name in what[1] if name not in self.places}
        known = [name for name in what[1] if name not in missing]
        if not known:
            raise ForecastUnavailableError(missing)
        return known, missing

    def _table(self, places, start, end):
        edges = np.arange(to_us(start), to_us(end), HOUR // timedelta(microseconds=1))
        edges = np.append(edges, to_us(end))
        values = np.full((len(edges) - 1, len(places)), float(self.value))
        for hour in self.unknown_hours:
            values[edges[:-1] == to_us(hour)] = np.nan
        assert not self.value > MAX_G_PER_KWH
        return IntensityTable(edges, tuple(places), values, Provenance(self.name, self.signal))

    @property
    def kinds(self):
        """Requests to the source, in order."""
        return [what for what, *_ in self.asked]
