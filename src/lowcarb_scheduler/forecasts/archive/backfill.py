"""Backfill of the archive, so that a first run has history to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, Clock
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.bias_correction import ISSUES_EVERY
from lowcarb_scheduler.forecasts.http.parsing import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from lowcarb_scheduler.forecasts.base import ForecastSource


@dataclass(frozen=True, slots=True)
class Filled:
    """Result of the backfill of one location.

    Parameters
    ----------
    source : str
        Name of the source.
    location : str
        Name of the location.
    actual_hours : float
        Duration of known actual intensity in the period [h].
    past_forecasts : int or None
        Number of archived forecasts, at most one each six hours; None if the source keeps none.
    why : str or None
        Reason why the data is incomplete.
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
    """Request past data of locations and archive it.

    Parameters
    ----------
    source : ForecastSource
        Source of the data.
    names : mapping of str to str
        Name that the source uses, by location.
    archive : Archive
        Archive to fill.
    period : (datetime, datetime)
        Begin and end of the period.
    clock : Clock
        Clock that determines which actuals may still be revised.
    done : callable
        Callback after each of the :func:`steps`.

    Yields
    ------
    Filled
        Result of each location.

    Raises
    ------
    InputError
        If the archive cannot be used.
    """
    for place, name in names.items():
        archived = CachedSource(source, archive, clock)  # one a location, so that its faults are its own
        try:
            table = archived.actual([name], *period)
        except ForecastUnavailableError as error:
            hours, why = 0.0, error.missing.get(name)
        else:
            known_us = np.diff(table.edges_us)[~np.isnan(table.values[:, 0])]
            hours, why = known_us.sum() / HOUR_US, next((fault.why for fault in archived.faults), None)
        # A run goes on without an archive; filling one that cannot be written makes no sense.
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
    """Return the number of steps of the backfill of one location."""
    return 1 + (len(parts(*period, MICROSECOND)) if source.keeps_past_forecasts else 0)


def _past(
    source: ForecastSource,
    name: str,
    archive: Archive,
    period: tuple[datetime, datetime],
    done: Callable[[], object],
) -> tuple[int | None, str | None]:
    """Request past forecasts, newest first; return the number archived and why there are not more."""
    feed = Feed(source.name, source.signal or "unknown", source.server)
    why, offered = None, True  # a provider that has none of a week has none of the weeks before
    for begin, end in reversed(parts(*period, MICROSECOND)):
        # Parts that are complete in the archive are not requested again: an interrupted backfill goes on.
        archived = archive.past(feed, [name], begin, end, ISSUES_EVERY)
        if offered and why is None and len(archived) < (end - begin) // ISSUES_EVERY:
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
