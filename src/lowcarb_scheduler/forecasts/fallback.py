"""Fallback over several forecast sources: each next one fills only what those before it lack.

Where sources call a location by different names, each is asked by its own. Values of different signals are
never mixed: the signal of the first source holds for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Any, Final

import numpy as np

from lowcarb_scheduler.clock import Clock, SystemClock, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, one_line
from lowcarb_scheduler.forecasts.archive.cached_source import at_hand
from lowcarb_scheduler.forecasts.base import Fault, Forecast, ForecastSource, Names, Timeout, distinct, period
from lowcarb_scheduler.intensity import IntensityTable, Provenance, Signal, between_known

Call = Callable[[ForecastSource, list[str], timedelta], Forecast]  # source, its own names, time limit

_NO_REASON: Final = "no source gave a reason"

_SIGNAL_SETTINGS: Final = {"carbon-aware-sdk": "sdk-signal", "traces": "traces-signal"}  # of what names none


class FallbackSource(ForecastSource):
    """Several sources as one.

    A source is asked for the locations without data from those before it, and for holes in that data. A fresh
    forecast of any source goes before a last good one. The ``source`` of a table names all that contributed.

    Parameters
    ----------
    sources : sequence of ForecastSource
        Sources in the order of requests, at least one.
    names : mapping of str to mapping of str to str, optional
        By source, its own name of each location that it calls otherwise.
    timeout : timedelta
        Longest duration of one call, all sources together. None of them takes the share of those after it.
    clock : Clock, optional
        Clock that counts the timeout; the system's by default, in simulations too.
    """

    def __init__(
        self,
        sources: Sequence[ForecastSource],
        names: Mapping[str, Mapping[str, str]] | None = None,
        timeout: timedelta = timedelta(seconds=30),
        clock: Clock | None = None,
    ) -> None:
        self._sources, self._names, self._timeout = tuple(sources), names or {}, timeout
        self._clock = clock or SystemClock()
        self._faults: list[Fault] = []
        self.name = ",".join(source.name for source in self._sources)
        self.signal = self._sources[0].signal
        self.is_certain = all(source.is_certain for source in self._sources)
        self.locations = self._all_of(lambda source: source.locations)

    def complete_locations(self, *, timeout: Timeout = None) -> tuple[str, ...] | None:
        """Return all names that the sources know, if each has a complete list."""
        ends = self._deadline(timeout)
        return self._all_of(
            lambda source: source.complete_locations(timeout=max(ends - self._clock.now(), timedelta(0)))
        )

    def _all_of(self, list_of: Callable[[ForecastSource], tuple[str, ...] | None]) -> tuple[str, ...] | None:
        """Return the locations of all sources if each has a complete list of its own."""
        known: set[str] = set()
        for source in self._sources:
            if (own := list_of(source)) is None:
                return None
            named = self._names.get(source.name, {})
            known |= set(own) - set(named)
            known |= {location for location, name in named.items() if name in own}
        return tuple(sorted(known))

    @property
    def faults(self) -> list[Fault]:  # type: ignore[override]  # derived, so never set
        """Recent failures of this source and of all it asks, each cause once."""
        return self._faults + [fault for source in self._sources for fault in source.faults]

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, Any]:
        """Return the locations that the sources list, by each of their names.

        Raises
        ------
        ForecastUnavailableError
            If one of the servers does not answer: a part of the names would pass for all of them.
        """
        known: dict[str, Any] = {}
        ends = self._deadline(timeout)
        for source in self._sources:
            listed = source.known_locations(timeout=ends - self._clock.now()) or {}
            named = self._names.get(source.name, {})
            own = {location: listed[name] for location, name in named.items() if name in listed}
            for name, where in [*own.items(), *listed.items()]:
                known.setdefault(name, where)
        return known

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return each location's forecast from the first source with a fresh one, else with a last good one.

        Raises
        ------
        ForecastUnavailableError
            If not one location has either.
        """
        now = to_utc(now, "now")

        def call(source: ForecastSource, names: list[str], limit: timedelta) -> Forecast:
            return source.forecast(names, now, timeout=limit)

        return self._merge(locations, now, "forecast", call, self._deadline(timeout))

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the recorded intensity in [start, end), of each location from the first source with a value.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)

        def call(source: ForecastSource, names: list[str], limit: timedelta) -> Forecast:
            return Forecast(source.actual(names, first, last, timeout=limit), last)

        return self._merge(locations, first, "actual intensity", call, self._deadline(timeout)).intensity

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return the issues of [start, end) that need no request over the web, oldest first.

        All issues of a location come from the first source that has any.
        """
        first, last = period(start, end)
        lacking, found = list(distinct(locations)), []
        for source in self._sources:
            if not lacking or self._refusal(source, source.signal, self.signal):
                continue
            names = self._own_names(source, lacking)
            try:
                issues = at_hand(source, list(dict.fromkeys(names.values())), first, last, every)
            except ForecastUnavailableError as error:
                self._fault_of(f"past forecasts from {source.name}", error)
                continue
            found += [part for issue in issues if (part := _renamed(issue, names))]
            known = {location for issue in found for location in issue.intensity.locations}
            lacking = [location for location in lacking if location not in known]
        return sorted(found, key=lambda issue: issue.generated_at)

    def _deadline(self, timeout: Timeout) -> datetime:
        """Return the time by which a call has to end."""
        return self._clock.now() + (self._timeout if timeout is None else min(timeout, self._timeout))

    def _merge(
        self, locations: Sequence[str], since: datetime, kind: str, call: Call, ends: datetime
    ) -> Forecast:
        """Call the sources in turn for what is lacking after a time, and merge the results."""
        merger = ForecastMerger(distinct(locations), since)
        several = len(self._sources) > 1
        for position, source in enumerate(self._sources):
            lacking = merger.lacking()
            if not lacking:
                break
            names = self._own_names(source, lacking)
            # An equal part of the time left: a source that hangs must not use up that of the next.
            share = (ends - self._clock.now()) / (len(self._sources) - position)
            try:
                answer = self._call(
                    source, list(dict.fromkeys(names.values())), share, call, merger.provenance
                )
            except ForecastUnavailableError as error:
                reasons: Mapping[str, str] = error.missing
                if several:
                    self._fault_of(f"{kind} from {source.name}", error)
            else:
                reasons = answer.missing
                merger.add(answer, names)
            merger.explain(names, reasons, f"{source.name}: " if several else "")
        return merger.forecast()

    def _fault_of(self, what: str, error: ForecastUnavailableError) -> None:
        fault = Fault(what, one_line(error.reasons))
        if fault not in self._faults:
            self._faults.append(fault)

    def _call(
        self, source: ForecastSource, names: list[str], share: timedelta, call: Call, known: Provenance | None
    ) -> Forecast:
        """Call one source.

        Raises
        ------
        ForecastUnavailableError
            If the source has no data, there is no time, or its values do not mix with the known ones.
        """
        signal = self.signal or (known.signal if known else None)
        refusal = self._refusal(source, source.signal, signal)
        if refusal is None and share <= timedelta(0):
            refusal = "there was no time left to ask it"
        if refusal is None:
            answer = call(source, names, share)
            refusal = self._refusal(source, answer.intensity.signal, signal)
            if known is not None and answer.intensity.synthetic != known.synthetic:
                refusal = "made-up numbers are never mixed with real ones"
            if refusal is None:
                return answer
        raise ForecastUnavailableError(dict.fromkeys(names, refusal))

    def _refusal(self, source: ForecastSource, signal: Signal | None, expected: Signal | None) -> str | None:
        """Return why the signal of a source does not mix with the first one's; None if it does."""
        if source is self._sources[0] or signal is None or expected is None:
            return None
        if signal == expected != "unknown":
            return None
        first = self._sources[0].name
        unknown = [name for name, its in ((source.name, signal), (first, expected)) if its == "unknown"]
        settings = " and ".join(_SIGNAL_SETTINGS.get(name, "") for name in unknown)
        fix = f"; set {settings} if you know it" if all(name in _SIGNAL_SETTINGS for name in unknown) else ""
        return f"its signal is {signal}, that of {first} {expected}: they are never mixed{fix}"

    def _own_names(self, source: ForecastSource, locations: Sequence[str]) -> dict[str, str]:
        """Return the source's own names of locations."""
        names = self._names.get(source.name, {})
        return {location: names.get(location, location) for location in locations}


class ForecastMerger:
    """Forecasts of several sources, merged in the order in which they are added.

    Parameters
    ----------
    locations : sequence of str
        Locations of the merged forecast.
    since : datetime
        Time before which a hole does not matter.
    """

    def __init__(self, locations: Sequence[str], since: datetime) -> None:
        self._locations, self._since_us = locations, to_us(since)
        self._fresh: list[Forecast] = []
        self._stand_ins: list[Forecast] = []
        self._reasons: dict[str, list[str]] = defaultdict(list)

    @property
    def provenance(self) -> Provenance | None:
        """Provenance of the first part, None as long as there is none."""
        return next((part.intensity.provenance for part in (*self._fresh, *self._stand_ins)), None)

    def lacking(self) -> list[str]:
        """Return the locations without a fresh forecast, or with a hole in it."""
        if not self._fresh:
            return list(self._locations)
        table = _join([part.intensity for part in self._fresh])
        known, counts = ~np.isnan(table.values), (table.edges_us[1:] > self._since_us)[:, None]
        holes = (between_known(known) & ~known & counts).any(axis=0)
        whole = (known & counts).any(axis=0) & ~holes
        complete = {table.locations[column] for column in np.flatnonzero(whole)}
        return [location for location in self._locations if location not in complete]

    def add(self, answer: Forecast, names: Mapping[str, str]) -> None:
        """Add a source's forecast of locations, given the source's own names of them."""
        for parts, last_good in ((self._fresh, False), (self._stand_ins, True)):
            own = {place: name for place, name in names.items() if (name in answer.last_good) == last_good}
            parts += [part for part in (_renamed(answer, own),) if part]

    def explain(self, names: Mapping[str, str], reasons: Mapping[str, str], prefix: str) -> None:
        """Add a source's reasons why locations are missing, given the source's own names of them."""
        for location, name in names.items():
            if name in reasons:
                self._reasons[location].append(prefix + reasons[name])

    def forecast(self) -> Forecast:
        """Return the merged forecast: the first part of each location, a last good one only if none is fresh.

        Raises
        ------
        ForecastUnavailableError
            If there is no part.
        """
        parts = list(self._fresh)
        for stand_in in self._stand_ins:
            known = {location for part in parts for location in part.intensity.locations}
            rest = {each: each for each in stand_in.intensity.locations if each not in known}
            parts += [part for part in (_renamed(stand_in, rest),) if part]
        issued: dict[str, datetime] = {}
        last_good: dict[str, str] = {}
        for part in reversed(parts):  # the first part of a location has the last word
            issued |= {location: part.issued_at(location) for location in part.intensity.locations}
            last_good |= part.last_good
        missing = {
            location: "; ".join(self._reasons[location]) or _NO_REASON
            for location in self._locations
            if location not in issued
        }
        if not parts:
            raise ForecastUnavailableError(missing)
        table = _join([part.intensity for part in parts])
        sources = "+".join(dict.fromkeys(part.intensity.source for part in parts))
        table = table.align([location for location in self._locations if location in issued])
        table = replace(table, provenance=replace(table.provenance, source=sources))
        oldest = min(issued.values())
        others = {location: at for location, at in issued.items() if at != oldest}
        return Forecast(table, oldest, missing, others, last_good)


def _renamed(answer: Forecast, names: Mapping[str, str]) -> Forecast | None:
    """Return the part of a forecast about locations, by the source's names of them; None if there is none."""
    known = {location: name for location, name in names.items() if name in answer.intensity.locations}
    if not known:
        return None
    table = answer.intensity
    columns = table.columns(list(known.values()))  # two locations may have one name
    return Forecast(
        table.relaid(table.edges_us, tuple(known), table.values[:, columns]),
        answer.generated_at,
        issued={location: answer.issued_at(name) for location, name in known.items()},
        last_good={
            location: answer.last_good[name] for location, name in known.items() if name in answer.last_good
        },
    )


def _join(tables: Sequence[IntensityTable]) -> IntensityTable:
    """Return tables as one: the first column of each location, its holes filled from later tables.

    Only holes are filled: a value before the begin or after the end of a column is another source's guess
    about hours that the better source does not cover.
    """
    return reduce(lambda joined, table: joined.fill(table, holes_only=True), tables)
