"""What a source knows of the past, of which a forecast is corrected and extended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US
from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError, one_line
from lowcarb_scheduler.forecasts.correction import HISTORY, ISSUES_EVERY
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.source import Forecast, ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable

FORECAST_SHARE: Final = 0.9  # of the time limit: a server that hangs must not hide what is kept of the past
_ACTUAL_SHARE: Final = 2 / 3  # of what is left then; past forecasts have the rest


@dataclass(frozen=True, slots=True)
class Past:
    """What happened, and what was forecast before.

    Parameters
    ----------
    actual : IntensityTable or None
        What happened.
    issues : sequence of IntensityTable
        Past forecasts, oldest first.
    without : str or None
        Why nothing is known of what happened.
    """

    actual: IntensityTable | None = None
    issues: Sequence[IntensityTable] = ()
    without: str | None = None

    def __str__(self) -> str:
        """Say how much it is."""
        if self.actual is None:
            return "nothing: there is no history"
        known = ~np.isnan(self.actual.values).all(axis=1)
        days = float(np.diff(self.actual.edges_us)[known].sum() / (24 * HOUR_US))
        return f"{days:.1f} days of history, {wording.counted(len(self.issues), 'past forecast')}"


def past_of(
    source: ForecastSource, locations: Sequence[str], now: datetime, ends: datetime, clock: Clock
) -> Past:
    """Ask a source for the past, in the time that is left.

    Parameters
    ----------
    source : ForecastSource
        Who is asked.
    locations : sequence of str
        The places.
    now : datetime
        The past ends there.
    ends : datetime
        When the answer has to be there.
    clock : Clock
        Tells how long that is.
    """
    start = now - HISTORY
    try:
        left = _left(ends, clock)
        actual = within(source, left * _ACTUAL_SHARE).actual(locations, start, now)
    except ForecastUnavailableError as error:
        return Past(without=next(iter(error.missing.values()), str(error)))
    except LowcarbError as error:
        return Past(without=str(error))
    if not hasattr(source, "past_forecasts"):
        return Past(actual)
    try:
        limited = within(source, _left(ends, clock))
        issues = limited.past_forecasts(locations, start, now, ISSUES_EVERY)  # type: ignore[attr-defined]
    except LowcarbError:
        return Past(actual)  # what happened corrects it too, if less well
    return Past(actual, [issue.intensity for issue in issues])


def within(source: ForecastSource, limit: timedelta) -> ForecastSource:
    """Return a source whose calls take at most so long, where it can be limited."""
    limited = getattr(source, "within", None)
    return source if limited is None else limited(limit)


def _left(ends: datetime, clock: Clock) -> timedelta:
    """Return how much time is left.

    Raises
    ------
    ForecastUnavailableError
        If there is none.
    """
    if (left := ends - clock.now()) <= timedelta(0):
        raise ForecastUnavailableError({"all": "the forecast took all the time there was"})
    return left


def remarks(source: ForecastSource, forecast: Forecast, past: Past) -> Iterator[str]:
    """Yield what is worth knowing of where numbers came from, one line each."""
    for fault in getattr(source, "faults", ()):
        yield f"{fault.what}: {fault.why}"
    for name, why in forecast.last_good.items():
        yield f"the forecast for {one_line(name)} is the last good one: {one_line(why)}"
    if past.without is not None:
        yield f"not corrected, there is no history: {one_line(past.without)}"
