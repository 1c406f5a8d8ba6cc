"""Small run that tests kill and resume."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Synthetic, carbon_aware
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs
from support.runs import RUN

HOUR = timedelta(hours=1)
NODES, ROUNDS = 5, 4


def make_grid(backwards=False, **app):
    """Return a grid; ``backwards`` gives its nodes other ids, as they have after a restart."""
    configs = node_configs(NODES, ("DE", "FR", "GB"))
    return InMemoryGrid(make_app(**app), configs[::-1] if backwards else configs)


def make_aware(midnight, strategy=None, **changes):
    given = {
        "source": Synthetic(), "clock": VirtualClock(midnight), "finish_by": 12 * HOUR,
        "clients_per_round": 2, "round_duration": HOUR, "run_dir": RUN,
    }  # fmt: skip
    return carbon_aware(strategy or FedAvg(), **{**given, **changes})


def start(strategy, grid, rounds=ROUNDS, initial=None, **more):
    arrays = ArrayRecord(initial if initial is not None else [np.linspace(0, 1, 3), np.ones((2, 2))])
    return strategy.start(grid, arrays, num_rounds=rounds, **more)
