"""A source with a memory: what it said is kept, served again while it is the newest, and stands in for it."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

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
    from lowcarb_scheduler.intensity import Signal

Found = TypeVar("Found")

SETTLED: Final = timedelta(
    hours=2
)  # actuals more recent than this are asked for again: providers revise them
_HOUR: Final = timedelta(hours=1)
_LATE: Final = timedelta(hours=1)  # how often older ones are asked for that were not there the last time
_NO_REASON: Final = "it gave neither a forecast nor a reason"


@runtime_checkable
class WebSource(ForecastSource, Protocol):
    """A source whose answers can be kept: it says whose they are, and how often there are new ones."""

    @property
    def name(self) -> str:
        """Return what settings call it."""

    @property
    def server(self) -> str:
        """Return where it answers."""

    @property
    def signal(self) -> Signal:
        """Return what its numbers measure."""

    @property
    def issued_every(self) -> timedelta:
        """Return how often the provider makes a new forecast."""

    def within(self, limit: timedelta) -> WebSource:
        """Return the same source whose calls take at most ``limit``."""


class CachedSource:
    """A web source whose good answers are kept on disk.

    Within the time in which the provider makes no new one, a forecast is served from there. A location for
    which none can be had gets its last good one, if that is no older than 36 hours; ``last_good`` says so.
    Of actuals only what is missing or may still change is asked for.

    Parameters
    ----------
    source : WebSource
        Who is asked.
    archive : Archive
        Where it is kept. A fault of it is noted, and changes nothing else.
    clock : Clock, optional
        Tells which actuals may still change; the system's by default, in simulations too.

    Attributes
    ----------
    source : WebSource
        Who is asked.
    faults : list of Fault
        What did not work, each cause once: of the archive, or actuals that were asked for in vain.
    """

    def __init__(self, source: WebSource, archive: Archive, clock: Clock | None = None) -> None:
        self.source, self._archive, self._clock = source, archive, clock or SystemClock()
        self._feed = Feed(source.name, source.signal, source.server)
        self.faults: list[Fault] = []
        self._reads, self._writes, self._actuals = Backoff(), Backoff(), Backoff()
        self._sought: dict[str, _Sought] = {}

    @property
    def name(self) -> str:
        """What settings call the source."""
        return self.source.name

    @property
    def signal(self) -> Signal:
        """What its numbers measure."""
        return self.source.signal

    def within(self, limit: timedelta) -> CachedSource:
        """Return the same source, its memory shared, whose calls take at most ``limit``."""
        other: CachedSource = copy.copy(self)
        other.source, other._archive = self.source.within(limit), self._archive.within(limit)
        return other

    def known_locations(self) -> Mapping[str, object]:
        """Return what the source tells of the names it knows."""
        known = getattr(self.source, "known_locations", None)
        return known() if known else {}

    def forecast(self, locations: Sequence[str], now: datetime) -> Forecast:
        """Return a forecast: kept if it is still the newest, else fresh, else the last good one.

        Raises
        ------
        ForecastUnavailableError
            If not one location has any of these.
        """
        now, names = to_utc(now, "now"), distinct(locations)
        issues = self._kept(names, now, self.source.issued_every - MICROSECOND)
        why: dict[str, str] = {}
        if lacking := [name for name in names if name not in issues]:
            try:
                answer = self.source.forecast(lacking, now)
            except ForecastUnavailableError as error:
                why = error.missing
            else:
                why = dict(answer.missing)
                columns = columns_of(answer.intensity).items()
                issues |= {name: Issue(answer.issued_at(name), series) for name, series in columns}
                self._attempt(self._writes, lambda: self._archive.put(self._feed, answer))
        failed = {name: why.get(name, _NO_REASON) for name in names if name not in issues}
        stand_ins = self._kept(list(failed), now, MAX_AGE)
        missing = {name: reason for name, reason in failed.items() if name not in stand_ins}
        issues |= stand_ins
        ordered = {name: issues[name] for name in names if name in issues}
        known = forecast_from(ordered, missing, self._feed.provenance)
        return replace(known, last_good={name: failed[name] for name in stand_ins})

    def actual(self, locations: Sequence[str], start: datetime, end: datetime) -> IntensityTable:
        """Return what happened in [start, end), asking for what is not kept, or was kept too early.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        names = distinct(locations)
        kept = self._attempt(self._reads, lambda: self._archive.actual(self._feed, names, first, last)) or {}
        begins = {name: self._unknown_from(name, kept.get(name), first, last) for name in names}
        lacking = {name: begin for name, begin in begins.items() if begin is not None}
        why, found = dict.fromkeys(lacking, "it was asked for in vain a moment ago"), []
        # Paced by the time that is asked about: in a simulation that of the system stands still.
        if lacking and (self._actuals.due(last) or not self._actuals.failures):
            begin = min(lacking.values())
            try:
                new = self.source.actual(list(lacking), begin - (begin - EPOCH) % _HOUR, last)
            except ForecastUnavailableError as error:
                why = error.missing
                self._note("actual intensity", error.reasons)
            else:
                found.append(new)
                self._attempt(self._writes, lambda: self._archive.put_actual(self._feed, new))
                self._sought |= {name: _Sought(begin, last) for name in lacking}
            self._actuals.asked(last, answered=bool(found))
        if kept:
            found.append(table_of(kept, {}, self._feed.provenance))
        table = reduce(IntensityTable.fill, found).slice(first, last) if found else None
        known = [] if table is None else [name for name in names if name in columns_of(table)]
        if table is None or not known:
            raise ForecastUnavailableError({name: why.get(name, _NO_REASON) for name in names})
        return table.align(known)

    def past_forecasts(
        self, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
    ) -> list[Forecast]:
        """Return the kept issues of [start, end), oldest first, at most one each ``every``."""
        first, last = period(start, end)
        names = distinct(locations)
        return (
            self._attempt(self._reads, lambda: self._archive.past(self._feed, names, first, last, every))
            or []
        )

    def _kept(self, names: Sequence[str], now: datetime, max_age: timedelta) -> dict[str, Issue]:
        """Return the newest kept issues that are no older and not over."""
        if not names:
            return {}
        found = (
            self._attempt(self._reads, lambda: self._archive.newest(self._feed, names, now, max_age)) or {}
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

    def _attempt(self, pace: Backoff, use: Callable[[], Found]) -> Found | None:
        """Return what comes of using the archive; None if that fails, and for a while after."""
        now = self._clock.now()
        if pace.failures and not pace.due(now):
            return None
        try:
            found = use()
        except InputError as error:
            pace.asked(now, answered=False)
            self._note("archive", str(error))
            return None
        pace.asked(now, answered=True)
        return found

    def _note(self, what: str, why: str) -> None:
        fault = Fault(what, one_line(why))
        if fault not in self.faults:
            self.faults.append(fault)


def at_hand(
    source: ForecastSource | None, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
) -> list[Forecast]:
    """Return the issues of [start, end) that a source need not ask for over the web, oldest first."""
    past = None if isinstance(source, WebSource) else getattr(source, "past_forecasts", None)
    issues: list[Forecast] = past(locations, start, end, every) if past else []
    return issues


class _Sought(NamedTuple):
    """Between which times actuals were asked for."""

    begin: datetime
    end: datetime
