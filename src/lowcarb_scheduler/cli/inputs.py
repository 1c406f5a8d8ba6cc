"""Inputs of ``plan`` and ``tradeoff``: a job, and the expected carbon intensity.

The intensity comes from a file, as it is or corrected and extended by a history file, or else from a source,
which may provide the history too.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import numpy as np
import typer

from lowcarb_scheduler.cli.files import JobFile, read_job
from lowcarb_scheduler.cli.options import configured_source
from lowcarb_scheduler.cli.output import log
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import HOUR_US, Clock, format_duration, format_time, to_us
from lowcarb_scheduler.errors import (
    ForecastUnavailableError,
    InputError,
    LowcarbError,
    PlanInfeasibleError,
    one_line,
)
from lowcarb_scheduler.forecasts.bias_correction import (
    HISTORY,
    ISSUES_EVERY,
    correct_forecast,
    expect,
    without_gaps,
)
from lowcarb_scheduler.forecasts.sources.traces import Traces, read_table
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, sanitize
from lowcarb_scheduler.planning.job import Job, looked_ahead
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.scheduling.policy import origin_shares
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan

JobPath = Annotated[Path, typer.Option(metavar="JOB", help="Job file: TOML or JSON.")]
ForecastPath = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Forecast file: CSV or Parquet. Default: ask the source."),
]
HistoryPath = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Past intensity, used to correct and extend the forecast."),
]


def command_line(name: str, given: Mapping[str, object], *more: str) -> str:
    """Return a command with options as they were given, None left out, so that it reads the same inputs."""
    words = [
        word
        for option, value in given.items()
        if value is not None
        for word in (f"--{option.replace('_', '-')}", str(value))
    ]
    return shlex.join(["lowcarb", name, *words, *more])


class Inputs(NamedTuple):
    """Inputs of a plan.

    Parameters
    ----------
    job : Job
        The job.
    intensity : IntensityTable
        Expected intensity at its locations.
    corrected_by : str or None
        Description of the correction, if there is one.
    may_fill : bool
        Whether hours of which nothing is known may have a mean, as in a run. A file is taken as it is.
    """

    job: Job
    intensity: IntensityTable
    corrected_by: str | None = None
    may_fill: bool = False

    def planned(self) -> Plan:
        """Plan the job; rounds that the forecast does not cover on each location's mean, if that may be.

        Raises
        ------
        PlanInfeasibleError
            If there is no plan.
        """
        job, known = self.job, self.intensity.align(self.job.fleet.locations)
        try:
            return plan(job, self.intensity)
        except PlanInfeasibleError:
            if not self.may_fill or job.finish_by <= job.now:
                raise
            expectation = without_gaps(expect(known, None, job.now, looked_ahead(job)))
            planned = plan(job, expectation.intensity)
        end = format_time(known.end)
        log(f"lowcarb: the forecast ends {end}; later rounds are planned with each location's mean")
        return replace(planned, forecast_origin=origin_shares(planned, expectation))


def read_inputs(
    runtime: Runtime,
    job: Path,
    forecast: Path | None,
    history: Path | None,
    options: Mapping[str, Any],
    patience: float | None = None,
    *,
    allow_implausible: bool = False,
) -> Inputs:
    """Read a job and the expected intensity at its locations.

    Parameters
    ----------
    runtime : Runtime
        With the present time, and the opener of sources.
    job, forecast, history : Path
        The files; without a forecast file the source is asked.
    options : mapping
        Options that choose the source.
    patience : float, optional
        Overrides the job's.
    allow_implausible : bool
        Whether to believe values in files that no grid can have.

    Raises
    ------
    InputError
        If a file is unreadable, has an implausible value or an unknown location, or no source is named.
    ForecastUnavailableError
        If a client's location has neither forecast nor history.
    """
    # A source provides its own history; mixing it with a file's is not supported.
    if history is not None and forecast is None:
        raise InputError("--history", "is given without a forecast", "give --forecast FILE too")
    read = read_job(job, runtime.clock, patience)
    if forecast is None:
        return _from_source(runtime, read, options)
    if history is None:
        return Inputs(read.job, _from_file(forecast, read, allow_implausible))
    actual = read_table(history, "--history", plausible_only=not allow_implausible)
    known = _from_file(forecast, read, allow_implausible, actual.locations)
    return _learned(read.job, known, Past(actual))


def _from_file(
    path: Path, read: JobFile, allow_implausible: bool, stand_ins: Sequence[str] = ()
) -> IntensityTable:
    """Return the newest issue at or before the job's now, uncorrected; history may replace a location."""
    try:
        file = Traces(path, plausible_only=not allow_implausible)
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


def _from_source(runtime: Runtime, read: JobFile, options: Mapping[str, Any]) -> Inputs:
    """Return a source's forecast, corrected and extended by the history that the source provides."""
    opened, clock = configured_source(options, runtime), runtime.clock
    job, timeout = read.job, Settings.load().timeout
    ends = clock.now() + timeout
    try:
        known = opened.forecast(job.fleet.locations, job.now, timeout=timeout * FORECAST_SHARE)
    except InputError as error:
        # The unknown location stands in the job file, not in an option.
        raise error.within(read.cells.file) if error.field == "location" else error from None
    believed = sanitize(known.intensity)
    if np.isnan(believed.values).sum() > np.isnan(known.intensity.sampled(believed.edges_us)).sum():
        log(f"lowcarb: values that are not from 0 to {MAX_G_PER_KWH:,.0f} g/kWh count as unknown")
    known = replace(known, intensity=believed)
    past = Past()
    # Synthetic numbers have no forecast errors to learn from.
    if not known.intensity.synthetic:
        past = past_of(opened, job.fleet.locations, job.now, ends, clock)
    for line in remarks(opened, known, past):
        log(f"lowcarb: {line}")
    if past.actual is None:
        return Inputs(job, _complete(known), may_fill=True)
    stand_ins = past.actual.locations
    for name in set(known.missing).intersection(stand_ins):
        why = one_line(known.missing[name])
        log(f"lowcarb: no forecast for {one_line(name)}: {why}; its history is used")
    return _learned(job, _complete(known, stand_ins), past)


def _complete(known: Forecast, stand_ins: Sequence[str] = ()) -> IntensityTable:
    """Return the intensity of a forecast if history replaces every missing location.

    Raises
    ------
    ForecastUnavailableError
        If a location has neither.
    """
    missing = {location: why for location, why in known.missing.items() if location not in stand_ins}
    if missing:
        raise ForecastUnavailableError(missing, known.intensity.locations)
    return known.intensity


def _learned(job: Job, known: IntensityTable, past: Past) -> Inputs:
    """Return the corrected forecast with a description of the correction."""
    # The value of waiting that replan adds is left out: it assumes later plans, which a single plan does not
    # have, and it would invalidate the lower bound.
    expected = known.align(job.fleet.locations)
    # Past the deadline nothing is corrected: planning reports that no plan exists.
    if job.finish_by > job.now:
        expected = correct_forecast(expected, past.actual, job.now, looked_ahead(job), past.issues)
    changes, common = [str(past)], (to_us(job.now), to_us(min(known.end, expected.end)))
    # The change is measured where both tables have values.
    if common[0] < common[1]:
        before, after = (table.align(job.fleet.locations).integrate(*common) for table in (known, expected))
        both = ~np.isnan(before + after)  # locations without a gap
        if before[both].sum() > 0:
            change = 100 * (after[both].sum() / before[both].sum() - 1)
            changes.append(f"changes the forecast by {change:+.1f} % on average")
    if expected.end > known.end:
        changes.append(f"extends it by {format_duration(expected.end - max(known.end, job.now))}")
    return Inputs(job, expected, "; ".join(changes))


# -- Past intensity and past forecasts of a source ----------------------------------------------------------

# Shares of the time limit: if the server hangs on the forecast, some time is left to read archived history.
FORECAST_SHARE: Final = 0.9
_ACTUAL_SHARE: Final = 2 / 3  # of the time that is left then; past forecasts get the rest


@dataclass(frozen=True, slots=True)
class Past:
    """Past intensity and past forecasts.

    Parameters
    ----------
    actual : IntensityTable or None
        Actual intensity.
    issues : sequence of IntensityTable
        Past forecasts, oldest first.
    without : str or None
        Reason why there is no actual intensity.
    """

    actual: IntensityTable | None = None
    issues: Sequence[IntensityTable] = ()
    without: str | None = None

    def __str__(self) -> str:
        """Return the amount of data as text."""
        if self.actual is None:
            return "nothing: no history"
        known = ~np.isnan(self.actual.values).all(axis=1)
        # Hours in which at least one location has a value.
        days = float(np.diff(self.actual.edges_us)[known].sum() / (24 * HOUR_US))
        return f"{days:.1f} days of history, {formatting.counted(len(self.issues), 'past forecast')}"


def past_of(
    source: ForecastSource, locations: Sequence[str], now: datetime, ends: datetime, clock: Clock
) -> Past:
    """Ask a source for the past within the remaining time.

    Parameters
    ----------
    source : ForecastSource
        The source.
    locations : sequence of str
        The locations.
    now : datetime
        End of the past.
    ends : datetime
        Time by which the answer is needed.
    clock : Clock
        Measures the remaining time.
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
        return Past(actual)  # without past forecasts the correction still works, but less well
    return Past(actual, [issue.intensity for issue in issues])


def _left(ends: datetime, clock: Clock) -> timedelta:
    """Return the remaining time.

    Raises
    ------
    ForecastUnavailableError
        If no time is left.
    """
    if (left := ends - clock.now()) <= timedelta(0):
        raise ForecastUnavailableError({"all": "the forecast used up the time limit"})
    return left


def remarks(source: ForecastSource, forecast: Forecast, past: Past) -> Iterator[str]:
    """Yield remarks on the origin of the numbers, one line each."""
    for fault in source.faults:
        yield f"{fault.what}: {fault.why}"
    for name, why in forecast.last_good.items():
        yield f"the forecast for {one_line(name)} is the last good one: {one_line(why)}"
    if past.without is not None:
        yield f"not corrected, because there is no history: {one_line(past.without)}"
