"""Numbers of each round in the metrics that Flower's own result keeps."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Synthetic, carbon_aware
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs
from support.runs import RUN, events_of

HOUR = timedelta(hours=1)
KEYS = ["lowcarb-planned-g", "lowcarb-g-per-kwh", "lowcarb-held-s", "lowcarb-realised-g"]


@pytest.fixture
def trained(midnight):
    """Return a runner of three rounds on an in-memory grid, which returns Flower's metrics by round."""

    def run(strategy=None, **changes):
        given = {"source": Synthetic(), "clock": VirtualClock(midnight), "finish_by": 24 * HOUR,
                 "clients_per_round": 2, "round_duration": HOUR, "run_dir": RUN, **changes}  # fmt: skip
        aware = carbon_aware(strategy or FedAvg(fraction_evaluate=0.0), **given)
        grid = InMemoryGrid(make_app(), node_configs(4))
        return aware.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=3).train_metrics_clientapp

    return run


def test_flowers_metrics_hold_the_emissions_and_the_hold_of_each_round(trained):
    metrics = trained()
    (end,) = events_of("run_finished")
    opened = events_of("round_opened")
    assert sorted(metrics) == [1, 2, 3]
    assert any(event["held_s"] for event in opened)
    for event, figures in zip(opened, end["rounds"], strict=True):
        of_round = metrics[event["round"]]
        assert list(of_round)[-len(KEYS) :] == KEYS  # after those of the strategy
        expected = [event["planned_g"], event["mean_g_per_kwh"], event["held_s"], figures["realised_g"]]
        assert [of_round[key] for key in KEYS] == pytest.approx(expected)


def test_what_is_unknown_is_left_out(trained):
    for metrics in trained(source=None).values():
        assert [key for key in metrics if key.startswith("lowcarb-")] == ["lowcarb-held-s"]
        assert metrics["lowcarb-held-s"] == 0.0


def test_the_strategys_own_record_and_keys_stay_as_they_are(trained):
    kept = []

    class Mine(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, _ = super().aggregate_train(server_round, replies)
            kept.append(MetricRecord({"lowcarb-held-s": -1.0, "loss": 0.5}))
            return arrays, kept[-1]

    metrics = trained(Mine())
    assert [dict(record) for record in kept] == [{"lowcarb-held-s": -1.0, "loss": 0.5}] * 3
    assert metrics[1]["lowcarb-held-s"] == -1.0
    assert metrics[1]["lowcarb-planned-g"] > 0


def test_a_strategy_without_metrics_gets_them_where_a_round_has_trained(trained):
    class Silent(FedAvg):
        def aggregate_train(self, server_round, replies):
            arrays, _ = super().aggregate_train(server_round, replies)
            return (None, None) if server_round == 2 else (arrays, None)

    metrics = trained(Silent())
    assert {number: list(record) for number, record in metrics.items()} == {1: KEYS, 3: KEYS}
