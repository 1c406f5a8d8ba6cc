"""``lowcarb forecast``: what is known now about the hours to come."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json, Plot, SdkSignal, SdkUrl, Source, Traces, configured_source
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.source import Forecast

EXIT_MISSING: Final = 1
_SPARKS: Final = 18  # bars in the small line of a location


def command(
    location: Annotated[
        list[str],
        typer.Option("--location", metavar="L", help="A place, as the source calls it. Repeatable."),
    ],
    source: Source = None,
    sdk_url: SdkUrl = None,
    sdk_signal: SdkSignal = None,
    traces: Traces = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show what is known now about the carbon intensity of places."""
    from lowcarb_scheduler.clock import SystemClock

    opened = configured_source(source, sdk_url, sdk_signal, traces)
    now = SystemClock().now()
    known = opened.forecast(list(dict.fromkeys(location)), now)
    if plot is not None:
        from lowcarb_scheduler.report.plots import plot_forecast, save

        save(plot_forecast(known, now), plot)
    if as_json:
        table = known.intensity
        output.write_document(
            {
                "schema_version": SCHEMA_VERSION,
                "source": table.source,
                "signal": table.signal,
                "synthetic": table.synthetic,
                "generated_at": known.generated_at,
                "locations": table.to_points(),
                "missing": known.missing,
            }
        )
    else:
        _show(known, now, plot)
    if known.missing:
        for name, why in known.missing.items():
            output.log(f"lowcarb: no forecast for {one_line(name)}: {one_line(why)}")
        raise typer.Exit(EXIT_MISSING)


def _show(known: "Forecast", now: datetime, plot: Path | None) -> None:
    import numpy as np

    from lowcarb_scheduler.clock import HOUR_US, to_us

    table = known.intensity
    screen = output.console()
    output.print_title(screen, wording.labels(table.source, table.signal, table.synthetic))
    generated = f"{wording.instant(known.generated_at)} UTC"
    output.print_facts(screen, [("generated", generated), ("unit", "gCO2eq/kWh; times are UTC")])
    edges, now_us = table.edges_us, to_us(now)
    ends, current = edges[1:], table.integrate(now_us, now_us + 1) * HOUR_US
    first = max(now_us, int(edges[0]))
    bins = np.linspace(first, max(int(edges[-1]), first + _SPARKS), _SPARKS + 1).astype(np.int64)
    means = table.integrate(bins[:-1], bins[1:]) * HOUR_US / np.diff(bins)[:, None]
    rows = []
    for column, name in enumerate(table.locations):
        values = np.where(ends > now_us, table.values[:, column], np.nan)
        if np.isnan(values).all():
            rows.append((name, "", "", "", "", "", "", "over"))
            continue
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        rows.append(
            (name, _whole(current[column]), _whole(values[low]), _hour(edges[low], now),
             _whole(values[high]), _hour(edges[high], now), wording.sparkline(means[:, column].tolist()),
             _hour(ends[~np.isnan(values)][-1], now))
        )  # fmt: skip
    columns = [
        output.Column("location"), output.Column("now", right=True), output.Column("min", right=True),
        output.Column("at"), output.Column("max", right=True), output.Column("at"),
        output.Column("from now on"), output.Column("until"),
    ]  # fmt: skip
    output.print_table(screen, columns, rows)
    if plot is not None:
        output.print_facts(screen, [("drawn", str(plot))])


def _hour(us: int, now: datetime) -> str:
    """Write a time near ``now`` by its weekday, for example ``Thu 11:00``."""
    from lowcarb_scheduler.clock import from_us

    when = from_us(us)
    return f"{when:%a %H:%M}" if abs(when - now) < timedelta(days=6) else wording.instant(when)


def _whole(g_per_kwh: float) -> str:
    return "" if g_per_kwh != g_per_kwh else f"{g_per_kwh:.0f}"  # NaN alone differs from itself
