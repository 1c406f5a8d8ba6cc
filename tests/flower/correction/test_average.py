"""Output average: the result is the mean of a run's last models, and training is what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, FedMedian

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.correction.average import OutputAverage
from lowcarb_scheduler.settings import Settings
from support.correction_runs import make_grid, run, weights
from support.runs import events_of


class Keeping:
    """An evaluate_fn that keeps the models it was given."""

    def __init__(self):
        self.models = []

    def __call__(self, number, arrays):
        self.models.append((number, [array.copy() for array in arrays.to_numpy_ndarrays()]))
        return MetricRecord({"size": float(np.abs(self.models[-1][1][0]).sum())})


def averaged(wish, strategy, midnight, folder="run", **changes):
    """Run eight rounds and return the result and the models that were evaluated on the server."""
    keeping = Keeping()
    result = run(
        strategy, midnight, run_dir=Path(folder), output_average=wish, evaluate_fn=keeping, **changes
    )
    return result, keeping.models


@pytest.mark.parametrize(("wish", "count"), [(3, 3), ("3", 3), (100, 8), ("auto", 4)])
def test_the_result_is_the_mean_of_the_last_models_with_its_own_evaluation(wish, count, midnight):
    result, models = averaged(wish, FedMedian(), midnight)
    *of_rounds, own = models[1:]  # the first is the initial one
    assert [number for number, _ in of_rounds] == list(range(1, 9))
    assert own[0] == 8
    for k, array in enumerate(result.arrays.to_numpy_ndarrays()):
        np.testing.assert_allclose(array, np.mean([model[k] for _, model in of_rounds[-count:]], axis=0))
        np.testing.assert_array_equal(array, own[1][k])
    (event,) = events_of("output_averaged")
    assert event["models"] == count
    assert event["metrics"] == {"size": pytest.approx(np.abs(own[1][0]).sum())}
    assert len(result.evaluate_metrics_serverapp) == 9  # the curve of the run stays that of its rounds


def test_training_is_what_it_was(midnight):
    _, models = averaged("off", FedMedian(), midnight, "off")
    _, with_mean = averaged("auto", FedMedian(), midnight, "auto")
    for (number, model), (same, other) in zip(models, with_mean, strict=False):
        assert number == same
        assert [array.tobytes() for array in model] == [array.tobytes() for array in other]


@pytest.mark.parametrize(
    ("strategy", "changes", "is_averaged"),
    [
        (FedAvg(), {}, False),  # corrected
        (FedAvg(), {"participation_correction": "off"}, True),
        (FedMedian(), {}, True),
        (FedMedian(), {"source": None}, False),  # clients are drawn at random
        (flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 3), {}, True),
    ],
)
def test_auto_averages_where_a_carbon_schedule_is_not_corrected(strategy, changes, is_averaged, midnight):
    run(strategy, midnight, rounds=3, output_average="auto", **changes)
    assert len(events_of("output_averaged")) == is_averaged


def test_it_is_off_unless_asked_for(midnight):
    run(FedMedian(), midnight, rounds=2)
    assert not events_of("output_averaged")


class Killed(BaseException):
    """The end of a process."""


def test_a_killed_run_returns_the_same_mean(midnight):
    expected, _ = averaged(4, FedMedian(), midnight, "whole")

    def work(node, number):
        if number == 7:
            raise Killed

    with pytest.raises(Killed):
        run(FedMedian(), midnight, make_grid(on_train=work), output_average=4)
    result = run(FedMedian(), midnight, output_average=4)
    assert weights(result) == weights(expected)


def test_an_evaluation_that_fails_costs_no_result(midnight):
    def evaluate(number, arrays):
        if len(calls) == 9:
            raise RuntimeError("out of memory")
        calls.append(number)

    calls = []
    result = run(FedMedian(), midnight, output_average=2, evaluate_fn=evaluate)
    assert len(result.arrays) == 2
    assert events_of("output_averaged")[0]["metrics"] == {}


def test_counters_are_those_of_the_last_model():
    average = OutputAverage(2, 2, None)
    records = [
        ArrayRecord({"weight": Array(np.full(2, value, np.float32)), "count": Array(np.array([number]))})
        for number, value in ((1, 1.0), (2, 4.0))
    ]
    for number, record in enumerate(records, start=1):
        average.add(number, record)
    result = average.result(records[-1])
    np.testing.assert_array_equal(result["weight"].numpy(), np.full(2, 2.5, np.float32))
    assert result["weight"].numpy().dtype == np.float32
    np.testing.assert_array_equal(result["count"].numpy(), [2])


@pytest.mark.parametrize("value", [0, -1, "half", 1.5, ""])
def test_other_numbers_of_models_are_refused(value):
    with pytest.raises(InputError, match="output_average"):
        Settings.load({"output_average": value})
