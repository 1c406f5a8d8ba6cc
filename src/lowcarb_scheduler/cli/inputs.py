"""What ``plan`` and ``tradeoff`` are asked about: a job, and the intensity that is expected.

The intensity comes from a file, alone or corrected and extended by a history, or else from a source, which
may know of the past itself.
"""

# No `from __future__ import annotations`: typer reads the annotations of options as it runs.

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lowcarb_scheduler.cli.options import configured_source
from lowcarb_scheduler.cli.output import log
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line

if TYPE_CHECKING:
    from lowcarb_scheduler.cli.history import Past
    from lowcarb_scheduler.cli.job_file import JobFile
    from lowcarb_scheduler.forecasts.source import Forecast
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

    job: "Job"
    intensity: "IntensityTable"
    corrected_by: str | None = None


def read_inputs(
    job: Path,
    forecast: Path | None,
    history: Path | None,
    source: str | None,
    sdk_url: str | None,
    sdk_signal: str | None,
    traces: Path | None,
    patience: float | None = None,
) -> Inputs:
    """Read a job and what is expected for the places of its clients.

    Parameters
    ----------
    job, forecast, history : Path
        The files; without a forecast the source is asked.
    source, sdk_url, sdk_signal, traces
        The options that name a source.
    patience : float, optional
        Overrides the job's.

    Raises
    ------
    InputError
        If one of them cannot be read, or names what is not known.
    ForecastUnavailableError
        If a client's location has neither forecast nor history.
    """
    from lowcarb_scheduler.cli.history import Past
    from lowcarb_scheduler.cli.job_file import read_job
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.traces import read_table

    if history is not None and forecast is None:
        raise InputError("--history", "is given without a forecast", "give --forecast FILE too")
    read = read_job(job, SystemClock(), patience)
    if forecast is None:
        return _from_source(read, source, sdk_url, sdk_signal, traces)
    if history is None:
        return Inputs(read.job, _from_file(forecast, read))
    actual = read_table(history, "--history")
    known = _from_file(forecast, read, actual.locations)
    return _learned(read.job, known, Past(actual))


def _from_file(path: Path, read: "JobFile", stand_ins: Sequence[str] = ()) -> "IntensityTable":
    """Return the newest issue at or before the job's now, as it is; history may stand in for a location."""
    from lowcarb_scheduler.forecasts.traces import Traces

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


def _from_source(
    read: "JobFile", source: str | None, sdk_url: str | None, sdk_signal: str | None, traces: Path | None
) -> Inputs:
    """Return what a source lets expect now, corrected and extended by what it knows of the past.

    Made-up numbers are taken as they are: there is nothing to learn from them.
    """
    from lowcarb_scheduler.cli.history import FORECAST_SHARE, Past, past_of, remarks, within
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.settings import Settings

    opened, clock = configured_source(source, sdk_url, sdk_signal, traces), SystemClock()
    job, timeout = read.job, Settings.load().timeout
    ends = clock.now() + timeout
    try:
        known = within(opened, timeout * FORECAST_SHARE).forecast(job.fleet.locations, job.now)
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


def _complete(known: "Forecast", stand_ins: Sequence[str] = ()) -> "IntensityTable":
    """Return the intensity of a forecast that leaves no location out for which nothing stands in."""
    missing = {location: why for location, why in known.missing.items() if location not in stand_ins}
    if missing:
        raise ForecastUnavailableError(missing, known.intensity.locations)
    return known.intensity


def _learned(job: "Job", known: "IntensityTable", past: "Past") -> Inputs:
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


def _corrected(job: "Job", intensity: "IntensityTable", past: "Past") -> "IntensityTable":
    """Return what is expected until the deadline.

    A one-off plan rests on it as it is: the value of waiting that ``replan`` adds counts on plans to come,
    and would cost the bound its proof.
    """
    from lowcarb_scheduler.forecasts.correction import correct_forecast
    from lowcarb_scheduler.policy import looked_ahead

    known = intensity.align(job.fleet.locations)
    if job.finish_by <= job.now:
        return known  # planning says why there is no plan
    return correct_forecast(known, past.actual, job.now, looked_ahead(job), past.issues)
