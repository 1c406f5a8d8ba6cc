"""One look at a source: its forecast, what is to be expected, and the cleanest windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.cli.history import FORECAST_SHARE, Past, past_of, remarks, within
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.correction import expect
from lowcarb_scheduler.forecasts.window import cleanest_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.correction import Expectation
    from lowcarb_scheduler.forecasts.source import Forecast, ForecastSource
    from lowcarb_scheduler.forecasts.window import Window
    from lowcarb_scheduler.intensity import IntensityTable

FARTHEST: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Parameters
    ----------
    source : ForecastSource
        Who is asked.
    locations : tuple of str
        The places, each once.
    timeout : timedelta
        The most it may take.
    duration : timedelta or None
        Of the windows; None where none are asked for.
    corrected : bool
        Whether the forecast is corrected and extended by history.
    until : datetime or timedelta or None
        How far it looks; by default as far as the forecast.
    """

    source: ForecastSource
    locations: tuple[str, ...]
    timeout: timedelta
    duration: timedelta | None = None
    corrected: bool = False
    until: datetime | timedelta | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What was found.

    Parameters
    ----------
    now : datetime
        When it was asked for.
    forecast : Forecast
        As the source gave it.
    expectation : Expectation or None
        What is made of it.
    intensity : IntensityTable
        What to believe, as far as was asked [gCO2eq/kWh].
    duration : timedelta or None
        How long the windows are.
    windows : mapping of str to Window or None
        The cleanest of each location; None where each touches a gap.
    remarks : tuple of str
        What else is worth knowing, one line each.
    """

    now: datetime
    forecast: Forecast
    expectation: Expectation | None
    intensity: IntensityTable
    duration: timedelta | None
    windows: Mapping[str, Window | None]
    remarks: tuple[str, ...]

    def unanswered(self) -> Iterator[str]:
        """Yield what is missing, one line each."""
        for name, why in self.forecast.missing.items():
            yield f"no forecast for {one_line(name)}: {one_line(why)}"
        for name, window in self.windows.items():
            if window is None and self.duration is not None:
                yield f"no gap-free window of {format_duration(self.duration)} for {one_line(name)}"


def look(question: Question, clock: Clock) -> Look:
    """Ask the source.

    Raises
    ------
    InputError
        If a name cannot be, or the end is over.
    ForecastUnavailableError
        If not one location has a forecast.
    """
    now = clock.now()
    until = _until(question, now)
    forecast = _forecast(question, now)
    expectation, past = None, Past()
    if question.corrected:
        past = past_of(question.source, question.locations, now, now + question.timeout, clock)
        expectation = expect(
            forecast.intensity.align(question.locations), past.actual, now, until or forecast.intensity.end,
            past.issues, tuple(forecast.last_good),
        )  # fmt: skip
    intensity = forecast.intensity if expectation is None else expectation.intensity
    if until is not None:
        intensity = intensity.slice(intensity.start, until) or intensity
    windows = {} if question.duration is None else cleanest_windows(intensity, question.duration, now, until)
    told = tuple(remarks(question.source, forecast, past))
    return Look(now, forecast, expectation, intensity, question.duration, windows, told)


def _until(question: Question, now: datetime) -> datetime | None:
    """Return how far to look."""
    if question.until is None:
        return None
    ahead = question.until if isinstance(question.until, timedelta) else question.until - now
    if not timedelta(0) < ahead <= FARTHEST:
        problem = "is over" if ahead <= timedelta(0) else "is more than a year ahead"
        raise InputError("--until", problem, "give a time to come, or a duration such as 48h")
    return now + ahead


def _forecast(question: Question, now: datetime) -> Forecast:
    """Return the forecast; where several names were given as one, say how to give them."""
    listed = getattr(question.source, "locations", None)
    for name in question.locations:
        if "," in name and isinstance(listed, tuple) and name not in listed:
            raise InputError("--location", f"{one_line(name)!r} is no place the source knows", _apart(name))
    source = question.source
    if question.corrected:
        source = within(source, question.timeout * FORECAST_SHARE)
    try:
        forecast = source.forecast(question.locations, now)
    except ForecastUnavailableError as error:
        raise ForecastUnavailableError(_hinted(error.missing), error.available) from None
    return replace(forecast, missing=_hinted(forecast.missing))


def _hinted(missing: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{why}; {_apart(name)}" if "," in name else why for name, why in missing.items()}


def _apart(name: str) -> str:
    parts = [part.strip() for part in name.split(",") if part.strip()]
    options = " ".join(f"--location {one_line(part)}" for part in parts)
    return f"to name several, repeat the option: {options}"
