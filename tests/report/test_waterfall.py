from __future__ import annotations

from itertools import pairwise

import pytest

from lowcarb_scheduler.accounting.attribution import Step
from lowcarb_scheduler.report.charts import picture_of_waterfall
from lowcarb_scheduler.report.style import LINE, PLANNED

STEPS = (
    Step("run-now", 4000.0, "level"), Step("choice of clients", -900.0, "change"),
    Step("choice of time", -600.0, "change"), Step("forecast error", 200.0, "change"),
    Step("overruns", 1e-13, "change"), Step("realised", 2700.0, "level"),
)  # fmt: skip


def drawn(steps=STEPS, width_in=4.2):
    figure = picture_of_waterfall(steps, "made up").draw(width_in)
    axes = figure.axes[0]
    bars = [bar for group in axes.containers for bar in group]
    return bars, [text.get_text() for text in axes.texts], axes


def test_each_bar_begins_where_the_one_before_ends():
    bars, _, _ = drawn()
    ends = [{round(bar.get_x(), 9), round(bar.get_x() + bar.get_width(), 9)} for bar in bars]
    assert ends[0] == {0.0, 4.0}
    assert ends[-1] == {0.0, 2.7}
    assert all(one & other for one, other in pairwise(ends))


def test_less_and_more_are_told_apart():
    from matplotlib.colors import to_hex

    bars, _, _ = drawn()
    assert [to_hex(bar.get_facecolor()) for bar in bars[1:4]] == [LINE, LINE, PLANNED]


def test_values_have_a_sign_and_what_rounding_left_is_nothing():
    _, texts, axes = drawn()
    assert texts == [
        "4.00 kg",
        "−0.900 kg (−22.5 %)",
        "−0.600 kg (−15.0 %)",
        "+0.200 kg (+5.0 %)",
        "0",
        "2.70 kg",
    ]
    assert axes.get_xlabel() == "emissions of training [kgCO2eq]"


@pytest.mark.parametrize("level", [0.0, -50.0])
def test_levels_that_are_not_positive_are_drawn(level):
    steps = (
        Step("run-now", level, "level"),
        Step("choice of time", 5.0, "change"),
        Step("realised", level + 5, "level"),
    )
    bars, texts, _ = drawn(steps)
    assert len(bars) == len(texts) == 3


def test_without_steps_there_is_no_picture():
    assert picture_of_waterfall((), "made up") is None
