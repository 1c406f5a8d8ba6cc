"""What ``plan`` and ``tradeoff`` are asked about: a job, and the intensity that is expected.

The intensity comes from a file, alone or corrected and extended by a history, or else from a source, which
may know of the past itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
import typer

from lowcarb_scheduler.cli.options import configured_source
from lowcarb_scheduler.cli.output import log
from lowcarb_scheduler.clock import HOUR_US
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, LowcarbError, one_line
from lowcarb_scheduler.forecasts.bias_correction import HISTORY, ISSUES_EVERY
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from lowcarb_scheduler.cli.files import JobFile
    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job


JobPath = Annotated[Path, typer.Option("--job", metavar="JOB", help="What to plan: TOML or JSON.")]
ForecastPath = Annotated[
    Path | None,
    typer.Option("--forecast", metavar="FILE", help="Forecast: CSV or Parquet. Default: ask a source."),
]
HistoryPath = Annotated[
    Path | None,
    typer.Option("--history", metavar="FILE", help="What was; corrects the forecast and extends it."),
]


class Inputs(NamedTuple):
    """A job, what is expected at the places of its clients, and by what a forecast was corrected to that."""

    job: Job
    intensity: IntensityTable
    corrected_by: str | None = None


def read_inputs(
    job: Path,
    forecast: Path | None,
    history: Path | None,
    options: Mapping[str, Any],
    patience: float | None = None,
) -> Inputs:
    """Read a job and what is expected for the places of its clients.

    Parameters
    ----------
    job, forecast, history : Path
        The files; without a forecast the source is asked.
    options : mapping
        Options that choose the source.
    patience : float, optional
        Overrides the job's.

    Raises
    ------
    InputError
        If one of them cannot be read, or names what is not known.
    ForecastUnavailableError
        If a client's location has neither forecast nor history.
    """
    from lowcarb_scheduler.cli.files import read_job
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.sources.traces import read_table

    if history is not None and forecast is None:
        raise InputError("--history", "is given without a forecast", "give --forecast FILE too")
    read = read_job(job, SystemClock(), patience)
    if forecast is None:
        return _from_source(read, options)
    if history is None:
        return Inputs(read.job, _from_file(forecast, read))
    actual = read_table(history, "--history")
    known = _from_file(forecast, read, actual.locations)
    return _learned(read.job, known, Past(actual))


def _from_file(path: Path, read: JobFile, stand_ins: Sequence[str] = ()) -> IntensityTable:
    """Return the newest issue at or before the job's now, as it is; history may stand in for a location."""
    from lowcarb_scheduler.forecasts.sources.traces import Traces

    try:
        file = Traces(path)
    except InputError as error:
        field = "--forecast" if error.field == "traces" else error.field
        raise InputError(field, error.problem, error.fix, error.file) from None
    read.check_locations([*file.locations, *stand_ins])
    try:
        return _complete(file.forecast(read.job.fleet.locations, read.job.now), stand_ins)
    except ForecastUnavailableError as error:
        hint = "" if read.now_given else "; to plan for another time, set now in the job"
        missing = {location: f"{why}{hint}" for location, why in error.missing.items()}
        raise ForecastUnavailableError(missing, error.available) from None


def _from_source(read: JobFile, options: Mapping[str, Any]) -> Inputs:
    """Return what a source lets expect now, corrected and extended by what it knows of the past.

    Made-up numbers are taken as they are: there is nothing to learn from them.
    """
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.settings import Settings

    opened, clock = configured_source(options), SystemClock()
    job, timeout = read.job, Settings.load().timeout
    ends = clock.now() + timeout
    try:
        known = opened.forecast(job.fleet.locations, job.now, timeout=timeout * FORECAST_SHARE)
    except InputError as error:
        raise error.within(read.cells.file) if error.field == "location" else error from None
    past = Past()
    if not known.intensity.synthetic:
        past = past_of(opened, job.fleet.locations, job.now, ends, clock)
    for line in remarks(opened, known, past):
        log(f"lowcarb: {line}")
    if past.actual is None:
        return Inputs(job, _complete(known))
    stand_ins = past.actual.locations
    for name in set(known.missing).intersection(stand_ins):
        log(
            f"lowcarb: no forecast for {one_line(name)}: {one_line(known.missing[name])}; its history is used"
        )
    return _learned(job, _complete(known, stand_ins), past)


def _complete(known: Forecast, stand_ins: Sequence[str] = ()) -> IntensityTable:
    """Return the intensity of a forecast that leaves no location out for which nothing stands in."""
    missing = {location: why for location, why in known.missing.items() if location not in stand_ins}
    if missing:
        raise ForecastUnavailableError(missing, known.intensity.locations)
    return known.intensity


def _learned(job: Job, known: IntensityTable, past: Past) -> Inputs:
    """Return what is to be expected, and what the past has made of the forecast."""
    import numpy as np

    from lowcarb_scheduler.clock import format_duration, to_us

    expected = _corrected(job, known, past)
    did, common = [str(past)], (to_us(job.now), to_us(min(known.end, expected.end)))
    if common[0] < common[1]:
        said, learned = (table.align(job.fleet.locations).integrate(*common) for table in (known, expected))
        both = ~np.isnan(said + learned)  # by location: where the forecast has no gap
        if said[both].sum() > 0:
            change = 100 * (learned[both].sum() / said[both].sum() - 1)
            did.append(f"changes the forecast by {change:+.1f} % on average")
    if expected.end > known.end:
        did.append(f"extends it by {format_duration(expected.end - max(known.end, job.now))}")
    return Inputs(job, expected, "; ".join(did))


def _corrected(job: Job, intensity: IntensityTable, past: Past) -> IntensityTable:
    """Return what is expected until the deadline.

    A one-off plan rests on it as it is: the value of waiting that ``replan`` adds counts on plans to come,
    and would cost the bound its proof.
    """
    from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
    from lowcarb_scheduler.planning.job import looked_ahead

    known = intensity.align(job.fleet.locations)
    if job.finish_by <= job.now:
        return known  # planning says why there is no plan
    return correct_forecast(known, past.actual, job.now, looked_ahead(job), past.issues)


# -- What a source knows of the past, of which a forecast is corrected and extended -------------------------

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
        return f"{days:.1f} days of history, {formatting.counted(len(self.issues), 'past forecast')}"


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
        actual = source.actual(locations, start, now, timeout=left * _ACTUAL_SHARE)
    except ForecastUnavailableError as error:
        return Past(without=next(iter(error.missing.values()), str(error)))
    except LowcarbError as error:
        return Past(without=str(error))
    try:
        issues = source.past_forecasts(locations, start, now, ISSUES_EVERY, timeout=_left(ends, clock))
    except LowcarbError:
        return Past(actual)  # what happened corrects it too, if less well
    return Past(actual, [issue.intensity for issue in issues])


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
    for fault in source.faults:
        yield f"{fault.what}: {fault.why}"
    for name, why in forecast.last_good.items():
        yield f"the forecast for {one_line(name)} is the last good one: {one_line(why)}"
    if past.without is not None:
        yield f"not corrected, there is no history: {one_line(past.without)}"
