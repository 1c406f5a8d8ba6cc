"""Fairness: turns go to the clients with fewest, whatever the carbon intensity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler import Fleet, Job
from lowcarb_scheduler.planning.fairness import decide_turns, fill_evenly, location_cap, open_turns


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
def test_odd_turns_go_to_clients_whose_location_has_seats_left(clients, data):
    places, done = np.array([place for place, _ in clients]), np.array([turns for _, turns in clients])
    n, rounds = data.draw(st.integers(1, len(clients))), data.draw(st.integers(1, 8))
    share = data.draw(st.sampled_from([0.25, 0.5, 0.8, 1.0]))
    ids = [f"{k:02}" for k in range(len(clients))]
    fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": places, "turns_done": done}))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(fleet, now, now + timedelta(days=9), rounds, n, timedelta(hours=1), max_location_share=share)
    turns, cap = decide_turns(job).most, location_cap(job)
    sums = {place: turns[places == place].sum() for place in set(places)}
    assert turns.min() >= 0
    assert turns.max() <= rounds
    assert turns.sum() == rounds * n
    given = fill_evenly(done, rounds * n, rounds, job.seed)
    assert sorted(done + turns) == sorted(done + given)  # as even as without a cap
    bounds = open_turns(job)
    assert (turns >= bounds.least).all()
    assert (turns <= bounds.most).all()
    if any(total > cap * rounds for total in sums.values()):
        least, most = (
            {place: int(turns[places == place].sum()) for place in sums}
            for turns in (bounds.least, bounds.most)
        )
        # Whoever takes the odd turns, some location takes too many, or all together too few.
        room = sum(min(most[place], cap * rounds) for place in sums)
        assert any(each > cap * rounds for each in least.values()) or room < rounds * n
