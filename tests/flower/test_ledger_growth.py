"""Growth of a ledger: bytes are linear in the rounds, whatever is planned anew and asked for again."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.ledger import FILE_NAME
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app
from support.runs import RUN, run

HOUR = timedelta(hours=1)
PLACES = Synthetic().locations[:6]


class OnePlaceWithoutActuals(Synthetic):
    """A source that knows what will be everywhere, and what has been everywhere but in one place."""

    def actual(self, locations, start, end, timeout=None):
        table = super().actual(locations, start, end, timeout=timeout)
        values = table.values.copy()
        values[:, [place == PLACES[0] for place in table.locations]] = np.nan
        return table.relaid(table.edges_us, table.locations, values)


def bytes_of(rounds, midnight):
    """Return the bytes of plans and actuals but for the first of each, which has all rounds or four weeks."""
    grid = InMemoryGrid(make_app(), [{"location": PLACES[k % len(PLACES)]} for k in range(10)])
    run_dir = RUN / str(rounds)
    run(
        grid, VirtualClock(midnight), rounds, source=OnePlaceWithoutActuals(), clients_per_round=2,
        round_duration=HOUR, finish_by=2 * rounds * HOUR, run_dir=run_dir,
        participation="equal", balance="off",
    )  # fmt: skip
    lines = (run_dir / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return sum(
        len(line)
        for name in ("planned", "actual")
        for line in [line for line in lines if f'"event": "{name}"' in line][1:]
    )


def test_plans_and_actuals_are_linear_in_rounds(midnight):
    short, long = (bytes_of(rounds, midnight) for rounds in (8, 32))
    assert 0 < long < 6 * short
