"""``lowcarb plan``: which client trains in which round, and when each round opens."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json, Plot, SdkSignal, SdkUrl, Source, Traces, configured_source
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from lowcarb_scheduler.cli.job_file import JobFile
    from lowcarb_scheduler.forecasts.source import Forecast
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan


def command(
    job: Annotated[Path, typer.Option("--job", metavar="JOB", help="What to plan: TOML or JSON.")],
    forecast: Annotated[
        Path | None,
        typer.Option("--forecast", metavar="FILE", help="Forecast: CSV or Parquet. Default: ask a source."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="FILE", help="What was; corrects the forecast and extends it."),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(metavar="X", help="0: back-to-back now. 1: cleanest by the deadline. Default: JOB's."),
    ] = None,
    source: Source = None,
    sdk_url: SdkUrl = None,
    sdk_signal: SdkSignal = None,
    traces: Traces = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Plan which client trains in which round, and when each round opens."""
    from lowcarb_scheduler.cli.job_file import read_job
    from lowcarb_scheduler.clock import SystemClock

    if history is not None and forecast is None:
        raise InputError("--history", "is given without a forecast", "give --forecast FILE too")
    read = read_job(job, SystemClock(), patience)
    past = None if history is None else _history(history)
    if forecast is not None:
        intensity = _from_file(forecast, read, past)
    else:
        intensity = _from_source(read, source, sdk_url, sdk_signal, traces)
    plan, expected = _plan(read.job, intensity, past)
    if plot is not None:
        from lowcarb_scheduler.report.plots import plot_plan, save

        save(plot_plan(plan, expected, read.job.now, read.job.finish_by), plot)
    if as_json:
        output.write_document(plan.to_dict())
    else:
        _show(plan, read.job, plot)


def _history(path: Path) -> "IntensityTable":
    from lowcarb_scheduler.forecasts.traces import read_table

    return read_table(path, "--history")


def _from_file(path: Path, read: "JobFile", past: "IntensityTable | None") -> "IntensityTable":
    """Return the newest issue at or before the job's now, as it is; history may stand in for a location."""
    from lowcarb_scheduler.forecasts.traces import Traces

    try:
        file = Traces(path)
    except InputError as error:
        field = "--forecast" if error.field == "traces" else error.field
        raise InputError(field, error.problem, error.fix, error.file) from None
    stand_ins = () if past is None else past.locations
    read.check_locations([*file.locations, *stand_ins])
    try:
        return _complete(file.forecast(read.job.fleet.locations, read.job.now), stand_ins)
    except ForecastUnavailableError as error:
        hint = "" if read.now_given else "; to plan for another time, set now in the job"
        missing = {location: f"{why}{hint}" for location, why in error.missing.items()}
        raise ForecastUnavailableError(missing, error.available) from None


def _from_source(
    read: "JobFile", source: str | None, sdk_url: str | None, sdk_signal: str | None, traces: Path | None
) -> "IntensityTable":
    """Return what a source says now about the places of the job's clients."""
    opened = configured_source(source, sdk_url, sdk_signal, traces)
    try:
        known = opened.forecast(read.job.fleet.locations, read.job.now)
    except InputError as error:
        raise error.within(read.cells.file) if error.field == "location" else error from None
    return _complete(known)


def _complete(known: "Forecast", stand_ins: Sequence[str] = ()) -> "IntensityTable":
    """Return the intensity of a forecast that leaves no location out for which nothing stands in."""
    missing = {location: why for location, why in known.missing.items() if location not in stand_ins}
    if missing:
        raise ForecastUnavailableError(missing, known.intensity.locations)
    return known.intensity


def _plan(
    job: "Job", intensity: "IntensityTable", past: "IntensityTable | None"
) -> tuple["Plan", "IntensityTable"]:
    """Return the plan and what it expects: the forecast as it is, or corrected and extended by history."""
    from lowcarb_scheduler.planning.planner import plan

    if past is None:
        return plan(job, intensity), intensity
    from lowcarb_scheduler.forecasts.correction import correct_forecast
    from lowcarb_scheduler.policy import replan

    planned = replan(job, intensity, past)
    known = intensity.align(job.fleet.locations)
    return planned, correct_forecast(known, past, job.now, job.finish_by)


def _show(plan: "Plan", job: "Job", plot: Path | None) -> None:
    from lowcarb_scheduler.accounting import jain_index

    screen = output.console()
    fleet, turns = plan.fleet, plan.turns
    clients, assumed = len(fleet), int(fleet.power_assumed.sum())
    size = f"{job.rounds} rounds of {job.clients_per_round} clients"
    output.print_title(screen, f"{size}, from {clients} clients at {len(fleet.locations)} locations")
    bound = wording.mass(plan.lower_bound_g)
    output.print_facts(
        screen,
        [
            ("emissions", f"{wording.mass(plan.emissions_g)} CO2eq expected"),
            ("lower bound", bound if plan.gap is None else f"{bound} (gap {wording.percent(plan.gap)})"),
            ("run now", f"{wording.mass(plan.run_now_emissions_g)} (random clients, back-to-back from now)"),
            ("saving", wording.percent(plan.saving)),
            ("finish", f"{wording.instant(plan.finish)} UTC"),
            ("deadline", f"{wording.instant(job.finish_by)} UTC"),
            ("turns", f"{turns.min()} to {turns.max()} a client, Jain's index {jain_index(turns):.3f}"),
            (
                "power",
                f"assumed for {assumed} of {clients} clients" if assumed else "as the clients state it",
            ),
            ("intensity", wording.labels(plan.source, plan.signal, plan.synthetic)),
            ("known until", f"{wording.instant(plan.forecast_until)} UTC"),
        ],
    )
    columns = [
        output.Column("round", right=True),
        output.Column("opens (UTC)"),
        output.Column("closes (UTC)"),
        output.Column("clients by location"),
        output.Column("CO2eq", right=True),
    ]
    rows = [
        (
            number,
            wording.instant(planned.opens_at),
            wording.instant(planned.closes_at),
            wording.counts(Counter(fleet.locations[k] for k in fleet.location_index[seats])),
            wording.mass(planned.emissions_g),
        )
        for number, (planned, seats) in enumerate(zip(plan.rounds, plan.seats, strict=True), start=1)
    ]
    output.print_table(screen, columns, rows)
    if plot is not None:
        output.print_facts(screen, [("drawn", str(plot))])
