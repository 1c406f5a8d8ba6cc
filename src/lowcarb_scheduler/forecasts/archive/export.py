"""Export of the archive to trace files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.sources.traces import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from lowcarb_scheduler.forecasts.archive.database import Archive, Holding


class Written(NamedTuple):
    """Number of rows and locations in an exported file."""

    rows: int
    locations: list[str]


def choose(archive: Archive, places: Sequence[str], wanted: Mapping[str, str]) -> list[Holding]:
    """Select the data to export, in order of location: one signal for all, one feed for each location.

    Parameters
    ----------
    archive : Archive
        Archive to export from.
    places : sequence of str
        Locations to export; empty for all.
    wanted : mapping of str to str
        Required ``source``, ``signal`` or ``server``.

    Raises
    ------
    ForecastUnavailableError
        If the archive has no data for a location.
    InputError
        If the data is ambiguous.
    """
    held = [
        each
        for each in archive.holdings()
        if (not places or each.location in places)
        and all(getattr(each.feed, key) == value for key, value in wanted.items())
    ]
    found = {each.location for each in held}
    if missing := [place for place in places if place not in found] or ([] if found else ["all"]):
        raise ForecastUnavailableError(
            dict.fromkeys(missing, "the archive has no data for it"), sorted(found)
        )
    # A trace file has one column of values: it must not mix signals, nor two feeds of one location.
    for key in ("signal", "source", "server"):
        values = sorted({getattr(each.feed, key) for each in held})
        if len(values) > 1 and (key == "signal" or len(found) < len(held)):
            problem = f"the archive has data of several: {', '.join(values)}"
            raise InputError(f"--{key}", problem, f"name one, for example --{key} {values[0]}")
    return sorted(held, key=lambda each: each.location)


def export_forecasts(
    archive: Archive, holdings: Sequence[Holding], path: Path, field: str, done: Callable[[], object]
) -> Written:
    """Write all forecasts to a trace file.

    Parameters
    ----------
    archive : Archive
        Archive to export from.
    holdings : sequence of Holding
        Data to export, one per location.
    path : Path
        File to write, CSV or Parquet.
    field : str
        Option that errors name.
    done : callable
        Callback after each location.

    Raises
    ------
    ForecastUnavailableError
        If there are no forecasts.
    InputError
        If the file cannot be written.
    """
    with_issues = _non_empty([each for each in holdings if each.issues], "forecasts")
    with TraceWriter(path, True, field) as writer:
        for each in with_issues:
            issues = archive.issues(each.feed, each.location)
            writer.add(each.location, [(to_us(issue.issued_at), issue.series) for issue in issues])
            done()
    return Written(writer.rows, [each.location for each in with_issues])


def export_actuals(
    archive: Archive, holdings: Sequence[Holding], path: Path, field: str, done: Callable[[], object]
) -> Written:
    """Write actual intensity to a trace file; see :func:`export_forecasts`."""
    with_actuals = _non_empty([each for each in holdings if each.actual_from is not None], "actuals")
    with TraceWriter(path, False, field) as writer:
        for each in with_actuals:
            assert each.actual_from is not None  # see with_actuals
            assert each.actual_until is not None
            found = archive.actual(each.feed, [each.location], each.actual_from, each.actual_until)
            writer.add(each.location, [(0, series) for series in found.values()])
            done()
    return Written(writer.rows, [each.location for each in with_actuals])


def _non_empty(holdings: list[Holding], what: str) -> list[Holding]:
    if not holdings:
        raise ForecastUnavailableError({"all": f"the archive has no {what}"})
    return holdings
