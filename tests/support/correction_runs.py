"""Runs that train one place after the other, on which the participation correction has much to do."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from flwr.app import ArrayRecord

from lowcarb_scheduler import Forecast, IntensityTable, carbon_aware
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import learn, make_app, node_configs
from support.runs import RUN

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


def run(strategy, midnight, grid=None, rounds=8, initial=None, evaluate_fn=None, **changes):
    """Run rounds that train one place after the other."""
    grid = grid or make_grid()
    given = {
        "source": TakingTurns(), "clock": VirtualClock(midnight), "finish_by": 2 * rounds * HOUR,
        "clients_per_round": A_PLACE, "round_duration": HOUR, "run_dir": RUN,
        # The schedule is the same with the correction and without: its defaults depend on it.
        "participation": "equal", "balance": "off",
    }  # fmt: skip
    aware = carbon_aware(strategy, **{**given, **changes})
    arrays = [np.zeros(3), np.ones((2, 2))] if initial is None else initial
    return aware.start(grid, ArrayRecord(arrays), num_rounds=rounds, evaluate_fn=evaluate_fn)


def make_grid(step=learn, **app):
    """Return a grid of nodes in all places."""
    return InMemoryGrid(make_app(step, **app), node_configs(A_PLACE * len(PLACES), PLACES))


def weights(result):
    return [array.tobytes() for array in result.arrays.to_numpy_ndarrays()]


def drift(arrays, node, number):
    """Return an update that differs by place, whatever the model is."""
    place = node % len(PLACES)
    return [array + np.cos(place + np.arange(array.size)).reshape(array.shape) for array in arrays]
