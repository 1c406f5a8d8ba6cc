"""What pictures share: size, colours, heading, and how times and names stand on an axis."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import EPOCH, HOUR_US, MICROSECOND, to_us
from lowcarb_scheduler.errors import MissingExtraError, one_line

try:
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError("matplotlib", "report") from None

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from matplotlib.axes import Axes

INK, NO_VALUE, DEADLINE, PLANNED, LINE = "#1b1b1b", "#dedede", "#c2185b", "#e06c00", "#0b4f8a"
WIDTH_IN: Final = 11.0
DAY_US: Final = 24 * HOUR_US  # matplotlib counts time in days since 1970
_LONGEST_NAME, _LONGEST_LABELS, _LONGEST_LEGEND = 24, 120, 160  # characters
_TICKS: Final = tuple(
    timedelta(hours=h) for h in (1 / 60, 1 / 12, 0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 120, 240)
)


def new_figure(height_in: float) -> Figure:
    """Return an empty figure of the one width, built without pyplot."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


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
    """Put ticks on whole hours or days in UTC, at most so many, and name the day at each midnight."""
    step = next((step for step in _TICKS if (end - start) / step <= most), (end - start) / most)
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


def short_name(text: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name from outside as a picture can hold it: one line, not too long, and no formula."""
    shown = one_line(text)
    if len(shown) > longest:  # what tells names apart stands at either end
        shown = f"{shown[: longest // 2]}…{shown[-(longest // 2 - 1) :]}"
    return shown.replace("$", r"\$")
