"""``lowcarb forecast``: current forecasts of carbon intensity, and the cleanest window of a given length."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.inputs import FORECAST_SHARE, Past, command_line, past_of, remarks
from lowcarb_scheduler.cli.output import Column, Utc, right
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import HOUR_US, format_duration, from_us, parse_deadline, parse_duration, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, LowcarbError, one_line
from lowcarb_scheduler.forecasts.bias_correction import ORIGINS, Expectation, expect
from lowcarb_scheduler.forecasts.window import Window, cleanest_windows
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable

app = typer.Typer()
EXIT_MISSING: Final = 1
EVERY: Final = timedelta(minutes=5)  # no source publishes forecasts more often
MOST_RARELY: Final = timedelta(days=1)


def _duration(text: str) -> timedelta:
    return parse_duration(text, "--duration")


def _every(text: str) -> timedelta:
    every = parse_duration(text, "--every")
    if every > MOST_RARELY:
        raise InputError("--every", f"{text!r} is more than a day", "give less, for example 1h")
    return every


def _until(text: str) -> datetime | timedelta:
    return parse_deadline(text, "--until")


@options.command(
    app,
    "forecast",
    "lowcarb forecast --location DE --location FR --source synthetic",
    "lowcarb forecast --location DE --source synthetic --duration 90m --until 2d",
    "lowcarb forecast --location GB --source uk-carbon-intensity --corrected --watch --every 30m",
)
def command(
    context: typer.Context,
    location: Annotated[
        list[str], options.location_option("Location, by the source's name for it. Repeatable.")
    ],
    duration: Annotated[
        timedelta | None,
        typer.Option(parser=_duration, metavar="D", help="Find the cleanest window of this length: 90m, 2h."),
    ] = None,
    until: Annotated[
        Any,
        typer.Option(
            parser=_until,
            metavar="T",
            help="End of the forecast: 48h, or a time. Default: the whole forecast.",
        ),
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Correct and extend the forecast with past intensity.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    every: Annotated[
        timedelta | None,
        typer.Option(parser=_every, metavar="D", help="Time between two refreshes of --watch. Default: 5m."),
    ] = None,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    traces: options.Traces = None,
    plot: options.Plot = None,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """Show the current carbon intensity forecast for locations."""
    # Contradicting options are refused before a server is asked.
    if watch and as_json:
        raise InputError("--watch", "has no end, and --json prints one document", "leave one of them out")
    if every is not None and not watch:
        raise InputError("--every", "is given without --watch", "add --watch")
    runtime = context.ensure_object(Runtime)
    chosen = options.source_options(source, sdk_url, sdk_signal, traces)
    asked = options.configured_source(chosen, runtime)
    # A location given twice is asked for once.
    locations = tuple(dict.fromkeys(location))
    query = ForecastQuery(asked, locations, Settings.load().timeout, duration, corrected, until)
    clock, times = runtime.clock, Times.of(utc)
    if watch:

        def page(screen: Console) -> None:
            found = look_up(query, clock)
            _show(screen, found, plot, times)
            for line in (*found.remarks, *found.unanswered()):
                output.print_line(screen, line)

        repeat(page, every or EVERY, runtime, times)
        return
    found = look_up(query, clock)
    if as_json:
        _draw(found, plot)
        output.write_document(_document(found))
    else:
        _show(runtime.console(), found, plot, times)
    unanswered = list(found.unanswered())
    for line in (*found.remarks, *unanswered):
        output.log(f"lowcarb: {line}")
    if not (unanswered or as_json):
        output.print_line(runtime.console(), f"next: {command_line('plan', {'job': 'JOB', **chosen})}")
    if unanswered:
        # Scripts notice a missing location, although the others are printed.
        raise typer.Exit(EXIT_MISSING)


def _draw(found: ForecastResult, plot: Path | None) -> None:
    if plot is not None:
        from lowcarb_scheduler.report.figure import save
        from lowcarb_scheduler.report.intensity import plot_forecast

        figure = plot_forecast(
            found.forecast, found.now, found.expectation, found.windows, found.intensity.end
        )
        save(figure, plot)


def _document(found: ForecastResult) -> dict[str, Any]:
    """Return the JSON document: all raw points, or the corrected points with the origin of each."""
    forecast, expectation = found.forecast, found.expectation
    table = forecast.intensity if expectation is None else expectation.intensity
    locations = table.to_points()
    if expectation is not None:
        # The origins are stored by step, the points by time.
        step_of = {int(edge): step for step, edge in enumerate(table.edges_us)}
        for column, points in enumerate(locations.values()):
            for point in points:
                step = step_of[to_us(point["time"])]  # type: ignore[arg-type]
                point["origin"] = ORIGINS[expectation.origin[step, column]]
    document: dict[str, Any] = {
        **table.provenance.to_dict(),
        "generated_at": forecast.generated_at,
        "locations": locations,
        "missing": forecast.missing,
    }
    # Only if the source failed, and its last good forecast is shown instead.
    if forecast.last_good:
        document["last_good"] = {
            name: {"generated_at": forecast.issued_at(name), "why": why}
            for name, why in forecast.last_good.items()
        }
    if found.duration is not None:
        document["best"] = {
            name: window and {**asdict(window), "saving": window.saving}
            for name, window in {**dict.fromkeys(forecast.missing), **found.windows}.items()
        }
    return document


# -- Query -------------------------------------------------------------------------------------------------

FARTHEST: Final = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class ForecastQuery:
    """Parameters of a forecast look-up.

    Parameters
    ----------
    source : ForecastSource
        The source.
    locations : tuple of str
        The locations, without repetition.
    timeout : timedelta
        Time limit of the whole look-up.
    duration : timedelta or None
        Length of the cleanest windows to find; None for no windows.
    corrected : bool
        Whether to correct and extend the forecast with history.
    until : datetime or timedelta or None
        End of the look-ahead; by default the end of the forecast.
    """

    source: ForecastSource
    locations: tuple[str, ...]
    timeout: timedelta
    duration: timedelta | None = None
    corrected: bool = False
    until: datetime | timedelta | None = None


@dataclass(frozen=True, slots=True)
class ForecastResult:
    """Result of a forecast look-up.

    Parameters
    ----------
    now : datetime
        Time of the look-up.
    forecast : Forecast
        The forecast of the source.
    expectation : Expectation or None
        The corrected forecast.
    intensity : IntensityTable
        The corrected forecast, or else the forecast, until the end of the look-ahead [gCO2eq/kWh].
    duration : timedelta or None
        Length of the windows.
    windows : mapping of str to Window or None
        Cleanest window of each location; None where every window touches a gap.
    remarks : tuple of str
        Remarks on the origin of the numbers, one line each.
    """

    now: datetime
    forecast: Forecast
    expectation: Expectation | None
    intensity: IntensityTable
    duration: timedelta | None
    windows: Mapping[str, Window | None]
    remarks: tuple[str, ...]

    def unanswered(self) -> Iterator[str]:
        """Yield what the source could not answer, one line each."""
        for name, why in self.forecast.missing.items():
            yield f"no forecast for {one_line(name)}: {one_line(why)}"
        for name, window in self.windows.items():
            if window is None and self.duration is not None:
                yield f"no gap-free window of {format_duration(self.duration)} for {one_line(name)}"


def look_up(query: ForecastQuery, clock: Clock) -> ForecastResult:
    """Ask the source.

    Raises
    ------
    InputError
        If a location's name is impossible, or the end of the look-ahead is past.
    ForecastUnavailableError
        If no location has a forecast.
    """
    now = clock.now()
    until = _look_until(query, now)
    forecast = _forecast(query, now)
    expectation, past = None, Past()
    if query.corrected:
        # The history gets the time that the forecast has left over.
        past = past_of(query.source, query.locations, now, now + query.timeout, clock)
        expectation = expect(
            forecast.intensity.align(query.locations), past.actual, now, until or forecast.intensity.end,
            past.issues, tuple(forecast.last_good),
        )  # fmt: skip
    intensity = forecast.intensity if expectation is None else expectation.intensity
    if until is not None:
        # A forecast that starts later has nothing before that time; then all of it is shown.
        intensity = intensity.slice(intensity.start, until) or intensity
    windows = {} if query.duration is None else cleanest_windows(intensity, query.duration, now, until)
    lines = tuple(remarks(query.source, forecast, past))
    return ForecastResult(now, forecast, expectation, intensity, query.duration, windows, lines)


def _look_until(query: ForecastQuery, now: datetime) -> datetime | None:
    """Return the end of the look-ahead."""
    if query.until is None:
        return None
    ahead = query.until if isinstance(query.until, timedelta) else query.until - now
    if not timedelta(0) < ahead <= FARTHEST:
        problem = "is past" if ahead <= timedelta(0) else "is more than a year ahead"
        raise InputError("--until", problem, "give a future time, or a duration such as 48h")
    return now + ahead


def _forecast(query: ForecastQuery, now: datetime) -> Forecast:
    """Return the forecast, with a hint where one option names several locations."""
    # None where the source cannot list its locations.
    listed = query.source.locations
    for name in query.locations:
        if "," in name and listed is not None and name not in listed:
            raise InputError(
                "--location", f"{one_line(name)!r} is not a location of the source", _apart(name)
            )
    timeout = query.timeout * FORECAST_SHARE if query.corrected else None
    try:
        forecast = query.source.forecast(query.locations, now, timeout=timeout)
    except ForecastUnavailableError as error:
        raise ForecastUnavailableError(_hinted(error.missing), error.available) from None
    return replace(forecast, missing=_hinted(forecast.missing))


def _hinted(missing: Mapping[str, str]) -> dict[str, str]:
    return {name: f"{why}; {_apart(name)}" if "," in name else why for name, why in missing.items()}


def _apart(name: str) -> str:
    parts = [part.strip() for part in name.split(",") if part.strip()]
    options = " ".join(f"--location {one_line(part)}" for part in parts)
    return f"to name several, repeat the option: {options}"


# -- Text --------------------------------------------------------------------------------------------------

_SPARKS: Final = 18  # bars of a sparkline
_MINUTE: Final = timedelta(minutes=1)


def _show(screen: Console, result: ForecastResult, plot: Path | None, times: Times) -> None:
    """Print the forecast of each location, the cleanest windows and the chart's path."""
    _draw(result, plot)
    table = result.intensity
    output.print_title(screen, formatting.sentence_case(formatting.labels(table.provenance)))
    generated = times.instant(result.forecast.generated_at)
    zone = times.names(result.now, max(result.now, table.end))
    output.print_facts(screen, [("generated", generated), ("unit", f"gCO2eq/kWh; times are {zone}")])
    _print_locations(screen, result, times)
    if result.duration is not None:
        output.print_title(screen, f"Cleanest {format_duration(result.duration)}")
        _print_windows(screen, result, times)
    if plot is not None:
        output.print_facts(screen, [("chart", str(plot))])


def _print_locations(screen: Console, result: ForecastResult, times: Times) -> None:
    table, now = result.intensity, result.now
    edges, now_us = table.edges_us, to_us(now)
    # The intensity at an instant is its integral over one microsecond.
    ends, current = edges[1:], table.integrate(now_us, now_us + 1) * HOUR_US
    first = max(now_us, int(edges[0]))
    # Each bar covers at least a microsecond, even if the forecast has ended.
    last = max(int(edges[-1]), first + _SPARKS)
    bins = np.linspace(first, last, _SPARKS + 1).astype(np.int64)
    ahead = (last - first) / HOUR_US
    means = table.integrate(bins[:-1], bins[1:]) * HOUR_US / np.diff(bins)[:, None]
    origins = [_origin(result, name) for name in table.locations]
    with_origins = result.expectation is not None or bool(result.forecast.last_good)
    rows = []
    # One scale for all locations: the bars of a clean one are low.
    drawn = means[np.isfinite(means)]
    scale = (float(drawn.min()), float(drawn.max())) if drawn.size else None
    for column, name in enumerate(table.locations):
        # Only hours that are not over count as minimum and maximum.
        values = np.where(ends > now_us, table.values[:, column], np.nan)
        if np.isnan(values).all():
            row = [name, "", "", "", "", "", "", "past" if result.expectation is None else ""]
        else:
            low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
            row = [
                name, _whole(current[column]), _whole(values[low]), _hour(edges[low], now, times),
                _whole(values[high]), _hour(edges[high], now, times),
                formatting.sparkline(means[:, column].tolist(), scale),
                _hour(ends[~np.isnan(values)][-1], now, times),
            ]  # fmt: skip
        rows.append([*row, origins[column]] if with_origins else row)
    bars = Column(f"next {ahead:.0f} h, one scale", whole=True)
    columns = ("location", right("now"), right("min"), "at", right("max"), "at", bars, "forecast ends")
    output.print_table(screen, (*columns, "origin") if with_origins else columns, rows)


def _origin(result: ForecastResult, name: str) -> str:
    """Return the origins of a location's values, with the hours of each."""
    # Whole minutes: seconds would suggest a precision that forecasts lack.
    age = (result.now - result.forecast.issued_at(name)) // _MINUTE * _MINUTE
    if result.expectation is None:
        last_good = f"last good, {format_duration(age)} old"
        return last_good if name in result.forecast.last_good else "forecast"
    table = result.expectation.intensity
    hours = np.diff(table.edges_us) / HOUR_US
    own = result.expectation.origin[:, table.locations.index(name)]
    parts = []
    # Corrections come first, the raw forecast last.
    for origin in (*ORIGINS[1:], ORIGINS[0]):
        share = float(hours[own == ORIGINS.index(origin)].sum())
        label = f"last good ({format_duration(age)} old)" if origin == "last good" else origin
        if share:
            parts.append(f"{label} {share:.0f} h" if share >= 1 else f"{label} under 1 h")
    return ", ".join(parts)


def _print_windows(screen: Console, result: ForecastResult, times: Times) -> None:
    rows = []
    for name, window in result.windows.items():
        if window is None:
            rows.append([name, "none", "", "", "", ""])
            continue
        # The exact start only: a minute later is a wait.
        at_once = window.start == result.now
        rows.append(
            [name, "now" if at_once else _hour(to_us(window.start), result.now, times),
             _hour(to_us(window.end), result.now, times), formatting.significant(window.g_per_kwh),
             formatting.significant(window.now_g_per_kwh), formatting.percent(window.saving)]
        )  # fmt: skip
    columns = ("location", "start", "end", right("g/kWh"), right("if started now"), right("saving"))
    output.print_table(screen, columns, rows)


def _hour(us: int, now: datetime, times: Times) -> str:
    return times.weekday(from_us(us), now)


def _whole(g_per_kwh: float) -> str:
    return "" if np.isnan(g_per_kwh) else f"{g_per_kwh:.0f}"


# -- Refreshing --------------------------------------------------------------------------------------------


def repeat(show: Callable[[Console], None], every: timedelta, runtime: Runtime, times: Times) -> None:
    """Show a page again and again until Ctrl-C: in place on a terminal, page after page in a pipe.

    If a later attempt fails, the last page stays, with the reason below it.

    Parameters
    ----------
    show : callable
        Prints the page on a console; raises LowcarbError if it fails.
    every : timedelta
        Time between two refreshes.
    runtime : Runtime
        With the clock, which gives the time and sleeps, and the console.
    times : Times
        Writer of times.
    """
    screen, pages = runtime.console(), _pages(show, every, runtime, times)
    with suppress(KeyboardInterrupt):
        if not screen.is_terminal:
            for page in pages:
                screen.file.write(f"{page}\n\n")
                # A pipe is buffered; without a flush the page would appear minutes later.
                screen.file.flush()
            return
        from rich.live import Live
        from rich.text import Text

        with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
            for page in pages:
                live.update(Text.from_ansi(page), refresh=True)


def _pages(
    show: Callable[[Console], None], every: timedelta, runtime: Runtime, times: Times
) -> Iterator[str]:
    """Yield pages without end, and wait between them."""
    shown = ""
    while True:
        asked_at = runtime.clock.now()
        status = f"updated at {times.instant(asked_at)}, every {format_duration(every)}; Ctrl-C ends"
        # The page is rendered before it is shown: if it fails, the last page stays.
        page = runtime.console()
        try:
            with page.capture() as capture:
                show(page)
            shown = capture.get()
        except LowcarbError as error:
            # Without a first page the options are probably wrong, and trying again would not help.
            if not shown:
                raise
            status = f"{status}\nthis attempt failed: {one_line(str(error))}"
        yield f"{shown}{status}"
        runtime.clock.sleep_until(asked_at + every)
