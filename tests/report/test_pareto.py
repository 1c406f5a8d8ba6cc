from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from lowcarb_scheduler.intensity import IntensityTable, Provenance
from lowcarb_scheduler.planning.pareto import Frontier, FrontierPoint
from lowcarb_scheduler.report.pareto import plot_tradeoff
from lowcarb_scheduler.report.style import day
from support.figures import svg, words
from support.report_ledger import START

DEADLINE = START + timedelta(hours=24)
BENT = (4, 1800.0), (8, 1300.0), (16, 1200.0)  # hours after START, grams


def front(*points: tuple[float, float], run_now_g: float | None = 2000.0, gap: float = 0.0) -> Frontier:
    return Frontier(
        tuple(
            FrontierPoint(k / max(1, len(points) - 1), START + timedelta(hours=hours), grams,
                          grams * (1 - gap), None if run_now_g is None else 1 - grams / run_now_g)
            for k, (hours, grams) in enumerate(points)
        ),
        run_now_g,
    )  # fmt: skip


def table(source: str = "uk", synthetic: bool = False) -> IntensityTable:
    return IntensityTable(
        np.array([0, 1]), ("GB",), np.ones((1, 1)), Provenance(source, "average", synthetic)
    )


def test_all_values_are_in_the_unit_of_the_largest():
    figure = plot_tradeoff(front(*BENT, gap=0.01), table(), DEADLINE)
    axes = figure.axes[0]
    bounds, plans, beyond, knee, run_now, deadline = axes.lines
    assert axes.get_ylabel() == "expected emissions [kgCO2eq]"
    assert plans.get_ydata() == pytest.approx([1.8, 1.3, 1.2])
    assert bounds.get_ydata() == pytest.approx([1.782, 1.287, 1.188])
    assert "at most 1.00 %" in words(figure)
    assert knee.get_ydata() == pytest.approx([1.3])
    assert run_now.get_ydata() == [2.0, 2.0]
    assert beyond.get_xdata()[-1] == deadline.get_xdata()[0] == day(DEADLINE)
    assert "10.0 % without waiting" in words(figure)


def test_small_emissions_are_in_grams_and_smaller_ones_in_milligrams():
    for unit_g, unit in ((0.3, "g"), (1e-3, "mg")):
        figure = plot_tradeoff(front((1, 2 * unit_g), (2, 1.5 * unit_g), run_now_g=3 * unit_g), table())
        assert figure.axes[0].get_ylabel() == f"expected emissions [{unit}CO2eq]"


def test_a_front_is_drawn_with_units_run_now_knee_bound_and_deadline():
    figure = plot_tradeoff(front(*BENT, gap=0.01), table(), DEADLINE)
    shown = words(figure)
    for part in (
        "data from uk; average grid intensity", "expected emissions [kgCO2eq]",
        "run-now: 2.00 kg (baseline: start immediately, random clients)", "saving against run-now",
        "knee: 2026-03-02 08:00 1.30 kg, 35.0 % below run-now", "gap to the lower bound, at most 1.00 %",
        "10.0 % without waiting", "deadline 2026-03-03 00:00",
    ):  # fmt: skip
        assert part in shown
    svg(figure)  # the second axis is scaled as it is drawn
    axes = figure.axes[0]
    (saving,) = axes.child_axes
    at_run_now = axes.transData.transform((0, 2.0))[1]
    assert saving.transData.transform((0, 0.0))[1] == pytest.approx(at_run_now)
    assert saving.transData.transform((0, 0.35))[1] == pytest.approx(axes.transData.transform((0, 1.3))[1])
    low, high = axes.get_ylim()
    assert low < 1.2 * 0.99
    assert high > 2.0


def test_made_up_numbers_say_so():
    assert "synthetic (made-up) data" in words(plot_tradeoff(front(*BENT), table("synthetic", True)))


def test_a_front_that_meets_its_bound_says_so():
    shown = words(plot_tradeoff(front(*BENT), table()))
    assert "each plan is within 0.01 % of optimal" in shown
    assert "shaded" not in shown


def test_without_run_now_there_is_no_saving():
    figure = plot_tradeoff(front(*BENT, run_now_g=None), table())
    assert "run-now is undefined" in words(figure)
    assert figure.axes[0].child_axes == []


@pytest.mark.parametrize(
    "points", [[(4, 1800.0)], [(4, 0.0)], [(4, 50.0), (9, -40.0), (20, -50.0)], [(4, 9.0), (4.01, 8.0)]]
)
@pytest.mark.parametrize("run_now_g", [2000.0, None])
def test_odd_fronts_are_drawn(points, run_now_g):
    assert "knee" in words(plot_tradeoff(front(*points, run_now_g=run_now_g), table()))
    svg(plot_tradeoff(front(*points, run_now_g=run_now_g), table()))


def test_a_source_is_neither_formula_nor_markup():
    picture = svg(plot_tradeoff(front(*BENT), table(r"$\frac{<script>" + "\n" + "x" * 10_000)))
    assert "<script>" not in picture
    assert len(picture) < 300_000


def test_equal_fronts_give_equal_bytes():
    assert svg(plot_tradeoff(front(*BENT), table())) == svg(plot_tradeoff(front(*BENT), table()))
