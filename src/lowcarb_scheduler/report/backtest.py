"""The picture of a backtest: how much of what is possible was saved, and how much that is, by deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.backtest.comparison import OURS
from lowcarb_scheduler.report.canvas import INK, LINE, PLANNED, clean, explain, head, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.backtest import Comparison
    from lowcarb_scheduler.intensity import Floats

_HEIGHT_IN: Final = 4.6
_LEAST_APART: Final = 0.047  # of the height: names that are nearer to each other cannot be read
_COLOURS: Final = {
    "ours": LINE, "rolling": "#4f8fc0", "one-shot": "#93b9d6", "flwr-lowcarb-2022": PLANNED,
    "temporal-only": "#9c6b30", "perfect": "#3b7a3b", "bound": INK, "run-now": "#8a8a8a",
}  # fmt: skip
_DASHED: Final = ("bound", "perfect", "run-now")  # what nobody can follow, or would want to


@dataclass(frozen=True, slots=True, eq=False)
class BacktestPicture:
    """The lines of the picture.

    Parameters
    ----------
    deadlines : tuple of float
        In back-to-back times, increasing.
    reductions, errors, captures : mapping of str to ndarray, shape (D,)
        By method: mean reduction, its standard error, and capture, all in %; NaN where there is none.
    """

    deadlines: tuple[float, ...]
    reductions: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    captures: Mapping[str, Floats]


def picture_of_backtest(found: Comparison) -> BacktestPicture:
    """Gather reduction and capture by method, over deadlines."""
    deadlines = tuple(sorted(found.scores))
    rows = [found.scores[deadline] for deadline in deadlines]
    names = [score.method for score in rows[0]]

    def line(field: str) -> dict[str, Floats]:
        return {
            name: 100 * np.array([getattr(row[k], field) for row in rows], dtype=np.float64)
            for k, name in enumerate(names)
        }

    return BacktestPicture(deadlines, line("reduction"), line("reduction_se"), line("capture"))


def plot_backtest(found: Comparison, labels: str) -> Figure:
    """Draw capture and reduction against the deadline, one line a method.

    Parameters
    ----------
    found : Comparison
        What was replayed.
    labels : str
        What the numbers of intensity are.

    Returns
    -------
    matplotlib.figure.Figure
    """
    picture, setting = picture_of_backtest(found), found.setting
    figure = new_figure(_HEIGHT_IN)
    left, right = figure.subplots(1, 2)
    captured = {name: line for name, line in picture.captures.items() if name not in ("bound", "run-now")}
    _draw(left, picture, captured, "capture, % of the bound's mean reduction")
    saved = {name: line for name, line in picture.reductions.items() if name != "run-now"}
    _draw(right, picture, saved, "reduction against run-now, %", picture.errors)
    head(left, f"Backtest: {setting.name}, {found.seeds} starts by deadline", labels)
    clients = f"{setting.rounds} rounds of {setting.clients_per_round} of {setting.clients} clients"
    explain(left, ["deadline, in back-to-back times", clients])
    explain(right, ["deadline, in back-to-back times", "bars: one standard error of ours"])
    return figure


def _draw(
    axes: Axes,
    picture: BacktestPicture,
    lines: Mapping[str, Floats],
    title: str,
    errors: Mapping[str, Floats] | None = None,
) -> None:
    """Draw lines, and beside the end of each its name."""
    places = np.arange(len(picture.deadlines))
    for name, line in lines.items():
        bars = errors[name] if errors is not None and name == OURS else None
        axes.errorbar(
            places, line, bars, color=_COLOURS[name], linestyle="--" if name in _DASHED else "-",
            linewidth=2.6 if name == OURS else 1.5, marker="o", markersize=4, elinewidth=1.2, capsize=3,
        )  # fmt: skip
    axes.set_xticks(places, labels=[f"{deadline:g}x" for deadline in picture.deadlines])
    axes.set_ylabel(title, fontsize=9, color=INK)
    axes.set_xlim(-0.15, places[-1] + 0.15)
    clean(axes)
    low, high = axes.get_ylim()
    ends = {name: float(line[-1]) for name, line in lines.items() if np.isfinite(line[-1])}
    heights = _apart([(end - low) / (high - low) for end in ends.values()])
    for (name, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            name, (places[-1], end), xytext=(1.03, height), textcoords="axes fraction", va="center",
            fontsize=8, color=_COLOURS[name], fontweight="bold" if name == OURS else "normal",
            arrowprops={"arrowstyle": "-", "color": _COLOURS[name], "linewidth": 0.5, "shrinkB": 3},
        )  # fmt: skip


def _apart(heights: list[float]) -> list[float]:
    """Move heights as little as it takes for names to stand apart, in their order, from the top down."""
    order = np.argsort(heights)[::-1]
    moved = np.array(heights)[order]
    for k in range(1, len(moved)):
        moved[k] = min(moved[k], moved[k - 1] - _LEAST_APART)
    found = np.empty(len(moved))
    found[order] = moved
    return found.tolist()
