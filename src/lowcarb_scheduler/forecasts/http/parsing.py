"""Parsing that the web sources share: from responses to forecasts and actual intensity."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import EPOCH, format_time, parse_time
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.base import Forecast, age_problem
from lowcarb_scheduler.forecasts.http.responses import FetchError, Response
from lowcarb_scheduler.forecasts.series import Issue, Point, Series, forecast_from, series_of, table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lowcarb_scheduler.intensity import IntensityTable, Provenance

PART: Final = timedelta(days=7)  # length of the period of one request; the strictest provider allows ten days


def floored(when: datetime, step: timedelta) -> datetime:
    """Return the last multiple of a step since 1970 UTC at or before a time."""
    return when - (when - EPOCH) % step


def parts(first: datetime, last: datetime, grid: timedelta) -> list[tuple[datetime, datetime]]:
    """Cut a period, widened to a grid, into parts that are short enough for every provider."""
    # -x % grid is the distance to the next multiple: Python's remainder has the sign of the divisor.
    begin, end = floored(first, grid), last + -(last - EPOCH) % grid
    begins = [begin + k * PART for k in range(-(-(end - begin) // PART))]
    return [(each, min(each + PART, end)) for each in begins]


def moments(first: datetime, last: datetime, every: timedelta, grid: timedelta) -> list[datetime]:
    """Return multiples of a grid in [first, last), oldest first, at least ``every`` apart.

    Raises
    ------
    InputError
        If ``every`` is not positive.
    """
    if every <= timedelta(0):
        raise InputError("every", f"{every} is not positive", "give for example timedelta(hours=6)")
    begin, step = first + -(first - EPOCH) % grid, every + -every % grid
    return [begin + k * step for k in range(-(-(last - begin) // step))]


def objects_by_name(answer: Response, what: str) -> dict[str, dict[str, Any]]:
    """Return a JSON object of objects.

    Raises
    ------
    FetchError
        If the response holds anything else; ``what`` names the objects.
    """
    document = answer.json()
    if not isinstance(document, dict) or not all(isinstance(each, dict) for each in document.values()):
        raise FetchError(f"answered with JSON that is not {what} by name")
    return document


def time_of(text: object, field: str) -> datetime:
    """Parse a time in a response.

    Raises
    ------
    FetchError
        If the text is not a time with an offset.
    """
    try:
        return parse_time(text, field)  # type: ignore[arg-type]
    except InputError as error:
        raise FetchError(f"{field}: {one_line(error.problem)}") from None


def issue_of(generated_at: datetime, points: Iterable[Point], now: datetime) -> Issue:
    """Return the issue of a forecast that is fit for use now.

    Raises
    ------
    FetchError
        If the forecast is too old, dated in the future, without a usable value, or over.
    """
    if problem := age_problem(generated_at, now):
        raise FetchError(problem)
    series = series_of(points, generated_at, generated_at)
    # A server whose forecasts stopped may repeat its last one: recent enough, but over.
    if not series.has_value(now):
        raise FetchError(f"its forecast has no value after {format_time(now)}")
    return Issue(generated_at, series)


def forecast_of(
    outcomes: Mapping[str, Issue | FetchError], missing: dict[str, str], provenance: Provenance
) -> Forecast:
    """Build a forecast from issues by location; the reasons of failed locations are added to ``missing``.

    Raises
    ------
    ForecastUnavailableError
        If no location has an issue.
    """
    missing |= {name: each.why for name, each in outcomes.items() if isinstance(each, FetchError)}
    issues = {name: each for name, each in outcomes.items() if not isinstance(each, FetchError)}
    return forecast_from(issues, missing, provenance)


def past_forecasts_of(
    outcomes: Mapping[tuple[str, datetime], Issue | FetchError],
    missing: Mapping[str, str],
    provenance: Provenance,
) -> list[Forecast]:
    """Build forecasts, oldest first, from past issues by location and time of the request.

    Raises
    ------
    ForecastUnavailableError
        If no location had an issue at any time.
    """
    by_time: dict[datetime, dict[str, Issue | FetchError]] = {}
    for (name, when), outcome in outcomes.items():
        by_time.setdefault(when, {})[name] = outcome
    forecasts: list[Forecast] = []
    why = dict(missing)
    for _, issues in sorted(by_time.items()):
        try:
            forecast = forecast_of(issues, dict(missing), provenance)
        except ForecastUnavailableError as error:
            why = error.missing
            continue
        # A server may answer a later request with the same or an older issue.
        if not forecasts or forecast.generated_at > forecasts[-1].generated_at:
            forecasts.append(forecast)
    if why and not forecasts:
        raise ForecastUnavailableError(why)
    return forecasts


def actual_of(
    outcomes: Mapping[tuple[str, int], list[Point] | FetchError],
    missing: dict[str, str],
    bounds: tuple[datetime, datetime],
    provenance: Provenance,
) -> IntensityTable:
    """Build a table of actual intensity from the parts of a period.

    Parameters
    ----------
    outcomes : mapping of (location, part) to points or FetchError
        Points of each request; a part that failed becomes a gap.
    missing : dict of str to str
        Reasons of locations without data; those of failed locations are added.
    bounds : (datetime, datetime)
        Begin and end of the period.
    provenance : Provenance
        Provenance of the table.

    Raises
    ------
    ForecastUnavailableError
        If no location has a value in the period.
    """
    known = {}
    for name in dict.fromkeys(name for name, _ in outcomes):
        try:
            known[name] = _join([outcomes[key] for key in outcomes if key[0] == name], *bounds)
        except FetchError as error:
            missing[name] = error.why
    table = table_of(known, missing, provenance).slice(*bounds)
    assert table is not None  # each location has a value in the period
    return table


def _join(outcomes: Sequence[list[Point] | FetchError], first: datetime, last: datetime) -> Series:
    """Join the parts of a period.

    Raises
    ------
    FetchError
        If there is no value in the period.
    """
    points = [point for outcome in outcomes if not isinstance(outcome, FetchError) for point in outcome]
    failed = [outcome for outcome in outcomes if isinstance(outcome, FetchError)]
    if points:
        series = series_of(points, first, last)
        if series.has_value(first, last):
            return series
    # The first failure explains a period without values better than their absence does.
    raise failed[0] if failed else FetchError(f"no value from {format_time(first)} to {format_time(last)}")
