"""Assignment: both solvers reach the same optimum, and groups hand seats out to distinct clients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from lowcarb_scheduler.planning.aggregation import Groups
from lowcarb_scheduler.planning.assignment import (
    Seating,
    assign,
    assign_aggregated,
    assign_expanded,
    is_single,
)
from lowcarb_scheduler.planning.model import Limits


def random_seating(rng, groups, rounds, single=False, places=4):
    members = rng.integers(1, 6, groups)
    n = int(rng.integers(1, members.sum() + 1))
    if single:
        n = int(rng.integers(1, max(members.sum() // rounds, 1) + 1))
        least, most = np.zeros(groups, np.int64), np.ones(groups, np.int64)
    else:
        k = n * rounds // int(members.sum())
        least, most = np.full(groups, k), np.full(groups, min(k + 1, rounds))
    return Seating(n, members, least, most, np.sort(rng.integers(0, places, groups)), n)


def reference(seating, costs):
    """Client by client, round by round, as a plain integer programme."""
    rounds, groups = costs.shape
    of = np.repeat(np.arange(groups), seating.members)
    clients = len(of)
    rows, low, high = [], [], []

    def add(mask, least, most):
        rows.append(mask.ravel().astype(float))
        low.append(least)
        high.append(most)

    for r in range(rounds):
        mask = np.zeros((rounds, clients))
        mask[r] = 1
        add(mask, seating.seats, seating.seats)
        for place in np.unique(seating.location):
            add(mask * (seating.location[of] == place), 0, seating.location_cap)
    for c in range(clients):
        mask = np.zeros((rounds, clients))
        mask[:, c] = 1
        add(mask, seating.least[of[c]], seating.most[of[c]])
    limits = LinearConstraint(np.array(rows), low, high)
    answer = milp(costs[:, of].ravel(), constraints=limits, integrality=1, bounds=Bounds(0, 1))
    return None if answer.x is None else answer.fun


@pytest.mark.parametrize("seed", range(40))
def test_the_aggregated_programme_is_the_assignment_client_by_client(seed):
    rng = np.random.default_rng(seed)
    seating = random_seating(rng, 5, 4)
    if seed % 3 == 0:
        seating = Seating(
            **{name: getattr(seating, name) for name in seating.__slots__} | {"location_cap": 2}
        )
    costs = rng.uniform(-5, 50, (4, 5))
    found, expected = assign_aggregated(seating, costs, Limits()), reference(seating, costs)
    if expected is None:
        assert found is None
        return
    assert found.emissions_g == pytest.approx(expected, abs=1e-6)
    assert (found.counts.sum(axis=1) == seating.seats).all()
    assert (found.counts <= seating.members).all()
    turns = found.counts.sum(axis=0)
    assert (turns >= seating.least * seating.members).all()
    assert (turns <= seating.most * seating.members).all()


@pytest.mark.parametrize("seed", range(25))
def test_expanded_and_aggregated_agree_on_both_sides_of_the_threshold(seed):
    rng = np.random.default_rng(seed)
    seating = random_seating(rng, 6, 4, single=True)
    costs = rng.uniform(0, 50, (4, 6))
    assert is_single(seating)
    one, other = assign_expanded(seating, costs), assign_aggregated(seating, costs, Limits())
    if one is None:
        assert other is None
        return
    assert one.emissions_g == pytest.approx(other.emissions_g, abs=1e-6)
    by_client, by_group = (assign(seating, costs, Limits(expanded_cells=cells)) for cells in (10**9, 0))
    for found in (by_client, by_group):
        assert found.emissions_g == pytest.approx(one.emissions_g, abs=1e-6)
    assert by_client.prices_g is None  # as the linear assignment gives none
    assert by_group.prices_g is not None


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cap", [None, 0.3])
def test_priced_arcs_give_the_optimum_of_all_arcs(seed, cap):
    rng = np.random.default_rng(seed)
    groups, rounds = 60, 30
    seating = random_seating(rng, groups, rounds, places=8)
    if cap:
        names = {name: getattr(seating, name) for name in seating.__slots__}
        seating = Seating(**names | {"location_cap": max(1, int(cap * seating.seats))})
    place = rng.uniform(50, 400, 8)[seating.location]
    costs = (
        place * (1 + 0.4 * np.cos(np.arange(rounds)[:, None] / 4 + place)) * rng.choice([0.1, 0.3], groups)
    )
    costs[rng.random(costs.shape) < 0.05] = np.inf
    full = assign_aggregated(seating, costs, Limits())
    for hint in (None, rng.uniform(-20, 20, groups), full.prices_g if full else None):
        priced = assign_aggregated(seating, costs, Limits(all_arcs=0), hint)
        if full is None:
            assert priced is None
        else:
            assert priced.emissions_g == pytest.approx(full.emissions_g, rel=1e-9)


def test_a_client_that_takes_two_turns_is_never_seated_twice_in_a_round():
    seating = Seating(1, np.array([1, 1]), np.array([2, 1]), np.array([2, 1]), np.array([0, 1]), 1)
    assert not is_single(seating)
    found = assign(seating, np.array([[1.0, 9], [5, 9], [5, 9]]), Limits())
    assert found.counts.tolist() == [[1, 0], [0, 1], [1, 0]] or found.counts.tolist() == [
        [1, 0],
        [1, 0],
        [0, 1],
    ]


@pytest.mark.parametrize("seed", range(10))
def test_hand_out_gives_distinct_clients_even_turns_and_large_powers_clean_seats(seed):
    rng = np.random.default_rng(seed)
    sizes, rounds = np.array([4, 3, 5]), 6
    watts = np.concatenate([np.sort(rng.uniform(100, 500, size))[::-1] for size in sizes])
    turns = 1 if seed % 2 else 2
    each = np.full(3, turns)
    groups = Groups(
        np.arange(3), np.arange(3), np.ones(3), sizes, each, each, np.arange(12), watts, exact=False
    )
    counts = np.zeros((rounds, 3), dtype=np.int64)
    for g, size in enumerate(sizes):  # any counts that are a plan's: at most N_g a round, all turns
        for _ in range(size * turns):
            counts[rng.choice(np.flatnonzero(counts[:, g] < size)), g] += 1
    width = counts.sum(axis=1).max()
    filler = width - counts.sum(axis=1)  # a fourth group makes every round as wide
    groups = Groups(
        np.arange(4), np.arange(4), np.ones(4), np.append(sizes, width), np.append(each, 0),
        np.append(each, rounds), np.arange(12 + width), np.append(watts, np.ones(width)), exact=False,
    )  # fmt: skip
    integrals = rng.uniform(50, 500, (rounds, 4))
    seats = groups.hand_out(np.column_stack([counts, filler]), integrals)
    assert (np.diff(seats, axis=1) > 0).all()
    taken = np.bincount(seats.ravel(), minlength=12 + width)
    assert (taken[:12] == turns).all()
    if turns == 1:
        for g in range(3):
            mine = [(integrals[r, g], watts[c]) for r in range(rounds) for c in seats[r]
                    if sizes[:g].sum() <= c < sizes[: g + 1].sum()]  # fmt: skip
            power = [w for _, w in sorted(mine, key=lambda pair: (pair[0], -pair[1]))]
            assert power == sorted(power, reverse=True)
