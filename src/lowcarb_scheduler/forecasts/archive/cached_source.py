"""Forecast source that caches a web source in the archive and falls back to its last good forecast."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lowcarb_scheduler.clock import EPOCH, MICROSECOND, Clock, from_us, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.base import MAX_AGE, Fault, ForecastSource, distinct, period
from lowcarb_scheduler.forecasts.http.parsing import floored
from lowcarb_scheduler.forecasts.series import Issue, Series, columns_of, forecast_from, table_of
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout

R = TypeVar("R")

SETTLED: Final = timedelta(hours=2)  # providers revise younger actuals, which are requested again
_HOUR: Final = timedelta(hours=1)
_RETRY_MISSING: Final = timedelta(hours=1)  # until actuals that the provider lacked are requested again
_NO_REASON: Final = "it gave neither a forecast nor a reason"


class CachedSource(ForecastSource):
    """Forecast source that archives the responses of a web source.

    A forecast comes from the archive until the provider issues a new one. Where a fresh forecast cannot be
    had, the last good one stands in if it is at most 36 hours old; ``Forecast.last_good`` names these
    locations. Of actual intensity only missing and recent hours are requested.

    Parameters
    ----------
    source : ForecastSource
        Source to cache; it declares ``signal`` and ``issued_every``.
    archive : Archive
        Archive of its responses. A failure of the archive is recorded as a fault and changes nothing else.
    clock : Clock
        Clock that determines which actuals may be revised, and how long a failed archive is left alone.

    Attributes
    ----------
    source : ForecastSource
        The cached source.
    faults : list of Fault
        Failures of the archive and of requests for actual intensity, each cause once.
    """

    def __init__(self, source: ForecastSource, archive: Archive, clock: Clock) -> None:
        self.source, self._archive, self._clock = source, archive, clock
        self.name, self.signal = source.name, source.signal or "unknown"
        self._issued_every = source.issued_every or timedelta(0)
        self._feed = Feed(self.name, self.signal, source.server)
        self.faults: list[Fault] = []
        # A full disk can be read, so that reading and writing pause apart.
        self._reads, self._writes, self._actuals = Backoff(), Backoff(), Backoff()
        self._requested: dict[str, tuple[datetime, datetime]] = {}  # last period of actuals, by location

    def known_locations(self, *, timeout: Timeout = None) -> Mapping[str, Any] | None:
        """Return the names that the source lists."""
        return self.source.known_locations(timeout=timeout)

    def complete_locations(self, *, timeout: Timeout = None) -> tuple[str, ...] | None:
        """Return all names that the source knows."""
        return self.source.complete_locations(timeout=timeout)

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the forecast of each location: the archived newest one, a fresh one, or the last good one.

        Raises
        ------
        ForecastUnavailableError
            If no location has any of these.
        """
        now, names = to_utc(now, "now"), distinct(locations)
        # A forecast of exactly that age is due for replacement.
        issues = self._archived(names, now, self._issued_every - MICROSECOND, timeout)
        why: dict[str, str] = {}
        if lacking := [name for name in names if name not in issues]:
            try:
                fresh = self.source.forecast(lacking, now, timeout=timeout)
            except ForecastUnavailableError as error:
                why = error.missing
            else:
                why = dict(fresh.missing)
                columns = columns_of(fresh.intensity).items()
                issues |= {name: Issue(fresh.issued_at(name), series) for name, series in columns}
                self._attempt(self._writes, timeout, lambda archive: archive.put(self._feed, fresh))
        # The last good forecast comes from the archive only now: a fresh one goes before it.
        failed = {name: why.get(name, _NO_REASON) for name in names if name not in issues}
        stand_ins = self._archived(list(failed), now, MAX_AGE, timeout)
        missing = {name: reason for name, reason in failed.items() if name not in stand_ins}
        issues |= stand_ins
        ordered = {name: issues[name] for name in names if name in issues}
        known = forecast_from(ordered, missing, self.provenance)
        return replace(known, last_good={name: failed[name] for name in stand_ins})

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the actual intensity in [start, end), requesting hours that are missing or may be revised.

        Raises
        ------
        ForecastUnavailableError
            If no location has a value in the period.
        """
        first, last = period(start, end)
        names = distinct(locations)
        archived = self._read(timeout, lambda archive: archive.actual(self._feed, names, first, last)) or {}
        begins = {name: self._unknown_from(name, archived.get(name), first, last) for name in names}
        lacking = {name: begin for name, begin in begins.items() if begin is not None}
        why, found = dict.fromkeys(lacking, "the last request failed a moment ago"), []
        # The pause after a failure counts in time of the period: in a simulation the clock stands still.
        if lacking and self._actuals.due(last):
            # One request for all locations, in full hours, since some providers aggregate by the hour.
            begin = min(lacking.values())
            try:
                new = self.source.actual(list(lacking), floored(begin, _HOUR), last, timeout=timeout)
            except ForecastUnavailableError as error:
                why = error.missing
                self._note("actual intensity", error.reasons)
            else:
                found.append(new)
                self._attempt(self._writes, timeout, lambda archive: archive.put_actual(self._feed, new))
                self._requested |= dict.fromkeys(lacking, (begin, last))
            self._actuals.record(last, succeeded=bool(found))
        if archived:  # after the new values, which replace archived ones of the same time
            found.append(table_of(archived, {}, self.provenance))
        table = reduce(IntensityTable.fill, found).slice(first, last) if found else None
        known = columns_of(table) if table else {}
        if table is None or not known:
            raise ForecastUnavailableError({name: why.get(name, _NO_REASON) for name in names})
        return table.align([name for name in names if name in known])

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return the archived forecasts issued in [start, end), oldest first, at most one per ``every``."""
        first, last = period(start, end)
        names = distinct(locations)
        return self._read(timeout, lambda archive: archive.past(self._feed, names, first, last, every)) or []

    def _archived(
        self, names: Sequence[str], now: datetime, max_age: timedelta, timeout: Timeout
    ) -> dict[str, Issue]:
        """Return the newest archived issues that are at most ``max_age`` old and reach past ``now``."""
        if not names:
            return {}
        found = self._read(timeout, lambda archive: archive.newest(self._feed, names, now, max_age)) or {}
        return {name: issue for name, issue in found.items() if issue.series.has_value(now)}

    def _unknown_from(
        self, name: str, archived: Series | None, first: datetime, last: datetime
    ) -> datetime | None:
        """Return the begin of the hours to request; None if all are known and settled."""
        settled = max(first, min(last, self._clock.now() - SETTLED))
        spans = [] if archived is None else archived.spans_us()
        begin, end = self._requested.get(name, (EPOCH, EPOCH))
        # A hole that the provider did not fill a moment ago counts as known, or every call would request it.
        if spans and last - end < _RETRY_MISSING:
            spans = sorted([*spans, [to_us(begin), to_us(end)]])
        unknown_us = to_us(first)
        for begin_us, end_us in spans:
            if begin_us <= unknown_us:
                unknown_us = max(unknown_us, end_us)
        unknown = min(from_us(unknown_us), settled)
        return unknown if unknown < last else None

    def _read(self, timeout: Timeout, operation: Callable[[Archive], R]) -> R | None:
        """Read from the archive; see :meth:`_attempt`."""
        return self._attempt(self._reads, timeout, operation)

    def _attempt(self, backoff: Backoff, timeout: Timeout, operation: Callable[[Archive], R]) -> R | None:
        """Return the result of an operation on the archive; None if it fails, and for a pause after that."""
        now = self._clock.now()
        if not backoff.due(now):
            return None
        try:
            result = operation(self._archive if timeout is None else self._archive.within(timeout))
        except InputError as error:
            backoff.record(now, succeeded=False)
            self._note("archive", str(error))
            return None
        backoff.record(now, succeeded=True)
        return result

    def _note(self, what: str, why: str) -> None:
        fault = Fault(what, one_line(why))
        if fault not in self.faults:
            self.faults.append(fault)


def at_hand(
    source: ForecastSource | None, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
) -> list[Forecast]:
    """Return the forecasts issued in [start, end) that need no request to a server, oldest first."""
    if source is None or source.issued_every is not None:  # a server takes one request for each issue
        return []
    return source.past_forecasts(locations, start, end, every)
