"""Replies that the memory must not learn from, and arrays that the correction must not touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonClientApp, carbon_aware
from lowcarb_scheduler.flower.correction.memory import LocationMemory
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import EditingGrid, make_app, node_configs
from support.correction_runs import A_PLACE, HOUR, PLACES, TakingTurns, drift, run
from support.runs import events_of


def edit_in(number, edit):
    """Return a hook that edits the reply of one node in one round."""

    def apply(message, reply):
        config = message.content.config_records.get("config")
        is_train = config is not None and "arrays" in reply.content
        if is_train and config["server-round"] == number and not done:
            done.append(True)
            edit(reply.content)

    done = []
    return apply


def poison(value):
    def edit(content):
        arrays = content["arrays"].to_numpy_ndarrays()
        content["arrays"] = ArrayRecord([np.full_like(array, value) for array in arrays])

    return edit


def reshape(content):
    content["arrays"] = ArrayRecord([np.zeros(3), np.ones((1, 2))])


def lose_one(content):
    content["arrays"] = ArrayRecord([content["arrays"].to_numpy_ndarrays()[0]])


def garble(content):
    array = content["arrays"]["0"]
    content["arrays"]["0"] = Array(array.dtype, tuple(array.shape), "pickle", array.data)


def weightless(content):
    content["metrics"] = MetricRecord({"num-examples": float("nan")})


class Tolerant(FedAvg):
    """A strategy that leaves out replies that it cannot average."""

    def aggregate_train(self, server_round, replies):
        good = [reply for reply in replies if reply.has_content() and self.is_good(reply.content)]
        return super().aggregate_train(server_round, good)

    def is_good(self, content):
        try:
            arrays = content["arrays"].to_numpy_ndarrays()
        except TypeError:
            return False
        shapes = [array.shape for array in arrays]
        is_plausible = all(np.abs(array).max() < 1e6 for array in arrays)
        return shapes == [(3,), (2, 2)] and is_plausible and content["metrics"]["num-examples"] > 0


BAD = {
    "NaN": (poison(np.nan), "not finite"),
    "infinite": (poison(np.inf), "not finite"),
    "1e30": (poison(1e30), "implausibly large"),
    "another shape": (reshape, "has an array '1' of another shape"),
    "an array missing": (lose_one, "lacks the array '1'"),
    "another format": (garble, "has an array '0' that is not of floats"),
    "no weight": (weightless, "has no weight 'num-examples'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reply_is_not_remembered_and_its_round_counts_without_correction(name, midnight):
    edit, reason = BAD[name]
    grid = EditingGrid(make_app(), node_configs(12, PLACES), edit_in(3, edit))
    result = run(Tolerant(), midnight, grid, rounds=6)
    events = events_of("round_corrected")
    assert [bool(event["reason"]) for event in events] == [False, False, True, False, False, False]
    assert reason in events[2]["reason"]
    assert all(
        np.isfinite(array).all() and np.abs(array).max() < 100 for array in result.arrays.to_numpy_ndarrays()
    )
    told = [event for event in events_of("degraded") if event["what"] == "correction"]
    assert len(told) == 1
    assert reason in told[0]["why"]
    assert "counts without correction" in told[0]["consequence"]


def test_failed_nodes_have_no_part_in_the_memory(midnight):
    configs = node_configs(12, PLACES)
    configs[3]["breaks"] = True
    run(FedAvg(), midnight, InMemoryGrid(make_app(), configs), rounds=6)
    assert [event["reason"] for event in events_of("round_corrected")] == [None] * 6


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_of_any_precision_are_corrected(dtype, midnight):
    def step(arrays, node, number):
        return [(array + drift([np.zeros_like(array)], node, number)[0]).astype(dtype) for array in arrays]

    grid = InMemoryGrid(make_app(step), node_configs(12, PLACES))
    result = run(FedAvg(), midnight, grid, initial=[np.zeros(3, dtype), np.ones((2, 2), dtype)])
    assert [event["reason"] for event in events_of("round_corrected")] == [None] * 8
    assert events_of("round_corrected")[-1]["ratio"] > 0.1
    # Places take turns: corrected, each step is nearly the mean of all places.
    mean = np.mean([np.cos(place + np.arange(3)) for place in range(4)], axis=0)
    assert np.isfinite(result.arrays.to_numpy_ndarrays()[0]).all()
    assert np.linalg.norm(result.arrays.to_numpy_ndarrays()[0] / 8 - mean) < 0.5


def test_counters_and_running_statistics_are_not_shifted(midnight):
    def step(arrays, node, number):
        weight, mean, variance, count = arrays
        moved = np.cos(node % len(PLACES) + np.arange(3.0))
        return [weight + moved, mean + moved, variance + moved**2, count + 1]

    names = ["layer.weight", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    initial = dict(zip(names, [np.zeros(3), np.zeros(3), np.ones(3), np.array([0, 0, 0])], strict=True))
    found = {}
    for setting in ("off", "auto"):
        app = make_named_app(step)
        record = ArrayRecord({name: Array(values) for name, values in initial.items()})
        aware = carbon_aware(
            FedAvg(fraction_evaluate=0.0), source=TakingTurns(), clock=VirtualClock(midnight),
            finish_by=16 * HOUR, clients_per_round=A_PLACE, round_duration=HOUR, run_dir=Path(setting),
            participation_correction=setting, participation="equal", balance="off",
        )  # fmt: skip
        result = aware.start(InMemoryGrid(app, node_configs(12, PLACES)), record, num_rounds=6)
        found[setting] = {name: result.arrays[name].numpy() for name in names}
    for name in names[1:]:
        assert found["off"][name].tobytes() == found["auto"][name].tobytes()
    assert found["off"][names[0]].tobytes() != found["auto"][names[0]].tobytes()


def make_named_app(step):
    """Return an app whose arrays have names."""
    app = CarbonClientApp()

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        values = step([array.numpy() for array in record.values()], context.node_config["partition-id"], 0)
        arrays = ArrayRecord(
            {name: Array(np.asarray(value)) for name, value in zip(record, values, strict=True)}
        )
        metrics = MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def test_a_model_that_changes_its_shape_begins_a_new_memory(midnight):
    class Growing(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            if server_round == 4:
                arrays = ArrayRecord([np.zeros(5), np.ones((2, 2))])
            return super().configure_train(server_round, arrays, config, grid)

    run(Growing(fraction_evaluate=0.0), midnight, rounds=6)
    assert [event["places"] for event in events_of("round_corrected")] == [1, 3, 4, 1, 2, 3]
    told = [event["why"] for event in events_of("degraded") if event["what"] == "correction"]
    assert told == ["the model has other arrays since round 4"]


def test_a_full_disk_costs_the_correction_and_not_the_round(midnight, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    run(FedAvg(fraction_evaluate=0.0), midnight, rounds=3, participation_correction_memory=0)
    reasons = [event["reason"] for event in events_of("round_corrected")]
    assert len(reasons) == 3
    assert all("No space left" in reason for reason in reasons)
    assert len(events_of("round_closed")) == 3


def test_a_round_that_sends_different_models_counts_without_correction(midnight):
    class Personal(FedAvg):
        """A strategy that sends each node a model of its own in round 4."""

        def configure_train(self, server_round, arrays, config, grid):
            for k, message in enumerate(super().configure_train(server_round, arrays, config, grid)):
                if server_round == 4:
                    moved = [array + k for array in arrays.to_numpy_ndarrays()]
                    content = RecordDict({"arrays": ArrayRecord(moved), "config": config})
                    yield Message(content, message.metadata.dst_node_id, message.metadata.message_type)
                else:
                    yield message

    run(Personal(fraction_evaluate=0.0), midnight, rounds=6)
    reasons = [event["reason"] for event in events_of("round_corrected")]
    assert reasons == [None] * 3 + ["nodes were not sent one model with arrays of floats"] + [None] * 2


def test_a_place_that_trains_once_keeps_its_share(midnight):
    """Its memory stays, and takes part in every later round."""
    updates = {"DE": [1.0, 0.0], "FR": [0.0, 1.0]}
    memory, zero = LocationMemory((2,)), [np.zeros(2, np.float32)]

    def advance(number, place):
        replies = {place: [(1.0, [np.array(updates[place], np.float32)])]}
        return memory.advance(number, zero, replies, {"DE": 9.0, "FR": 1.0})

    advance(1, "FR")
    shifts = [advance(number, "DE").shift for number in range(2, 202)]
    np.testing.assert_allclose(shifts[-1].arrays[0], [-0.1, 0.05], atol=0.01)
    assert memory.places["FR"].number == 1


def test_a_correction_that_stays_large_is_warned_of_with_advice(midnight):
    def step(arrays, node, number):
        """Move the model in a direction of the node's place alone."""
        return [arrays[0], arrays[1] + np.eye(len(PLACES))[node % len(PLACES)].reshape(2, 2)]

    grid = InMemoryGrid(make_app(step), node_configs(12, PLACES))
    run(FedAvg(fraction_evaluate=0.0), midnight, grid, rounds=24)
    told = [event for event in events_of("degraded") if event["what"] == "correction"]
    assert len(told) == 1
    assert "lowcarb-max-location-share" in told[0]["consequence"]
