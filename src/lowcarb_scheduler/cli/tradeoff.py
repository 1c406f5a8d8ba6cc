"""``lowcarb tradeoff``: emissions of a job for every finish time from the earliest to the deadline."""

import math
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.inputs import ForecastPath, HistoryPath, JobPath, command_line, read_inputs
from lowcarb_scheduler.cli.output import Column, Utc, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.errors import InputError, SavingUnreachableError
from lowcarb_scheduler.planning.pareto import (
    Frontier,
    FrontierPoint,
    Option,
    cost_of_variety,
    options_of,
    tradeoff,
)
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from rich.console import Console

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job

app = typer.Typer()
# Unit of the column that shows what an extra hour saves.
HOUR: Final = timedelta(hours=1)
VARIETY_PATIENCE: Final = (0.0, 0.5, 1.0)
MOST_POINTS: Final = 1_000
KNEE_RULE: Final = "farthest below the straight line from first to last; later hours save less than average"
NO_KNEE: Final = "none: later hours save as much as the first, so wait as long as you can"


def _part(text: str) -> float:
    """Read a fraction, ``20%`` or ``0.2``."""
    number = text.strip()  # a bare 20 is refused: a bare 1 could then be 1 % or all
    try:
        part = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        part = math.nan
    if not 0 <= part <= 1:
        problem = f"{text!r:.80} is neither from 0% to 100% nor from 0 to 1"
        raise InputError("--saving", problem, "give for example 20% or 0.2")
    return part


@options.command(
    app,
    "tradeoff",
    "lowcarb tradeoff --job job.toml --source synthetic --plot front.png",
    "lowcarb tradeoff --job job.toml --source synthetic --saving 15%",
)
def command(
    context: typer.Context,
    job: JobPath,
    forecast: ForecastPath = None,
    history: HistoryPath = None,
    allow_implausible: options.AllowImplausible = False,
    points: Annotated[
        int, typer.Option(min=2, max=MOST_POINTS, metavar="N", help="Number of patience values to try.")
    ] = 11,
    saving: Annotated[
        float | None,
        typer.Option(
            parser=_part, metavar="S", help="Find the earliest finish with at least this saving: 20% or 0.2."
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Also show the cost of balance rules and of turns that differ.")
    ] = False,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    traces: options.Traces = None,
    plot: options.Plot = None,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """Show how emissions fall when a job may finish later."""
    runtime = context.ensure_object(Runtime)
    chosen = options.source_options(source, sdk_url, sdk_signal, traces)
    asked, intensity, corrected_by, _ = read_inputs(
        runtime, job, forecast, history, chosen, allow_implausible=allow_implausible
    )
    # A large job takes minutes, so a terminal shows the progress.
    with output.progress(runtime.console(stderr=True), "planning", points) as done:
        front = tradeoff(asked, intensity, points, lambda *_: done())
    variety: tuple[Option, ...] = ()
    if balance:
        with output.progress(runtime.console(stderr=True), "rules", len(options_of(asked))) as done:
            variety = cost_of_variety(asked, intensity, len(VARIETY_PATIENCE), done)
    answer = None if saving is None else _answer(front, saving, asked)
    if plot is not None:
        from lowcarb_scheduler.report.figure import save
        from lowcarb_scheduler.report.pareto import plot_tradeoff

        save(plot_tradeoff(front, intensity, asked.finish_by, variety), plot)
    if as_json:
        output.write_document(_document(front, intensity, answer, variety))
        return
    # The suggested command repeats these.
    inputs = {"job": job, "forecast": forecast, "history": history, **chosen}
    times = Times.of(utc)
    facts = _facts(front, asked, intensity, times)
    if corrected_by:
        facts.append(("corrected by", corrected_by))
    if saving is not None and answer is not None:
        least = f"the earliest finish that saves at least {100 * saving:g} %"
        facts.append(("asked", f"{least}: {_described(answer, times)}; {points} patience values tried"))
    if plot is not None:
        facts.append(("chart", str(plot)))
    screen = runtime.console()
    output.print_title(screen, formatting.work(asked))
    _print_points(screen, front, asked, answer, times)
    if variety:
        _print_variety(screen, variety)
    output.print_facts(screen, facts)
    # Without a knee every hour saves equally, so the last point is suggested.
    suggested = answer or (front.knee if front.has_knee else front.points[-1])
    after = command_line("plan", inputs, "--patience", formatting.patience(suggested.patience))
    output.print_line(screen, f"next: {after}")


def _answer(front: "Frontier", saving: float, job: "Job") -> "FrontierPoint":
    """Return the earliest point with at least the given saving.

    Raises
    ------
    SavingUnreachableError
        If no point saves that much.
    """
    point = front.earliest_saving(saving)
    if point is None:
        raise SavingUnreachableError(saving, front.points[-1].saving, job.finish_by)
    return point


def _document(
    front: "Frontier", intensity: "IntensityTable", answer: "FrontierPoint | None",
    variety: tuple[Option, ...],
) -> dict[str, Any]:  # fmt: skip
    document = {
        **intensity.provenance.to_dict(),
        "run_now_emissions_g": front.run_now_emissions_g,
        "points": [asdict(point) for point in front.points],
        "knee": asdict(front.knee),
    }
    if answer is not None:
        document["answer"] = asdict(answer)
    for rule in ("balance", "turns") if variety else ():
        document[rule] = [
            {"option": option.name, "points": [asdict(point) for point in option.front.points]}
            for option in variety
            if option.rule == rule
        ]
    return document


def _print_variety(screen: "Console", variety: tuple[Option, ...]) -> None:
    columns: list[Column | str] = ["rule", "option"]
    columns += [right(f"saving at patience {p:g}") for p in VARIETY_PATIENCE]
    rows = [
        (option.rule, option.name, *(formatting.percent(option.saving(p)) for p in VARIETY_PATIENCE))
        for option in variety
    ]
    output.print_table(screen, columns, rows)


def _print_points(
    screen: "Console", front: "Frontier", job: "Job", answer: "FrontierPoint | None", times: Times
) -> None:
    finish, finishes = times.column("finish", [point.finish for point in front.points])
    columns = (
        right("patience", whole=True), Column(finish, whole=True), right("hours later"),
        right("CO2eq", whole=True), right("saving"), right("gap"), right("saved per extra hour"), "",
    )  # fmt: skip
    rows = []
    named = (("knee", front.knee if front.has_knee else None), ("asked", answer))
    for k, point in enumerate(front.points):
        # Relative to the earliest finish, because patience buys time from there.
        later = (point.finish - front.points[0].finish) / HOUR
        # The front has no value for an hour that ends after the deadline.
        in_time = point.finish + HOUR <= job.finish_by
        saved = formatting.mass(front.marginal_saving_g(point.finish)) if in_time else ""
        # The knee and the answer may be the same point.
        marks = [name for name, marked in named if point == marked]
        rows.append(
            (formatting.patience(point.patience), finishes[k], f"{later:.1f}",
             formatting.mass(point.emissions_g, 4), formatting.percent(point.saving),
             formatting.percent(point.gap, 2), saved, ", ".join(marks))
        )  # fmt: skip
    output.print_table(screen, columns, rows)


def _facts(front: "Frontier", job: "Job", intensity: "IntensityTable", times: Times) -> list[tuple[str, str]]:
    knee = f"{_described(front.knee, times)}: {KNEE_RULE}"
    if len(front.points) == 1:
        # A single point: the earliest finish is the cleanest too.
        knee = f"{_described(front.knee, times)}: waiting longer saves nothing"
    elif not front.has_knee:
        knee = NO_KNEE
    run_now = formatting.mass(front.run_now_emissions_g)
    return [
        ("run-now", f"{run_now} CO2eq expected (baseline: random clients, back-to-back from now)"),
        ("deadline", times.instant(job.finish_by)),
        ("intensity", formatting.labels(intensity.provenance)),
        ("forecast ends", times.instant(intensity.end)),
        ("knee", knee),
    ]


def _described(point: "FrontierPoint", times: Times) -> str:
    saves = formatting.percent(point.saving)
    return f"{times.instant(point.finish)} (patience {formatting.patience(point.patience)}, saves {saves})"
