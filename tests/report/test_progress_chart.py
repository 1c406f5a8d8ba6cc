from __future__ import annotations

import pytest

from lowcarb_scheduler.events import Figures
from lowcarb_scheduler.report.charts import MOST_METRICS, picture_of_progress, progress_of
from support.figures import words
from support.ledgers import replayed
from support.report_ledger import run_events


def run(realised=(400.0, 300.0, 200.0), planned=(390.0, 310.0, 210.0), metrics=None):
    record = replayed(run_events())
    for r, real, plan in zip(record.rounds, realised, planned, strict=True):
        r.settle(Figures(round=r.number, planned_g=plan, realised_g=real, run_now_g=500.0))
        r.metrics = metrics or r.metrics
    return record


def test_a_metric_is_set_against_cumulative_realised_emissions():
    (accuracy,) = progress_of(run())
    assert (accuracy.metric, accuracy.of) == ("accuracy", "realised")
    assert accuracy.values == (0.25, 0.5, 0.75)
    assert accuracy.spent == (400.0, 700.0, 900.0)
    assert accuracy.run_now_g == 1500.0


def test_an_unknown_round_sets_it_against_planned_emissions():
    (accuracy,) = progress_of(run(realised=(400.0, None, 200.0)))
    assert (accuracy.of, accuracy.spent, accuracy.run_now_g) == ("planned", (390.0, 700.0, 910.0), None)


def test_unknown_emissions_set_it_against_rounds():
    (accuracy,) = progress_of(run(realised=(None,) * 3, planned=(None,) * 3))
    assert (accuracy.of, accuracy.spent) == ("rounds", (1.0, 2.0, 3.0))


def test_accuracies_come_first_and_not_too_many():
    names = [each.metric for each in progress_of(run(metrics=dict.fromkeys("zyxw", 1.0) | {"val_acc": 0.5}))]
    assert names == ["val_acc", "w", "x", "y"]
    assert len(names) == MOST_METRICS


def test_one_value_is_no_progress():
    assert progress_of(replayed(run_events()[:12])) == ()


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({}, "cumulative emissions, realised [kgCO2eq]"),
        ({"realised": (None,) * 3}, "cumulative emissions, planned [gCO2eq]"),
        ({"realised": (None,) * 3, "planned": (None,) * 3}, "round"),
    ],
)
def test_the_axis_says_what_it_is(known, says):
    (accuracy,) = progress_of(run(**known))
    picture = picture_of_progress(accuracy, 1, "made up")
    figure = picture.draw(4.2)
    assert figure.axes[0].get_xlabel().startswith(says)
    assert ("run-now: 1.50 kg" in words(figure)) == (not known)
