"""The picture of a front: when the job is over against what it is expected to emit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.style import (
    DEADLINE,
    FAINT,
    INK,
    LINE,
    NARROW_IN,
    NO_VALUE,
    PLANNED,
    clean,
    day,
    explain,
    head,
    new_figure,
    time_axis,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.attribution import RunFront
    from lowcarb_scheduler.intensity import Floats, IntensityTable
    from lowcarb_scheduler.planning.pareto import Frontier

_HEIGHT_IN: Final = 5.0
_MARGIN: Final = 0.12  # of the range of the values, left free above and below
_ROOM_FOR_WHO: Final = 0.15  # of the height
_NO_GAP: Final = 1e-4
_LABEL: Final[dict[str, Any]] = {"textcoords": "offset points", "fontsize": 8.5, "color": INK}


@dataclass(frozen=True, slots=True, eq=False)
class FrontPicture:
    """A front in one unit of mass.

    Parameters
    ----------
    finishes : tuple of datetime, length P
        When the points are over, in order.
    emissions, bounds : ndarray of float64, shape (P,)
        What they are expected to emit, and what no plan can be below [unit].
    gap : float
        The largest of the points.
    run_now : float or None
        Random clients back-to-back [unit]; None where it is undefined.
    who_saves : float or None
        Part of run-now that the first point saves without waiting, only by who trains; None where no saving
        is defined.
    unit : str
        ``g``, ``kg`` or ``t`` of CO2eq.
    knee : int
        Which point it is.
    knee_says : str
        Finish, emissions and saving there.
    end : datetime
        The picture's: the deadline where there is one.
    finish_by : datetime or None
        The deadline.
    """

    finishes: tuple[datetime, ...]
    emissions: Floats
    bounds: Floats
    gap: float
    run_now: float | None
    who_saves: float | None
    unit: str
    knee: int
    knee_says: str
    end: datetime
    finish_by: datetime | None


def picture_of_front(front: Frontier, finish_by: datetime | None = None) -> FrontPicture:
    """Gather the points of a front, in the unit that suits the largest of them."""
    points, run_now_g, knee = front.points, front.run_now_emissions_g, front.knee
    emissions_g = np.array([point.emissions_g for point in points])
    bounds_g = np.array([point.lower_bound_g for point in points])
    unit_g, unit = formatting.mass_unit(max(float(np.abs(emissions_g).max()), abs(run_now_g or 0.0)))
    saving = "" if knee.saving is None else f", {formatting.percent(knee.saving)} below run-now"
    name = "knee" if front.has_knee or len(points) == 1 else "no knee, earliest"
    return FrontPicture(
        finishes=tuple(point.finish for point in points),
        emissions=emissions_g / unit_g,
        bounds=bounds_g / unit_g,
        gap=max(point.gap for point in points),
        run_now=None if run_now_g is None else run_now_g / unit_g,
        who_saves=points[0].saving,
        unit=unit,
        knee=points.index(knee),
        knee_says=f"{name}: {formatting.instant(knee.finish)}\n{formatting.mass(knee.emissions_g)}{saving}",
        end=points[-1].finish if finish_by is None else max(points[-1].finish, finish_by),
        finish_by=finish_by,
    )


def plot_tradeoff(front: Frontier, intensity: IntensityTable, finish_by: datetime | None = None) -> Figure:
    """Draw when the job is over against what it is expected to emit.

    Parameters
    ----------
    front : Frontier
        What waiting buys.
    intensity : IntensityTable
        What it rests on; says what the numbers are.
    finish_by : datetime, optional
        The deadline.

    Returns
    -------
    matplotlib.figure.Figure
    """
    picture = picture_of_front(front, finish_by)
    figure = new_figure(_HEIGHT_IN)
    axes = figure.subplots()
    _scale(axes, picture)
    _draw_points(axes, picture)
    if picture.run_now is not None:
        _draw_run_now(axes, picture.run_now, picture.unit)
    if picture.run_now is not None and picture.who_saves is not None:
        _add_saving_axis(axes, picture.run_now)
        _mark_who(axes, picture, picture.run_now, picture.who_saves)
    if picture.finish_by is not None:
        axes.axvline(day(picture.finish_by), color=DEADLINE, linewidth=2)
    axes.set_ylabel(f"expected emissions [{picture.unit}CO2eq]", fontsize=9, color=INK)
    axes.grid(axis="y", color=NO_VALUE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    labels = formatting.labels(intensity.provenance)
    head(axes, "What waiting buys", labels)
    explain(axes, _legend(picture))
    return figure


def _scale(axes: Axes, picture: FrontPicture) -> None:
    """Show all values with some room, and time from the first point to the end."""
    values = [*picture.bounds, *picture.emissions, *([] if picture.run_now is None else [picture.run_now])]
    low, high = min(values), max(values)
    room = _MARGIN * (high - low or abs(high) or 1.0)
    axes.set_ylim(low - room, high + room)
    left, right = day(picture.finishes[0]), day(picture.end)
    room = 0.02 * (right - left or 1 / 24)
    axes.set_xlim(left - room, right + room)
    time_axis(axes, picture.finishes[0], picture.end, most=14)


def _draw_points(axes: Axes, picture: FrontPicture) -> None:
    finishes = [day(when) for when in picture.finishes]
    axes.fill_between(finishes, picture.bounds, picture.emissions, color=LINE, alpha=0.25, linewidth=0)
    axes.plot(finishes, picture.bounds, color=LINE, alpha=0.35, linewidth=1)
    axes.plot(finishes, picture.emissions, color=LINE, linewidth=1.6, marker="o", markersize=4.5)
    beyond, last = [finishes[-1], day(picture.end)], [picture.emissions[-1]] * 2
    axes.plot(beyond, last, color=LINE, linewidth=1.2, linestyle=":")
    knee = finishes[picture.knee], float(picture.emissions[picture.knee])
    axes.plot(*knee, color=PLANNED, marker="o", markersize=10, markerfacecolor="none", markeredgewidth=2)
    # The label stands on the side with more room, away from the heading and the line of run-now.
    to_right = knee[0] < (finishes[0] + day(picture.end)) / 2
    below = knee[1] > sum(axes.get_ylim()) / 2
    axes.annotate(
        picture.knee_says, knee, xytext=(12 if to_right else -12, -14 if below else 14),
        ha="left" if to_right else "right", va="top" if below else "bottom", linespacing=1.4,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}, **_LABEL,
    )  # fmt: skip


def _draw_run_now(axes: Axes, run_now: float, unit: str) -> None:
    axes.axhline(run_now, color=INK, linewidth=1.2, linestyle="--")
    says = f"run now: {formatting.significant(run_now)} {unit} (random clients, back-to-back)"
    place = axes.get_yaxis_transform()  # x: part of the axes, y: value
    axes.annotate(says, (0.01, run_now), xycoords=place, xytext=(0, 4), **_LABEL)


def _mark_who(axes: Axes, picture: FrontPicture, run_now: float, saves: float) -> None:
    """Say, where there is room for it, what is saved before any waiting."""
    bottom, top = axes.get_ylim()
    first, at = float(picture.emissions[0]), day(picture.finishes[0])
    if run_now - first < _ROOM_FOR_WHO * (top - bottom):
        return
    axes.annotate("", (at, first), (at, run_now), arrowprops={"arrowstyle": "->", "color": INK, "shrinkB": 5})
    says = f"{formatting.percent(saves)} without waiting, only by who trains"
    axes.annotate(says, (at, (run_now + first) / 2), xytext=(8, 0), va="center", **_LABEL)


def _add_saving_axis(axes: Axes, run_now: float) -> None:
    def saved(emissions: Any) -> Any:
        return 1 - emissions / run_now

    def emitted(saving: Any) -> Any:
        return (1 - saving) * run_now

    saving = axes.secondary_yaxis("right", functions=(saved, emitted))
    saving.yaxis.set_major_formatter(lambda part, _: f"{round(100 * part, 9) + 0.0:g} %")
    saving.set_ylabel("saving against run-now", fontsize=9, color=INK)
    saving.tick_params(labelsize=8, colors=INK)
    saving.spines["right"].set_visible(False)


def _legend(picture: FrontPicture) -> list[str]:
    parts = [f"when the last round closes (UTC, {picture.finishes[0].year})", "dots: plans"]
    if picture.gap < _NO_GAP:
        parts.append(f"no plan can be {formatting.percent(_NO_GAP, 2)} below them")
    else:
        parts.append(
            f"shaded: down to what no plan can be below, at most {formatting.percent(picture.gap, 2)}"
        )
    if picture.end > picture.finishes[-1]:
        parts.append("dotted: longer waiting buys nothing")
    if picture.run_now is None:
        parts.append("run-now is undefined")
    if picture.finish_by is not None:
        parts.append(f"red line: deadline {formatting.instant(picture.finish_by)}")
    return parts


# -- The picture of where a run stood: the front it could choose from when it began, and what became of it --

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
        f"line: plans of the start, from back-to-back ({formatting.mass(first.emissions_g)})"
        f" to the most patient ({formatting.mass(last.emissions_g)})",
        "by when the last round closes (UTC), all in the energy that was drawn",
    ]
    if any(stand.name == "run-now" for stand in front.stands):
        says.append("run-now: random clients, back-to-back")
    if finish_by is not None:
        says.append(f"red line: deadline {formatting.instant(finish_by)}")
    return Picture("front", title, labels, tuple(says), lambda width_in: _draw(front, finish_by, width_in))


def _draw(front: RunFront, finish_by: datetime | None, width_in: float) -> Figure:
    points, stands = front.frontier.points, front.stands
    emitted_g = [*(point.emissions_g for point in points), *(stand.emissions_g for stand in stands)]
    unit_g, unit = formatting.mass_unit(max(map(abs, emitted_g)))
    finishes = [*(point.finish for point in points), *(stand.finish for stand in stands)]
    start, end = min(finishes), max([*finishes, *([finish_by] if finish_by else [])])
    figure = new_figure(3.4, width_in)
    axes = figure.subplots()
    axes.plot(
        [day(point.finish) for point in points], [point.emissions_g / unit_g for point in points],
        color=FAINT, linewidth=1.6, marker="o", markersize=4, label="plans of the start",
    )  # fmt: skip
    for stand in stands:
        label = f"{stand.name}: {formatting.mass(stand.emissions_g)}"
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
