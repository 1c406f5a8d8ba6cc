"""``lowcarb plan``: plan when each round opens and which clients train in it."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.inputs import ForecastPath, HistoryPath, JobPath, command_line, read_inputs
from lowcarb_scheduler.cli.output import Utc, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from rich.console import Console

    from lowcarb_scheduler.planning.job import Job, Plan

app = typer.Typer()


@options.command(
    app,
    "plan",
    "lowcarb plan --job job.toml --source synthetic",
    "lowcarb plan --job job.toml --forecast forecast.csv --history history.csv --plot plan.png",
    "lowcarb plan --job job.toml --source synthetic --patience 0.5 --json",
)
def command(
    context: typer.Context,
    job: JobPath,
    forecast: ForecastPath = None,
    history: HistoryPath = None,
    allow_implausible: options.AllowImplausible = False,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="0: back-to-back now. 1: lowest emissions by the deadline. Default: JOB's."
        ),
    ] = None,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    traces: options.Traces = None,
    plot: options.Plot = None,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """Plan when each round opens and which clients train in it."""
    runtime = context.ensure_object(Runtime)
    chosen = options.source_options(source, sdk_url, sdk_signal, traces)
    inputs = read_inputs(
        runtime, job, forecast, history, chosen, patience, allow_implausible=allow_implausible
    )
    asked, intensity, corrected_by, _ = inputs
    planned = inputs.planned()
    if plot is not None:
        # matplotlib is slow to import, so only a chart pays for it.
        from lowcarb_scheduler.report.figure import save
        from lowcarb_scheduler.report.rounds import plot_plan

        save(plot_plan(planned, intensity, asked.now, asked.finish_by), plot)
    if as_json:
        # The document of a plan is the one that the Python interface gives too.
        output.write_document(planned.to_dict())
    else:
        screen = runtime.console()
        _show(screen, planned, asked, corrected_by, plot, Times.of(utc))
        given = {"job": job, "forecast": forecast, "history": history, **chosen}
        # Who has chosen a patience has seen what time is worth.
        after = command_line("tradeoff", given) if patience is None else command_line("doctor", chosen)
        output.print_line(screen, f"next: {after}")


def _show(
    screen: "Console",
    planned: "Plan",
    job: "Job",
    corrected_by: str | None,
    plot: Path | None,
    times: Times,
) -> None:
    fleet, turns = planned.fleet, planned.turns
    # Assumed power makes emissions comparable between plans, but not with a meter.
    clients, assumed = len(fleet), int(fleet.power_assumed.sum())
    output.print_title(screen, formatting.work(job))
    # Without a bound or a baseline, because of a gap in the forecast, these read unknown.
    bound = formatting.mass(planned.lower_bound_g)
    run_now = formatting.mass(planned.run_now_emissions_g)
    gap = "" if planned.gap is None else f" (gap {formatting.percent(planned.gap)})"
    output.print_facts(
        screen,
        [
            ("emissions", f"{formatting.mass(planned.emissions_g)} CO2eq expected"),
            ("lower bound", f"{bound}{gap}"),
            ("run-now", f"{run_now} (baseline: random clients, back-to-back from now)"),
            ("saving", formatting.percent(planned.saving)),
            ("finish", times.instant(planned.finish)),
            ("deadline", times.instant(job.finish_by)),
            ("turns", f"{turns.min()} to {turns.max()} per client, Jain's index {jain_index(turns):.3f}"),
            ("power", f"assumed for {assumed} of {clients} clients" if assumed else "given for every client"),
            ("intensity", formatting.labels(planned.provenance)),
            *([("corrected by", corrected_by)] if corrected_by else []),
            ("forecast ends", times.instant(planned.forecast_until)),
        ],
    )
    # A round may open before and close after the clocks change, so each column has its own zone.
    opens, opened = times.column("opens", [each.opens_at for each in planned.rounds])
    closes, closed = times.column("closes", [each.closes_at for each in planned.rounds])
    everybody = Counter(fleet.locations[k] for k in fleet.location_index)
    columns = (right("round"), opens, closes, "clients by location", right("CO2eq"))
    rows = [
        (
            number,
            opened[number - 1],
            closed[number - 1],
            # Locations instead of ids: a round may have thousands of clients.
            formatting.seats(Counter(fleet.locations[k] for k in fleet.location_index[seats]), everybody),
            formatting.mass(opening.emissions_g),
        )
        for number, (opening, seats) in enumerate(zip(planned.rounds, planned.seats, strict=True), start=1)
    ]
    output.print_table(screen, columns, rows)
    if plot is not None:
        output.print_facts(screen, [("chart", str(plot))])
