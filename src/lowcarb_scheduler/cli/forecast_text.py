"""A look at a source as people read it: what is expected, on what grounds, and the cleanest windows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.clock import HOUR_US, format_duration, from_us, to_us
from lowcarb_scheduler.forecasts.correction import ORIGINS
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from lowcarb_scheduler.cli.look import Look
    from lowcarb_scheduler.cli.times import Times

_SPARKS: Final = 18  # bars in the small line of a location
_MINUTE: Final = timedelta(minutes=1)


def show(screen: Console, look: Look, times: Times) -> None:
    """Print what was found."""
    table = look.intensity
    output.print_title(screen, wording.labels(table.source, table.signal, table.synthetic))
    generated, zone = (
        times.instant(look.forecast.generated_at),
        times.names(look.now, max(look.now, table.end)),
    )
    output.print_facts(screen, [("generated", generated), ("unit", f"gCO2eq/kWh; times are {zone}")])
    _print_locations(screen, look, times)
    if look.duration is not None:
        output.print_title(screen, f"cleanest {format_duration(look.duration)} from now on")
        _print_windows(screen, look, times)


def _print_locations(screen: Console, look: Look, times: Times) -> None:
    table, now = look.intensity, look.now
    edges, now_us = table.edges_us, to_us(now)
    ends, current = edges[1:], table.integrate(now_us, now_us + 1) * HOUR_US
    first = max(now_us, int(edges[0]))
    bins = np.linspace(first, max(int(edges[-1]), first + _SPARKS), _SPARKS + 1).astype(np.int64)
    means = table.integrate(bins[:-1], bins[1:]) * HOUR_US / np.diff(bins)[:, None]
    grounds = [_grounds(look, name) for name in table.locations]
    with_grounds = look.expectation is not None or bool(look.forecast.last_good)
    rows = []
    for column, name in enumerate(table.locations):
        values = np.where(ends > now_us, table.values[:, column], np.nan)
        if np.isnan(values).all():
            row = [name, "", "", "", "", "", "", "over" if look.expectation is None else ""]
        else:
            low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
            row = [
                name, _whole(current[column]), _whole(values[low]), _hour(edges[low], now, times),
                _whole(values[high]), _hour(edges[high], now, times),
                wording.sparkline(means[:, column].tolist()), _hour(ends[~np.isnan(values)][-1], now, times),
            ]  # fmt: skip
        rows.append([*row, grounds[column]] if with_grounds else row)
    columns = [
        output.Column("location"), output.Column("now", right=True), output.Column("min", right=True),
        output.Column("at"), output.Column("max", right=True), output.Column("at"),
        output.Column("from now on", whole=True), output.Column("until"),
    ]  # fmt: skip
    if with_grounds:
        columns.append(output.Column("rests on"))
    output.print_table(screen, columns, rows)


def _grounds(look: Look, name: str) -> str:
    """Say what the values of a location rest on, and for how long."""
    age = (look.now - look.forecast.issued_at(name)) // _MINUTE * _MINUTE
    if look.expectation is None:
        last_good = f"last good, {format_duration(age)} old"
        return last_good if name in look.forecast.last_good else "forecast"
    table = look.expectation.intensity
    hours = np.diff(table.edges_us) / HOUR_US
    own = look.expectation.origin[:, table.locations.index(name)]
    parts = []
    for origin in (*ORIGINS[1:], ORIGINS[0]):
        share = float(hours[own == ORIGINS.index(origin)].sum())
        said = f"last good ({format_duration(age)} old)" if origin == "last good" else origin
        if share:
            parts.append(f"{said} {share:.0f} h" if share >= 1 else f"{said} under 1 h")
    return ", ".join(parts)


def _print_windows(screen: Console, look: Look, times: Times) -> None:
    rows = []
    for name, window in look.windows.items():
        if window is None:
            rows.append([name, "none", "", "", "", ""])
            continue
        at_once = window.start == look.now
        now_g = window.now_g_per_kwh
        rows.append(
            [name, "now" if at_once else _hour(to_us(window.start), look.now, times),
             _hour(to_us(window.end), look.now, times), wording.significant(window.g_per_kwh),
             wording.UNKNOWN if now_g is None else wording.significant(now_g), wording.percent(window.saving)]
        )  # fmt: skip
    columns = [
        output.Column("location"), output.Column("start"), output.Column("end"),
        output.Column("g/kWh", right=True), output.Column("if started now", right=True),
        output.Column("less", right=True),
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


def _hour(us: int, now: datetime, times: Times) -> str:
    return times.weekday(from_us(us), now)


def _whole(g_per_kwh: float) -> str:
    return "" if np.isnan(g_per_kwh) else f"{g_per_kwh:.0f}"
