"""A source with a memory: what it said is kept, served again while it is the newest, and stands in for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from lowcarb_scheduler.clock import EPOCH, MICROSECOND, SystemClock, from_us, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.archive.database import Feed
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.base import MAX_AGE, Fault, ForecastSource, distinct, has_value, period
from lowcarb_scheduler.forecasts.series import Issue, columns_of, forecast_from, table_of
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.archive.database import Archive
    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.forecasts.series import Series

Found = TypeVar("Found")

SETTLED: Final = timedelta(
    hours=2
)  # actuals more recent than this are asked for again: providers revise them
_HOUR: Final = timedelta(hours=1)
_LATE: Final = timedelta(hours=1)  # how often older ones are asked for that were not there the last time
_NO_REASON: Final = "it gave neither a forecast nor a reason"


class CachedSource(ForecastSource):
    """A web source whose good answers are kept on disk.

    Within the time in which the provider makes no new one, a forecast is served from there. A location for
    which none can be had gets its last good one, if that is no older than 36 hours; ``last_good`` says so.
    Of actuals only what is missing or may still change is asked for.

    Parameters
    ----------
    source : ForecastSource
        Who is asked; it declares ``signal`` and ``issued_every``.
    archive : Archive
        Where it is kept. A fault of it is noted, and changes nothing else.
    clock : Clock, optional
        Tells which actuals may still change; the system's by default, in simulations too.

    Attributes
    ----------
    source : ForecastSource
        Who is asked; it declares ``signal`` and ``issued_every``.
    faults : list of Fault
        What did not work, each cause once: of the archive, or actuals that were asked for in vain.
    """

    def __init__(self, source: ForecastSource, archive: Archive, clock: Clock | None = None) -> None:
        self.source, self._archive, self._clock = source, archive, clock or SystemClock()
        self.name, self.signal = source.name, source.signal or "unknown"
        self._issued_every = source.issued_every or timedelta(0)
        self._feed = Feed(self.name, self.signal, source.server)
        self.faults: list[Fault] = []
        self._reads, self._writes, self._actuals = Backoff(), Backoff(), Backoff()
        self._sought: dict[str, _Sought] = {}

    def known_locations(self, *, timeout: timedelta | None = None) -> Mapping[str, Any] | None:
        """Return what the source tells of the names it knows."""
        return self.source.known_locations(timeout=timeout)

    def forecast(
        self, locations: Sequence[str], now: datetime, *, timeout: timedelta | None = None
    ) -> Forecast:
        """Return a forecast: kept if it is still the newest, else fresh, else the last good one.

        Raises
        ------
        ForecastUnavailableError
            If not one location has any of these.
        """
        now, names = to_utc(now, "now"), distinct(locations)
        issues = self._kept(names, now, self._issued_every - MICROSECOND, timeout)
        why: dict[str, str] = {}
        if lacking := [name for name in names if name not in issues]:
            try:
                answer = self.source.forecast(lacking, now, timeout=timeout)
            except ForecastUnavailableError as error:
                why = error.missing
            else:
                why = dict(answer.missing)
                columns = columns_of(answer.intensity).items()
                issues |= {name: Issue(answer.issued_at(name), series) for name, series in columns}
                self._attempt(self._writes, timeout, lambda archive: archive.put(self._feed, answer))
        failed = {name: why.get(name, _NO_REASON) for name in names if name not in issues}
        stand_ins = self._kept(list(failed), now, MAX_AGE, timeout)
        missing = {name: reason for name, reason in failed.items() if name not in stand_ins}
        issues |= stand_ins
        ordered = {name: issues[name] for name in names if name in issues}
        known = forecast_from(ordered, missing, self.provenance)
        return replace(known, last_good={name: failed[name] for name in stand_ins})

    def actual(
        self, locations: Sequence[str], start: datetime, end: datetime, *, timeout: timedelta | None = None
    ) -> IntensityTable:
        """Return what happened in [start, end), asking for what is not kept, or was kept too early.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        names = distinct(locations)
        kept = self._attempt(
            self._reads, timeout, lambda archive: archive.actual(self._feed, names, first, last)
        ) or {}  # fmt: skip
        begins = {name: self._unknown_from(name, kept.get(name), first, last) for name in names}
        lacking = {name: begin for name, begin in begins.items() if begin is not None}
        why, found = dict.fromkeys(lacking, "it was asked for in vain a moment ago"), []
        # Paced by the time that is asked about: in a simulation that of the system stands still.
        if lacking and self._actuals.due(last):
            begin = min(lacking.values())
            try:
                new = self.source.actual(
                    list(lacking), begin - (begin - EPOCH) % _HOUR, last, timeout=timeout
                )
            except ForecastUnavailableError as error:
                why = error.missing
                self._note("actual intensity", error.reasons)
            else:
                found.append(new)
                self._attempt(self._writes, timeout, lambda archive: archive.put_actual(self._feed, new))
                self._sought |= {name: _Sought(begin, last) for name in lacking}
            self._actuals.record(last, succeeded=bool(found))
        if kept:
            found.append(table_of(kept, {}, self.provenance))
        table = reduce(IntensityTable.fill, found).slice(first, last) if found else None
        known = [] if table is None else [name for name in names if name in columns_of(table)]
        if table is None or not known:
            raise ForecastUnavailableError({name: why.get(name, _NO_REASON) for name in names})
        return table.align(known)

    def past_forecasts(
        self,
        locations: Sequence[str],
        start: datetime,
        end: datetime,
        every: timedelta,
        *,
        timeout: timedelta | None = None,
    ) -> list[Forecast]:
        """Return the kept issues of [start, end), oldest first, at most one each ``every``."""
        first, last = period(start, end)
        names = distinct(locations)
        return (
            self._attempt(
                self._reads, timeout, lambda archive: archive.past(self._feed, names, first, last, every)
            )
            or []
        )

    def _kept(
        self, names: Sequence[str], now: datetime, max_age: timedelta, timeout: timedelta | None
    ) -> dict[str, Issue]:
        """Return the newest kept issues that are no older and not over."""
        if not names:
            return {}
        found = (
            self._attempt(
                self._reads, timeout, lambda archive: archive.newest(self._feed, names, now, max_age)
            )
            or {}
        )
        return {
            name: issue
            for name, issue in found.items()
            if has_value((issue.series.times_us, issue.series.values), now, ends_us=issue.series.end_us)
        }

    def _unknown_from(
        self, name: str, kept: Series | None, first: datetime, last: datetime
    ) -> datetime | None:
        """Return from when on a location is to be asked for; None if all is known and will not change."""
        settled = max(first, min(last, self._clock.now() - SETTLED))
        spans = [] if kept is None else kept.spans_us()
        sought = self._sought.get(name)
        if spans and sought is not None and last - sought.end < _LATE:
            spans = sorted([*spans, [to_us(sought.begin), to_us(sought.end)]])
        unknown_us = to_us(first)
        for begin_us, end_us in spans:
            if begin_us <= unknown_us:
                unknown_us = max(unknown_us, end_us)
        unknown = min(from_us(unknown_us), settled)
        return unknown if unknown < last else None

    def _attempt(
        self, backoff: Backoff, timeout: timedelta | None, use: Callable[[Archive], Found]
    ) -> Found | None:
        """Return what comes of using the archive; None if that fails, and for a while after."""
        now = self._clock.now()
        if not backoff.due(now):
            return None
        try:
            found = use(self._archive if timeout is None else self._archive.within(timeout))
        except InputError as error:
            backoff.record(now, succeeded=False)
            self._note("archive", str(error))
            return None
        backoff.record(now, succeeded=True)
        return found

    def _note(self, what: str, why: str) -> None:
        fault = Fault(what, one_line(why))
        if fault not in self.faults:
            self.faults.append(fault)


def at_hand(
    source: ForecastSource | None, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
) -> list[Forecast]:
    """Return the issues of [start, end) that a source need not ask for over the web, oldest first."""
    if source is None or source.issued_every is not None:  # it would be one request for each issue
        return []
    return source.past_forecasts(locations, start, end, every)


class _Sought(NamedTuple):
    """Between which times actuals were asked for."""

    begin: datetime
    end: datetime
