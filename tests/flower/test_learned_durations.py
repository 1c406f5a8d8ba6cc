"""Durations of rounds that a run learns from earlier runs in the same folder, and the timeout it knows of."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import carbon_aware
from lowcarb_scheduler.testing import VirtualClock
from support.apps import make_grid
from support.clocks import Machine
from support.forecast_sources import Curve
from support.ledgers import read_records
from support.runs import named, opened

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
LEARNED = "lowcarb: round durations are learned from"


def run(name, machine, rounds=3, size=2, clean=(), start=None, **settings):
    """Run rounds of 40 minutes, and return the events of the ledger."""
    run_dir = Path("runs") / name
    strategy = carbon_aware(
        FedAvg(fraction_evaluate=0.0), source=Curve(machine.now(), clean=clean), clock=machine,
        run_dir=run_dir, clients_per_round=2, **settings,
    )  # fmt: skip
    grid = make_grid(machine, lambda _: 40)
    strategy.start(grid, ArrayRecord([np.zeros(size)]), num_rounds=rounds, **(start or {}))
    return read_records(run_dir)


@pytest.fixture
def learned(midnight, caplog):
    """Log of runs after a first one of three rounds; the log of that one is forgotten."""
    caplog.set_level(logging.INFO, "flwr")
    run("first", Machine(midnight))
    assert not [line for line in caplog.messages if line.startswith(LEARNED)]
    return lambda: [line for line in caplog.messages if line.startswith(LEARNED)]


def test_a_run_learns_how_long_rounds_take_and_waits_before_its_first_one(midnight, learned):
    events = run("second", Machine(midnight), clean=range(3, 6), finish_by=24 * HOUR)
    assert learned() == [f"{LEARNED} 3 round(s) of 1 earlier run: about 40 min"]
    assert opened(events)[0] >= midnight + 3 * HOUR
    run("third", Machine(midnight))
    assert learned()[-1] == f"{LEARNED} 6 round(s) of 2 earlier runs: about 40 min"


@pytest.mark.parametrize(
    "other",
    [
        {"learn_durations": False},
        {"size": 3},  # another model
        {"round_duration": 40 * MINUTE},  # another setting
    ],
)
def test_other_jobs_and_runs_that_may_not_learn_begin_at_once(midnight, learned, other):
    settings = {"clean": range(3, 6), "finish_by": 24 * HOUR, **other}
    events = run("second", Machine(midnight), **settings)
    assert not learned()
    assert named(events, "run_started")[0]["model_bytes"] > 0
    if "round_duration" not in other:
        assert opened(events)[0] == midnight


def test_a_virtual_clock_has_nothing_to_learn_from_and_teaches_nothing(midnight, learned):
    for name in ("second", "third"):
        run(name, VirtualClock(midnight), round_duration=HOUR, finish_by=24 * HOUR)
    assert not learned()


@pytest.mark.parametrize(("timeout_s", "waits"), [(60.0, True), (14 * 3600.0, False)])
def test_time_is_kept_for_a_client_that_does_not_reply_until_the_timeout(midnight, timeout_s, waits):
    events = run("only", Machine(midnight), clean=range(8, 11), finish_by=24 * HOUR,
                 round_duration=40 * MINUTE, start={"timeout": timeout_s})  # fmt: skip
    assert (opened(events)[0] >= midnight + 8 * HOUR) == waits
