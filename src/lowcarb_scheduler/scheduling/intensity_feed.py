"""Intensity feed of a run: the newest good forecast, earlier ones, and actual intensity.

No fault of a source gets past this module. It becomes a warning, and the run goes on with a fresh forecast
of each location, else with the last good one while that is no older than 36 hours, else without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, format_time, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, near_miss, reason_of
from lowcarb_scheduler.events import ActualReceived, ForecastReceived
from lowcarb_scheduler.forecasts.archive.cached_source import at_hand
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.base import MAX_AGE, Forecast, age_problem
from lowcarb_scheduler.forecasts.bias_correction import HISTORY, ISSUES_EVERY
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable, sanitize, three_digits
from lowcarb_scheduler.scheduling.messages import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.events import Event
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.messages import RunLog

_INTERVAL: Final = timedelta(minutes=15)  # between two calls of the source that succeed
_RECHECK: Final = timedelta(hours=2)  # actuals this recent are asked for again: providers revise them
_NO_TIME: Final = timedelta(0)
_BRIEFLY: Final = timedelta(seconds=2)  # a request that has less time is not worth sending
_NOTHING: Final = "its newest forecast has no usable value after now"
_INSTEAD: Final = {
    "archive": "nothing is archived, and the existing archive is not used",
    "actual intensity": "without it there are no realised emissions",
    "past forecasts": "corrections are learned from the others",
    "source": "it counts as not given",
    "locations of the source": "names are not checked against them",
}


@dataclass(frozen=True, slots=True, eq=False)
class KnownIntensity:
    """Carbon intensity as known at one moment.

    Parameters
    ----------
    forecast : IntensityTable or None
        The newest good forecast of each location.
    actual : IntensityTable or None
        Actual intensity so far.
    past_forecasts : sequence of IntensityTable
        Earlier forecasts of the same signal, from which corrections are learned.
    last_good : tuple of str
        Locations whose forecast is not fresh but the last good one.
    is_certain : bool
        Whether the forecast is what will have happened.
    """

    forecast: IntensityTable | None = None
    actual: IntensityTable | None = None
    past_forecasts: Sequence[IntensityTable] = ()
    last_good: tuple[str, ...] = ()
    is_certain: bool = False


class IntensityFeed:
    """Forecasts and actual intensity of one run, from a source that may fail at any time.

    Parameters
    ----------
    source : ForecastSource or None
        The source; None knows nothing.
    ledger : Ledger
        Takes ``forecast`` and ``actual`` events.
    log : RunLog
        Takes the faults of the source.
    """

    def __init__(self, source: ForecastSource | None, ledger: Ledger, log: RunLog) -> None:
        self._source, self._ledger, self._log = source, ledger, log
        self._newest: Forecast | None = None
        self._past: list[Forecast] = []
        self._past_of: set[str] = set()  # locations whose past forecasts were requested
        self._forecasts, self._actuals = Backoff(interval=_INTERVAL), Backoff(interval=_INTERVAL)
        self._places: tuple[str, ...] = ()  # at which there are nodes
        self._left: dict[str, datetime] = {}  # since when nobody is at a place whose actuals are still wanted
        self._own_past_since: datetime | None = (
            None  # first forecast in the ledger of a resumed run: the archive is read before it
        )
        self.actual: IntensityTable | None = None
        self._written: IntensityTable | None = None  # the part that the ledger has: up to each request alone

    @property
    def forecast(self) -> IntensityTable | None:
        """The newest good forecast of each location, or None."""
        return self._newest.intensity if self._newest else None

    @property
    def known(self) -> KnownIntensity:
        """All that is known now; past forecasts stand about six hours apart."""
        labels = self.forecast or self.actual
        tables = [past.intensity for past in self._past]
        past = [table for table in tables if labels is not None and table.signal == labels.signal]
        last_good = tuple(self._newest.last_good) if self._newest else ()
        is_certain = self._source is not None and self._source.is_certain
        return KnownIntensity(self.forecast, self.actual, past, last_good, is_certain)

    def close(self) -> None:
        """Stop asking the source."""
        self._source = None

    # -- Forecasts -----------------------------------------------------------------------------------------

    def refresh(self, places: Iterable[str], now: datetime, time_left: timedelta | None = None) -> bool:
        """Ask for a forecast of some locations if one is due; return whether the known forecast has changed.

        Parameters
        ----------
        places : iterable of str
            The locations at which there are nodes. Others are asked for no more, but for the actual
            intensity until nobody was there.
        now : datetime
            The present.
        time_left : timedelta, optional
            Time until a round would open late; without it a request may take as long as its source lets it.
        """
        present, before = set(places), self._newest
        self._left |= dict.fromkeys(set(self._places) - present, now)
        self._left = {place: since for place, since in self._left.items() if place not in present}
        # One that returns, and whose forecast is still known, is not asked for out of turn.
        new_places = present - set(self._places) - set(before.intensity.locations if before else ())
        self._places = tuple(sorted(present))
        self._forget_old(now)
        # A location that joins is asked for at once, unless the source is failing anyway.
        due = self._forecasts.due(now) or (new_places and not self._forecasts.failures)
        if self._source is None or not (due and self._places):
            return self._newest is not before
        limit = self._time_limit(time_left, or_briefly=not self._forecasts.failures)
        if limit != _NO_TIME:
            self._look(self._source, limit, now)
            self._learn_past(now)
            if self.actual is None:
                self.learn_actual(now - HISTORY, now, time_left)
        return self._newest is not before

    def _look(self, source: ForecastSource, limit: timedelta | None, now: datetime) -> None:
        """Ask the source for a forecast."""
        try:
            answer = source.forecast(self._askable(self._places), now, timeout=limit)
            self._note_implausible("forecast", answer.intensity)
            answer = _checked(answer, now)
            self._accept(answer)
            fresh = set(answer.intensity.locations) - set(answer.last_good)
        except Exception as error:  # noqa: BLE001  a fault of a source, whoever wrote it, stops no training
            use = "the last good forecast is used" if self._newest else "history, or no waiting, is used"
            self._log.warn("forecast", reason_of(error), use)
            fresh = set()
        self._forecasts.record(now, succeeded=bool(fresh))
        self._note_faults()

    def _askable(self, places: tuple[str, ...]) -> tuple[str, ...]:
        """Return the locations to ask for: a source with a closed list of names is asked for no others."""
        listed = self._source.locations if self._source else None
        if listed is None:
            return places
        for place in places:
            if place not in listed:
                near = near_miss(place, listed)
                hint = f"; did you mean {near}?" if near else ""
                self._log.warn(f"forecast of {place}", f"the source does not know it{hint}", "no preference")
        # With no known location the source is asked nevertheless: its error names the cause.
        return tuple(place for place in places if place in listed) or places

    def _accept(self, answer: Forecast) -> None:
        """Take the locations for which an answer is newer than the known forecast."""
        # A server behind a load balancer may answer with an older issue than before.
        last, issue = self._newest, answer.intensity
        if last is not None and last.intensity.signal != issue.signal:
            last = None  # average and marginal intensity are never mixed
        kept = [] if last is None else [p for p in last.intensity.locations if not _newer(answer, last, p)]
        taken = [place for place in issue.locations if place not in kept]
        stale = {**answer.missing, **answer.last_good}
        there = [*taken, *kept]
        self._note_stale(stale, answer, kept)
        if not taken:
            return
        if self.actual is not None and self.actual.signal != issue.signal:
            self._drop_actual(self.actual.signal, issue.signal)
        intensity, issued = issue.align(taken), {place: answer.issued_at(place) for place in taken}
        if last is not None and kept:
            intensity = intensity.fill(last.intensity.align(kept))
            issued |= {place: last.issued_at(place) for place in kept}
        missing = {place: why for place, why in stale.items() if place not in there}
        last_good = {place: why for place, why in stale.items() if place in there}
        self._newest = Forecast(intensity, min(issued.values()), missing, issued, last_good)
        self._remember(taken)
        named = [place for place in intensity.locations if place in self._places]
        issued = {place: issued[place] for place in named}
        self._ledger.append(
            ForecastReceived(
                generated_at=min(issued.values()), issued_at=issued if len(set(issued.values())) > 1 else {},
                missing=missing, last_good=last_good, intensity=intensity.align(named),
            )
        )  # fmt: skip

    def _note_stale(self, stale: Mapping[str, str], answer: Forecast, kept: list[str]) -> None:
        """Warn of locations without a fresh forecast, together where they share a reason."""
        groups: dict[tuple[bool, str], list[str]] = {}
        for place, why in stale.items():
            is_good = place in kept or place in answer.last_good
            groups.setdefault((not is_good, why), []).append(place)
        for (is_lost, why), places in sorted(groups.items(), key=lambda group: group[0][0]):
            issued = [answer.issued_at(place) for place in places if place in answer.last_good]
            of = f", of {format_time(min(issued))}," if issued else ""
            use = "history, or no preference, is used" if is_lost else f"the last good forecast{of} is used"
            self._log.warn(f"forecast of {listed(places)}", why, use)

    def _forget_old(self, now: datetime) -> None:
        """Drop the forecasts of locations whose last good one is too old by now."""
        if (known := self._newest) is None:
            return
        old = [place for place in known.intensity.locations if now - known.issued_at(place) > MAX_AGE]
        self._newest = _without(known, old) if old else known
        if old := [place for place in old if place in self._places]:
            why = "its last good forecast is more than 36 hours old"
            self._log.warn(f"forecast of {listed(old)}", why, "history, or no preference, is used")

    # -- Past forecasts, from which corrections are learned -------------------------------------------------

    def _learn_past(self, now: datetime) -> None:
        """Read the past forecasts of new locations from the archive, not over the web."""
        new = [place for place in self._askable(self._places) if place not in self._past_of]
        if not new:
            return
        self._past_of |= set(new)
        try:
            until = min(now, self._own_past_since or now)
            past = at_hand(self._source, new, until - HISTORY, until, ISSUES_EVERY)
            past = [replace(issue, intensity=sanitize(issue.intensity)) for issue in past]
        except Exception as error:  # noqa: BLE001  see _look
            self._log.warn(
                "past forecasts", reason_of(error), "corrections are learned from future forecasts"
            )
            return
        self._past = sorted([*self._past, *past], key=lambda issue: issue.generated_at)
        self._note_faults()

    def _remember(self, places: Sequence[str]) -> None:
        """Add the newest forecast of locations to the past ones, if the last of those is old enough."""
        assert self._newest is not None, "a forecast was taken a moment ago"
        newest = max(self._newest.issued_at(place) for place in places)
        if not self._past or newest - self._past[-1].generated_at >= ISSUES_EVERY:
            self._past = [issue for issue in self._past if newest - issue.generated_at <= HISTORY]
            self._past.append(Forecast(self._newest.intensity.align(places), newest))

    # -- Actual intensity ----------------------------------------------------------------------------------

    def learn_actual(
        self,
        since: datetime,
        now: datetime,
        time_left: timedelta | None = None,
        last_chance: bool = False,
        until: datetime | None = None,
    ) -> None:
        """Ask for actual intensity since a time, or since it was last known, if that is due.

        At the last chance it is also asked when it was asked a moment ago, unless it failed then.
        ``time_left`` is as in :meth:`refresh`; nothing after ``until``, by default the present, is taken.
        """
        due = self._actuals.due(now) or (last_chance and not self._actuals.failures)
        if self._source is None or not due or not (wanted := self._wanted(since, now)):
            return
        if (limit := self._time_limit(time_left)) == _NO_TIME:
            return
        start = self._unknown_from(wanted, since, now)
        try:
            new = self._source.actual(self._askable(wanted), start, now, timeout=limit)
            self._note_implausible("actual intensity", new)
            new = sanitize(new)
            self._note_faults()
            self._actuals.record(now, succeeded=True)
            # Recorded first: a source of another signal is not asked again before the interval is over.
            if self.forecast is not None and new.signal != self.forecast.signal:
                self._drop_actual(new.signal, self.forecast.signal)
                return
            known = new.slice(start, min(now, until or now))
            # The ledger takes what is new alone: a place without actuals has all hours asked for again.
            news = None if known is None else known.changes_from(self._written)
            if news is not None:
                self.actual = new if self.actual is None else new.fill(self.actual)
                self._written = news.over(self._written)
        except Exception as error:  # noqa: BLE001  see refresh
            self._actuals.record(now, succeeded=False)
            self._log.warn("actual intensity", reason_of(error), _INSTEAD["actual intensity"])
            return
        if news is not None:
            self._ledger.append(ActualReceived(intensity=news))

    def _wanted(self, since: datetime, now: datetime) -> tuple[str, ...]:
        """Return the locations whose actual intensity is wanted: with nodes, or unknown until these left.

        No provider is waited for longer than a last good forecast would count.
        """
        for place, left_at in list(self._left.items()):
            hours = np.arange(to_us(since), to_us(left_at), HOUR_US, dtype=np.int64)
            is_known = self.actual is not None and np.isfinite(
                self.actual.sampled(np.append(hours, to_us(left_at)), [place])
            ).all()  # fmt: skip
            if is_known or now - left_at > MAX_AGE:
                del self._left[place]
        return tuple(sorted({*self._places, *self._left}))

    def _unknown_from(self, wanted: tuple[str, ...], since: datetime, now: datetime) -> datetime:
        """Return the time from which actual intensity is unknown, or so recent that it may be revised."""
        if self.actual is None:
            return since
        recent = max(since, self.actual.end - _RECHECK)
        # A gap may be filled by now, so everything after the first unknown hour is asked for again.
        hours = np.arange(to_us(since), to_us(recent), HOUR_US, dtype=np.int64)
        if not len(hours):
            return recent
        edges = self.actual.edges_us  # a step, and so a gap, may be shorter than an hour
        steps = np.union1d(hours, edges[(edges > hours[0]) & (edges < to_us(recent))])
        values = self.actual.sampled(np.append(steps, steps[-1] + 1), self._askable(wanted))
        known = np.isfinite(values).all(axis=1)
        if known.all():
            return recent
        return from_us(hours[np.searchsorted(hours, steps[int(np.argmin(known))], side="right") - 1])

    def _drop_actual(self, actual: str, forecast: str) -> None:
        """Forget actuals of another signal than the forecast's: they are not comparable."""
        self.actual = self._written = None
        why = f"its signal is {actual}, the forecast's {forecast}"
        self._log.warn("actual intensity", why, "it is not used")

    # -- Checkpoint ----------------------------------------------------------------------------------------

    def memory(self) -> dict[str, Any]:
        """Return the state that is not in the ledger: locations, and the times of the last requests."""
        left = dict(self._left)
        paces = {"forecasts": self._forecasts, "actuals": self._actuals}
        asked = {name: pace.called_at for name, pace in paces.items() if not pace.failures}
        return {"places": list(self._places), "left": left, "asked": asked}

    def recall(self, events: Iterable[Event], memory: Mapping[str, Any]) -> None:
        """Restore the feed from a ledger and what :meth:`memory` returned."""
        for event in events:
            if isinstance(event, ForecastReceived):
                self._recall_forecast(event)
            elif isinstance(event, ActualReceived):
                self.actual = event.intensity.over(self.actual)
        self._written = self.actual
        if self._newest and self.actual and self._newest.intensity.signal != self.actual.signal:
            self.actual = None
        self._places, self._left = tuple(memory["places"]), dict(memory.get("left", {}))
        for name, pace in (("forecasts", self._forecasts), ("actuals", self._actuals)):
            pace.called_at = memory["asked"].get(name)  # else a resumed run would ask at once

    def _recall_forecast(self, event: ForecastReceived) -> None:
        intensity, last = event.intensity, self._newest
        issued = {place: event.issued_at.get(place, event.generated_at) for place in intensity.locations}
        self._newest = Forecast(intensity, event.generated_at, event.missing, issued, event.last_good)
        self._own_past_since = self._own_past_since or event.at
        taken = [p for p in intensity.locations if last is None or last.issued.get(p) != issued[p]]
        if taken:
            self._remember(taken)

    # -- Requests ------------------------------------------------------------------------------------------

    def _time_limit(self, time_left: timedelta | None, or_briefly: bool = False) -> timedelta | None:
        """Return how long a request may take without a round being late for it; None without a limit.

        A request gets half of the time left: forecasts and actuals may be asked for in a row. Where no time
        is left the run is late as it is, and a brief request still helps to choose who trains.
        """
        if time_left is None:
            return None
        if time_left >= _BRIEFLY:
            return time_left / 2
        return _BRIEFLY if or_briefly and time_left <= timedelta(0) else _NO_TIME

    def _note_implausible(self, what: str, table: IntensityTable) -> None:
        """Warn of locations with values that no grid can have."""
        wrong = (table.values < 0) | (table.values > MAX_G_PER_KWH)
        if places := [table.locations[column] for column in np.flatnonzero(wrong.any(axis=0))]:
            why = f"some of the values are not from 0 to {MAX_G_PER_KWH:,.0f} g/kWh"
            self._log.warn(f"{what} of {listed(places)}", why, "they count as unknown")

    def _note_faults(self) -> None:
        """Warn of faults of a source that has answered nevertheless."""
        for fault in self._source.faults if self._source else ():
            self._log.warn(fault.what, fault.why, _INSTEAD.get(fault.what, "the next source is asked"))


def _newer(answer: Forecast, last: Forecast, place: str) -> bool:
    """Return whether an answer has a newer forecast of a location."""
    return place in answer.intensity.locations and answer.issued_at(place) > last.issued_at(place)


def _checked(answer: Forecast, now: datetime) -> Forecast:
    """Return a forecast without implausible values, and without the locations of which nothing is plausible.

    Raises
    ------
    ForecastUnavailableError
        If none is left.
    """
    # Rounded before anyone plans on it: a resumed run, and a report, know the very numbers from the ledger.
    answer = replace(answer, intensity=three_digits(sanitize(answer.intensity)))
    ahead = answer.intensity.values[answer.intensity.edges_us[1:] > to_us(now)]
    problems = {
        place: age_problem(answer.issued_at(place), now) or (_NOTHING if np.isnan(values).all() else "")
        for place, values in zip(answer.intensity.locations, ahead.T, strict=True)
    }
    wrong = {place: why for place, why in problems.items() if why}
    good = _without(answer, wrong)
    missing = {**answer.missing, **wrong}
    if good is None:
        raise ForecastUnavailableError(missing)
    return replace(good, missing=missing)


def _without(known: Forecast, places: Collection[str]) -> Forecast | None:
    """Return a forecast without some locations, None if none is left."""
    issued = {place: known.issued_at(place) for place in known.intensity.locations if place not in places}
    if not issued:
        return None
    last_good = {place: why for place, why in known.last_good.items() if place in issued}
    table = known.intensity.align(list(issued))
    return Forecast(table, min(issued.values()), known.missing, issued, last_good)
