"""``lowcarb forecast``: what is known now about the hours to come."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lowcarb_scheduler.cli import completion, output
from lowcarb_scheduler.cli.options import Json, Plot, SdkSignal, SdkUrl, Source, Traces, configured_source
from lowcarb_scheduler.cli.times import Times, Utc
from lowcarb_scheduler.clock import parse_duration, parse_time
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from lowcarb_scheduler.cli.look import Look

EXAMPLES: Final = (
    "lowcarb forecast --location DE --location FR --source synthetic",
    "lowcarb forecast --location DE --source synthetic --duration 90m --until 2d",
    "lowcarb forecast --location GB --source uk-carbon-intensity --corrected --watch --every 30m",
)
EXIT_MISSING: Final = 1
EVERY: Final = timedelta(minutes=5)  # no source makes new forecasts more often
MOST_RARELY: Final = timedelta(days=1)


def _duration(text: str) -> timedelta:
    return parse_duration(text, "--duration")


def _every(text: str) -> timedelta:
    every = parse_duration(text, "--every")
    if every > MOST_RARELY:
        raise InputError("--every", f"{text!r} is more than a day", "give less, for example 1h")
    return every


def _until(text: str) -> datetime | timedelta:
    return parse_time(text, "--until") if "-" in text or ":" in text else parse_duration(text, "--until")


def command(
    location: Annotated[
        list[str],
        typer.Option(
            "--location",
            metavar="L",
            autocompletion=completion.locations,
            help="A place, as the source calls it. Repeatable.",
        ),
    ],
    duration: Annotated[
        timedelta | None,
        typer.Option(parser=_duration, metavar="D", help="Find the cleanest window this long: 90m, 2h."),
    ] = None,
    until: Annotated[
        Any,
        typer.Option(
            parser=_until, metavar="T", help="How far: 48h, or a time. Default: the forecast's end."
        ),
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Correct and extend it by what really happened.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Ask again and again, until Ctrl-C.")] = False,
    every: Annotated[
        timedelta | None,
        typer.Option(parser=_every, metavar="D", help="How often --watch asks. Default: 5m."),
    ] = None,
    source: Source = None,
    sdk_url: SdkUrl = None,
    sdk_signal: SdkSignal = None,
    traces: Traces = None,
    plot: Plot = None,
    utc: Utc = False,
    as_json: Json = False,
) -> None:
    """Show what is known now about the carbon intensity of places."""
    if watch and as_json:
        raise InputError("--watch", "has no end, and --json prints one document", "leave one of them out")
    if every is not None and not watch:
        raise InputError("--every", "is given without --watch", "add --watch")
    from lowcarb_scheduler.cli.look import Question, look
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.settings import Settings

    asked = configured_source(source, sdk_url, sdk_signal, traces)
    places = tuple(dict.fromkeys(location))
    question = Question(asked, places, Settings.load().timeout, duration, corrected, until)
    clock, times = SystemClock(), Times.of(utc)
    if watch:
        from lowcarb_scheduler.cli.watch import watch as repeat

        def page(screen: "Console") -> None:
            found = look(question, clock)
            _show(screen, found, plot, times)
            for line in (*found.remarks, *found.unanswered()):
                output.print_line(screen, line)

        repeat(page, every or EVERY, clock, times)
        return
    found = look(question, clock)
    if as_json:
        _draw(found, plot)
        output.write_document(_document(found))
    else:
        _show(output.console(), found, plot, times)
    unanswered = list(found.unanswered())
    for line in (*found.remarks, *unanswered):
        output.log(f"lowcarb: {line}")
    if unanswered:
        raise typer.Exit(EXIT_MISSING)


def _show(screen: "Console", found: "Look", plot: Path | None, times: Times) -> None:
    from lowcarb_scheduler.cli.forecast_text import show

    _draw(found, plot)
    show(screen, found, times)
    if plot is not None:
        output.print_facts(screen, [("drawn", str(plot))])


def _draw(found: "Look", plot: Path | None) -> None:
    if plot is not None:
        from lowcarb_scheduler.report.outlook import plot_forecast
        from lowcarb_scheduler.report.plots import save

        figure = plot_forecast(
            found.forecast, found.now, found.expectation, found.windows, found.intensity.end
        )
        save(figure, plot)


def _document(found: "Look") -> dict[str, Any]:
    """Return what was found: the raw points, whole, or else the expectation, each with its origin."""
    from lowcarb_scheduler.clock import to_us
    from lowcarb_scheduler.forecasts.correction import ORIGINS

    forecast, expectation = found.forecast, found.expectation
    table = forecast.intensity if expectation is None else expectation.intensity
    locations = table.to_points()
    if expectation is not None:
        step_of = {int(edge): step for step, edge in enumerate(table.edges_us)}
        for column, points in enumerate(locations.values()):
            for point in points:
                step = step_of[to_us(point["time"])]  # type: ignore[arg-type]
                point["origin"] = ORIGINS[expectation.origin[step, column]]
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": table.source,
        "signal": table.signal,
        "synthetic": table.synthetic,
        "generated_at": forecast.generated_at,
        "locations": locations,
        "missing": forecast.missing,
    }
    if forecast.last_good:
        document["last_good"] = {
            name: {"generated_at": forecast.issued_at(name), "why": why}
            for name, why in forecast.last_good.items()
        }
    if found.duration is not None:
        document["best"] = {
            name: window and {"start": window.start, "end": window.end, "g_per_kwh": window.g_per_kwh,
                              "now_g_per_kwh": window.now_g_per_kwh, "saving": window.saving}
            for name, window in {**dict.fromkeys(forecast.missing), **found.windows}.items()
        }  # fmt: skip
    return document
