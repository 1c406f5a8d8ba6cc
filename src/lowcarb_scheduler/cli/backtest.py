"""``lowcarb backtest``: what methods would have saved on history."""

from dataclasses import asdict
from datetime import timedelta
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json, Plot
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from rich.console import Console

    from lowcarb_scheduler.backtest import Comparison, Score
    from lowcarb_scheduler.cli.backtest_inputs import Replay

EXAMPLES: Final = (
    "lowcarb backtest --actual actual.parquet --forecast forecast.parquet --from 2023-07-01 --to 2023-12-28",
    "lowcarb backtest --actual actual.csv --forecast climatology --setting mine.toml --plot backtest.png",
)
MOST_SEEDS: Final = 10_000
_HOUR: Final = timedelta(hours=1)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _deadlines(text: str) -> tuple[float, ...]:
    """Read a list of deadlines in back-to-back times."""
    try:
        given = tuple(float(part.removesuffix("x")) for part in _list(text))
    except ValueError:
        given = ()
    if not given or not all(1 <= each <= 1000 for each in given):
        problem = f"{text!r:.80} are no deadlines of 1 to 1000 back-to-back times"
        raise InputError("--deadlines", problem, "give for example 1,2,4")
    return tuple(dict.fromkeys(given))


def _methods(text: str) -> tuple[str, ...]:
    """Read a list of methods."""
    from lowcarb_scheduler.backtest import METHODS
    from lowcarb_scheduler.forecasts.source import unknown_name

    for name in _list(text):
        if name not in METHODS:
            raise unknown_name("--methods", name, METHODS)
    return _list(text) or tuple(METHODS)


def _hours(text: str, field: str, least: timedelta) -> timedelta:
    """Read a duration of whole hours; a plain 0 is one."""
    from lowcarb_scheduler.clock import parse_duration

    duration = timedelta(0) if text.strip() == "0" else parse_duration(text, field)
    if duration < least or duration % _HOUR:
        raise InputError(field, f"{text!r} is not a number of whole hours", "give for example 6h")
    return duration


def command(
    actual: Annotated[
        Path, typer.Option("--actual", metavar="FILE", help="What happened: CSV or Parquet of a trace.")
    ],
    forecast: Annotated[
        str,
        typer.Option(
            "--forecast",
            metavar="FILE",
            help="Forecasts with issued_at; or climatology or persistence, made from the past of --actual.",
        ),
    ] = "climatology",
    setting: Annotated[
        str,
        typer.Option("--setting", metavar="S", help="What kind of job: main, small, large or a .toml file."),
    ] = "main",
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, metavar="N", help="How many instances with each deadline.")
    ] = 10,
    deadlines: Annotated[
        str, typer.Option("--deadlines", metavar="X,X", help="In back-to-back times of all rounds.")
    ] = "1,2,4",
    methods: Annotated[
        str, typer.Option("--methods", metavar="M,M", help="Only these, run-now and the bound.")
    ] = "",
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="No instance starts before: a time, or a day in UTC."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="None ends after.")] = None,
    cadence: Annotated[str, typer.Option(metavar="H", help="How often plans are revised.")] = "6h",
    delay: Annotated[
        str, typer.Option(metavar="H", help="How late the actual intensity of an hour is known.")
    ] = "0",
    signal: Annotated[
        str, typer.Option(metavar="SIGNAL", help="What the files measure: average, marginal or unknown.")
    ] = "unknown",
    jobs: Annotated[
        int | None, typer.Option(min=1, max=1024, metavar="N", help="How many processes. Default: all cores.")
    ] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Replay history: what each method of planning would have saved, and what was possible."""
    asked = _deadlines(deadlines), _methods(methods), _hours(cadence, "--cadence", _HOUR)
    late = _hours(delay, "--delay", timedelta(0))
    from lowcarb_scheduler.backtest import compare
    from lowcarb_scheduler.cli.backtest_inputs import read_replay
    from lowcarb_scheduler.cli.setting_file import read_setting

    what = read_setting(setting)
    replay = read_replay(actual, forecast, what, asked[0], since, until, late, signal)
    with output.progress("replaying", len(asked[0]) * seeds) as done:
        found = compare(
            replay.history, what, asked[0], seeds, replay.period, asked[1], asked[2],
            jobs or cpu_count() or 1, done,
        )  # fmt: skip
    if plot is not None:
        from lowcarb_scheduler.report.backtest import plot_backtest
        from lowcarb_scheduler.report.plots import save

        save(plot_backtest(found, _labels(replay)), plot)
    if as_json:
        output.write_document(_document(found, replay))
        return
    _print(output.console(), found, replay)
    if plot is not None:
        output.print_line(output.console(), f"drawn: {plot}")


def _labels(replay: "Replay") -> str:
    measured = wording.labels(replay.actual, replay.history.actual.signal, synthetic=False)
    return f"{measured}; forecast: {replay.forecast}"


def _document(found: "Comparison", replay: "Replay") -> dict[str, Any]:
    table, setting = replay.history.actual, found.setting
    return {
        "schema_version": SCHEMA_VERSION,
        "source": table.source,
        "signal": table.signal,
        "synthetic": table.synthetic,
        "actual": replay.actual,
        "forecast": replay.forecast,
        "setting": {
            "name": setting.name, "locations": setting.locations, "clients": setting.clients,
            "clients_per_round": setting.clients_per_round, "rounds": setting.rounds,
            "round_duration_minutes": setting.round_duration / timedelta(minutes=1),
        },
        "seeds": found.seeds,
        "from": found.period[0],
        "to": found.period[1],
        "cadence_hours": found.cadence / _HOUR,
        "delay_hours": replay.history.actual_delay / _HOUR,
        "baseline": "run-now",
        "deadlines": [
            {"deadline": factor, "methods": [asdict(score) for score in scores]}
            for factor, scores in found.scores.items()
        ],
    }  # fmt: skip


def _print(screen: "Console", found: "Comparison", replay: "Replay") -> None:
    setting = found.setting
    output.print_title(
        screen,
        f"{setting.name}: {setting.rounds} rounds of {setting.clients_per_round} of {setting.clients}, "
        f"{len(setting.locations)} locations; {wording.counted(found.seeds, 'start')} by deadline",
    )
    columns = [
        output.Column("deadline", right=True, whole=True), output.Column("method", whole=True),
        output.Column("reduction (se), %", right=True),
        output.Column("against ours (se), points", right=True),
        output.Column("capture", right=True), output.Column("Jain", right=True),
        output.Column("turns", right=True), output.Column("plan CPU s", right=True),
    ]  # fmt: skip
    rows = [_row(factor, score) for factor, scores in found.scores.items() for score in scores]
    output.print_table(screen, columns, rows)
    facts = {
        "period": f"{wording.instant(found.period[0])} to {wording.instant(found.period[1])} UTC",
        "intensity": _labels(replay),
        "revised": f"every {found.cadence / _HOUR:g} h; actual intensity is known "
                   f"{replay.history.actual_delay / _HOUR:g} h after each hour",
        "reduction": "against random clients back-to-back (run-now), mean over starts",
        "capture": "mean reduction over the mean reduction of the bound, a ratio of means",
    }  # fmt: skip
    output.print_facts(screen, list(facts.items()))


def _row(factor: float, score: "Score") -> tuple[str, ...]:
    def percent(part: float | None, error: float | None, sign: str = "") -> str:
        if part is None:
            return ""
        shown = f"{round(100 * part, 2) + 0.0:{sign}.2f}"
        return shown if error is None else f"{shown} ({100 * error:.2f})"

    is_ours = score.method == "ours"
    difference = None if is_ours else score.difference
    turns = "" if score.min_turns is None else f"{score.min_turns} to {score.max_turns}"
    if score.min_turns is not None and score.min_turns == score.max_turns:
        turns = str(score.min_turns)
    return (
        f"{factor:g}x", score.method, percent(score.reduction, score.reduction_se),
        percent(difference, score.difference_se, "+"),
        "" if score.capture is None else f"{score.capture:.3f}",
        "" if score.jain is None else f"{score.jain:.3f}", turns, f"{score.plan_seconds:.2f}",
    )  # fmt: skip
