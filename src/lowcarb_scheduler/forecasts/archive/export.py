"""From the archive to trace files."""

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
    """What stands in a file: how many rows, of which places."""

    rows: int
    locations: list[str]


def choose(archive: Archive, places: Sequence[str], wanted: Mapping[str, str]) -> list[Holding]:
    """Return what is to be written, in order of location: all of one signal, and of each place one.

    Parameters
    ----------
    archive : Archive
        Where it is kept.
    places : sequence of str
        Of which locations; none named are all.
    wanted : mapping of str to str
        What ``source``, ``signal`` or ``server`` has to be.

    Raises
    ------
    ForecastUnavailableError
        If there is nothing of a place.
    InputError
        If there is more than one thing that could be meant.
    """
    held = [
        each
        for each in archive.holdings()
        if (not places or each.location in places)
        and all(getattr(each.feed, key) == value for key, value in wanted.items())
    ]
    there = {each.location for each in held}
    if missing := [place for place in places or ("all",) if place not in there and (places or not there)]:
        raise ForecastUnavailableError(
            dict.fromkeys(missing, "the archive holds nothing of it"), sorted(there)
        )
    for key in ("signal", "source", "server"):
        values = sorted({getattr(each.feed, key) for each in held})
        if len(values) > 1 and (key == "signal" or len(there) < len(held)):
            problem = f"the archive holds numbers of several: {', '.join(values)}"
            raise InputError(f"--{key}", problem, f"name one, for example --{key} {values[0]}")
    return sorted(held, key=lambda each: each.location)


def export_forecasts(
    archive: Archive, holdings: Sequence[Holding], path: Path, field: str, done: Callable[[], object]
) -> Written:
    """Write all issues to a trace file; ``field`` names it in errors, ``done`` is called after each place.

    Raises
    ------
    ForecastUnavailableError
        If there are none.
    InputError
        If the file cannot be written.
    """
    with_issues = _some([each for each in holdings if each.issues], "forecasts")
    with TraceWriter(path, True, field) as writer:
        for each in with_issues:
            issues = archive.issues(each.feed, each.location)
            writer.add(each.location, [(to_us(issue.issued_at), issue.series) for issue in issues])
            done()
    return Written(writer.rows, [each.location for each in with_issues])


def export_actuals(
    archive: Archive, holdings: Sequence[Holding], path: Path, field: str, done: Callable[[], object]
) -> Written:
    """Write what happened to a trace file; see :func:`export_forecasts`."""
    with_actuals = _some([each for each in holdings if each.actual_from is not None], "actuals")
    with TraceWriter(path, False, field) as writer:
        for each in with_actuals:
            assert each.actual_from is not None  # so they were chosen
            assert each.actual_until is not None
            found = archive.actual(each.feed, [each.location], each.actual_from, each.actual_until)
            writer.add(each.location, [(0, series) for series in found.values()])
            done()
    return Written(writer.rows, [each.location for each in with_actuals])


def _some(holdings: list[Holding], what: str) -> list[Holding]:
    if not holdings:
        raise ForecastUnavailableError({"all": f"the archive holds no {what}"})
    return holdings
