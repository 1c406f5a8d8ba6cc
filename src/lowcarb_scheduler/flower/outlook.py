"""What a run knows of carbon intensity: the newest good forecast, and what really happened.

No fault of a source gets past this module. It is noted in the open, and the run goes on with what it has:
a fresh forecast, else the last good one while it is no older than 36 hours, else nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError, near_miss, one_line
from lowcarb_scheduler.forecasts.series import MAX_G_PER_KWH
from lowcarb_scheduler.forecasts.source import MAX_AGE, age_problem
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from lowcarb_scheduler.forecasts.source import Forecast, ForecastSource

logger = logging.getLogger("flwr")

_EVERY: Final = timedelta(minutes=15)
_MOST_RARELY: Final = timedelta(hours=2)
HISTORY: Final = timedelta(days=14)
_SHORTEST_STEP_US: Final = HOUR_US // 60
_RECHECK: Final = timedelta(hours=2)  # actuals this recent are asked for again: providers revise them


class Journal(Protocol):
    """Takes what is worth keeping: see :class:`lowcarb_scheduler.ledger.Ledger`."""

    def append(self, event: Any, **data: object) -> None:
        """Keep an event."""


class _Pace:
    """When a source may be asked again: every quarter of an hour, and ever more rarely while it fails.

    A source that hangs costs its time limit at each call. Asked at this pace it costs a run next to nothing.
    """

    def __init__(self) -> None:
        self._asked_at: datetime | None = None
        self.failures = 0

    def due(self, now: datetime) -> bool:
        """Return whether it may be asked."""
        wait = min(_EVERY * 2**self.failures, _MOST_RARELY)
        return self._asked_at is None or now - self._asked_at >= wait

    def asked(self, now: datetime, answered: bool) -> None:
        """Note that it was asked, and whether it answered."""
        self._asked_at = now
        self.failures = 0 if answered else min(self.failures + 1, 10)


@dataclass(frozen=True, slots=True)
class _Good:
    """A forecast that passed."""

    intensity: IntensityTable
    generated_at: datetime


class Outlook:
    """The intensity known to a run.

    Parameters
    ----------
    source : ForecastSource or None
        Where it comes from; None knows nothing.
    journal : Journal
        Takes ``forecast``, ``actual`` and ``degraded`` events.
    """

    def __init__(self, source: ForecastSource | None, journal: Journal) -> None:
        self._source = source
        self._journal = journal
        self._good: _Good | None = None
        self._forecasts, self._actuals = _Pace(), _Pace()
        self._places: tuple[str, ...] = ()
        self._noted: set[tuple[str, str]] = set()
        self.actual: IntensityTable | None = None

    @property
    def forecast(self) -> IntensityTable | None:
        """The newest good forecast, or None."""
        return self._good.intensity if self._good else None

    def close(self) -> None:
        """Ask the source no more."""
        self._source = None

    def degrade(self, what: str, why: str, consequence: str) -> None:
        """Note a fault in log and ledger, once for each cause."""
        if (what, why) not in self._noted:
            self._noted.add((what, why))
            logger.warning("lowcarb: %s: %s; %s", what, why, consequence)
            self._journal.append("degraded", what=what, why=why, consequence=consequence)

    def refresh(self, places: Iterable[str], now: datetime) -> bool:
        """Ask for a forecast of these places if one is due; return whether what is known has changed."""
        new_places = set(places) - set(self._places)
        self._places = tuple(sorted(new_places.union(self._places)))
        due = self._forecasts.due(now) or (new_places and not self._forecasts.failures)
        if self._source is None or not self._places or not due:
            return False
        if self.actual is None:
            self.learn_actual(now - HISTORY, now)
        before = self._good
        try:
            answer = self._source.forecast(self._askable(), now)
            _check(answer, now)
            self._accept(answer)
            self._forecasts.asked(now, answered=True)
        except Exception as error:  # noqa: BLE001  a fault of a source, whoever wrote it, stops no training
            self._reject(_line(error), now)
            self._forecasts.asked(now, answered=False)
        return self._good is not before

    def _askable(self) -> tuple[str, ...]:
        """Return the places to ask for: a source with a closed list of names is asked for no others."""
        listed = getattr(self._source, "locations", None)
        if not isinstance(listed, tuple):
            return self._places
        for place in self._places:
            if place not in listed:
                near = near_miss(place, listed)
                hint = f"; did you mean {near}?" if near else ""
                self.degrade(f"forecast of {place}", f"the source does not know it{hint}", "no preference")
        return tuple(place for place in self._places if place in listed) or self._places

    def _accept(self, answer: Forecast) -> None:
        last = self._good
        for location, why in answer.missing.items():
            known = last is not None and location in last.intensity.locations
            use = "its last good forecast is used" if known else "its history, or no preference, is used"
            self.degrade(f"forecast of {location}", why, use)
        issue = _plausible(answer.intensity)
        if last and answer.missing and answer.generated_at - last.generated_at <= MAX_AGE:
            issue = issue.fill(
                last.intensity.align([p for p in last.intensity.locations if p in answer.missing])
            )
        if last and answer.generated_at <= last.generated_at:
            if set(issue.locations) <= set(last.intensity.locations):
                return  # nothing new; an older issue, as of a replica that lags, is no news
            issue = last.intensity.fill(issue)
        if self.actual is not None and self.actual.signal != issue.signal:
            self._drop_actual(self.actual.signal, issue.signal)
        self._good = _Good(issue, answer.generated_at)
        made = {"generated_at": answer.generated_at, "missing": dict(answer.missing)}
        self._journal.append("forecast", **made, **issue.to_record())

    def _drop_actual(self, actual: str, forecast: str) -> None:
        """Forget actuals of another signal than the forecast's: they are not comparable."""
        self.actual = None
        why = f"its signal is {actual}, the forecast's {forecast}"
        self.degrade("actual intensity", why, "it is left out of account")

    def _reject(self, why: str, now: datetime) -> None:
        if self._good and now - self._good.generated_at > MAX_AGE:
            self._good = None
        use = "the last good forecast is used" if self._good else "history, or no waiting, is used"
        self.degrade("forecast", why, use)

    def learn_actual(self, since: datetime, now: datetime, last_chance: bool = False) -> None:
        """Ask what really happened since a time, or since it was last known, if that is due.

        At the last chance it is also asked when it was asked a moment ago, unless it failed then.
        """
        due = self._actuals.due(now) or (last_chance and not self._actuals.failures)
        if self._source is None or not self._places or not due:
            return
        start = self._unknown_from(since, now)
        try:
            new = _plausible(self._source.actual(self._askable(), start, now))
            self._actuals.asked(now, answered=True)
            if self.forecast is not None and new.signal != self.forecast.signal:
                self._drop_actual(new.signal, self.forecast.signal)
                return
            self.actual = new if self.actual is None else new.fill(self.actual)
        except Exception as error:  # noqa: BLE001  see refresh
            self._actuals.asked(now, answered=False)
            self.degrade("actual intensity", _line(error), "what it is missing for is not called realised")
            return
        if known := new.slice(start, now):
            self._journal.append("actual", **known.to_record())

    def _unknown_from(self, since: datetime, now: datetime) -> datetime:
        """Return from when on a place's actual intensity is not known, or is so new that it may change."""
        if self.actual is None:
            return since
        recent = max(since, self.actual.end - _RECHECK)
        hours = np.arange(to_us(since), to_us(recent), HOUR_US, dtype=np.int64)
        if not len(hours):
            return recent
        known = np.isfinite(self.actual.sampled(np.append(hours, hours[-1] + 1), self._askable())).all(axis=1)
        return recent if known.all() else from_us(hours[int(np.argmin(known))])


def without_preference(
    known: IntensityTable | None, locations: Sequence[str], start: datetime, end: datetime
) -> IntensityTable:
    """Return one constant intensity for places of which nothing is known: it favours no place and no time.

    It is the mean of the known places, so that a place nobody forecasts is neither sought nor shunned; 1
    where nothing at all is known.
    """
    finite = np.zeros(0) if known is None else known.values[np.isfinite(known.values)]
    values = np.full((1, len(locations)), finite.mean() if finite.size else 1.0)
    labels = (known.signal, known.source, known.synthetic) if known else ("unknown", "none", False)
    edges = np.array([to_us(start), to_us(end)], dtype=np.int64)
    return IntensityTable(edges, tuple(locations), values, *labels)


def _plausible(table: IntensityTable) -> IntensityTable:
    """Return a table with a gap wherever a value cannot be: no hold is based on such a number.

    Steps shorter than a minute are taken together: no grid is metered so finely, and the possible openings of
    rounds follow from the steps.
    """
    edges_us = table.edges_us
    if np.diff(edges_us).min() < _SHORTEST_STEP_US:
        edges_us = np.unique(edges_us // _SHORTEST_STEP_US * _SHORTEST_STEP_US)
        edges_us = edges_us if len(edges_us) > 1 else np.append(edges_us, edges_us + _SHORTEST_STEP_US)
    values = table.sampled(edges_us)
    values = np.where((values >= 0) & (values <= MAX_G_PER_KWH), values, np.nan)
    return table.relaid(edges_us, table.locations, values)


def _check(answer: Forecast, now: datetime) -> None:
    """Refuse a forecast whose time of making is implausible."""
    if why := age_problem(answer.generated_at, now):
        raise ForecastUnavailableError({"all": why})


def _line(error: Exception) -> str:
    """Return an error as one short line."""
    return one_line(str(error) if isinstance(error, LowcarbError) else f"{type(error).__name__}: {error}")
