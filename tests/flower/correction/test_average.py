"""Output average: the result is the mean of a run's last models, and training is what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MessageType, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, FedMedian

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.flower.correction.average import OutputAverage
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.report.html import facts_of, gather
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import do_nothing, make_app, node_configs
from support.clocks import Machine
from support.correction_runs import HOUR, PLACES, make_grid, run, weights
from support.kill_points import KillPoints, fresh
from support.runs import RUN, asked, events_of


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


# -- Evaluation on clients -----------------------------------------------------------------------------------


def score(arrays):
    """Return the score that the clients of a test give a model."""
    return pytest.approx(float(arrays.to_numpy_ndarrays()[0].sum()))


def evaluated(grid):
    """Return the rounds for which clients were asked to evaluate, and the models they were sent."""
    sent = [each for each in grid.sent if each.metadata.message_type == MessageType.EVALUATE]
    return [number for number, _ in asked(grid, MessageType.EVALUATE)], [
        each.content["arrays"] for each in sent
    ]


def test_the_result_is_evaluated_on_clients_as_the_models_of_rounds_are(midnight, caplog):
    grid = make_grid()
    with caplog.at_level("INFO", "flwr"):
        result = run(FedMedian(), midnight, grid, rounds=4, output_average=2)
    rounds, models = evaluated(grid)
    assert rounds == [number for number in (1, 2, 3, 4, 4) for _ in range(12)]
    assert all(score(model) == score(result.arrays).expected for model in models[-12:])
    # The curve of the run stays that of its rounds.
    last = result.evaluate_metrics_clientapp[4]
    assert last["lowcarb-mean-score"] == score(result.arrays)
    assert last["score"] == score(models[-13])
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3, 4}
    assert "lowcarb-mean-score" not in result.evaluate_metrics_clientapp[3]
    (event,) = events_of("output_averaged")
    assert event["client_metrics"]["score"] == score(result.arrays)
    assert [each["metrics"].get("score") for each in events_of("evaluated")][-2:] == [
        score(models[-13]),
        None,
    ]
    assert any("mean of the last 2 models: on clients {" in line for line in caplog.messages)


@pytest.mark.parametrize("changes", [{"fraction": 0.0}, {"evaluate_on": "none"}])
def test_where_clients_evaluate_no_round_they_do_not_evaluate_the_result(changes, midnight, caplog):
    grid, fraction = make_grid(), changes.pop("fraction", 1.0)
    result = run(FedMedian(fraction_evaluate=fraction), midnight, grid, rounds=2, output_average=2, **changes)
    assert evaluated(grid) == ([], [])
    assert result.evaluate_metrics_clientapp == {}
    assert "client_metrics" not in events_of("output_averaged")[0]
    assert not [line for line in caplog.messages if "lowcarb: evaluation:" in line]


def test_the_report_shows_its_metrics(midnight):
    result = run(FedMedian(), midnight, rounds=2, output_average=2, evaluate_fn=Keeping())
    shown = dict(facts_of(gather(summarise(read_ledger(RUN))).accounts, None))["Result"]
    on_clients = result.evaluate_metrics_clientapp[2]["lowcarb-mean-score"]
    on_server = result.evaluate_metrics_serverapp[2]["lowcarb-mean-size"]
    assert (
        shown
        == f"mean of the last 2 models; on clients score {on_clients:g}; on the server size {on_server:g}"
    )


class Evaluating(InMemoryGrid):
    """Nodes of 1 kW that train for an hour and evaluate for a quarter, all of a round together.

    Attributes
    ----------
    waits : list of (str, float)
        Type of the messages for whose replies somebody has waited, and the timeout [s].
    """

    def __init__(self, machine, on_evaluate=do_nothing):
        self.waits, self._machine, self._on_evaluate = [], machine, on_evaluate
        super().__init__(
            make_app(on_evaluate=on_evaluate), node_configs(12, PLACES, **{"power-watts": 1000.0})
        )

    def send_and_receive(self, messages, *, timeout=None):
        sent = list(messages)
        for kind, length in ((MessageType.TRAIN, HOUR), (MessageType.EVALUATE, HOUR / 4)):
            if sent and sent[0].metadata.message_type == kind:
                self._machine.work(length)
                self.waits.append((kind, timeout))
        return super().send_and_receive(sent, timeout=timeout)


def run_hours(grid, machine, **changes):
    """Run two rounds back-to-back: they are over after two hours and a half."""
    given = {
        "rounds": 2, "output_average": 2, "clock": machine, "patience": 0.0,
        "telemetry": False,  # of the real time that these nodes take
        **changes,
    }  # fmt: skip
    return run(FedMedian(), machine.now(), grid, **given)


def test_its_energy_and_emissions_are_those_of_the_last_round(midnight):
    machine = Machine(midnight)
    run_hours(Evaluating(machine), machine)
    record = summarise(read_ledger(RUN))
    assert [len(each.evaluated) for each in record.rounds] == [12, 24]
    assert [each.evaluation_energy_kwh for each in record.rounds] == pytest.approx([12 / 4, 24 / 4])
    assert record.finished.evaluation_energy_kwh == pytest.approx(36 / 4)
    # In each quarter of an hour three of the nodes are at the clean place.
    of_one = (3 * 50 + 9 * 500) / 4
    assert [each.evaluation_g for each in record.rounds] == pytest.approx([of_one, 2 * of_one])
    assert record.finished.evaluation_g == pytest.approx(3 * of_one)


@pytest.mark.parametrize(
    ("hours", "waits_s"),
    [
        (2.75, 15 * 60),
        (2.9, 24 * 60),
        (12.0, 3600),  # Flower's own
        (2.7, None),  # the last evaluation took longer than what is left
        (2.4, None),
    ],
)
def test_it_ends_by_the_deadline_or_is_left_out_with_one_line(hours, waits_s, midnight, caplog):
    machine = Machine(midnight)
    grid = Evaluating(machine)
    result = run_hours(grid, machine, finish_by=hours * HOUR)
    assert len(result.arrays) == 2
    _, _, *of_result = [timeout for kind, timeout in grid.waits if kind == MessageType.EVALUATE]
    assert of_result == ([] if waits_s is None else [pytest.approx(waits_s)])
    (event,) = events_of("output_averaged")
    assert ("client_metrics" in event) == (waits_s is not None)
    lines = [line for line in caplog.messages if "no time is left before the deadline" in line]
    assert len(lines) == (waits_s is None)


def test_a_result_that_nobody_evaluates_is_returned(midnight, caplog):
    calls = []

    def fail(node, number):
        calls.append(number)
        if len(calls) > 24:
            raise RuntimeError("out of memory")

    machine = Machine(midnight)
    result = run_hours(Evaluating(machine, fail), machine)
    assert len(calls) == 36
    assert len(result.arrays) == 2
    assert "client_metrics" not in events_of("output_averaged")[0]
    assert len([line for line in caplog.messages if "no node has answered" in line]) == 1
    assert events_of("run_finished")[0]["status"] == "completed"


def test_a_strategy_that_fails_at_it_costs_no_result(midnight, caplog):
    class Failing(FedMedian):
        def aggregate_evaluate(self, server_round, replies):
            calls.append(server_round)
            if len(calls) > 2:
                raise ZeroDivisionError("division by zero")
            return super().aggregate_evaluate(server_round, replies)

    calls = []
    result = run(Failing(), midnight, rounds=2, output_average=2)
    assert calls == [1, 2, 2]
    assert len(result.arrays) == 2
    assert len([line for line in caplog.messages if "ZeroDivisionError" in line]) == 1
    assert events_of("run_finished")[0]["status"] == "completed"


def test_a_run_that_stops_in_time_evaluates_the_mean_of_what_it_has(midnight):
    machine = Machine(midnight)
    grid = Evaluating(machine)
    result = run_hours(grid, machine, rounds=3, finish_by=2.2 * HOUR, on_late="stop", output_average=3)
    assert [kind for kind, _ in grid.waits] == ["train", "evaluate", "evaluate"]
    assert events_of("output_averaged")[0]["models"] == 1
    assert result.evaluate_metrics_clientapp[1]["lowcarb-mean-score"] == score(result.arrays)
    assert events_of("run_finished")[0]["status"] == "out of time"


def test_killed_at_any_step_it_is_evaluated_once_and_nothing_is_lost(midnight, monkeypatch, tmp_path):
    given = {"rounds": 2, "output_average": 2}
    points = KillPoints(RUN, tmp_path / "copies")
    with monkeypatch.context() as patch:
        points.watch(patch)
        expected = run(FedMedian(), midnight, evaluate_fn=Keeping(), **given)
    copies = [copy for copy in points.found if Checkpoint(copy).exists]
    places = [(state["round"], state["stage"]) for state in (Checkpoint(copy).read() for copy in copies)]
    first = places.index((2, "EVALUATED"))
    for copy, (_, stage) in list(zip(copies, places, strict=True))[first:]:
        if '"completed"' in (copy / "ledger.jsonl").read_text("utf-8"):
            continue
        fresh(RUN, copy)
        grid = make_grid()
        result = run(FedMedian(), midnight, grid, evaluate_fn=Keeping(), **given)
        assert weights(result) == weights(expected)
        assert result.evaluate_metrics_clientapp == expected.evaluate_metrics_clientapp
        assert result.evaluate_metrics_serverapp == expected.evaluate_metrics_serverapp
        assert asked(grid) == []
        assert len(asked(grid, MessageType.EVALUATE)) == (12 if stage == "EVALUATED" else 0)
        assert len(events_of("output_averaged")) == 1
        assert len(events_of("node_evaluated")) == 36
    assert {stage for _, stage in places[first:]} == {"EVALUATED", "AVERAGED"}


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
