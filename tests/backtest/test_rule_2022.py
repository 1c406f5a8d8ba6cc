"""The rule of 2022: its window, its choice of clients, and the same work as every method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.backtest import History, Scenario, chosen_by_rule_2022, instance, methods
from lowcarb_scheduler.backtest.methods import owed_turns
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.intensity import IntensityTable
from support.backtest_world import BEGIN, DAY, HOUR, PLACES, SCENARIO, trace_rows

START = BEGIN + 30 * DAY


@pytest.fixture(scope="module")
def history():
    return History.from_frames(*trace_rows(), PLACES)


@pytest.fixture(scope="module")
def case():
    return instance(SCENARIO, 1, 3, 3.0, (START, START + 6 * DAY))


def forecast(case, values):
    """Return an hourly forecast from the start on; ``values`` has shape (H, 3)."""
    edges = to_us(case.start) + HOUR_US * np.arange(len(values) + 1)
    return IntensityTable(edges, PLACES, np.asarray(values, dtype=float))


def choose(case, values, taken, owed=None, left=9):
    taken = np.asarray(taken)
    owed = np.full(6, 3) if owed is None else np.asarray(owed)
    return chosen_by_rule_2022(case, forecast(case, values), case.start, taken, owed, left).tolist()


def placed(case, places):
    """Return the instance with its clients at these locations."""
    fleet = replace(case.fleet, locations=PLACES, location_index=np.asarray(places))
    return replace(case, fleet=fleet)


def test_least_improvement_to_come_goes_first(case):
    case = placed(case, [0, 0, 1, 1, 2, 2])
    values = np.tile([480.0, 70.0, 290.0], (36, 1))
    values[0] = 500, 130, 300  # what is emitted counts for nothing, what could still be avoided does
    assert choose(case, values, np.full(6, 2)) == [4, 5]  # 10 to come, against 20 and 60; all are skipped


def test_clients_above_the_80th_percentile_are_skipped(case):
    case = placed(case, [0, 0, 1, 1, 2, 2])
    values = np.full((36, 3), 100.0)
    values[:, 0] = np.where(np.arange(36) < 1, 101, 100)  # 1 to come, but now is its worst hour
    values[:, 1] = np.where(np.arange(36) % 2, 90, 100)  # 10 to come, and half of its hours are like now
    values[:, 2] = np.where(np.arange(36) % 2, 80, 100)
    assert choose(case, values, np.full(6, 2)) == [2, 3]


def test_the_window_grows_with_the_turns_taken(case):
    case = placed(case, [0] * 6)
    values = np.full((36, 3), 100.0)
    values[20] = 10  # seen only by who has had a turn or two: 24 hours of 36
    assert choose(case, values, [2, 2, 0, 2, 1, 2]) == [2, 4]


def test_a_client_that_owes_every_round_is_chosen_and_one_that_owes_none_is_not(case):
    case = placed(case, [0, 1, 2, 0, 1, 2])
    values = np.full((36, 3), 100.0)
    values[1:, 0] = 10
    assert choose(case, values, [1, 1, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3], 2) == [0, 1]
    assert choose(case, values, [1, 3, 2, 3, 2, 3], [3, 3, 3, 3, 3, 3], 2) in ([0, 2], [0, 4])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    rounds=st.integers(1, 12),
    per_round=st.integers(1, 7),
    reach=st.integers(0, 40),
)
def test_all_clients_take_their_turns_with_any_forecast(seed, rounds, per_round, reach):
    rng = np.random.default_rng(seed)
    scenario = Scenario("any", PLACES, 7, per_round, rounds, HOUR)
    case = instance(scenario, seed, 1, 1.0, (START, START))
    owed, taken = owed_turns(case), np.zeros(7, np.int64)
    for number in range(rounds):
        values = rng.uniform(0, 500, (rounds + reach, 3))
        values[rng.random(values.shape) < 0.2] = np.nan
        now = case.start + number * HOUR
        chosen = chosen_by_rule_2022(case, forecast(case, values), now, taken, owed, rounds - number)
        assert len(set(chosen.tolist())) == per_round
        taken[chosen] += 1
    assert taken.tolist() == owed.tolist()
    assert np.ptp(taken) <= 1


def test_it_uses_no_future_values(history, case):
    """A new forecast, four hours after the start, changes no earlier choice."""
    news = START + 2 * DAY
    case = replace(case, start=news - 4 * HOUR, finish_by=news + 2 * DAY)
    other = replace(
        history,
        actual=history.actual.relaid(history.actual.edges_us, PLACES, history.actual.values + 1e3),
        issues=tuple(
            (at, table if at < news else table.relaid(table.edges_us, PLACES, table.values[:, ::-1]))
            for at, table in history.issues
        ),
    )
    chosen, otherwise = (methods.seats_by_rule_2022(case, world).tolist() for world in (history, other))
    assert len(chosen) == 9
    assert chosen[:4] == otherwise[:4]
    assert chosen[4:] != otherwise[4:]


def test_it_does_not_wait_and_is_charged_with_actual_intensity(history, case):
    near = replace(case, finish_by=case.start + SCENARIO.back_to_back)
    flat = replace(
        history,
        actual=history.actual.relaid(
            history.actual.edges_us, PLACES, np.full_like(history.actual.values, 100.0)
        ),
    )
    assert methods.flwr_lowcarb_2022(case, flat).emissions_g == pytest.approx(18 * 100.0)
    with_time, without = (methods.flwr_lowcarb_2022(each, history) for each in (case, near))
    assert with_time.emissions_g == without.emissions_g
