"""Mixed rounds: turns are shared out anew in every block, and all other rules hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, IntensityTable, Job, Synthetic, plan, replan, tradeoff
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.planning.planner import blocks_of

NOW, HOUR = datetime(2026, 6, 15, tzinfo=UTC), timedelta(hours=1)
PLACES = ("DE", "US-CAL-CISO", "AU-NSW", "KR")


def job(clients=24, rounds=20, per_round=6, mix_rounds=4, hours=60, **rules):
    rows = {"id": [f"c{k:02}" for k in range(clients)], "location": [PLACES[k % 4] for k in range(clients)]}
    fleet = Fleet.from_frame(pd.DataFrame(rows))
    return Job(fleet, NOW, NOW + hours * HOUR, rounds, per_round, HOUR, mix_rounds=mix_rounds, **rules)


def expected(hours=72):
    return Synthetic().actual(PLACES, NOW, NOW + hours * HOUR)


def turns(planned, first, last):
    return np.bincount(planned.seats[first:last].ravel(), minlength=len(planned.fleet))


@pytest.mark.parametrize("patience", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("clients", "per_round", "mix_rounds"), [(24, 6, 4), (24, 5, 3), (7, 3, 6), (40, 4, 3)]
)
def test_every_block_shares_turns_out_equally(clients, per_round, mix_rounds, patience):
    asked = job(clients, 20, per_round, mix_rounds, patience=patience)
    planned = plan(asked, expected())
    for end in range(mix_rounds, 20, mix_rounds):
        assert np.ptp(turns(planned, 0, end)) <= 1
    assert np.ptp(planned.turns) <= 1
    assert (planned.opens_us[1:] >= planned.closes_us[:-1]).all()
    assert planned.finish <= asked.finish_by
    assert all(len(set(seats)) == per_round for seats in planned.seats.tolist())


def test_without_mixing_blocks_are_uneven_and_emissions_lower():
    free, mixed = plan(job(mix_rounds=None), expected()), plan(job(), expected())
    assert np.ptp(turns(free, 0, 4)) > 1
    assert free.emissions_g < mixed.emissions_g < mixed.run_now_emissions_g
    assert free.lower_bound_g is not None
    assert mixed.lower_bound_g is None


def test_one_block_is_planned_as_without_mixing():
    free, mixed = plan(job(mix_rounds=None), expected()), plan(job(mix_rounds=20), expected())
    assert np.array_equal(free.seats, mixed.seats)
    assert mixed.lower_bound_g == free.lower_bound_g


def test_patience_0_opens_back_to_back():
    planned = plan(job(patience=0.0), expected())
    assert planned.finish == NOW + 20 * HOUR


def test_a_block_continues_after_a_restart():
    asked = job()
    first = plan(asked, expected())
    begun = np.bincount(first.seats[:6].ravel(), minlength=24)
    left = replace(asked, fleet=replace(asked.fleet, turns_done=begun), rounds=14, now=NOW + 20 * HOUR)
    assert blocks_of(left) == [2, 4, 4, 4]
    again = plan(left, expected())
    assert np.ptp(begun + turns(again, 0, 2)) == 0


def test_credits_of_clients_that_join_shift_no_block():
    """Two clients that join are credited three turns each, more than a round of them."""
    asked = job()
    begun = np.bincount(plan(asked, expected()).seats[:6].ravel(), minlength=24) + 3 * (np.arange(24) < 2)
    left = replace(asked, fleet=replace(asked.fleet, turns_done=begun), rounds=14, now=NOW + 20 * HOUR)
    assert blocks_of(left) != [2, 4, 4, 4]
    assert blocks_of(replace(left, rounds_done=6)) == [2, 4, 4, 4]


def test_replanning_mixes_too():
    planned = replan(job(), expected())
    assert [np.ptp(turns(planned, 0, end)) for end in (4, 8, 12, 16, 20)] == [0] * 5


def test_an_infeasible_block_falls_back_to_one_block():
    values = expected().values.copy()
    values[24:44] = np.nan  # the second block's time and more
    table = IntensityTable(expected().edges_us, expected().locations, values, Provenance("test", "average"))
    planned = plan(job(rounds=20, mix_rounds=10, hours=48, patience=1.0), table)
    assert np.ptp(planned.turns) <= 1
    assert np.ptp(turns(planned, 0, 10)) > 1
    assert planned.lower_bound_g is not None


def test_mixing_needs_equal_turns_and_has_no_front():
    with pytest.raises(InputError, match="mix_rounds"):
        job(participation="any")
    with pytest.raises(InputError, match="mix_rounds"):
        job(mix_rounds=0)
    with pytest.raises(InputError, match="mix_rounds"):
        tradeoff(job(), expected())
