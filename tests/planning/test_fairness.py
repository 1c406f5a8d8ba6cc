"""Fairness: turns go to the clients with fewest, whatever the carbon intensity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler import Fleet, Job
from lowcarb_scheduler.planning.fairness import decide_turns, fill_evenly, location_cap


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 9), st.data())
def test_water_filling_gives_turns_to_clients_with_fewest(done, rounds, data):
    n = data.draw(st.integers(1, len(done)))
    turns_done = np.array(done)
    turns = fill_evenly(turns_done, rounds * n, rounds, data.draw(st.integers(0, 5)))
    assert turns.sum() == rounds * n
    assert turns.min() >= 0
    assert turns.max() <= rounds
    after = turns_done + turns
    taker = (turns > 0)[:, None]
    could = (turns < rounds)[None, :]
    assert not (taker & could & (after[None, :] < after[:, None] - 1)).any()


def test_the_seed_decides_between_equals_and_spreads_evenly():
    taken = np.array([fill_evenly(np.zeros(6, dtype=np.int64), 3, 2, seed) for seed in range(400)])
    assert (taken.sum(axis=1) == 3).all()
    assert np.abs(taken.mean(axis=0) - 0.5).max() < 0.1
    again = fill_evenly(np.zeros(6, dtype=np.int64), 3, 2, 7)
    assert again.tolist() == taken[7].tolist()


def test_turns_owed_stay_owed_while_a_job_goes_on():
    done = np.zeros(5, dtype=np.int64)
    first = fill_evenly(done, 8, 4, seed=3)
    extra = np.flatnonzero(first == 2)
    done[extra[0]] += 2  # one of them has had both
    rest = fill_evenly(done, 6, 3, seed=3)
    assert (done + rest).tolist() == first.tolist()


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), min_size=2, max_size=25), st.data())
def test_in_a_run_equal_turns_give_way_to_a_cap_on_locations_and_no_further(clients, data):
    places, done = np.array([place for place, _ in clients]), np.array([turns for _, turns in clients])
    n, rounds = data.draw(st.integers(1, len(clients))), data.draw(st.integers(1, 8))
    share = data.draw(st.sampled_from([0.25, 0.5, 0.8, 1.0]))
    ids = [f"{k:02}" for k in range(len(clients))]
    fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": places, "turns_done": done}))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(fleet, now, now + timedelta(days=9), rounds, n, timedelta(hours=1), max_location_share=share,
              bounds_count_done=True)  # fmt: skip
    turns, cap = decide_turns(job).most, location_cap(job)
    sums = {place: turns[places == place].sum() for place in set(places)}
    room = {place: min((places == place).sum(), cap) for place in set(places)}
    assert turns.min() >= 0
    assert turns.max() <= rounds
    assert all(total <= cap * rounds for total in sums.values())
    if sum(room.values()) < n:
        return  # no round can be filled
    assert turns.sum() == rounds * n
    after = done + turns
    for place, total in sums.items():
        here = places == place
        # Turns are even in a location, and with those of others unless the cap is in the way.
        others = here if total == cap * rounds else np.ones(len(turns), dtype=bool)
        takers, could = after[others][turns[others] > 0], after[here][turns[here] < rounds]
        if len(takers) and len(could):
            assert takers.max() <= could.min() + 1
