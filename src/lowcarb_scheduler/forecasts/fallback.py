"""Sources in an order: the next one fills only what those before it lack.

Where a place has several names, each source is asked by its own. Numbers that measure different things are
never mixed: what the first source measures is what all give.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import SystemClock, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, one_line
from lowcarb_scheduler.forecasts.archive.cached_source import at_hand
from lowcarb_scheduler.forecasts.base import Fault, Forecast, ForecastSource, distinct, period

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.intensity import IntensityTable, Provenance, Signal

    Ask = Callable[[ForecastSource, list[str], timedelta], Forecast]  # source, its names, time limit
    from numpy.typing import NDArray

# -- Forecasts of several sources, put together as one ------------------------------------------------------

_NO_REASON: Final = "no source gave a reason"


class ForecastMerger:
    """What comes together, source by source.

    Parameters
    ----------
    places : sequence of str
        What is wanted.
    since : datetime
        Holes that are over by then do not matter.
    """

    def __init__(self, places: Sequence[str], since: datetime) -> None:
        self._places, self._since_us = places, to_us(since)
        self._fresh: list[Forecast] = []
        self._stand_ins: list[Forecast] = []
        self._why: dict[str, list[str]] = defaultdict(list)

    @property
    def provenance(self) -> Provenance | None:
        """Provenance of the first part, None as long as there is none."""
        return next((part.intensity.provenance for part in (*self._fresh, *self._stand_ins)), None)

    def lacking(self) -> list[str]:
        """Return the places without a fresh forecast, or with a hole inside it."""
        whole: set[str] = set()
        if self._fresh:
            table = _joined([part.intensity for part in self._fresh])
            known, counts = ~np.isnan(table.values), (table.edges_us[1:] > self._since_us)[:, None]
            holes = (_inside(known) & ~known & counts).any(axis=0)
            complete = np.flatnonzero((known & counts).any(axis=0) & ~holes)
            whole = {table.locations[column] for column in complete}
        return [place for place in self._places if place not in whole]

    def take(self, answer: Forecast, names: Mapping[str, str]) -> None:
        """Take what a source said of places, by its names of them."""
        fresh = {place: name for place, name in names.items() if name not in answer.last_good}
        stand_ins = {place: name for place, name in names.items() if name in answer.last_good}
        self._fresh += [part for part in (told(answer, fresh),) if part]
        self._stand_ins += [part for part in (told(answer, stand_ins),) if part]

    def explain(self, names: Mapping[str, str], reasons: Mapping[str, str], by: str) -> None:
        """Take why a source has nothing of places, by its names of them."""
        for place, name in names.items():
            if name in reasons:
                self._why[place].append(by + reasons[name])

    def forecast(self) -> Forecast:
        """Return all of it: of each place what came first, a last good forecast only where nothing is fresh.

        Raises
        ------
        ForecastUnavailableError
            If there is nothing.
        """
        parts = list(self._fresh)
        for stand_in in self._stand_ins:
            there = {place for part in parts for place in part.intensity.locations}
            rest = {place: place for place in stand_in.intensity.locations if place not in there}
            parts += [part for part in (told(stand_in, rest),) if part]
        issued: dict[str, datetime] = {}
        last_good: dict[str, str] = {}
        for part in reversed(parts):
            for place in part.intensity.locations:
                issued[place] = part.issued_at(place)
            last_good.update(part.last_good)
        missing = {p: "; ".join(self._why[p]) or _NO_REASON for p in self._places if p not in issued}
        if not parts:
            raise ForecastUnavailableError(missing)
        table = _joined([part.intensity for part in parts]).align([p for p in self._places if p in issued])
        sources = "+".join(dict.fromkeys(part.intensity.source for part in parts))
        oldest = min(issued.values())
        others = {place: at for place, at in issued.items() if at != oldest}
        table = replace(table, provenance=replace(table.provenance, source=sources))
        return Forecast(table, oldest, missing, others, last_good)


def told(answer: Forecast, names: Mapping[str, str]) -> Forecast | None:
    """Return what a source said of places, by its names of them; None if that is nothing."""
    known = {place: name for place, name in names.items() if name in answer.intensity.locations}
    if not known:
        return None
    table = answer.intensity
    columns = table.columns(list(known.values()))  # two places may have one name
    return Forecast(
        table.relaid(table.edges_us, tuple(known), table.values[:, columns]),
        answer.generated_at,
        issued={place: answer.issued_at(name) for place, name in known.items()},
        last_good={
            place: answer.last_good[name] for place, name in known.items() if name in answer.last_good
        },
    )


def _joined(tables: Sequence[IntensityTable]) -> IntensityTable:
    """Return tables as one: of each place the first column, holes inside it filled from those after it."""
    joined = tables[0]
    for table in tables[1:]:
        locations = tuple(dict.fromkeys(joined.locations + table.locations))
        edges = np.union1d(joined.edges_us, table.edges_us)
        own, others = joined.sampled(edges, locations), table.sampled(edges, locations)
        known = ~np.isnan(own)
        open_to = ~known & (_inside(known) | ~known.any(axis=0))
        joined = joined.relaid(edges, locations, np.where(open_to, others, own))
    return joined


def _inside(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which steps lie between the first and the last known one of their column."""
    begun = np.logical_or.accumulate(known, axis=0)
    not_over = np.logical_or.accumulate(known[::-1], axis=0)[::-1]
    return begun & not_over


class FallbackSource(ForecastSource):
    """Several sources as one.

    A source is asked for the places that those before it know nothing of, and for holes inside what they
    said; a fresh forecast of any goes before a last good one. The ``source`` of a table names all that are
    in it.

    Parameters
    ----------
    sources : sequence of ForecastSource
        In the order they are asked, at least one.
    names : mapping of str to mapping of str to str, optional
        By source, its name of each place that it calls otherwise.
    timeout : timedelta
        The most that one call takes of all sources together. None takes so long that there is no time left
        for those after it.
    clock : Clock, optional
        Counts the timeout; the system's by default, in simulations too.
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
        self.locations = self._closed_list()

    def _closed_list(self) -> tuple[str, ...] | None:
        """Return the locations of all sources if each has a complete list of its own."""
        known: set[str] = set()
        for source in self._sources:
            if source.locations is None:
                return None
            named = self._names.get(source.name, {})
            known |= set(source.locations) - set(named)
            known |= {place for place, name in named.items() if name in source.locations}
        return tuple(sorted(known))

    @property
    def faults(self) -> list[Fault]:  # type: ignore[override]  # derived, so never set
        """Recent failures of this source and of all it asks, each cause once."""
        return self._faults + [fault for source in self._sources for fault in source.faults]

    def known_locations(self, *, timeout: timedelta | None = None) -> dict[str, Any]:
        """Return the locations that the sources list, by each of their names.

        Raises
        ------
        ForecastUnavailableError
            If one of the servers does not answer: a part of the names is not all.
        """
        known: dict[str, Any] = {}
        ends = self._ends(timeout)
        for source in self._sources:
            listed = source.known_locations(timeout=ends - self._clock.now()) or {}
            named = self._names.get(source.name, {})
            for name, where in [*((place, listed[name]) for place, name in named.items() if name in listed),
                                *listed.items()]:  # fmt: skip
                known.setdefault(name, where)
        return known

    def _ends(self, timeout: timedelta | None) -> datetime:
        """Return the time by which a call has to end."""
        return self._clock.now() + (self._timeout if timeout is None else min(timeout, self._timeout))

    def forecast(
        self, locations: Sequence[str], now: datetime, *, timeout: timedelta | None = None
    ) -> Forecast:
        """Return each place's forecast from the first source with a fresh one, else with a last good one.

        Raises
        ------
        ForecastUnavailableError
            If not one place has either.
        """
        now = to_utc(now, "now")

        def ask(source: ForecastSource, names: list[str], share: timedelta) -> Forecast:
            return source.forecast(names, now, timeout=share)

        return self._gather(locations, now, "forecast", ask, self._ends(timeout))

    def actual(
        self, locations: Sequence[str], start: datetime, end: datetime, *, timeout: timedelta | None = None
    ) -> IntensityTable:
        """Return what happened in [start, end), of each place from the first source that knows.

        Raises
        ------
        ForecastUnavailableError
            If not one place has a value there.
        """
        first, last = period(start, end)

        def ask(source: ForecastSource, names: list[str], share: timedelta) -> Forecast:
            return Forecast(source.actual(names, first, last, timeout=share), last)

        return self._gather(locations, first, "actual intensity", ask, self._ends(timeout)).intensity

    def past_forecasts(
        self,
        locations: Sequence[str],
        start: datetime,
        end: datetime,
        every: timedelta,
        *,
        timeout: timedelta | None = None,
    ) -> list[Forecast]:
        """Return the issues of [start, end) that are at hand, oldest first.

        Those of a place are all from the first source that has any; none is asked for them over the web.
        """
        first, last = period(start, end)
        lacking, found = list(distinct(locations)), []
        for source in self._sources:
            if not lacking or self._refusal(source, source.signal, self.signal):
                continue
            names = self._names_in(source, lacking)
            issues = at_hand(source, list(dict.fromkeys(names.values())), first, last, every)
            found += [part for issue in issues if (part := told(issue, names))]
            known = {place for issue in found for place in issue.intensity.locations}
            lacking = [place for place in lacking if place not in known]
        return sorted(found, key=lambda issue: issue.generated_at)

    def _gather(
        self, locations: Sequence[str], since: datetime, kind: str, ask: Ask, ends: datetime
    ) -> Forecast:
        """Ask the sources in turn for what is lacking from a time on."""
        gathered = ForecastMerger(distinct(locations), since)
        for position, source in enumerate(self._sources):
            lacking = gathered.lacking()
            if not lacking:
                break
            names = self._names_in(source, lacking)
            share = (ends - self._clock.now()) / (len(self._sources) - position)
            by = f"{source.name}: " if len(self._sources) > 1 else ""
            try:
                answer = self._ask(
                    source, share, list(dict.fromkeys(names.values())), gathered.provenance, ask
                )
            except ForecastUnavailableError as error:
                gathered.explain(names, error.missing, by)
                self._note(f"{kind} from {source.name}", error.reasons)
            else:
                gathered.explain(names, answer.missing, by)
                gathered.take(answer, names)
        return gathered.forecast()

    def _ask(
        self, source: ForecastSource, share: timedelta, names: list[str], known: Provenance | None, ask: Ask
    ) -> Forecast:
        """Ask one source, within its share of the time.

        Raises
        ------
        ForecastUnavailableError
            If it has nothing, there is no time, or its numbers do not mix with those there are.
        """
        signal = self.signal or (known.signal if known else None)
        refusal = self._refusal(source, source.signal, signal)
        if refusal is None and share <= timedelta(0):
            refusal = "there was no time left to ask it"
        if refusal is None:
            answer = ask(source, names, share)
            refusal = self._refusal(source, answer.intensity.signal, signal)
            if known is not None and answer.intensity.synthetic != known.synthetic:
                refusal = "made-up numbers are never mixed with real ones"
            if refusal is None:
                return answer
        raise ForecastUnavailableError(dict.fromkeys(names, refusal))

    def _refusal(self, source: ForecastSource, signal: Signal | None, expected: Signal | None) -> str | None:
        """Return why what a source measures does not mix with the first one's numbers; None if it does."""
        if source is self._sources[0] or signal is None or expected is None:
            return None
        if signal == expected != "unknown":
            return None
        first = self._sources[0].name
        unknown = [name for name, its in ((source.name, signal), (first, expected)) if its == "unknown"]
        fix = "; set sdk-signal if you know what the SDK gives" if unknown == ["carbon-aware-sdk"] else ""
        return f"its signal is {signal}, that of {first} {expected}: they are never mixed{fix}"

    def _names_in(self, source: ForecastSource, places: Iterable[str]) -> dict[str, str]:
        """Return what a source calls these places."""
        names = self._names.get(source.name, {})
        return {place: names.get(place, place) for place in places}

    def _note(self, what: str, why: str) -> None:
        fault = Fault(what, one_line(why))
        if len(self._sources) > 1 and fault not in self._faults:
            self._faults.append(fault)
