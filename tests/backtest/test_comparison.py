"""Comparison of methods: its statistics, and their independence of the number of processes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.backtest import METHODS, History, compare, instance
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from support.backtest_world import BEGIN, DAY, HOUR, PLACES, SCENARIO, trace_rows

PERIOD = BEGIN + 30 * DAY, BEGIN + 38 * DAY
QUICK = "one-shot", "scheduler", "flwr-lowcarb-2022"


@pytest.fixture(scope="module")
def history():
    return History.from_frames(*trace_rows(), PLACES)


@pytest.fixture(scope="module")
def found(history):
    return compare(history, SCENARIO, (1.0, 3.0), 3, PERIOD, QUICK)


def timeless(found):
    """Return the scores without the seconds."""
    return {
        deadline: [replace(score, plan_seconds=0.0) for score in scores]
        for deadline, scores in found.scores.items()
    }


def test_scores_are_the_statistics_of_outcomes(history, found):
    for deadline, scores in found.scores.items():
        period = PERIOD[0], PERIOD[1] - deadline * SCENARIO.back_to_back
        cases = [instance(SCENARIO, seed, 3, deadline, period) for seed in range(3)]
        grams = {
            score.method: np.array([METHODS[score.method](case, history).emissions_g for case in cases])
            for score in scores
        }
        cuts = {name: 1 - each / grams["run-now"] for name, each in grams.items()}
        for score in scores:
            cut, against = cuts[score.method], cuts[score.method] - cuts["scheduler"]
            assert score.emissions_g == pytest.approx(grams[score.method].mean())
            assert score.reduction == pytest.approx(cut.mean())
            assert score.reduction_se == pytest.approx(np.std(cut, ddof=1) / sqrt(3))
            assert score.difference == pytest.approx(against.mean())
            assert score.difference_se == pytest.approx(np.std(against, ddof=1) / sqrt(3))
            assert score.capture == pytest.approx(cut.mean() / cuts["bound"].mean())
            assert score.plan_seconds >= 0


def test_methods_keep_one_order_and_baseline_and_bound_are_always_included(found):
    for scores in found.scores.values():
        assert [score.method for score in scores] == [
            "run-now",
            "flwr-lowcarb-2022",
            "one-shot",
            "scheduler",
            "bound",
        ]


def test_turns_are_none_for_baseline_and_bound(found):
    for score in found.scores[3.0]:
        if score.method in ("run-now", "bound"):
            assert (score.jain, score.min_turns, score.max_turns) == (None, None, None)
        else:
            assert (score.jain, score.min_turns, score.max_turns) == (1.0, 3, 3)


def test_uneven_turns_are_reported(history):
    scenario = replace(SCENARIO, rounds=4)
    score = compare(history, scenario, (2.0,), 2, PERIOD, ("scheduler",)).scores[2.0][1]
    assert (score.min_turns, score.max_turns) == (1, 2)
    assert score.jain == pytest.approx(jain_index([1, 1, 1, 1, 2, 2]))


def test_the_number_of_processes_changes_no_score(history, found):
    ticks = []
    again = compare(history, SCENARIO, (1.0, 3.0), 3, PERIOD, QUICK, jobs=2, done=lambda: ticks.append(1))
    assert timeless(again) == timeless(found)
    assert len(ticks) == 6


def test_one_instance_has_no_standard_error(history):
    for score in compare(history, SCENARIO, (2.0,), 1, PERIOD, ("scheduler",)).scores[2.0]:
        assert (score.reduction_se, score.difference_se) == (None, None)


def test_differences_are_none_without_the_scheduler(history):
    for score in compare(history, SCENARIO, (1.0,), 2, PERIOD, ("one-shot",)).scores[1.0]:
        assert (score.difference, score.difference_se) == (None, None)


def test_the_time_between_plans_reaches_every_instance(history):
    case = instance(SCENARIO, 0, 1, 2.0, (PERIOD[0], PERIOD[1] - 2 * SCENARIO.back_to_back))
    by_hours = {}
    for hours in (2, 12):
        found = compare(history, SCENARIO, (2.0,), 1, PERIOD, ("scheduler",), replan_every=hours * HOUR)
        by_hours[hours] = found.scores[2.0][1].emissions_g
        same = replace(case, replan_every=hours * HOUR)
        assert by_hours[hours] == METHODS["scheduler"](same, history).emissions_g
    assert by_hours[2] != by_hours[12]


def test_an_error_from_another_process_keeps_its_data(history):
    unknown = replace(history, issues=history.issues[-1:])
    for jobs in (1, 2):
        with pytest.raises(ForecastUnavailableError, match="nothing is known yet") as caught:
            compare(unknown, SCENARIO, (1.0,), 2, PERIOD, ("scheduler",), jobs=jobs)
        assert caught.value.missing == dict.fromkeys(PLACES, "nothing is known yet")
        assert caught.value.exit_code == 1


def test_errors_can_be_pickled():
    for error in (InputError("a", "b", "c", "d"), ForecastUnavailableError({"DE": "gone"})):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.data()) == (type(error), str(error), error.data())
