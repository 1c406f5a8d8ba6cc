"""Style shared by all charts: size, colours, axes, and the spelling of times and names on them."""

from __future__ import annotations

import json
import warnings
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from lowcarb_scheduler.clock import EPOCH, HOUR_US, MICROSECOND, to_us
from lowcarb_scheduler.errors import MissingExtraError, one_line
from lowcarb_scheduler.report.zones import with_name, zone_name

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ImportError:
    raise MissingExtraError("matplotlib", "report") from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from lowcarb_scheduler.intensity import IntensityTable

UNIT: Final = "gCO2eq/kWh"
# Each colour is a role: in the page it becomes a variable of the style sheet, which has values for dark mode.
INK, NO_VALUE, DEADLINE, PLANNED, LINE = "#1b1b1b", "#dedede", "#c2185b", "#e06c00", "#0b4f8a"
SOFT, FAINT = "#5c655e", "#9aa39c"  # secondary marks, and references that results are compared with
ON_HEAT, BOX = "#1c1c1c", "#ffffff"  # on a heat map, which looks the same in light and dark mode
WIDTH_IN: Final = 11.0  # of a chart saved to a file
PAGE_IN, NARROW_IN = 9.0, 4.2  # in the page: on a desktop, with larger letters, and on a phone
DAY_US: Final = 24 * HOUR_US  # matplotlib counts time in days since 1970
MOST_ROWS: Final = 40  # locations that can still be told apart on a heat map
_LONGEST_NAME: Final = 24  # characters
_WIDE_TICKS, _NARROW_TICKS = 14, 4  # most labels of a time axis
_DAY: Final = timedelta(days=1)
# Steps of a time axis: parts of a day, then numbers of days.
_TICKS: Final = (
    *(timedelta(minutes=m) for m in (1, 5, 15, 30, 60, 120, 180, 360, 720)),
    *(timedelta(days=d) for d in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
_DATE_WIDTH: Final = 1.6  # of a date, in widths of a time of day
TIPPED: Final = "tip-"  # begin of the name of a mark that has a text
_COLOURS: Final = "cividis"  # perceptually even, also for readers with a colour vision deficiency


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure; pyplot is not used, so nothing global changes and nothing is shown."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def theme() -> AbstractContextManager[None]:
    """Return a context in which new texts, axes and legends have the style of a chart.

    Ticks are not in it: matplotlib makes them when it draws, outside of the context.
    """
    return matplotlib.rc_context({
        "font.size": 8.5, "text.color": INK, "axes.labelsize": 8.5, "axes.labelcolor": INK,
        "axes.axisbelow": True, "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False,
        "grid.color": NO_VALUE, "grid.linewidth": 0.6, "legend.frameon": False,
    })  # fmt: skip


@contextmanager
def reproducible(salt: str = "lowcarb", text: str = "path") -> Iterator[None]:
    """Write figures such that equal figures give equal files; ``salt`` makes the ids in an SVG unique."""
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": text}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing")  # a name in a script that the font lacks
        yield


def is_narrow(axes: Axes) -> bool:
    """Return whether a chart is drawn for a phone."""
    return float(_figure(axes).get_figwidth()) <= NARROW_IN


def clean(axes: Axes, values: Literal["x", "y", "both"] = "y") -> None:
    """Draw faint grid lines across the axis of values, and labels of ticks."""
    axes.grid(axis=values)
    axes.tick_params(labelsize=8, colors=INK)


def tip(artist: Artist, *texts: str) -> None:
    """Give a mark the text that a browser shows when one points at it; one for each part of a collection.

    The texts travel as the name of the mark in an SVG file, and become titles there.
    """
    if texts:
        artist.set_gid(TIPPED + json.dumps([one_line(text) for text in texts]).encode().hex())


def dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], colour: str, points: float
) -> None:
    """Draw dots of a diameter [points], each with a text, see :func:`tip`."""
    tip(axes.scatter(x, y, s=points**2, color=colour, linewidths=0, zorder=3), *texts)


def day(when: datetime) -> float:
    """Return a time as matplotlib counts it [days since 1970]."""
    return to_us(when) / DAY_US


def time_axis(axes: Axes, start: datetime, end: datetime, margin: float = 0.005) -> None:
    """Show a period in UTC, with ticks on whole hours or days and the date at each midnight.

    Parameters
    ----------
    axes : Axes
        Their horizontal axis becomes the time axis.
    start, end : datetime
        The period.
    margin : float
        Space left free at either end [fraction of the period].
    """
    span = end - start
    most = _NARROW_TICKS if is_narrow(axes) else _WIDE_TICKS
    # A date is wider than a time of day, so fewer of them fit without touching.
    step = next(
        (step for step in _TICKS if span / step <= (most if step < _DAY else most / _DATE_WIDTH)),
        _DAY * span.days,
    )
    first = -(-to_us(start) // (step // MICROSECOND))
    last = to_us(end) // (step // MICROSECOND)
    # The first label has a date, so that the day is known even where no midnight is shown.
    times = [EPOCH + k * step for k in range(first, last + 1)]
    names = []
    for k, when in enumerate(times):
        date = f"{when:%a} {when.day} {when:%b}"
        midnight = when.hour == when.minute == 0
        names.append(date if midnight else f"{when:%H:%M}" if k else f"{when:%H:%M}\n{date}")
    axes.set_xticks([day(when) for when in times], labels=names)
    axes.tick_params(labelsize=8, colors=INK)
    left, right = day(start), day(end)
    room = margin * (right - left or 1 / 24)
    axes.set_xlim(left - room, right + room)


def value_range(axes: Axes, values: Sequence[float], margin: float = 0.12) -> None:
    """Show all values, with some space [fraction of their range] above and below."""
    low, high = min(values), max(values)
    room = margin * (high - low or abs(high) or 1.0)
    axes.set_ylim(low - room, high + room)


def heat_map(
    axes: Axes, table: IntensityTable | None, locations: Sequence[str], start: datetime, end: datetime
) -> None:
    """Draw intensity as colours over time, one row a location, with a colour bar.

    Parameters
    ----------
    axes : Axes
        Empty axes.
    table : IntensityTable or None
        Its columns are ``locations`` [gCO2eq/kWh]; None where no intensity is known.
    locations : sequence of str
        The rows, from the top.
    start, end : datetime
        The period; grey where there is no value.
    """
    left, right, count = day(start), day(end), len(locations)
    axes.add_patch(Rectangle((left, -0.5), right - left, count, facecolor=NO_VALUE))
    if table is not None:
        values = np.ma.masked_invalid(table.values.T)
        # Zero is on the scale: otherwise a small range would look as dramatic as a large one.
        low = min(0.0, float(values.min())) if values.count() else 0.0
        high = max(float(values.max()), low + 1.0) if values.count() else 1.0
        edges, rows = table.edges_us / DAY_US, np.arange(count + 1) - 0.5
        # Rasterized: as vectors, the cells of weeks at many locations would make a page of megabytes.
        mesh = axes.pcolormesh(edges, rows, values, cmap=_COLOURS, vmin=low, vmax=high, rasterized=True)
        place: dict[str, Any] = {"pad": 0.01, "fraction": 0.03, "aspect": 30}
        if is_narrow(axes):
            place = {"location": "bottom", "pad": 0.02, "aspect": 40}
        bar = _figure(axes).colorbar(mesh, ax=axes, **place)
        bar.set_label(UNIT)
        bar.ax.tick_params(labelsize=8, colors=INK)
        bar.outline.set_visible(False)
    time_axis(axes, start, end)
    axes.set_yticks(range(count), labels=[short_name(name) for name in locations], fontsize=8)
    for label, name in zip(axes.get_yticklabels(), locations, strict=True):
        if zone_name(name) is not None:
            tip(label, with_name(name))
    axes.set_ylim(count - 0.5, -0.5)
    axes.spines[:].set_visible(False)


def cleanest_first(table: IntensityTable) -> list[str]:
    """Return the locations by their mean intensity over time, those without a value last."""
    # Steps differ in length, so the mean is weighted by duration; gaps have no weight.
    hours = np.where(np.isnan(table.values), 0.0, np.diff(table.edges_us)[:, None])
    known = hours.sum(axis=0)
    sums = (np.nan_to_num(table.values) * hours).sum(axis=0)
    means = np.where(known > 0, sums / np.maximum(known, 1), np.inf)
    return [table.locations[column] for column in np.argsort(means, kind="stable")]


def short_name(text: str, longest: int = _LONGEST_NAME) -> str:
    """Return an external name as a chart can show it: one short line, and no formula."""
    shown = one_line(text)
    if len(shown) > longest:  # similar names differ at either end
        shown = f"{shown[: longest // 2]}…{shown[-(longest // 2 - 1) :]}"
    return plain(shown)


def plain(text: str) -> str:
    """Return text that matplotlib does not read as a formula."""
    # Text between two dollar signs is a formula, and an invalid formula is an error.
    return text.replace("$", r"\$")


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)  # all charts are drawn on one
    return figure
