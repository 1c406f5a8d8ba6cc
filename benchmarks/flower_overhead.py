"""Overhead of carbon-aware scheduling: time per round beside plain FedAvg, many nodes, memory.

    python benchmarks/flower_overhead.py [--rounds 20] [--nodes 10000] [--memory-rounds R]

Everything runs in this process on an in-memory Grid, with a virtual clock and synthetic intensities, so the
figures contain no network and no waiting. Seconds are CPU time; imports are excluded, the work of the
in-memory nodes is included.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import tempfile
import time
import tracemalloc
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonClientApp, Synthetic, VirtualClock, carbon_aware
from lowcarb_scheduler.flower.session import Session
from lowcarb_scheduler.forecasts.bias_correction import HISTORY
from lowcarb_scheduler.forecasts.sources.synthetic import zones
from lowcarb_scheduler.scheduling import policy
from lowcarb_scheduler.testing import InMemoryGrid

NOW, HOUR = datetime(2026, 3, 2, tzinfo=UTC), timedelta(hours=1)
PLACES = sorted(zones())


def make_grid(nodes, cls=InMemoryGrid):
    app = CarbonClientApp()

    @app.train()
    def train(message, _):
        arrays = ArrayRecord([array + 1 for array in message.content["arrays"].to_numpy_ndarrays()])
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    configs = [
        {"partition-id": k, "location": PLACES[k % len(PLACES)], "power-watts": 100.0 + k % 200}
        for k in range(nodes)
    ]
    return cls(app, configs)


class ScriptedGrid(InMemoryGrid):
    """Grid with scripted nodes, round by round."""

    script: list[list[int]] = []  # noqa: RUF012  set on the instance

    def get_node_ids(self):
        """Return the nodes of this round."""
        return list(self.script[0])

    def push_messages(self, messages):
        """Push the messages, and continue with the next round."""
        ids = list(super().push_messages(messages))
        if ids:
            self.script = self.script[1:]
        return ids


def run(strategy, grid, rounds, parameters=100_000):
    """Run a strategy; return CPU seconds."""
    random.seed(0)
    arrays = ArrayRecord([np.zeros(parameters, dtype=np.float32)])
    gc.collect()
    began = time.process_time()
    strategy.start(grid, arrays, num_rounds=rounds)
    return time.process_time() - began


def aware(run_dir, **settings):
    given = {"source": Synthetic(), "clock": VirtualClock(NOW), "round_duration": HOUR, "patience": 0.0}
    return carbon_aware(FedAvg(fraction_evaluate=0.0), run_dir=run_dir, **{**given, **settings})


def overhead(folder, rounds):
    """Print the time of a round with 100 nodes, plain and carbon-aware."""
    grid = make_grid(100)
    took_s = run(aware(folder / "overhead", clients_per_round=20), grid, rounds)
    script: dict[int, list[int]] = {}
    for message in grid.sent:
        if message.metadata.message_type == MessageType.TRAIN:
            number = message.content["config"]["server-round"]
            script.setdefault(number, []).append(message.metadata.dst_node_id)
    plain = make_grid(100, ScriptedGrid)
    plain.script = [*script.values(), []]
    plain_s = run(FedAvg(fraction_evaluate=0.0), plain, rounds)
    print(f"100 nodes, 20 a round, {rounds} rounds, patience 0, the same nodes")
    print(f"  plain FedAvg   {plain_s / rounds:7.3f} s a round")
    print(f"  carbon-aware   {took_s / rounds:7.3f} s a round: {(took_s - plain_s) / rounds:+.3f} s", end="")
    print("  (to hold: at most +1 s, or 3 %)")


@contextmanager
def timed(owner, name):
    """Yield a list that takes the seconds of each call of a function."""
    plain, seconds = getattr(owner, name), []

    def call(*args, **kwargs):
        began = time.process_time()
        try:
            return plain(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - began)

    setattr(owner, name, call)
    try:
        yield seconds
    finally:
        setattr(owner, name, plain)


def many_nodes(folder, nodes, rounds):
    """Print the time of profiles and plans for a large fleet."""
    with timed(Session, "open_round") as opening_s:
        strategy = aware(folder / "many", clients_per_round=100)
        run(strategy, make_grid(nodes), rounds, parameters=10)
    first, later = opening_s[0], opening_s[1:]
    print(f"{nodes:,} nodes, 100 a round, {rounds} rounds: profiles and plan")
    print(f"  first round    {first:7.3f} s, its nodes asked who they are")
    print(f"  later rounds   {np.mean(later):7.3f} s, at most {max(later):.3f} s  (to hold: at most 2 s)")
    with timed(policy, "replan") as planning_s:
        patient = {"patience": 1.0, "finish_by": 3 * rounds * HOUR}
        strategy = aware(folder / "patient", clients_per_round=100, **patient)
        run(strategy, make_grid(nodes), rounds, parameters=10)
    often = f"{len(planning_s)} times in {3 * rounds} h"
    print(f"  with patience  {np.mean(planning_s):7.3f} s a plan, at most {max(planning_s):.3f} s; {often}")


def memory(folder, rounds):
    """Print how much more a run holds after all of its rounds than after half of them.

    A run knows the forecasts of the last weeks; half of the rounds are more than that. It also knows what
    intensity has been since it began, which grows with its hours, not with its rounds.
    """
    given = {"clients_per_round": 5, "round_duration": 12 * HOUR}
    rows = {
        "plain FedAvg": FedAvg(fraction_evaluate=0.0),
        "without a source": aware(folder / "sourceless", source=None, **given),
        "with a source": aware(folder / "memory", **given),
    }
    print(f"20 nodes: memory from round {rounds // 2} to {rounds}, 12 h each")
    for name, strategy in rows.items():
        bytes_a_round = _growth(strategy, rounds)
        print(f"  {name:<17} {bytes_a_round:+7,.0f} bytes a round")
    print("  (to hold: none with the rounds; a source is known by the hour, here in 20 places)")


def _growth(strategy, rounds):
    held: dict[int, int] = {}
    grid = make_grid(20)

    def look(number, _):
        grid.sent.clear()
        if number in (rounds // 2, rounds):
            gc.collect()
            held[number] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    strategy.start(grid, ArrayRecord([np.zeros(10)]), num_rounds=rounds, evaluate_fn=look)
    tracemalloc.stop()
    few, many = sorted(held)
    return (held[many] - held[few]) / (many - few)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--memory-rounds", type=int, default=2 * HISTORY // (12 * HOUR) + 28)
    given = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        run(aware(Path(name) / "warm"), make_grid(5), 2)  # imports and first calls, outside the clock
        overhead(Path(name), given.rounds)
        many_nodes(Path(name), given.nodes, given.rounds)
        memory(Path(name), given.memory_rounds)


if __name__ == "__main__":
    main()
