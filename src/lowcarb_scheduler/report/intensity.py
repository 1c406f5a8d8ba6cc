"""Chart of a forecast: one panel per location on one scale, or a heat map of many locations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.patches import Rectangle

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.forecasts.bias_correction import ORIGINS, Expectation
from lowcarb_scheduler.report import formatting, style
from lowcarb_scheduler.report.figure import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.forecasts.window import Window
    from lowcarb_scheduler.intensity import Floats, IntensityTable

MOST_PANELS: Final = 12
_PAST: Final = timedelta(hours=6)  # how much of a forecast's past hours is shown
_SHORTEST: Final = timedelta(minutes=1)
_SHADE: Final = "#f7c59a"
_RAW: Final = "#8a8a8a"
_DASHES: Final[dict[str, Any]] = {"climatology": (0, (3.2, 1.4)), "last good": (0, (1, 1))}
_HATCH: Final[dict[str, Any]] = {"hatch": "//", "edgecolor": (1.0, 1.0, 1.0, 0.35), "linewidth": 0}
_MEANING: Final = {
    "forecast": "blue: forecast",
    "corrected": "blue: forecast, corrected by past intensity",
    "climatology": "dashed: usual intensity at that hour, from history",
    "last good": "dotted: last good forecast",
    "default": "blue: forecast of the default location",
}


@dataclass(frozen=True, slots=True, eq=False)
class ShownForecast:
    """Data of the chart.

    Parameters
    ----------
    intensity : IntensityTable
        Expected intensity; its columns are the panels or rows [gCO2eq/kWh].
    origin : ndarray of str, shape (T, L)
        Origin of each value, one of ``ORIGINS``.
    raw : IntensityTable or None
        The forecast as the source published it, where correction has changed it.
    windows : mapping of str to Window
        Cleanest window of each location that has one.
    now : datetime or None
        Present.
    start, end : datetime
        Period of the chart.
    hidden : int
        Number of locations without a row.
    """

    intensity: IntensityTable
    origin: NDArray[np.str_]
    raw: IntensityTable | None
    windows: Mapping[str, Window]
    now: datetime | None
    start: datetime
    end: datetime
    hidden: int

    @property
    def is_map(self) -> bool:
        """There are too many locations for a panel each."""
        return len(self.intensity.locations) > MOST_PANELS

    def origins(self) -> list[str]:
        """Return the origins of all values, in the order of ``ORIGINS``."""
        present = set(self.origin[~np.isnan(self.intensity.values)].tolist())
        return [name for name in ORIGINS if name in present]


def shown_forecast(
    forecast: Forecast,
    now: datetime | None = None,
    expectation: Expectation | None = None,
    windows: Mapping[str, Window | None] | None = None,
    until: datetime | None = None,
) -> ShownForecast:
    """Return the data of the chart: locations in the given order, in a heat map the cleanest first."""
    known = forecast.intensity if expectation is None else expectation.intensity
    if expectation is None:
        codes = np.full(known.values.shape, ORIGINS.index("forecast"), dtype=np.uint8)
        codes[:, [name in forecast.last_good for name in known.locations]] = ORIGINS.index("last good")
    else:
        codes = expectation.origin
    is_map = len(known.locations) > MOST_PANELS
    names = tuple(style.cleanest_first(known)[: style.MOST_ROWS] if is_map else known.locations)
    # The raw forecast is of interest only beside a correction, and only lines can show both.
    compared = not is_map and bool((codes == ORIGINS.index("corrected")).any())
    raw = forecast.intensity.align(names) if compared else None
    start = known.start if raw is None else min(known.start, raw.start)
    # Hours long over would push the future, which decisions are about, to the side.
    if now is not None:
        start = max(start, min(now, known.end) - _PAST)
    found = {name: window for name, window in (windows or {}).items() if window is not None}
    return ShownForecast(
        intensity=known.align(names),
        origin=np.array(ORIGINS)[codes[:, known.columns(names)]],
        raw=raw,
        windows={name: found[name] for name in names if name in found},
        now=now,
        start=start,
        end=known.end if until is None else max(start + _SHORTEST, min(until, known.end)),
        hidden=len(known.locations) - len(names),
    )


def plot_forecast(
    forecast: Forecast,
    now: datetime | None = None,
    expectation: Expectation | None = None,
    windows: Mapping[str, Window | None] | None = None,
    until: datetime | None = None,
) -> Figure:
    """Plot a forecast: one panel per location on one scale, from 13 locations on a heat map.

    Parameters
    ----------
    forecast : Forecast
        The forecast as the source published it.
    now : datetime, optional
        Present, marked by a red line.
    expectation : Expectation, optional
        The corrected and extended forecast, drawn over it.
    windows : mapping of str to Window or None, optional
        The cleanest window of each location, shaded.
    until : datetime, optional
        End of the chart (default: end of the forecast).

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = shown_forecast(forecast, now, expectation, windows, until)
    table, rows = shown.intensity, len(shown.intensity.locations)
    paint, height_in = _paint_panels, 0.6 + max(0.8 * rows, min(2.4 * rows, 4.6))
    if shown.is_map:
        paint, height_in = _paint_map, 0.7 + 0.26 * rows
    labels = formatting.labels(table.provenance)
    title = f"Carbon intensity [{style.UNIT}]"
    return Picture(
        "forecast", title, labels, tuple(_legend(shown)), height_in, partial(paint, shown)
    ).figure()


def _legend(shown: ShownForecast) -> list[str]:
    parts = [f"time: UTC, {shown.start.year}"]
    if shown.is_map:
        parts.append("cleanest location first")
        if "climatology" in shown.origins():
            parts.append(_MEANING["climatology"].replace("dashed", "hatched"))
        if np.isnan(shown.intensity.values).any():
            parts.append("grey: no value")
    else:
        origins = [name for name in shown.origins() if name in _MEANING]
        if "corrected" in origins and "forecast" in origins:
            origins.remove("forecast")  # both are blue lines
        parts += [_MEANING[name] for name in origins]
        if shown.raw is not None:
            parts.append("grey: as published by the source")
    if shown.windows:
        window, *_ = shown.windows.values()  # all are equally long
        mark = "orange box" if shown.is_map else "shaded"
        parts.append(f"{mark}: cleanest {format_duration(window.end - window.start)} from now")
    if shown.now is not None:
        parts.append(f"red line: now, {formatting.instant(shown.now.replace(second=0))}")
    if shown.hidden:
        parts.append(f"{shown.hidden} more locations are not shown")
    return parts


def _paint_panels(shown: ShownForecast, figure: Figure) -> None:
    """Draw a panel per location."""
    table = shown.intensity
    panels = figure.subplots(len(table.locations), 1, sharex=True, sharey=True, squeeze=False).ravel()
    # One scale for all panels: locations are compared with each other.
    tables = (table.slice(shown.start, shown.end), shown.raw)
    values = [part.values for part in tables if part is not None]
    low = min(0.0, *(float(np.nanmin(part, initial=0.0)) for part in values))
    high = max(1.0, *(float(np.nanmax(part, initial=0.0)) for part in values))
    panels[0].set_ylim(low * 1.08, high * 1.08)
    panels[0].locator_params("y", nbins=3 if len(panels) > 4 else 5)
    for column, (axes, name) in enumerate(zip(panels, table.locations, strict=True)):
        if shown.raw is not None:
            _step(axes, shown.raw, shown.raw.values[:, column], color=_RAW, linewidth=1.0)
        for origin in shown.origins():
            own = np.where(shown.origin[:, column] == origin, table.values[:, column], np.nan)
            _step(axes, table, own, color=style.LINE, linewidth=1.7, linestyle=_DASHES.get(origin, "-"))
        if np.isnan(table.values[:, column]).all():
            axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center")
        _mark_window(axes, shown.windows.get(name))
        axes.set_title(style.short_name(name), loc="left", fontsize=9, fontweight="bold", pad=3)
        style.clean(axes, "both")
        if shown.now is not None:
            axes.axvline(style.day(shown.now), color=style.DEADLINE, linewidth=1.2)
    style.time_axis(panels[-1], shown.start, shown.end)


def _step(axes: Axes, table: IntensityTable, values: Floats, **look: Any) -> None:
    if not np.isnan(values).all():
        axes.stairs(values, table.edges_us / style.DAY_US, baseline=None, **look)


def _mark_window(axes: Axes, window: Window | None) -> None:
    """Shade a window, and write its saving above the panel."""
    if window is None:
        return
    axes.axvspan(style.day(window.start), style.day(window.end), color=_SHADE, linewidth=0, zorder=0)
    text = f"{formatting.span(window.start, window.end)}: {formatting.significant(window.g_per_kwh)} g/kWh"
    # The saving is None where the intensity now is not known, and 0 where no later window is cleaner.
    if window.saving:
        text += f", {formatting.percent(window.saving)} less than now"
    elif window.saving is not None:
        text += ", nothing later is cleaner"
    axes.set_title(text, loc="right", fontsize=8, pad=3)


def _paint_map(shown: ShownForecast, figure: Figure) -> None:
    """Draw a row per location, coloured by its intensity."""
    axes = figure.subplots()
    names = shown.intensity.locations
    style.heat_map(axes, shown.intensity.slice(shown.start, shown.end), names, shown.start, shown.end)
    edges, left = shown.intensity.edges_us / style.DAY_US, style.day(shown.start)
    for row, name in enumerate(names):
        for first, last in _runs(shown.origin[:, row] == "climatology"):
            begin = max(edges[first], left)
            axes.add_patch(Rectangle((begin, row - 0.5), edges[last] - begin, 1, fill=False, **_HATCH))
        if window := shown.windows.get(name):
            begin = style.day(window.start)
            box = Rectangle((begin, row - 0.42), style.day(window.end) - begin, 0.84)
            box.set(fill=False, edgecolor=style.PLANNED, linewidth=1.8)
            axes.add_patch(box)
    if shown.now is not None:
        axes.axvline(style.day(shown.now), color=style.DEADLINE, linewidth=1.6)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the begin and the exclusive end of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(changes[::2], changes[1::2], strict=True)]
