"""Chart of a backtest."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lowcarb_scheduler.backtest import METHODS, Comparison, Score
from lowcarb_scheduler.report.charts import plot_backtest
from lowcarb_scheduler.report.figure import save
from support.backtest_world import BEGIN, DAY, HOUR, SCENARIO
from support.figures import texts


def comparison(*deadlines: float, error: float | None = 0.01) -> Comparison:
    def score(name: str, deadline: float) -> Score:
        reduction = {"run-now": 0.0, "bound": 0.5}.get(name, 0.2 + 0.01 * deadline)
        return Score(name, 1e3, reduction, error, 0.0, error, reduction / 0.5, 1.0, 3, 3, 0.1)

    scores = {each: tuple(score(name, each) for name in METHODS) for each in deadlines}
    return Comparison(SCENARIO, 3, (BEGIN, BEGIN + 9 * DAY), 6 * HOUR, scores)


def drawn(found: Comparison, axes: int):
    """Return the deadlines of a panel, the scheduler's values, and the lengths of its error bars."""
    panel = plot_backtest(found, "x").axes[axes]
    (line,) = (each for each in panel.containers if each.get_label() == "scheduler")
    segments = line[2][0].get_segments() if line[2] else []
    bars = [segment[1, 1] - segment[0, 1] for segment in segments if len(segment)]
    return [label.get_text() for label in panel.get_xticklabels()], line[0].get_ydata(), bars


def test_lines_go_from_the_nearest_deadline_to_the_farthest():
    deadlines, captures, _ = drawn(comparison(4.0, 1.0), 0)
    assert deadlines == ["1x", "4x"]
    assert captures == pytest.approx([42.0, 48.0])
    deadlines, reductions, bars = drawn(comparison(4.0, 1.0), 1)
    assert deadlines == ["1x", "4x"]
    assert reductions == pytest.approx([21.0, 24.0])
    assert bars == pytest.approx([2.0, 2.0])  # one standard error to either side


def test_every_line_is_named_and_no_name_covers_another():
    figure = plot_backtest(comparison(1.0, 2.0), "data from x; average grid intensity")
    shown = texts(figure)
    assert {*METHODS} - {"run-now"} <= set(shown)
    assert any("average grid intensity" in text for text in shown)
    figure.canvas.draw()
    for axes in figure.axes:
        name_height = 8 / 72 * figure.dpi / axes.get_window_extent().height  # of its font, a part of the axes
        heights = sorted(text.xyann[1] for text in axes.texts if text.get_text() in METHODS)
        assert len(heights) >= 6
        assert all(above - below >= name_height for below, above in pairwise(heights))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_one_start_and_one_deadline_are_drawn_too(tmp_path, kind):
    found = comparison(1.0, error=None)
    save(plot_backtest(found, "x"), tmp_path / f"chart.{kind}")
    assert (tmp_path / f"chart.{kind}").stat().st_size
    _, _, bars = drawn(found, 1)
    assert bars == []
