"""Turns are given to those with fewest, before anybody looks at carbon."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.planning.participation import fill_evenly


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 9), st.data())
def test_water_filling_gives_to_those_with_fewest(done, rounds, data):
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
