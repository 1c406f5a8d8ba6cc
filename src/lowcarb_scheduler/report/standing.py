"""The picture of where a run stood: the front it could choose from when it began, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.canvas import (
    DEADLINE,
    FAINT,
    INK,
    LINE,
    NARROW_IN,
    PLANNED,
    clean,
    day,
    new_figure,
    time_axis,
)
from lowcarb_scheduler.report.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from matplotlib.figure import Figure

    from lowcarb_scheduler.report.accounts import RunFront

_MARGIN: Final = 0.12  # of the range of the values, left free above and below
_MARKS: Final[Mapping[str, dict[str, Any]]] = {
    "run-now": {"marker": "s", "color": INK},
    "planned": {"marker": "D", "markeredgecolor": PLANNED, "markerfacecolor": "none", "markeredgewidth": 2},
    "realised": {"marker": "D", "color": LINE},
}


def picture_of_standing(front: RunFront, finish_by: datetime | None, labels: str) -> Picture:
    """Draw the plans of the start by when they are over and what they emit, and the run among them."""
    first, last = front.frontier.points[0], front.frontier.points[-1]
    title = "What patience could buy when the run began, and where it stood"
    says = [
        f"line: plans of the start, from back-to-back ({wording.mass(first.emissions_g)}) to the most patient"
        f" ({wording.mass(last.emissions_g)})",
        "by when the last round closes (UTC), all in the energy that was drawn",
    ]
    if any(stand.name == "run-now" for stand in front.stands):
        says.append("run-now: random clients, back-to-back")
    if finish_by is not None:
        says.append(f"red line: deadline {wording.instant(finish_by)}")
    return Picture("front", title, labels, tuple(says), lambda width_in: _draw(front, finish_by, width_in))


def _draw(front: RunFront, finish_by: datetime | None, width_in: float) -> Figure:
    points, stands = front.frontier.points, front.stands
    emitted_g = [*(point.emissions_g for point in points), *(stand.emissions_g for stand in stands)]
    unit_g, unit = wording.mass_unit(max(map(abs, emitted_g)))
    finishes = [*(point.finish for point in points), *(stand.finish for stand in stands)]
    start, end = min(finishes), max([*finishes, *([finish_by] if finish_by else [])])
    figure = new_figure(3.4, width_in)
    axes = figure.subplots()
    axes.plot(
        [day(point.finish) for point in points], [point.emissions_g / unit_g for point in points],
        color=FAINT, linewidth=1.6, marker="o", markersize=4, label="plans of the start",
    )  # fmt: skip
    for stand in stands:
        label = f"{stand.name}: {wording.mass(stand.emissions_g)}"
        at = [day(stand.finish)], [stand.emissions_g / unit_g]
        axes.plot(*at, linestyle="none", markersize=8, label=label, **_MARKS[stand.name])
    if finish_by is not None:
        axes.axvline(day(finish_by), color=DEADLINE, linewidth=2)
    clean(axes)
    low, high = min(emitted_g) / unit_g, max(emitted_g) / unit_g
    room = _MARGIN * (high - low or abs(high) or 1.0)
    axes.set_ylim(low - room, high + room)
    room = 0.03 * (day(end) - day(start) or 1 / 24)
    axes.set_xlim(day(start) - room, day(end) + room)
    time_axis(axes, start, end, most=14 if width_in > NARROW_IN else 4)
    axes.set_ylabel(f"emissions of training [{unit}CO2eq]", fontsize=8.5, color=INK)
    axes.legend(loc="best", frameon=False, fontsize=8.5, labelcolor=INK)
    return figure
