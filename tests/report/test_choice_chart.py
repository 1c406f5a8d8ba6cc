from __future__ import annotations

import numpy as np
import pytest

from lowcarb_scheduler.report.charts import choice_of_run, picture_of_choice
from support.ledgers import replayed
from support.report_ledger import ACTUAL, CLIENTS, OPENS, SEATS, run_events


def choice(events):
    return choice_of_run(replayed(events))


def test_means_are_over_the_clients_of_a_round_and_over_the_fleet():
    shown = choice(run_events())
    for (number, hour), (opens, closes, mean) in zip(OPENS.items(), shown.rounds, strict=True):
        places = [CLIENTS[name] for name in SEATS[number]]
        assert mean == pytest.approx(np.mean([ACTUAL[place][hour] for place in places]))
        assert (opens.hour, closes.hour) == (hour, hour + 1)
        assert shown.mean[hour] == pytest.approx(np.mean([ACTUAL[place][hour] for place in CLIENTS.values()]))
    assert len(shown.mean) == 4  # until the last round is over
    assert (shown.low <= shown.mean).all()
    assert (shown.mean <= shown.high).all()


def test_the_means_are_over_time():
    shown = choice(run_events())
    assert shown.chosen_mean == pytest.approx(np.mean([mean for _, _, mean in shown.rounds]))
    assert shown.all_mean == pytest.approx(shown.mean.mean())


def test_a_round_whose_place_has_a_gap_is_left_out():
    events = run_events(actual=False)
    forecast = next(e for e in events if e["event"] == "forecast")
    forecast["g_per_kwh"] = {**forecast["g_per_kwh"], "FR": [60, 55, None, 40, 45, 70]}
    shown = choice(events)
    assert [opens.hour for opens, _, _ in shown.rounds] == [0, 3]
    assert np.isnan(shown.mean[2])
    assert np.isfinite(shown.all_mean)


@pytest.mark.parametrize("without", [("forecast", "actual"), ("round_closed",), ("nodes",)])
def test_without_intensity_rounds_or_nodes_there_is_no_picture(without):
    assert choice([e for e in run_events() if e["event"] not in without]) is None


@pytest.mark.parametrize("width_in", [11.0, 4.2])
def test_it_is_drawn_with_a_bar_a_round(width_in):
    picture = picture_of_choice(choice(run_events()), "made up")
    axes = picture.draw(width_in).axes[0]
    (bars,) = axes.collections
    assert len(bars.get_segments()) == len(OPENS)
    assert axes.get_ylabel() == "gCO2eq/kWh"
    assert axes.get_ylim()[0] == 0
