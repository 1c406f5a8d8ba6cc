"""Filling an archive with the past, so that a first run has something to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import MICROSECOND
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
from lowcarb_scheduler.forecasts.archive.database import Feed
from lowcarb_scheduler.forecasts.bias_correction import ISSUES_EVERY
from lowcarb_scheduler.forecasts.series import columns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.archive.database import Archive
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable

PART: Final = timedelta(days=7)  # how many past forecasts are asked for at once
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Filled:
    """What there is of a place after its past was asked for.

    Parameters
    ----------
    source : str
        Who was asked.
    location : str
        The place.
    actual_hours : float
        For how much of the period it is known what happened [h].
    past_forecasts : int or None
        How many there are, at most one each six hours; None where the source keeps none.
    why : str or None
        Why there is not more.
    """

    source: str
    location: str
    actual_hours: float
    past_forecasts: int | None
    why: str | None


def back_fill(
    source: ForecastSource,
    names: Mapping[str, str],
    archive: Archive,
    period: tuple[datetime, datetime],
    clock: Clock,
    done: Callable[[], object] = lambda: None,
) -> Iterator[Filled]:
    """Ask a source for the past of places, and keep it.

    Parameters
    ----------
    source : ForecastSource
        Who is asked.
    names : mapping of str to str
        By place, what the source calls it.
    archive : Archive
        Where it is kept.
    period : (datetime, datetime)
        Begin and end.
    clock : Clock
        Tells which actuals may still change.
    done : callable
        Called after each of the :func:`steps`.

    Yields
    ------
    Filled
        One a place.

    Raises
    ------
    InputError
        If the archive cannot be used.
    """
    for place, name in names.items():
        archived = CachedSource(source, archive, clock)
        try:
            hours = _hours(archived.actual([name], *period))
        except ForecastUnavailableError as error:
            hours, why = 0.0, error.missing.get(name)
        else:
            why = next((fault.why for fault in archived.faults), None)
        for fault in archived.faults:
            if fault.what == "archive":
                raise InputError("archive-dir", fault.why, "see that it can be written")
        done()
        issues = None
        if source.keeps_past_forecasts:
            issues, refusal = _past(source, name, archive, period, done)
            why = why or refusal
        yield Filled(source.name, place, hours, issues, why)


def steps(source: ForecastSource, period: tuple[datetime, datetime]) -> int:
    """Return in how many steps the past of one place is asked for."""
    return 1 + (len(_parts(period)) if source.keeps_past_forecasts else 0)


def _past(
    source: ForecastSource,
    name: str,
    archive: Archive,
    period: tuple[datetime, datetime],
    done: Callable[[], object],
) -> tuple[int | None, str | None]:
    """Ask for past forecasts, the newest first; return how many there are, and why not more."""
    feed = Feed(source.name, source.signal or "unknown", source.server)
    why, offered = None, True
    for begin, end in _parts(period):
        kept = archive.past(feed, [name], begin, end, ISSUES_EVERY)
        if offered and why is None and len(kept) < (end - begin) // ISSUES_EVERY:
            try:
                issues = source.past_forecasts([name], begin, end, ISSUES_EVERY)
            except ForecastUnavailableError as error:
                why = error.missing.get(name, str(error))
            else:
                offered = bool(issues)
                archive.put(feed, *issues)
        done()
    found = len(archive.past(feed, [name], *period, ISSUES_EVERY))
    return found if found or offered else None, why


def _parts(period: tuple[datetime, datetime]) -> list[tuple[datetime, datetime]]:
    """Cut a period into parts, the newest first."""
    begin, end = period
    parts = []
    while end > begin:
        parts.append((max(begin, end - PART), end))
        end -= PART
    return parts


def _hours(table: IntensityTable) -> float:
    """Return for how long a table of one place is known [h]."""
    known_us = sum(end - begin for each in columns_of(table).values() for begin, end in each.spans_us())
    return known_us * MICROSECOND / _HOUR
