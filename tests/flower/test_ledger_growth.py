"""Growth of a ledger: bytes are linear in the rounds, whatever is planned anew and asked for again."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.ledger import FILE_NAME
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs
from support.runs import RUN, run

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PLACES = Synthetic().locations


class OnePlaceWithoutActuals(Synthetic):
    """A source that knows what will be everywhere, and what has been everywhere but in one place."""

    def actual(self, locations, start, end, timeout=None):
        table = super().actual(locations, start, end, timeout=timeout)
        values = table.values.copy()
        values[:, [place == PLACES[0] for place in table.locations]] = np.nan
        return table.relaid(table.edges_us, table.locations, values)


def lines_of(midnight, nodes, places, rounds, **settings):
    """Return (event, bytes) of each line that a run writes."""
    grid = InMemoryGrid(make_app(), node_configs(nodes, PLACES[:places]))
    run_dir = RUN / str(rounds)
    run(
        grid, VirtualClock(midnight), rounds, source=OnePlaceWithoutActuals(), round_duration=HOUR,
        participation="equal", balance="off", run_dir=run_dir, **settings,
    )  # fmt: skip
    lines = (run_dir / FILE_NAME).read_bytes().splitlines(keepends=True)
    return [(json.loads(line)["event"], len(line)) for line in lines]


def plans_and_actuals(rounds, midnight):
    """Return the bytes of these lines, by event, but for the first, which have all rounds or four weeks."""
    lines = lines_of(midnight, 10, 6, rounds, clients_per_round=2, finish_by=2 * rounds * HOUR)
    return {name: [size for event, size in lines if event == name][1:] for name in ("planned", "actual")}


def test_plans_and_actuals_are_linear_in_rounds(midnight):
    short, long = (plans_and_actuals(rounds, midnight) for rounds in (8, 24))
    for name, sizes in long.items():
        assert max(sizes) < 1.5 * max(short[name])
    # Asked for every quarter of an hour in a hold, the hour that runs would be written four times.
    assert 24 <= len(long["actual"]) <= 48


def test_200_rounds_of_100_nodes_in_20_places_take_less_than_a_megabyte_and_a_half(midnight):
    rounds = 12  # in 1.1 times their time; the lines that say each thing once are counted once
    lines = lines_of(
        midnight, 100, 20, rounds, clients_per_round=10, finish_by=rounds * 66 * MINUTE,
        participation_correction="off",
    )  # fmt: skip
    once = sum(
        size
        for first in ("run_started", "nodes", "actual")
        for size in [s for e, s in lines if e == first][:1]
    )
    each = (sum(size for _, size in lines) - once) / rounds
    assert once + 200 * each < 1_500_000
