"""What pictures share: size, colours, heading, and how times and names stand on an axis."""

from __future__ import annotations

import textwrap
import warnings
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from lowcarb_scheduler.clock import EPOCH, HOUR_US, MICROSECOND, to_us
from lowcarb_scheduler.errors import MissingExtraError, one_line

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise MissingExtraError("matplotlib", "report") from None

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from lowcarb_scheduler.intensity import IntensityTable

UNIT: Final = "gCO2eq/kWh"
INK, NO_VALUE, DEADLINE, PLANNED, LINE = "#1b1b1b", "#dedede", "#c2185b", "#e06c00", "#0b4f8a"
SOFT, FAINT = "#5c655e", "#9aa39c"  # what stands beside the subject, and what it is compared with
ON_HEAT, BOX = "#1c1c1c", "#ffffff"  # on a heat map, which looks the same in light and dark
WIDTH_IN: Final = 11.0
PAGE_IN, NARROW_IN = 9.0, 4.2  # on a page, where letters are to be larger, and on a phone
DAY_US: Final = 24 * HOUR_US  # matplotlib counts time in days since 1970
_LONGEST_NAME, _LONGEST_LABELS, _LONGEST_LEGEND = 24, 120, 160  # characters
_DAY: Final = timedelta(days=1)
_TICKS: Final = (
    *(timedelta(minutes=m) for m in (1, 5, 15, 30, 60, 120, 180, 360, 720)),
    *(timedelta(days=d) for d in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
_WIDER: Final = 1.6  # how much more room a date takes than a time of day
_COLOURS: Final = "cividis"  # perceptually even, the same for the colour-blind


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty figure, built without pyplot."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


@contextmanager
def writing(salt: str = "lowcarb", text: str = "path") -> Iterator[None]:
    """Write figures so that equal ones give equal files; names in them are those of the salt."""
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": text}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing")  # a name in a script the font lacks
        yield


def is_narrow(axes: Axes) -> bool:
    """Return whether a picture is drawn for a phone."""
    figure = axes.get_figure(root=True)
    return figure is not None and float(figure.get_figwidth()) <= NARROW_IN


def clean(axes: Axes, values: Literal["x", "y"] = "y") -> None:
    """Leave of the frame what is needed: faint lines to read values by, on the axis that has them."""
    axes.grid(axis=values, color=NO_VALUE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, colors=INK)


def whole_numbers(axis: Axis, most: int) -> None:
    """Put ticks on whole numbers, at most so many."""
    axis.set_major_locator(MaxNLocator(most, integer=True))


def head(axes: Axes, title: str, labels: str) -> None:
    """Write a title, and below it what the numbers are."""
    axes.set_title(f"{title}\n", loc="left", fontsize=11, fontweight="bold", color=INK)
    above: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "fontsize": 8.5, "color": INK}
    axes.annotate(short_name(labels, _LONGEST_LABELS), (0, 1), xycoords="axes fraction", **above)


def explain(axes: Axes, parts: Iterable[str]) -> None:
    """Write below the axis what is to be seen."""
    axes.set_xlabel(textwrap.fill("; ".join(parts), _LONGEST_LEGEND), fontsize=8, color=INK)


def day(when: datetime) -> float:
    """Return a time as matplotlib counts it."""
    return to_us(when) / DAY_US


def time_axis(axes: Axes, start: datetime, end: datetime, most: int) -> None:
    """Put ticks on whole hours or days in UTC, at most so many, and name the day at each midnight.

    Fewer where they are days: no label meets the next one.
    """
    span = end - start
    step = next(
        (step for step in _TICKS if span / step <= (most if step < _DAY else most / _WIDER)), _DAY * span.days
    )
    first = -(-to_us(start) // (step // MICROSECOND))
    last = to_us(end) // (step // MICROSECOND)
    times = [EPOCH + k * step for k in range(first, last + 1)]
    names = []
    for k, when in enumerate(times):
        date = f"{when:%a} {when.day} {when:%b}"
        midnight = when.hour == when.minute == 0
        names.append(date if midnight else f"{when:%H:%M}" if k else f"{when:%H:%M}\n{date}")
    axes.set_xticks([day(when) for when in times], labels=names)
    axes.tick_params(labelsize=8, colors=INK)


def heat_map(figure: Figure, axes: Axes, table: IntensityTable) -> None:
    """Draw intensity as colours, one row a location, with its scale beside it."""
    values = np.ma.masked_invalid(table.values.T)
    rows = np.arange(len(table.locations) + 1) - 0.5
    low = min(0.0, float(values.min())) if values.count() else 0.0
    high = max(float(values.max()), low + 1.0) if values.count() else 1.0
    edges = table.edges_us / DAY_US
    mesh = axes.pcolormesh(edges, rows, values, cmap=_COLOURS, vmin=low, vmax=high, rasterized=True)
    if is_narrow(axes):
        bar = figure.colorbar(mesh, ax=axes, location="bottom", pad=0.02, aspect=40)
    else:
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, fraction=0.03, aspect=30)
    bar.set_label(UNIT, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def short_name(text: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name from outside as a picture can hold it: one line, not too long, and no formula."""
    shown = one_line(text)
    if len(shown) > longest:  # what tells names apart stands at either end
        shown = f"{shown[: longest // 2]}…{shown[-(longest // 2 - 1) :]}"
    return shown.replace("$", r"\$")
