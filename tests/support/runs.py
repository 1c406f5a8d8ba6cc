"""Runs on an in-memory grid, and what their ledgers and grids show."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, MessageType
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Synthetic, carbon_aware
from lowcarb_scheduler.clock import parse_time
from support.forecast_sources import Curve
from support.ledgers import read_records

HOUR = timedelta(hours=1)
RUN = Path("run")


def run(grid, clock, rounds=2, strategy=None, **settings):
    """Run rounds of two clients, by default on synthetic data, and return the events of the ledger."""
    given = {"source": Synthetic(), "clock": clock, "run_dir": RUN, "clients_per_round": 2, **settings}
    aware = carbon_aware(strategy or FedAvg(fraction_evaluate=0.0), **given)
    aware.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=rounds)
    return read_records(given["run_dir"])


def run_curve(grid, machine, rounds=2, length=HOUR, **settings):
    """Run on a ``WorkingGrid`` and a ``Curve``, with rounds of an hour and two days of time."""
    grid.clock, grid.length = machine, length
    given = {"source": Curve(machine.now()), "round_duration": HOUR, "finish_by": 48 * HOUR, **settings}
    return run(grid, machine, rounds, **given)


def named(events, name):
    """Return the events of one name."""
    return [event for event in events if event["event"] == name]


def events_of(name, run_dir=RUN):
    """Return the events of one name in the ledger of a run."""
    return named(read_records(run_dir), name)


def opened(events):
    """Return when the rounds opened."""
    return [parse_time(event["opened_at"], "opened_at") for event in named(events, "round_opened")]


def most_of_one_place(event):
    """Return how many nodes of a round are in the place with the most."""
    return max(Counter(node["location"] for node in event["nodes"]).values())


def asked(grid, kind=MessageType.TRAIN):
    """Return (round, node id) of the messages of one type, in the order they were sent."""
    sent = [message for message in grid.sent if message.metadata.message_type == kind]
    return [(message.content["config"]["server-round"], message.metadata.dst_node_id) for message in sent]


def trained(grid):
    """Return the ids of the nodes that were asked to train, by round."""
    rounds = {}
    for number, node_id in asked(grid):
        rounds.setdefault(number, []).append(node_id)
    return rounds
