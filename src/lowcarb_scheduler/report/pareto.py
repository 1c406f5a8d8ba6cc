"""Charts of the time-carbon trade-off: emissions against the time when a job is over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.style import (
    DEADLINE,
    FAINT,
    INK,
    LINE,
    PLANNED,
    clean,
    day,
    label,
    time_axis,
    value_range,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.attribution import RunFront
    from lowcarb_scheduler.intensity import Floats, IntensityTable
    from lowcarb_scheduler.planning.pareto import Frontier

_ROOM_FOR_CHOICE: Final = 0.15  # fraction of the height that the arrow of the choice of clients needs
_NO_GAP: Final = 1e-4
_TEXT: Final[dict[str, Any]] = {"textcoords": "offset points", "fontsize": 8.5, "color": INK}


# -- Options before a job starts --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Tradeoff:
    """Points of a front, in one unit of mass.

    Parameters
    ----------
    finishes : tuple of datetime, length P
        Finish of each plan, increasing.
    emissions, bounds : ndarray of float64, shape (P,)
        Expected emissions of each plan, and their lower bound [unit].
    gap : float
        Largest optimality gap of the plans.
    run_now : float or None
        Emissions of run-now [unit]; None where they are undefined.
    choice_saving : float or None
        Part of run-now that the first plan saves, by its choice of clients alone; None where no saving is
        defined.
    unit : str
        ``g``, ``kg`` or ``t`` of CO2eq.
    knee : int
        Index of the knee.
    knee_text : str
        Finish, emissions and saving of the knee.
    end : datetime
        End of the chart.
    finish_by : datetime or None
        Deadline.
    """

    finishes: tuple[datetime, ...]
    emissions: Floats
    bounds: Floats
    gap: float
    run_now: float | None
    choice_saving: float | None
    unit: str
    knee: int
    knee_text: str
    end: datetime
    finish_by: datetime | None


def tradeoff_of(front: Frontier, finish_by: datetime | None = None) -> Tradeoff:
    """Return the points of a front, in the unit that suits the largest of them."""
    points, run_now_g, knee = front.points, front.run_now_emissions_g, front.knee
    emissions_g = np.array([point.emissions_g for point in points])
    bounds_g = np.array([point.lower_bound_g for point in points])
    unit_g, unit = formatting.mass_unit(max(float(np.abs(emissions_g).max()), abs(run_now_g or 0.0)))
    saving = "" if knee.saving is None else f", {formatting.percent(knee.saving)} below run-now"
    name = "knee" if front.has_knee or len(points) == 1 else "no knee, earliest"
    return Tradeoff(
        finishes=tuple(point.finish for point in points),
        emissions=emissions_g / unit_g,
        bounds=bounds_g / unit_g,
        gap=max(point.gap for point in points),
        run_now=None if run_now_g is None else run_now_g / unit_g,
        choice_saving=points[0].saving,
        unit=unit,
        knee=points.index(knee),
        knee_text=f"{name}: {formatting.instant(knee.finish)}\n{formatting.mass(knee.emissions_g)}{saving}",
        end=points[-1].finish if finish_by is None else max(points[-1].finish, finish_by),
        finish_by=finish_by,
    )


def plot_tradeoff(front: Frontier, intensity: IntensityTable, finish_by: datetime | None = None) -> Figure:
    """Plot the expected emissions of a job against its finish.

    Parameters
    ----------
    front : Frontier
        The plans.
    intensity : IntensityTable
        The intensity that they were made on; names source and signal.
    finish_by : datetime, optional
        Deadline, marked by a red line.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = tradeoff_of(front, finish_by)
    labels = formatting.labels(intensity.provenance)
    legend = tuple(_legend(shown))
    return Picture(
        "tradeoff", "Time-carbon trade-off", labels, legend, 4.6, partial(_paint_tradeoff, shown)
    ).figure()


def _legend(shown: Tradeoff) -> list[str]:
    parts = [f"time when the last round closes: UTC, {shown.finishes[0].year}", "dots: plans"]
    if shown.gap < _NO_GAP:
        parts.append(f"each plan is within {formatting.percent(_NO_GAP, 2)} of optimal")
    else:
        parts.append(f"shaded: gap to the lower bound, at most {formatting.percent(shown.gap, 2)}")
    if shown.end > shown.finishes[-1]:
        parts.append("dotted: waiting longer saves nothing")
    if shown.run_now is None:
        parts.append("run-now is undefined")
    if shown.finish_by is not None:
        parts.append(f"red line: deadline {formatting.instant(shown.finish_by)}")
    return parts


def _paint_tradeoff(shown: Tradeoff, figure: Figure) -> None:
    axes = figure.subplots()
    clean(axes)
    label(axes, y=f"expected emissions [{shown.unit}CO2eq]")
    run_now = [] if shown.run_now is None else [shown.run_now]
    value_range(axes, [*shown.bounds, *shown.emissions, *run_now])
    time_axis(axes, shown.finishes[0], shown.end, margin=0.02)
    _paint_plans(axes, shown)
    if shown.run_now is not None:
        _paint_run_now(axes, shown.run_now, shown.unit)
        if shown.choice_saving is not None:
            _add_saving_axis(axes, shown.run_now)
            _paint_choice(axes, shown, shown.run_now, shown.choice_saving)
    if shown.finish_by is not None:
        axes.axvline(day(shown.finish_by), color=DEADLINE, linewidth=2)


def _paint_plans(axes: Axes, shown: Tradeoff) -> None:
    finishes, end = [day(when) for when in shown.finishes], day(shown.end)
    axes.fill_between(finishes, shown.bounds, shown.emissions, color=LINE, alpha=0.25, linewidth=0)
    axes.plot(finishes, shown.bounds, color=LINE, alpha=0.35, linewidth=1)
    axes.plot(finishes, shown.emissions, color=LINE, linewidth=1.6, marker="o", markersize=4.5)
    beyond = [finishes[-1], end], [shown.emissions[-1]] * 2
    axes.plot(*beyond, color=LINE, linewidth=1.2, linestyle=":")
    knee = finishes[shown.knee], float(shown.emissions[shown.knee])
    axes.plot(*knee, color=PLANNED, marker="o", markersize=10, markerfacecolor="none", markeredgewidth=2)
    # The label stands on the side with more room, away from the heading and the line of run-now.
    to_right = knee[0] < (finishes[0] + end) / 2
    below = knee[1] > sum(axes.get_ylim()) / 2
    axes.annotate(
        shown.knee_text, knee, xytext=(12 if to_right else -12, -14 if below else 14),
        ha="left" if to_right else "right", va="top" if below else "bottom", linespacing=1.4,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}, **_TEXT,
    )  # fmt: skip


def _paint_run_now(axes: Axes, run_now: float, unit: str) -> None:
    axes.axhline(run_now, color=INK, linewidth=1.2, linestyle="--")
    text = f"run-now: {formatting.significant(run_now)} {unit} (baseline: start immediately, random clients)"
    # Coordinates: x is a fraction of the axes, y a value.
    axes.annotate(text, (0.01, run_now), xycoords=axes.get_yaxis_transform(), xytext=(0, 4), **_TEXT)


def _paint_choice(axes: Axes, shown: Tradeoff, run_now: float, saving: float) -> None:
    """Mark the saving of the choice of clients, where there is room for the text."""
    bottom, top = axes.get_ylim()
    first, at = float(shown.emissions[0]), day(shown.finishes[0])
    if run_now - first < _ROOM_FOR_CHOICE * (top - bottom):
        return
    axes.annotate("", (at, first), (at, run_now), arrowprops={"arrowstyle": "->", "color": INK, "shrinkB": 5})
    text = f"{formatting.percent(saving)} without waiting, by choice of clients alone"
    axes.annotate(text, (at, (run_now + first) / 2), xytext=(8, 0), va="center", **_TEXT)


def _add_saving_axis(axes: Axes, run_now: float) -> None:
    def saved(emissions: Any) -> Any:
        return 1 - emissions / run_now

    def emitted(saving: Any) -> Any:
        return (1 - saving) * run_now

    saving = axes.secondary_yaxis("right", functions=(saved, emitted))
    # Ticks are round numbers but for floating point; + 0.0 turns -0.0 into 0.0.
    saving.yaxis.set_major_formatter(lambda part, _: f"{round(100 * part, 9) + 0.0:g} %")
    saving.set_ylabel("saving against run-now", fontsize=8.5, color=INK)
    saving.tick_params(labelsize=8, colors=INK)
    saving.spines["right"].set_visible(False)


# -- Outcome of a run among its options -------------------------------------------------------------------

_MARKS: Final[Mapping[str, dict[str, Any]]] = {
    "run-now": {"marker": "s", "color": INK},
    "planned": {"marker": "D", "markeredgecolor": PLANNED, "markerfacecolor": "none", "markeredgewidth": 2},
    "realised": {"marker": "D", "color": LINE},
}


def picture_of_outcome(front: RunFront, finish_by: datetime | None, labels: str) -> Picture:
    """Return the chart of the plans that a run could start with, and of its outcome.

    Parameters
    ----------
    front : RunFront
        The plans, and the outcomes run-now, planned and realised as far as they are known.
    finish_by : datetime or None
        Deadline.
    labels : str
        Source and signal of the intensity.
    """
    first, last = front.frontier.points[0], front.frontier.points[-1]
    legend = [
        f"line: plans available at the start, from back-to-back ({formatting.mass(first.emissions_g)})"
        f" to most patient ({formatting.mass(last.emissions_g)})",
        "time when the last round closes: UTC",
        "all emissions are for the energy that training really drew",
    ]
    if any(outcome.name == "run-now" for outcome in front.stands):
        legend.append("run-now: baseline, start immediately, random clients")
    if finish_by is not None:
        legend.append(f"red line: deadline {formatting.instant(finish_by)}")
    title = "Time-carbon trade-off: options at start, and the outcome"
    return Picture("front", title, labels, tuple(legend), 3.4, partial(_paint_outcome, front, finish_by))


def _paint_outcome(front: RunFront, finish_by: datetime | None, figure: Figure) -> None:
    axes = figure.subplots()
    clean(axes)
    points, outcomes = front.frontier.points, front.stands
    emissions_g = [*(point.emissions_g for point in points), *(each.emissions_g for each in outcomes)]
    finishes = [*(point.finish for point in points), *(each.finish for each in outcomes)]
    unit_g, unit = formatting.mass_unit(max(map(abs, emissions_g)))
    label(axes, y=f"emissions of training [{unit}CO2eq]")
    value_range(axes, [grams / unit_g for grams in emissions_g])
    time_axis(axes, min(finishes), max([*finishes, *([finish_by] if finish_by else [])]), margin=0.03)
    axes.plot(
        [day(point.finish) for point in points], [point.emissions_g / unit_g for point in points],
        color=FAINT, linewidth=1.6, marker="o", markersize=4, label="plans at the start",
    )  # fmt: skip
    for outcome in outcomes:
        text = f"{outcome.name}: {formatting.mass(outcome.emissions_g)}"
        at = [day(outcome.finish)], [outcome.emissions_g / unit_g]
        axes.plot(*at, linestyle="none", markersize=8, label=text, **_MARKS[outcome.name])
    if finish_by is not None:
        axes.axvline(day(finish_by), color=DEADLINE, linewidth=2)
    axes.legend(loc="best", frameon=False, fontsize=8.5, labelcolor=INK)
