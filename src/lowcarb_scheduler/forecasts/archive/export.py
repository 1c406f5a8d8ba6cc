"""Export of the archive to trace files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowcarb_scheduler.clock import EPOCH, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.sources.traces import TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from lowcarb_scheduler.forecasts.archive.database import Archive, Holding


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
        why = dict.fromkeys(missing, "the archive has no data for it")
        raise ForecastUnavailableError(why, sorted(found))
    # A trace file has one column of values: it must not mix signals, nor two feeds of one location.
    for key in ("signal", "source", "server"):
        values = sorted({getattr(each.feed, key) for each in held})
        if len(values) > 1 and (key == "signal" or len(found) < len(held)):
            problem = f"the archive has data of several: {', '.join(values)}"
            raise InputError(f"--{key}", problem, f"name one, for example --{key} {values[0]}")
    return sorted(held, key=lambda each: each.location)


def write_traces(
    archive: Archive, kind: str, holdings: Sequence[Holding], path: Path, done: Callable[[], object]
) -> tuple[int, list[str]]:
    """Write all forecasts, or all actual intensity, to a trace file; return its rows and locations.

    Parameters
    ----------
    archive : Archive
        Archive to export from.
    kind : {"forecasts", "actuals"}
        Data to write, and name of the option with the file.
    holdings : sequence of Holding
        Locations to export, each once; those without such data are left out.
    path : Path
        File to write, CSV or Parquet.
    done : callable
        Callback after each location.

    Raises
    ------
    ForecastUnavailableError
        If there is no such data.
    InputError
        If the file cannot be written.
    """
    forecasts = kind == "forecasts"
    held = [each for each in holdings if (each.issues if forecasts else each.actual_until)]
    if not held:
        raise ForecastUnavailableError({"all": f"the archive has no {kind}"})
    with TraceWriter(path, forecasts, f"--{kind}") as writer:
        for each in held:
            if forecasts:
                issues = archive.issues(each.feed, each.location)
                parts = [(to_us(issue.issued_at), issue.series) for issue in issues]
            else:
                begin, end = each.actual_from or EPOCH, each.actual_until or EPOCH
                found = archive.actual(each.feed, [each.location], begin, end)
                parts = [(0, series) for series in found.values()]
            writer.add(each.location, parts)
            done()
    return writer.rows, [each.location for each in held]
