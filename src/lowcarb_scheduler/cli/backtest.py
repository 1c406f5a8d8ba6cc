"""``lowcarb backtest``: compare planning methods on historical carbon intensity."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
import typer
from pydantic import BeforeValidator

from lowcarb_scheduler.backtest import METHODS, SCENARIOS, Comparison, Scenario, Score, compare
from lowcarb_scheduler.backtest.comparison import SCHEDULER
from lowcarb_scheduler.backtest.history import NAIVE, History, issues_of, naive_issues, table_of
from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Column, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import (
    HOUR_US,
    format_duration,
    format_time,
    from_us,
    in_range,
    parse_duration,
    parse_time,
    to_us,
)
from lowcarb_scheduler.errors import InputError, unknown_name
from lowcarb_scheduler.forecasts.bias_correction import HISTORY
from lowcarb_scheduler.forecasts.sources.traces import ISSUE, read_points
from lowcarb_scheduler.intensity import Provenance, Signal
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.userfiles import Duration, FieldError, FileModel, as_spelled, read_document, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from rich.console import Console

app = typer.Typer()
MOST_SEEDS: Final = 10_000
_HOUR: Final = timedelta(hours=1)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _deadlines(text: str) -> tuple[float, ...]:
    """Read a list of deadlines, as multiples of the back-to-back time."""
    try:
        given = tuple(float(part.removesuffix("x")) for part in _list(text))
    except ValueError:
        given = ()
    if not given or not all(1 <= each <= 1000 for each in given):
        problem = f"{text!r:.80} is not a list of multiples from 1 to 1000"
        raise InputError("--deadlines", problem, "give for example 1,2,4")
    # A repeated deadline would count its instances twice.
    return tuple(dict.fromkeys(given))


def _methods(text: str) -> tuple[str, ...]:
    """Read a list of methods; an empty one means all."""
    for name in _list(text):
        if name not in METHODS:
            raise unknown_name("--methods", name, METHODS)
    return _list(text) or tuple(METHODS)


def _hours(text: str, field: str, least: timedelta) -> timedelta:
    """Read a duration of whole hours, or a plain 0."""
    # parse_duration refuses zero, which a delay may be.
    duration = timedelta(0) if text.strip() == "0" else parse_duration(text, field)
    if duration < least or duration % _HOUR:
        raise InputError(field, f"{text!r} is not a number of whole hours", "give for example 6h")
    return duration


@options.command(
    app,
    "backtest",
    "lowcarb backtest --actual actual.csv",
    "lowcarb backtest --actual actual.parquet --forecast forecast.parquet --from 2023-07-01 --full",
    "lowcarb backtest --actual actual.csv --scenario mine.toml --plot backtest.png",
)
def command(
    context: typer.Context,
    actual: Annotated[
        Path, typer.Option(metavar="FILE", help="Actual intensity: a trace file, CSV or Parquet.")
    ],
    forecast: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Trace file with issued_at, or climatology or persistence, derived from --actual.",
        ),
    ] = "climatology",
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            "--setting",
            metavar="S",
            help="Kind of job: main, small, large, or a TOML file. Default: small, at the file's locations.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, metavar="N", help="Number of instances for each deadline.")
    ] = 10,
    deadlines: Annotated[
        str,
        typer.Option(metavar="X,X", help="Deadlines, as multiples of the back-to-back time of all rounds."),
    ] = "1,2,4",
    methods: Annotated[
        str,
        typer.Option(metavar="M,M", help="Methods to compare, besides run-now and the bound. Default: all."),
    ] = "",
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Earliest start of a replayed job: a time, or a day in UTC."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Latest end of a replayed job.")
    ] = None,
    replan_every: Annotated[
        str, typer.Option("--replan-every", "--cadence", metavar="H", help="Time between two plans.")
    ] = "6h",
    delay: Annotated[
        str, typer.Option(metavar="H", help="Delay after which the actual intensity of an hour is known.")
    ] = "0",
    signal: Annotated[
        str, typer.Option(metavar="SIGNAL", help="Signal of the files: average, marginal or unknown.")
    ] = "unknown",
    allow_implausible: options.AllowImplausible = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="N", help="Number of processes. Default: all cores."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print the table of all methods, too.")] = False,
    plot: options.Plot = None,
    as_json: options.Json = False,
) -> None:
    """Compare planning methods on historical carbon intensity."""
    asked = _deadlines(deadlines), _methods(methods), _hours(replan_every, "--replan-every", _HOUR)
    late = _hours(delay, "--delay", timedelta(0))
    what = None if scenario is None else read_scenario(scenario)
    # All inputs are checked before the replay, which may take hours.
    replay = read_replay(actual, forecast, what, asked[0], since, until, late, signal,
                         plausible_only=not allow_implausible)  # fmt: skip
    runtime = context.ensure_object(Runtime)
    with output.progress(runtime.console(stderr=True), "replaying", len(asked[0]) * seeds) as done:
        found = compare(
            replay.history, replay.scenario, asked[0], seeds, replay.period, asked[1], asked[2],
            jobs or cpu_count() or 1, done,
        )  # fmt: skip
    if plot is not None:
        from lowcarb_scheduler.report.charts import plot_backtest
        from lowcarb_scheduler.report.figure import save

        save(plot_backtest(found, _labels(replay)), plot)
    if as_json:
        output.write_document(_document(found, replay))
        return
    screen = runtime.console()
    sentences = list(_sentences(found))
    for line in sentences:
        output.print_line(screen, line)
    full = full or not sentences
    _print(screen, found, replay, full=full)
    if plot is not None:
        output.print_line(screen, f"chart: {plot}")
    if not full:
        output.print_line(
            screen, "next: the same with --full compares all methods; --scenario FILE is your job"
        )


def _labels(replay: Replay) -> str:
    # A trace file does not name its source; the file name is the best label there is.
    measured = formatting.labels(replace(replay.history.actual.provenance, source=replay.actual))
    return f"{measured}; forecast: {replay.forecast}"


def _document(found: Comparison, replay: Replay) -> dict[str, Any]:
    table, setting = replay.history.actual, found.scenario
    return {
        **table.provenance.to_dict(),
        "actual": replay.actual,
        "forecast": replay.forecast,
        # The key is older than the option --scenario; schema_version 1 keeps it.
        "setting": {
            "name": setting.name, "locations": setting.locations, "clients": setting.clients,
            "clients_per_round": setting.clients_per_round, "rounds": setting.rounds,
            "round_duration_minutes": setting.round_duration / timedelta(minutes=1),
        },
        "left_out": list(replay.left_out),
        "seeds": found.seeds,
        "from": found.period[0],
        "to": found.period[1],
        # So is this key: the option is --replan-every now.
        "cadence_hours": found.replan_every / _HOUR,
        "delay_hours": replay.history.actual_delay / _HOUR,
        "baseline": "run-now",
        "deadlines": [
            {"deadline": factor, "methods": [asdict(score) for score in scores]}
            for factor, scores in found.scores.items()
        ],
    }  # fmt: skip


def _sentences(found: Comparison) -> Iterator[str]:
    """Yield the result as a line for each deadline, for people who read no more."""
    from scipy.special import stdtrit

    against = "than random clients back-to-back (run-now)"
    for factor, scores in found.scores.items():
        ours = next((score for score in scores if score.method == SCHEDULER), None)
        if ours is None:  # it was not asked for
            continue
        part, error = 100 * ours.reduction, ours.reduction_se
        # Half of a 95 % interval of the mean, which few starts leave wide.
        wide = "" if error is None else f" +- {100 * error * stdtrit(found.seeds - 1, 0.975):.0f}"
        side = "less" if part > -0.5 else "more"
        yield f"{factor:g}x the time: {abs(part):.0f} %{wide} {side} CO2eq {against}"


def _print(screen: Console, found: Comparison, replay: Replay, *, full: bool) -> None:
    setting = found.scenario
    rounds = formatting.counted(setting.rounds, "round")
    output.print_title(
        screen,
        f"{setting.name}: {rounds} of {setting.clients_per_round} of {setting.clients}, "
        f"{len(setting.locations)} locations; {formatting.counted(found.seeds, 'start')} by deadline",
    )
    if full:
        columns = (
            right("deadline", whole=True), Column("method", whole=True), right("reduction (se), %"),
            right("against scheduler (se), points"),
            *map(right, ("capture", "Jain", "turns", "plan CPU s")),
        )  # fmt: skip
        rows = [_row(factor, score) for factor, scores in found.scores.items() for score in scores]
        output.print_table(screen, columns, rows)
    facts = {
        "period": f"{formatting.instant(found.period[0])} to {formatting.instant(found.period[1])} UTC",
        "intensity": _labels(replay),
        **({"left out": f"{', '.join(replay.left_out)}: values are missing"} if replay.left_out else {}),
        "revised": f"every {found.replan_every / _HOUR:g} h; actual intensity is known "
                   f"{replay.history.actual_delay / _HOUR:g} h after each hour",
        "+-": "half of a 95 % interval of the mean over starts",
    }  # fmt: skip
    if full:
        facts |= {
            "reduction": "against random clients back-to-back (run-now), mean over starts",
            "capture": "mean reduction over the mean reduction of the bound, a ratio of means",
        }
    output.print_facts(screen, list(facts.items()))


def _row(factor: float, score: Score) -> tuple[str, ...]:
    def percent(part: float | None, error: float | None, sign: str = "") -> str:
        if part is None:
            return ""
        # Adding zero turns -0.00 into 0.00.
        shown = f"{round(100 * part, 2) + 0.0:{sign}.2f}"
        return shown if error is None else f"{shown} ({100 * error:.2f})"

    # The difference of a method to itself is zero without information.
    is_scheduler = score.method == "scheduler"
    difference = None if is_scheduler else score.difference
    turns = "" if score.min_turns is None else f"{score.min_turns} to {score.max_turns}"
    if score.min_turns is not None and score.min_turns == score.max_turns:
        turns = str(score.min_turns)
    return (
        f"{factor:g}x", score.method, percent(score.reduction, score.reduction_se),
        percent(difference, score.difference_se, "+"),
        "" if score.capture is None else f"{score.capture:.3f}",
        "" if score.jain is None else f"{score.jain:.3f}", turns, f"{score.plan_seconds:.2f}",
    )  # fmt: skip


# -- Traces ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replay:
    """History to replay, and the files that it comes from.

    Parameters
    ----------
    history : History
        Actual intensity and forecasts.
    period : (datetime, datetime)
        Earliest start and latest end of a replayed job.
    actual, forecast : str
        Names of the files, or the method that derived the forecasts.
    scenario : Scenario
        Kind of job.
    left_out : tuple of str
        Places of the file that it does not have, because values are missing there.
    """

    history: History
    period: tuple[datetime, datetime]
    actual: str
    forecast: str
    scenario: Scenario
    left_out: tuple[str, ...] = ()


def read_replay(
    actual: Path,
    forecast: str,
    setting: Scenario | None,
    deadlines: Sequence[float],
    since: str | None,
    until: str | None,
    delay: timedelta,
    signal: str,
    *,
    plausible_only: bool = False,
) -> Replay:
    """Read traces and check that they suffice for a backtest.

    Parameters
    ----------
    actual : Path
        Trace file of actual intensity.
    forecast : str
        Trace file of forecasts, or ``climatology`` or ``persistence``.
    setting : Scenario or None
        Kind of job; None takes the places of the files that lack no value in the period.
    deadlines : sequence of float
        Multiples of the back-to-back time.
    since, until : str or None
        The period: times, or days in UTC. By default the longest period that the traces allow.
    delay : timedelta
        Time after an hour until its actual intensity is known.
    signal : str
        Signal of the values.
    plausible_only : bool
        Whether a value that no grid can have is an error.

    Raises
    ------
    InputError
        If a file is unreadable or incomplete, or the period is too short.
    """
    measured = Provenance(None, cast("Signal", signal)).signal
    rows = read_points(actual, "--actual", plausible_only)
    # A file of forecasts given as actual intensity would make every forecast look perfect.
    if ISSUE in rows:
        problem = "is a column of forecasts"
        raise InputError(
            ISSUE, problem, "give the file as --forecast, and actual intensity as --actual", str(actual)
        )
    wanted = _time(since, "--from"), _time(until, "--to")
    issued = None if forecast in NAIVE else _forecast_rows(forecast, wanted, plausible_only)
    known = [rows, *([] if issued is None else [issued])]
    places = setting.locations if setting else tuple(sorted(set.intersection(*map(_places, known))))
    if not places:
        problem = f"no location is also in {actual.name}"
        raise InputError("location", problem, "give files for the same locations", forecast)
    try:
        happened = table_of(rows, places, "actual", measured)
    except InputError as error:
        raise error.within(str(actual)) from None
    begins, ends = happened.start, happened.end
    if issued is None:
        history = History(happened, naive_issues(happened, forecast, delay), delay)
        # Naive forecasts repeat earlier days, so the first days have none.
        if not history.issues:
            problem = "has less than three days, too few for a forecast"
            raise InputError("--actual", problem, "give a longer trace", str(actual))
    else:
        try:
            history = History(happened, issues_of(issued, places, measured), delay)
        except InputError as error:
            raise error.within(forecast) from None
    first, last = history.issues[0][0], history.issues[-1][1].end
    # An hour later than the first value, because only past hours are known.
    earliest, latest = max(first, begins + _HOUR + delay), min(ends, last)
    sized = setting or Scenario.of(places)
    # By default the bias correction has its full history from the first instance on, if the traces allow it.
    start, end = wanted[0] or max(first, begins + HISTORY), wanted[1] or latest
    if wanted[0] is None and end - start < _longest(sized, deadlines) <= end - earliest:
        start = max(earliest, end - 2 * _longest(sized, deadlines))
    if start < earliest:
        problem = f"{format_time(start)} is before anything was known, {format_time(earliest)}"
        raise InputError("--from", problem, "give a later time")
    if end > latest:
        which = "the actual intensity" if ends <= last else "the last forecast"
        raise InputError("--to", f"{format_time(end)} is after {which} ends, {format_time(latest)}",
                         "give an earlier time")  # fmt: skip
    # Instances start on whole hours, as the traces' hours do.
    start = from_us(-(-to_us(start) // HOUR_US) * HOUR_US)
    left_out: tuple[str, ...] = ()
    if setting is None and (left_out := _with_gaps(history, start, end)) and len(left_out) < len(places):
        places = tuple(name for name in places if name not in left_out)
        sized = Scenario.of(places)
        issues = tuple((at, table.align(places)) for at, table in history.issues)
        history = History(happened.align(places), issues, delay)
    _check_length(sized, deadlines, start, end)
    _check_gaps(history, start, end, actual)
    shown = history.between(start, end)
    # Only the file name: paths of somebody's machine do not belong into a published result.
    kind = f"{forecast} of the past of the same file" if forecast in NAIVE else Path(forecast).name
    return Replay(shown, (start, end), actual.name, kind, sized, left_out)


def _places(rows: pd.DataFrame) -> set[str]:
    return set(map(str, rows["location"].unique()))


def _forecast_rows(
    forecast: str, wanted: tuple[datetime | None, datetime | None], plausible_only: bool
) -> pd.DataFrame:
    """Return the rows of a forecast trace, without issues outside the period that planners see."""
    path = Path(forecast)
    if path.suffix.lower() not in (".csv", ".parquet"):
        error = unknown_name("--forecast", forecast, NAIVE)
        raise InputError("--forecast", error.problem, f"{error.fix}, or give a .csv or .parquet file")
    issued = read_points(path, "--forecast", plausible_only)
    # Without it the backtest could not tell which forecast was known at which time.
    if ISSUE not in issued:
        problem = "is missing: a forecast needs its time of issue"
        raise InputError(ISSUE, problem, "add the column, or give --forecast climatology", str(path))
    start, end = wanted
    # Issues up to HISTORY before the start teach the bias correction.
    chosen = issued
    if start is not None:
        chosen = chosen[chosen[ISSUE] >= start - HISTORY]
    if end is not None:
        chosen = chosen[chosen[ISSUE] <= end]
    if chosen.empty:
        raise InputError("--forecast", "has no issue in the period", "give another period or file", str(path))
    return chosen


def _time(text: str | None, field: str) -> datetime | None:
    """Read a time with an offset, or a day in UTC."""
    if text is None:
        return None
    try:
        # A day alone is convenient for a period; other times need their offset.
        when = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        when = parse_time(text, field)
    return in_range(when, field)


def _longest(setting: Scenario, deadlines: Sequence[float]) -> timedelta:
    """Return the shortest period that an instance with the last deadline fits into."""
    return max(deadlines) * setting.back_to_back + _HOUR


def _check_length(setting: Scenario, deadlines: Sequence[float], start: datetime, end: datetime) -> None:
    # Every instance needs its whole deadline inside the period; one hour more lets starts differ.
    longest = max(deadlines) * setting.back_to_back
    if end - start < _longest(setting, deadlines):
        have = format_duration(max(end - start, timedelta(0)))
        problem = f"from {format_time(start)} there are {have}, and a deadline of {max(deadlines):g} takes"
        fix = "give a longer trace or period, or nearer --deadlines"
        raise InputError("--to", f"{problem} {format_duration(longest)}", fix)


def _with_gaps(history: History, start: datetime, end: datetime) -> tuple[str, ...]:
    """Return the places whose actual intensity is not known of all of a period."""
    table = history.actual.slice(start, end)
    if table is None:
        return ()
    lacks: Sequence[bool] = np.isnan(table.values).any(axis=0).tolist()  # type: ignore[assignment]
    return tuple(name for name, missing in zip(table.locations, lacks, strict=True) if missing)


def _check_gaps(history: History, start: datetime, end: datetime, file: Path) -> None:
    """Refuse gaps in the intensity that emissions are computed from."""
    table: Any = history.actual.slice(start, end)
    # Emissions in a gap are undefined, and a method could gain by training there.
    steps, columns = np.nonzero(np.isnan(table.values))
    if len(steps):
        where, when = table.locations[columns[0]], format_time(from_us(table.edges_us[steps[0]]))
        problem = f"{where} has no value at {when}, and {len(steps)} are missing in all"
        fix = "fill the gaps, choose another period, or remove the location from the scenario"
        raise InputError("g_per_kwh", problem, fix, str(file))


# -- Scenarios: the kind of job that is replayed, by name or from a TOML file -------------------------------

# Larger jobs would fill the memory before any error could explain it.
_MOST_CLIENTS: Final = 1_000_000
_MOST_ROUNDS: Final = 100_000


def _whole(most: int) -> BeforeValidator:
    """Return a validator of whole numbers from 1 to ``most``."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise FieldError(f"{value!r} is not a whole number from 1 to {most}", "give for example 10")
        return value

    return BeforeValidator(check)


def _names(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise FieldError("is not a list of names", 'give for example ["DE", "FR"]')
    return value


class ScenarioDocument(FileModel):
    """Content of a scenario file."""

    in_minutes = ("round_duration",)

    locations: Annotated[tuple[str, ...], BeforeValidator(_names)]
    clients: Annotated[int, _whole(_MOST_CLIENTS)]
    clients_per_round: Annotated[int, _whole(_MOST_CLIENTS)]
    rounds: Annotated[int, _whole(_MOST_ROUNDS)]
    round_duration: Duration


def read_scenario(given: str) -> Scenario:
    """Return a scenario by its name, or from a file.

    Parameters
    ----------
    given : str
        ``main``, ``small``, ``large``, or the path of a TOML file with the keys ``locations``, ``clients``,
        ``clients_per_round``, ``rounds`` and ``round_duration``.

    Raises
    ------
    InputError
        If no scenario has that name, or the file is wrong; names file, field and fix.
    """
    if given in SCENARIOS:
        return SCENARIOS[given]
    path = Path(given)
    # The name decides, so that a misspelt scenario is not reported as a missing file.
    if path.suffix.lower() != ".toml":
        error = unknown_name("--scenario", given, SCENARIOS)
        raise InputError(error.field, error.problem, f"{error.fix}, or give a .toml file")
    document = read_document(path, "--scenario", "scenario")
    read = validate(ScenarioDocument, document, str(path))
    try:
        return Scenario(path.stem, **dict(read))
    except InputError as error:
        raise InputError(as_spelled(error.field, document), error.problem, error.fix, str(path)) from None
