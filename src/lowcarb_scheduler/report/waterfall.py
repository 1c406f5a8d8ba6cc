"""The picture of the waterfall: what leads from the emissions of run-now to those that were realised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.canvas import FAINT, INK, LINE, NARROW_IN, PLANNED, clean, new_figure
from lowcarb_scheduler.report.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from lowcarb_scheduler.report.accounts import Step

_HALF: Final = 0.31  # of a row: half the height of a bar
_NOTHING: Final = 1e-9  # of run-now: what is left of rounding
_ROOM: Final = {True: 1.16, False: 1.34}  # on a wide and on a narrow picture: for what stands beside bars


def picture_of_waterfall(steps: Sequence[Step], labels: str) -> Picture | None:
    """Return a bar a step, from run-now above to realised below; None where there are no steps."""
    if not steps:
        return None
    run_now_g, realised_g = steps[0].change_g, steps[-1].change_g
    title = f"From run-now ({wording.mass(run_now_g)}) to realised ({wording.mass(realised_g)})"
    says = ("blue: less", "orange: more", "percent are of run-now")
    return Picture("waterfall", title, labels, says, lambda width_in: _draw(steps, width_in))


def _draw(steps: Sequence[Step], width_in: float) -> Figure:
    figure = new_figure(0.5 + 0.36 * len(steps), width_in)
    axes = figure.subplots()
    unit_g, unit = wording.mass_unit(max(abs(step.change_g) for step in steps))
    base_g = steps[0].change_g
    at_g, ends = 0.0, []
    for row, step in enumerate(steps):
        start_g = 0.0 if step.kind == "level" else at_g
        at_g = start_g + step.change_g
        left, right = sorted((start_g / unit_g, at_g / unit_g))
        colour = FAINT if step.kind == "level" else LINE if step.change_g <= 0 else PLANNED
        if row == len(steps) - 1 and step.kind == "level":
            colour = INK
        axes.barh(row, right - left, left=left, height=2 * _HALF, color=colour)
        if row + 1 < len(steps):
            axes.plot([at_g / unit_g] * 2, [row + _HALF, row + 1 - _HALF], color=FAINT, linewidth=0.8)
        axes.annotate(
            _says(step, base_g, unit_g, unit), (right, row), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
        ends += [left, right]
    low, high = min(0.0, *ends), max(ends)
    axes.set_xlim(low, low + (high - low or 1.0) * _ROOM[width_in > NARROW_IN])
    axes.set_yticks(range(len(steps)), labels=[step.name for step in steps])
    axes.set_ylim(len(steps) - 0.5, -0.5)
    clean(axes, "x")
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.set_xlabel(f"emissions of training [{unit}CO2eq]", fontsize=8.5, color=INK)
    return figure


def _says(step: Step, base_g: float, unit_g: float, unit: str) -> str:
    if abs(step.change_g) < _NOTHING * abs(base_g):
        return "0"
    value = wording.significant(abs(step.change_g) / unit_g)
    if step.kind == "level":
        return f"{'−' if step.change_g < 0 else ''}{value} {unit}"
    sign = "−" if step.change_g < 0 else "+"
    part = f" ({sign}{wording.percent(abs(step.change_g) / base_g)})" if base_g > 0 else ""
    return f"{sign}{value} {unit}{part}"
