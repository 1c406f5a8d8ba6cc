"""Corrected runs: what a strategy sees of the correction, and what the model gains by it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Forecast, IntensityTable, carbon_aware
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs
from support.runs import RUN, events_of

HOUR = timedelta(hours=1)
PLACES = ("DE", "FR", "GB", "ES")
A_PLACE = 3  # clients of each place, as many as train in a round


class TakingTurns:
    """A source that finds one place clean each hour, one after the other."""

    def forecast(self, locations, now):
        return Forecast(self.actual(locations, now, now + 72 * HOUR), now)

    def actual(self, locations, start, end):
        hours = np.arange(to_us(start) // HOUR_US, to_us(end) // HOUR_US + 2)
        values = np.full((len(hours) - 1, len(locations)), 500.0)
        for column, place in enumerate(locations):
            values[hours[:-1] % len(PLACES) == PLACES.index(place), column] = 50.0
        return IntensityTable(hours * HOUR_US, tuple(locations), values, Provenance("turns", "average"))


def run(strategy, midnight, grid=None, rounds=8, initial=None, **changes):
    """Run rounds that train one place after the other."""
    grid = grid or InMemoryGrid(make_app(), node_configs(A_PLACE * len(PLACES), PLACES))
    given = {
        "source": TakingTurns(), "clock": VirtualClock(midnight), "finish_by": 2 * rounds * HOUR,
        "clients_per_round": A_PLACE, "round_duration": HOUR, "run_dir": RUN,
    }  # fmt: skip
    aware = carbon_aware(strategy, **{**given, **changes})
    arrays = [np.zeros(3), np.ones((2, 2))] if initial is None else initial
    return aware.start(grid, ArrayRecord(arrays), num_rounds=rounds)


# -- Accuracy ----------------------------------------------------------------------------------------------


class Blobs:
    """A task in which each place has mostly pictures of its own class."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        centres = random.normal(0.0, 1.0, (len(PLACES), 8))
        self.test = self._draw(random, centres, np.full(len(PLACES), 1 / len(PLACES)), 400)
        mixes = [np.where(np.arange(len(PLACES)) == place, 0.97, 0.01) for place in range(len(PLACES))]
        self.parts = [self._draw(random, centres, mixes[node % len(PLACES)], 60) for node in range(12)]

    def _draw(self, random, centres, mix, count):
        labels = random.choice(len(mix), count, p=mix)
        return centres[labels] + random.normal(0.0, 1.5, (count, 8)), labels

    def train(self, arrays, node, number):
        (weights,), (inputs, labels) = arrays, self.parts[node]
        for _ in range(50):
            scores = np.exp(inputs @ weights)
            scores /= scores.sum(axis=1, keepdims=True)
            scores[np.arange(len(labels)), labels] -= 1
            weights = weights - 0.5 * inputs.T @ scores / len(labels)
        return [weights]

    def accuracy(self, arrays):
        inputs, labels = self.test
        return float(np.mean((inputs @ arrays[0]).argmax(axis=1) == labels))


@pytest.mark.parametrize("seed", [1, 2])
def test_place_after_place_costs_accuracy_without_and_not_with_the_correction(seed, midnight):
    task, rounds, zeros = Blobs(seed), 24, np.zeros((8, 4))
    reached = {}
    for setting in ("off", "auto"):
        grid = InMemoryGrid(make_app(task.train, examples=lambda node: 60), node_configs(12, PLACES))
        folder = Path(setting)
        result = run(FedAvg(fraction_evaluate=0.0), midnight, grid, rounds, [zeros], run_dir=folder,
                     participation_correction=setting)  # fmt: skip
        reached[setting] = task.accuracy(result.arrays.to_numpy_ndarrays())
        opened = events_of("round_opened", folder)
        assert {len({node["location"] for node in event["nodes"]}) for event in opened[:-1]} == {1}
    ideal = zeros
    for _ in range(rounds):
        ideal = np.mean([task.train([ideal], node, 0)[0] for node in range(12)], axis=0)
    assert task.accuracy([ideal]) - reached["off"] > 0.1
    assert task.accuracy([ideal]) - reached["auto"] < 0.03
