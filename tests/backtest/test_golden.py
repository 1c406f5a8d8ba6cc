"""A backtest of two seeds equals the one recorded before the packages were rearranged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lowcarb_scheduler.backtest import METHODS, History, instance
from support.backtest_world import BEGIN, DAY, PLACES, SCENARIO, trace_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "backtest.json"


def replayed():
    """Return emissions [gCO2eq] and turns by deadline, seed and method."""
    history = History.from_frames(*trace_rows(), PLACES)
    period = BEGIN + 30 * DAY, BEGIN + 36 * DAY
    outcomes = {}
    for factor in (1.0, 3.0):
        for seed in range(2):
            case = instance(SCENARIO, seed, 2, factor, period)
            for name, method in METHODS.items():
                outcome = method(case, history)
                outcomes[f"{factor:g}x seed {seed} {name}"] = [outcome.emissions_g, outcome.turns.tolist()]
    return outcomes


def test_the_backtest_of_two_seeds_equals_the_recorded_one():
    found, expected = replayed(), json.loads(GOLDEN.read_text())
    assert list(found) == list(expected)
    for name, (emissions_g, turns) in expected.items():
        assert found[name][0] == pytest.approx(emissions_g, rel=1e-9), name
        np.testing.assert_array_equal(found[name][1], turns, err_msg=name)
