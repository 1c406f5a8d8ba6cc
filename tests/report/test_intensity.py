from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from matplotlib.patches import Rectangle, StepPatch

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.forecasts.bias_correction import ORIGINS, Expectation
from lowcarb_scheduler.forecasts.window import cleanest_windows
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from lowcarb_scheduler.report.intensity import MOST_PANELS, plot_forecast, shown_forecast
from lowcarb_scheduler.report.style import MOST_ROWS, day
from support.figures import svg, words
from support.report_ledger import START

FORECAST_HOURS, ALL_HOURS = 24, 48
NOW = START + timedelta(minutes=90)


def table(names, hours=FORECAST_HOURS, first=0, level=100.0) -> IntensityTable:
    times = [to_us(START) + HOUR_US * h for h in range(first, hours)]
    values = [level + 50 * abs(12 - h % 24) for h in range(first, hours)]
    points = {name: (times, np.array(values) * (1 + k)) for k, name in enumerate(names)}
    return IntensityTable.from_points(points, Provenance("half", "marginal"))


def forecast(names=("DE", "FR"), **kwargs) -> Forecast:
    return Forecast(table(names), START, **kwargs)


def expectation(names=("DE", "FR")) -> Expectation:
    """Corrected while the forecast lasts, climatology after."""
    known = table(names, ALL_HOURS, first=1, level=120.0)
    origin = np.full(known.values.shape, ORIGINS.index("corrected"), np.uint8)
    origin[FORECAST_HOURS - 1 :] = ORIGINS.index("climatology")
    return Expectation(known, origin)


def names(count):
    return [f"L{k:02d}" for k in range(count)]


def steps(axes):
    """Return the drawn lines: colour, whether dashed, and where they have values."""
    lines = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(line.get_edgecolor(), line.get_linestyle() != "solid" and line.get_linestyle() != "-",
             ~np.isnan(line.get_data().values)) for line in lines]  # fmt: skip


def test_the_title_names_source_signal_and_unit():
    shown = words(plot_forecast(forecast()))
    assert "Carbon intensity [gCO2eq/kWh]" in shown
    assert "data from half; marginal grid intensity" in shown


def test_up_to_twelve_locations_have_a_panel_each_on_one_scale():
    figure = plot_forecast(forecast(names(MOST_PANELS)), NOW)
    assert [axes.get_title(loc="left") for axes in figure.axes] == names(MOST_PANELS)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    _, high = figure.axes[0].get_ylim()
    assert high > forecast(names(MOST_PANELS)).intensity.values.max()


def test_more_locations_are_rows_of_a_map_cleanest_first():
    asked = names(MOST_PANELS + 1)[::-1]
    figure = plot_forecast(forecast(asked), NOW)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == asked
    assert "not shown" not in words(figure)
    many = plot_forecast(forecast(names(MOST_ROWS + 3)))
    assert [label.get_text() for label in many.axes[0].get_yticklabels()] == names(MOST_ROWS)
    assert "3 more locations are not shown" in words(many)


def test_climatology_is_dashed_where_it_takes_over_and_the_raw_line_is_behind():
    figure = plot_forecast(forecast(), NOW, expectation())
    for axes in figure.axes:
        (grey, raw_dashed, raw), (blue, dashed, solid), (same, broken, usual) = steps(axes)
        assert (raw_dashed, dashed, broken) == (False, False, True)
        assert grey != blue == same
        assert raw.all()
        assert not (solid & usual).any()
        assert (solid | usual).all()
        assert usual.tolist() == [hour >= FORECAST_HOURS for hour in range(1, ALL_HOURS)]
    for part in ("corrected by past intensity", "usual intensity at that hour", "as published by the source"):
        assert part in words(figure)


def test_without_history_there_is_one_line():
    found = expectation()
    raw = Expectation(found.intensity, np.full_like(found.origin, ORIGINS.index("forecast")))
    figure = plot_forecast(forecast(), NOW, raw)
    assert [len(steps(axes)) for axes in figure.axes] == [1, 1]
    assert "as published by the source" not in words(figure)


def test_a_last_good_forecast_is_drawn_as_such():
    figure = plot_forecast(forecast(last_good={"FR": "it hangs"}), NOW)
    assert [dashed for axes in figure.axes for _, dashed, _ in steps(axes)] == [False, True]
    assert "last good forecast" in words(figure)


def test_in_a_map_climatology_is_hatched():
    asked = names(MOST_PANELS + 1)
    axes, *_ = plot_forecast(forecast(asked), NOW, expectation(asked)).axes
    hatched = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert len(hatched) == len(asked)
    assert {patch.get_x() for patch in hatched} == {day(START + timedelta(hours=FORECAST_HOURS))}
    begin, _ = axes.get_xlim()
    assert begin == pytest.approx(
        day(START + timedelta(hours=1)), abs=0.01
    )  # what was said before is not shown


@pytest.mark.parametrize("count", [2, MOST_PANELS + 1])
def test_the_cleanest_windows_and_now_are_marked(count):
    asked = names(count)
    windows = cleanest_windows(table(asked), timedelta(minutes=90), NOW)
    figure = plot_forecast(forecast(asked), NOW, windows=windows)
    panels = figure.axes if count == 2 else figure.axes[:1]
    boxes = [patch for axes in panels for patch in axes.patches if isinstance(patch, Rectangle)]
    width = timedelta(minutes=90) / timedelta(days=1)
    marked = [box for box in boxes if box.get_width() == pytest.approx(width)]
    assert [box.get_x() for box in marked] == pytest.approx([day(windows[name].start) for name in asked])
    assert all(day(NOW) in axes.lines[0].get_xdata() for axes in panels)
    assert "cleanest 1 h 30 min from now" in words(figure)
    assert "now, 2026-03-02 01:30" in words(figure)


def test_a_panel_says_what_its_window_saves():
    windows = cleanest_windows(table(["DE"]), timedelta(hours=2), NOW)
    shown = words(plot_forecast(forecast(["DE"]), NOW, windows=windows))
    assert "Mon 11:00 to 13:00: 125 g/kWh, 79.2 % less than now" in shown
    late = NOW + timedelta(hours=11)
    windows = cleanest_windows(table(["DE"]), timedelta(hours=1), late)
    assert "nothing later is cleaner" in words(plot_forecast(forecast(["DE"]), late, windows=windows))


def test_hours_long_over_are_not_shown():
    late = START + timedelta(hours=20)
    assert shown_forecast(forecast(), late).start == late - timedelta(hours=6)
    assert shown_forecast(forecast(), NOW).start == START


def test_until_is_the_end_of_the_chart():
    until = START + timedelta(hours=12)
    assert shown_forecast(forecast(), NOW, until=until).end == until
    assert shown_forecast(forecast(), NOW, until=START + timedelta(days=9)).end == table(["DE"]).end
    figure = plot_forecast(forecast(names(MOST_PANELS + 1)), NOW, until=until)
    assert figure.axes[0].get_xlim()[1] == pytest.approx(day(until), abs=0.01)


def test_a_location_of_gaps_is_drawn_empty():
    gap = IntensityTable.from_points({"DE": ([0], [1.0]), "FR": ([0], [float("nan")])})
    figure = plot_forecast(Forecast(gap, START))
    assert [len(steps(axes)) for axes in figure.axes] == [1, 0]
    assert "no value" in words(figure)


def test_nothing_but_gaps_is_drawn_too():
    for count in (1, MOST_PANELS + 1):
        nothing = IntensityTable.from_points({name: ([0], [float("nan")]) for name in names(count)})
        svg(plot_forecast(Forecast(nothing, START)))


def test_negative_intensity_is_inside_the_scale():
    below = IntensityTable.from_points({"DE": ([0, HOUR_US], [-40.0, 10.0])})
    low, _ = plot_forecast(Forecast(below, START)).axes[0].get_ylim()
    assert low < -40


def test_names_that_differ_at_their_end_stay_apart():
    figure = plot_forecast(forecast(["a" * 40 + "1", "a" * 40 + "2"]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(set(titles)) == 2
    assert all(len(title) <= 24 for title in titles)


def test_names_are_neither_formulas_nor_markup_nor_a_warning():
    picture = svg(plot_forecast(forecast([r"$\frac{<script>", "東京"])))
    assert "<script>" not in picture


def test_equal_forecasts_give_equal_bytes():
    assert svg(plot_forecast(forecast(), NOW, expectation())) == svg(
        plot_forecast(forecast(), NOW, expectation())
    )
