"""The picture of what is expected: a panel a location on one scale, a heat map where they are many."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import MissingExtraError
from lowcarb_scheduler.forecasts.bias_correction import ORIGINS
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.rounds import MOST_ROWS
from lowcarb_scheduler.report.style import (
    DAY_US,
    DEADLINE,
    INK,
    LINE,
    NO_VALUE,
    PLANNED,
    UNIT,
    day,
    heat_map,
    new_figure,
    short_name,
    time_axis,
)

try:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise MissingExtraError("matplotlib", "report") from None

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.forecasts.bias_correction import Expectation
    from lowcarb_scheduler.forecasts.window import Window
    from lowcarb_scheduler.intensity import Floats, IntensityTable

MOST_PANELS: Final = 12
MOST_TICKS: Final = 16
_PAST: Final = timedelta(hours=6)  # how much of what a forecast said of hours over is shown
_SHORTEST: Final = timedelta(minutes=1)
_SHADE: Final = "#f7c59a"
_RAW: Final = "#8a8a8a"
_DASHES: Final[dict[str, Any]] = {"climatology": (0, (3.2, 1.4)), "last good": (0, (1, 1))}
_HATCH: Final[dict[str, Any]] = {"hatch": "//", "edgecolor": (1.0, 1.0, 1.0, 0.35), "linewidth": 0}
_SAYS: Final = {
    "forecast": "forecast",
    "corrected": "forecast, corrected by what happened",
    "climatology": "what is usual there at that hour",
    "last good": "last good forecast",
}


@dataclass(frozen=True, slots=True, eq=False)
class OutlookPicture:
    """What is to be seen.

    Parameters
    ----------
    intensity : IntensityTable
        What to validate_report; its columns are the rows shown [gCO2eq/kWh].
    origin : ndarray of str, shape (T, L)
        Where each value comes from: one of ``ORIGINS``.
    raw : IntensityTable or None
        What the source said, where that differs.
    windows : mapping of str to Window
        The cleanest window of a location that has one.
    duration : timedelta or None
        How long the windows are.
    now : datetime or None
        The present.
    start, end : datetime
        What is shown.
    hidden : int
        How many locations have no row.
    """

    intensity: IntensityTable
    origin: NDArray[np.str_]
    raw: IntensityTable | None
    windows: Mapping[str, Window]
    duration: timedelta | None
    now: datetime | None
    start: datetime
    end: datetime
    hidden: int

    @property
    def is_map(self) -> bool:
        """Whether there are too many rows for a panel each."""
        return len(self.intensity.locations) > MOST_PANELS

    def origins(self) -> list[str]:
        """Return where values come from, in the order of ``ORIGINS``."""
        present = set(self.origin[~np.isnan(self.intensity.values)].tolist())
        return [name for name in ORIGINS if name in present]


def picture_of_forecast(
    forecast: Forecast,
    now: datetime | None = None,
    expectation: Expectation | None = None,
    windows: Mapping[str, Window | None] | None = None,
    until: datetime | None = None,
) -> OutlookPicture:
    """Gather what is expected: as asked for where each location has a panel, cleanest first in a map."""
    known = forecast.intensity if expectation is None else expectation.intensity
    if expectation is None:
        codes = np.full(known.values.shape, ORIGINS.index("forecast"), dtype=np.uint8)
        codes[:, [name in forecast.last_good for name in known.locations]] = ORIGINS.index("last good")
    else:
        codes = expectation.origin
    is_map = len(known.locations) > MOST_PANELS
    order = _cleanest_first(known)[:MOST_ROWS] if is_map else list(range(len(known.locations)))
    names = tuple(known.locations[column] for column in order)
    compared = not is_map and bool((codes == ORIGINS.index("corrected")).any())
    raw = forecast.intensity.align(names) if compared else None
    start = known.start if raw is None else min(known.start, raw.start)
    if now is not None:
        start = max(start, min(now, known.end) - _PAST)
    found = {name: window for name, window in (windows or {}).items() if window is not None}
    return OutlookPicture(
        intensity=known.align(names),
        origin=np.array(ORIGINS)[codes[:, order]],
        raw=raw,
        windows={name: found[name] for name in names if name in found},
        duration=next((window.end - window.start for window in found.values()), None),
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
    """Draw what is expected: one panel a location on one scale, from 13 locations on a heat map.

    Parameters
    ----------
    forecast : Forecast
        What a source said.
    now : datetime, optional
        Marked with a line.
    expectation : Expectation, optional
        What is made of it; drawn over what the source said.
    windows : mapping of str to Window or None, optional
        The cleanest window of each location; shaded.
    until : datetime, optional
        Where the picture ends; by default where what is expected ends.

    Returns
    -------
    matplotlib.figure.Figure
    """
    picture = picture_of_forecast(forecast, now, expectation, windows, until)
    rows = len(picture.intensity.locations)
    if picture.is_map:
        figure = new_figure(1.6 + 0.26 * rows)
        lowest = _draw_map(figure, picture)
    else:
        figure = new_figure(1.5 + max(0.8 * rows, min(2.4 * rows, 4.6)))
        lowest = _draw_panels(figure, picture)
    margin = (day(picture.end) - day(picture.start)) * 0.004
    lowest.set_xlim(day(picture.start) - margin, day(picture.end) + margin)
    time_axis(lowest, picture.start, picture.end, most=MOST_TICKS)
    lowest.set_xlabel("; ".join(_footnote(picture)), fontsize=8, color=INK)
    table = picture.intensity
    labels = formatting.labels(table.provenance)
    title = f"Carbon intensity [{UNIT}]: {labels}"
    figure.suptitle(short_name(title, 130), fontsize=10.5, fontweight="bold", color=INK, x=0.01, ha="left")
    figure.legend(
        handles=_legend(picture), loc="outside lower center", ncols=5, frameon=False, fontsize=8,
        handlelength=2.6, columnspacing=1.6, borderaxespad=0.0,
    )  # fmt: skip
    return figure


def _cleanest_first(table: IntensityTable) -> list[int]:
    """Return the columns by their mean over time, those without a value last."""
    hours = np.where(np.isnan(table.values), 0.0, np.diff(table.edges_us)[:, None])
    known = hours.sum(axis=0)
    sums = (np.nan_to_num(table.values) * hours).sum(axis=0)
    means = np.where(known > 0, sums / np.maximum(known, 1), np.inf)
    return [int(column) for column in np.argsort(means, kind="stable")]


def _draw_panels(figure: Figure, picture: OutlookPicture) -> Axes:
    """Draw a panel a location; return the lowest."""
    table = picture.intensity
    panels = figure.subplots(len(table.locations), 1, sharex=True, sharey=True, squeeze=False).ravel()
    inside = picture.intensity.slice(picture.start, picture.end)
    shown = [part.values for part in (inside, picture.raw) if part is not None]
    low = min(0.0, *(float(np.nanmin(values, initial=0.0)) for values in shown))
    high = max(1.0, *(float(np.nanmax(values, initial=0.0)) for values in shown))
    panels[0].set_ylim(low * 1.08, high * 1.08)
    panels[0].yaxis.set_major_locator(MaxNLocator(3 if len(panels) > 4 else 5))
    for column, (axes, name) in enumerate(zip(panels, table.locations, strict=True)):
        if picture.raw is not None:
            _step(axes, picture.raw, picture.raw.values[:, column], color=_RAW, linewidth=1.0)
        for origin in picture.origins():
            values = np.where(picture.origin[:, column] == origin, table.values[:, column], np.nan)
            _step(axes, table, values, color=LINE, linewidth=1.7, linestyle=_DASHES.get(origin, "-"))
        if np.isnan(table.values[:, column]).all():
            axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", fontsize=8, color=INK)
        _mark_window(axes, picture.windows.get(name))
        axes.set_title(short_name(name), loc="left", fontsize=9, fontweight="bold", color=INK, pad=3)
        axes.grid(axis="both", color=NO_VALUE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
        if picture.now is not None:
            axes.axvline(day(picture.now), color=DEADLINE, linewidth=1.2)
    figure.supylabel(UNIT, fontsize=9, color=INK)
    lowest: Axes = panels[-1]
    return lowest


def _step(axes: Axes, table: IntensityTable, values: Floats, **style: Any) -> None:
    if not np.isnan(values).all():
        axes.stairs(values, table.edges_us / DAY_US, baseline=None, **style)


def _mark_window(axes: Axes, window: Window | None) -> None:
    """Shade a window, and say above the panel what it saves."""
    if window is None:
        return
    axes.axvspan(day(window.start), day(window.end), color=_SHADE, linewidth=0, zorder=0)
    says = f"{formatting.span(window.start, window.end)}: {formatting.significant(window.g_per_kwh)} g/kWh"
    if window.saving:
        says += f", {formatting.percent(window.saving)} less than now"
    elif window.saving is not None:
        says += ", nothing later is cleaner"
    axes.set_title(says, loc="right", fontsize=8, color=INK, pad=3)


def _draw_map(figure: Figure, picture: OutlookPicture) -> Axes:
    """Draw a row a location, coloured by its intensity."""
    axes = figure.subplots()
    table = picture.intensity.slice(picture.start, picture.end)
    rows = len(picture.intensity.locations)
    left, right = day(picture.start), day(picture.end)
    axes.add_patch(Rectangle((left, -0.5), right - left, rows, facecolor=NO_VALUE))
    if table is not None:
        heat_map(figure, axes, table)
    edges = picture.intensity.edges_us / DAY_US
    for row, name in enumerate(picture.intensity.locations):
        for first, last in _runs(picture.origin[:, row] == "climatology"):
            begin = max(edges[first], left)
            axes.add_patch(Rectangle((begin, row - 0.5), edges[last] - begin, 1, fill=False, **_HATCH))
        if window := picture.windows.get(name):
            begin = day(window.start)
            box = Rectangle((begin, row - 0.42), day(window.end) - begin, 0.84)
            box.set(fill=False, edgecolor=PLANNED, linewidth=1.8)
            axes.add_patch(box)
    if picture.now is not None:
        axes.axvline(day(picture.now), color=DEADLINE, linewidth=1.6)
    names = [short_name(name) for name in picture.intensity.locations]
    axes.set_yticks(range(rows), labels=names, fontsize=8)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    return axes


def _runs(of: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where runs of True begin and end, (first, last + 1)."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], of, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(changes[::2], changes[1::2], strict=True)]


def _legend(picture: OutlookPicture) -> list[Artist]:
    handles: list[Artist] = []
    if picture.is_map:
        if "climatology" in picture.origins():
            handles.append(Patch(label=_SAYS["climatology"], facecolor="#5b6a78", **_HATCH))
        if picture.windows:
            handles.append(Patch(label=_cleanest(picture), fill=False, edgecolor=PLANNED, linewidth=1.8))
    else:
        lines: dict[Any, list[str]] = {}
        for origin in picture.origins():
            lines.setdefault(_DASHES.get(origin, "-"), []).append(origin)
        for style, origins in lines.items():
            says = _SAYS["corrected" if "corrected" in origins else origins[0]]
            handles.append(Line2D([], [], color=LINE, linewidth=1.7, linestyle=style, label=says))
        if picture.raw is not None:
            handles.append(Line2D([], [], color=_RAW, linewidth=1.0, label="as the source said"))
        if picture.windows:
            handles.append(Patch(label=_cleanest(picture), facecolor=_SHADE))
    if picture.now is not None:
        label = f"now, {formatting.instant(picture.now.replace(second=0))}"
        handles.append(Line2D([], [], color=DEADLINE, linewidth=1.4, label=label))
    return handles


def _cleanest(picture: OutlookPicture) -> str:
    assert picture.duration is not None  # there are windows
    return f"cleanest {format_duration(picture.duration)} from now on"


def _footnote(picture: OutlookPicture) -> list[str]:
    parts = [f"time (UTC, {picture.start.year})"]
    if picture.is_map:
        parts.append("cleanest location first")
        if np.isnan(picture.intensity.values).any():
            parts.append("grey: no value")
    if picture.hidden:
        parts.append(f"{picture.hidden} more locations are not shown")
    return parts
