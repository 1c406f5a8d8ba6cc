"""Charts of the time-carbon trade-off: emissions against the time when a job is over."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.report import formatting, style
from lowcarb_scheduler.report.figure import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.attribution import Outcome, RunFront
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.pareto import Frontier, Option

_ROOM_FOR_CHOICE: Final = 0.15  # fraction of the height that the arrow of the choice of clients needs
_SAME: Final = 2e-3  # relative difference of two fronts that look alike
_NO_GAP: Final = 1e-4  # a smaller gap cannot be seen in the chart
_MARKS: Final[Mapping[str, dict[str, Any]]] = {
    "run-now": {"marker": "s", "color": style.INK},
    "planned": {"marker": "D", "markeredgecolor": style.PLANNED, "mfc": "none", "markeredgewidth": 2},
    "realised": {"marker": "D", "color": style.LINE},
}


# -- Options before a job starts ---------------------------------------------------------------------------


def plot_tradeoff(
    front: Frontier, intensity: IntensityTable, finish_by: datetime | None = None,
    variety: Sequence[Option] = (),
) -> Figure:  # fmt: skip
    """Plot the expected emissions of a job against its finish.

    Parameters
    ----------
    front : Frontier
        The plans.
    intensity : IntensityTable
        The intensity that they were made on; names source and signal.
    finish_by : datetime, optional
        Deadline, marked by a red line.
    variety : sequence of Option
        Other rules, each a thin line with its name.

    Returns
    -------
    matplotlib.figure.Figure
    """
    labels, legend = formatting.labels(intensity.provenance), tuple(_legend(front, finish_by))
    if variety:
        legend += ("thin lines: other rules of balance and of turns",)
    paint = partial(_paint_tradeoff, front, finish_by, variety)
    return Picture("tradeoff", "Time-carbon trade-off", labels, legend, 4.6, paint).figure()


def _legend(front: Frontier, finish_by: datetime | None) -> list[str]:
    parts = [f"time when the last round closes: UTC, {front.points[0].finish.year}", "dots: plans"]
    gap = max(point.gap for point in front.points)
    if gap < _NO_GAP:
        parts.append(f"each plan is within {formatting.percent(_NO_GAP, 2)} of optimal")
    else:
        parts.append(f"shaded: gap to the lower bound, at most {formatting.percent(gap, 2)}")
    if finish_by is not None and finish_by > front.points[-1].finish:
        parts.append("dotted: waiting longer saves nothing")
    if front.run_now_emissions_g is None:
        parts.append("run-now is undefined")
    if finish_by is not None:
        parts.append(f"red line: deadline {formatting.instant(finish_by)}")
    return parts


def _paint_tradeoff(
    front: Frontier, finish_by: datetime | None, variety: Sequence[Option], figure: Figure
) -> None:
    axes = figure.subplots()
    style.clean(axes)
    points, run_now_g = front.points, front.run_now_emissions_g
    levels_g = [*(point.emissions_g for point in points), *([] if run_now_g is None else [run_now_g])]
    levels_g += [point.emissions_g for option in variety for point in option.front.points]
    unit_g, unit = formatting.mass_unit(max(map(abs, levels_g)))
    finishes = [style.day(point.finish) for point in points]
    emissions = [point.emissions_g / unit_g for point in points]
    bounds = [point.lower_bound_g / unit_g for point in points]
    end = points[-1].finish if finish_by is None else max(points[-1].finish, finish_by)
    axes.set_ylabel(f"expected emissions [{unit}CO2eq]")
    style.value_range(axes, [*bounds, *(grams / unit_g for grams in levels_g)])
    style.time_axis(axes, points[0].finish, end, margin=0.02)

    axes.fill_between(finishes, bounds, emissions, color=style.LINE, alpha=0.25, linewidth=0)
    axes.plot(finishes, bounds, color=style.LINE, alpha=0.35, linewidth=1)
    axes.plot(finishes, emissions, color=style.LINE, linewidth=1.6, marker="o", markersize=4.5)
    for option in variety:
        # A rule that costs nothing would only cover the front.
        if abs(option.front.points[-1].emissions_g / points[-1].emissions_g - 1) > _SAME:
            _plot_option(axes, option, unit_g)
    beyond = [finishes[-1], style.day(end)], [emissions[-1]] * 2
    axes.plot(*beyond, color=style.LINE, linewidth=1.2, linestyle=":")
    _mark_knee(axes, front, unit_g)
    if run_now_g is not None:
        _mark_run_now(axes, front, run_now_g / unit_g, unit_g, unit)
    if finish_by is not None:
        axes.axvline(style.day(finish_by), color=style.DEADLINE, linewidth=2)


def _plot_option(axes: Axes, option: Option, unit_g: float) -> None:
    days = [style.day(point.finish) for point in option.front.points]
    emissions = [point.emissions_g / unit_g for point in option.front.points]
    line = "--" if option.rule == "turns" else "-"
    axes.plot(days, emissions, color=style.INK, alpha=0.45, linewidth=0.9, linestyle=line)
    axes.annotate(
        f"{option.rule} {option.name}", (days[-1], emissions[-1]), xytext=(-3, 3), ha="right",
        textcoords="offset points", va="bottom", fontsize=7, color=style.INK,
    )  # fmt: skip


def _mark_knee(axes: Axes, front: Frontier, unit_g: float) -> None:
    knee = front.knee
    at = style.day(knee.finish), knee.emissions_g / unit_g
    axes.plot(*at, color=style.PLANNED, marker="o", markersize=10, mfc="none", markeredgewidth=2)
    name = "knee" if front.has_knee or len(front.points) == 1 else "no knee, earliest"
    saving = "" if knee.saving is None else f", {formatting.percent(knee.saving)} below run-now"
    text = f"{name}: {formatting.instant(knee.finish)}\n{formatting.mass(knee.emissions_g)}{saving}"
    # The text stands on the side with more room, away from the heading and the line of run-now.
    to_right = at[0] < sum(axes.get_xlim()) / 2
    below = at[1] > sum(axes.get_ylim()) / 2
    axes.annotate(
        text, at, xytext=(12 if to_right else -12, -14 if below else 14), textcoords="offset points",
        ha="left" if to_right else "right", va="top" if below else "bottom", linespacing=1.4,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _mark_run_now(axes: Axes, front: Frontier, run_now: float, unit_g: float, unit: str) -> None:
    """Draw the line of run-now, the scale of savings, and the saving by choice of clients."""
    axes.axhline(run_now, color=style.INK, linewidth=1.2, linestyle="--")
    amount = f"{formatting.significant(run_now)} {unit}"
    text = f"run-now: {amount} (baseline: start immediately, random clients)"
    # Coordinates: x is a fraction of the axes, y a value.
    place = axes.get_yaxis_transform()
    axes.annotate(text, (0.01, run_now), xycoords=place, xytext=(0, 4), textcoords="offset points")
    first = front.points[0]
    if first.saving is None:
        return

    def saved(emissions: Any) -> Any:
        return 1 - emissions / run_now

    def emitted(saving: Any) -> Any:
        return (1 - saving) * run_now

    scale = axes.secondary_yaxis("right", functions=(saved, emitted))
    # Ticks are round numbers but for floating point; + 0.0 turns -0.0 into 0.0.
    scale.yaxis.set_major_formatter(lambda part, _: f"{round(100 * part, 9) + 0.0:g} %")
    scale.set_ylabel("saving against run-now")
    scale.tick_params(labelsize=8, colors=style.INK)
    scale.spines["right"].set_visible(False)
    bottom, top = axes.get_ylim()
    level, at = first.emissions_g / unit_g, style.day(first.finish)
    if run_now - level >= _ROOM_FOR_CHOICE * (top - bottom):
        arrow = {"arrowstyle": "->", "color": style.INK, "shrinkB": 5}
        axes.annotate("", (at, level), (at, run_now), arrowprops=arrow)
        text = f"{formatting.percent(first.saving)} without waiting, by choice of clients alone"
        middle = at, (run_now + level) / 2
        axes.annotate(text, middle, xytext=(8, 0), textcoords="offset points", va="center")


# -- Outcome of a run among its options --------------------------------------------------------------------


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
    first, last = (formatting.mass(front.frontier.points[k].emissions_g) for k in (0, -1))
    legend = [
        f"line: plans available at the start, from back-to-back ({first}) to most patient ({last})",
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
    style.clean(axes)
    points, outcomes = front.frontier.points, front.stands
    emissions_g = [*(point.emissions_g for point in points), *(each.emissions_g for each in outcomes)]
    finishes = [*(point.finish for point in points), *(each.finish for each in outcomes)]
    unit_g, unit = formatting.mass_unit(max(map(abs, emissions_g)))
    axes.set_ylabel(f"emissions of training [{unit}CO2eq]")
    style.value_range(axes, [grams / unit_g for grams in emissions_g])
    end = max([*finishes, *([] if finish_by is None else [finish_by])])
    style.time_axis(axes, min(finishes), end, margin=0.03)
    line = [style.day(point.finish) for point in points], [point.emissions_g / unit_g for point in points]
    axes.plot(*line, color=style.FAINT, linewidth=1.6, label="plans at the start")
    texts = [
        f"patience {formatting.patience(point.patience)}: {formatting.mass(point.emissions_g)}, "
        f"finish {formatting.instant(point.finish)} UTC"
        for point in points
    ]
    style.dots(axes, *line, texts, style.FAINT, 5)
    for outcome in outcomes:
        text = f"{_name(outcome, front.first_round)}: {formatting.mass(outcome.emissions_g)}"
        at = [style.day(outcome.finish)], [outcome.emissions_g / unit_g]
        (mark,) = axes.plot(*at, linestyle="none", markersize=8, label=text, **_MARKS[outcome.name])
        style.tip(mark, f"{text}, finish {formatting.instant(outcome.finish)} UTC")
    if finish_by is not None:
        axes.axvline(style.day(finish_by), color=style.DEADLINE, linewidth=2)
    axes.legend(loc="best", fontsize=8.5)


def _name(outcome: Outcome, first_round: int) -> str:
    """Name a mark; the same name elsewhere in a report has the same value."""
    if outcome.name == "planned":
        return "planned, for the energy really drawn"
    name = f"{outcome.name}, expected at the start" if outcome.is_expected else outcome.name
    return name if first_round == 1 else f"{name}, from round {first_round} on"
