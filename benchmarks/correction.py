"""Cost of the participation correction: time and memory beside the strategy's own aggregation.

    python benchmarks/correction.py [--millions 0.1 1 10] [--places 40] [--replies 10 100] [--rounds 5]

In each round the same replies are aggregated twice in this process: by FedAvg alone, and by FedAvg after the
correction. The difference is the cost. Its parts are the correction itself, which reads every reply once, and
the strategy's own time, which is shorter because it then reads replies without copying them. Milliseconds are
medians over rounds, of the wall and of the processor (all threads); memory is the largest that the correction
holds at once, replies excluded. The checkpoint is what it writes to disk in a round, and how long that takes.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler.accounting.turns import Profile
from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.flower.correction.applicability import Applicability
from lowcarb_scheduler.flower.correction.correction import ParticipationCorrection
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.testing import InMemoryGrid

NOW = datetime(2026, 3, 2, tzinfo=UTC)
DISTINCT = 20  # models held at once; more would only fill the memory of a small machine


class Times(NamedTuple):
    """Time on the wall and of the processor [ms]."""

    wall: float
    cpu: float


class Cost(NamedTuple):
    """Cost of one size of problem, medians over rounds."""

    parameters: int
    places: int
    replies: int
    plain: Times  # FedAvg alone
    correction: Times
    own: Times  # FedAvg after the correction
    total: Times  # both
    peak_mb: float
    checkpoint_mb: float
    checkpoint: Times


def timed(work, *arguments):
    """Return the times of a call."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    return Times(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))


def median(times):
    return Times(*np.median(np.array(times), axis=0).tolist())


def shapes_of(parameters):
    """Return the shapes of a network with so many parameters: wide layers, narrow ones, and biases."""
    shapes, left = [], parameters
    for part in (0.5, 0.25, 0.15, 0.05):
        rows = max(1, int((parameters * part) ** 0.5))
        columns = int(parameters * part) // rows
        shapes += [(rows, columns), (rows,)]
        left -= rows * columns + rows
    return [*shapes, (max(left, 1),)]


def measure(parameters, places, replies, rounds, folder):
    """Return the cost of one size."""
    random = np.random.default_rng(1)
    shapes = shapes_of(parameters)
    sent = [random.standard_normal(shape, dtype=np.float32) for shape in shapes]
    models = [
        ArrayRecord(
            [part + np.float32(0.01) * random.standard_normal(part.shape, dtype=np.float32) for part in sent]
        )
        for _ in range(min(replies, DISTINCT))
    ]
    model = ArrayRecord(sent)
    InMemoryGrid(None, [])  # gives messages their identity
    about = {"power_watts": 300.0, "power_assumed": True, "duration": None}
    nodes = {
        k: Profile(id=f"node-{k}", node_id=k, location=f"place-{k % places}", **about) for k in range(replies)
    }
    strategy = FedAvg()
    ledger = Ledger(folder, VirtualClock(NOW))
    correction = ParticipationCorrection(Applicability("location"), strategy, ledger)
    checkpoint = Checkpoint(folder)
    asked = [Message(RecordDict({"arrays": model}), node_id, MessageType.TRAIN) for node_id in nodes]

    def answers(number):
        found = []
        for k, message in enumerate(asked):
            metrics = MetricRecord({"num-examples": 10 + k})
            content = RecordDict({"arrays": models[(k + number) % len(models)], "metrics": metrics})
            found.append(Message(content, reply_to=message))
        return found

    found, entries = [], {}
    for number in range(rounds + 2):  # two to warm up: the first remembers, the second is the first to shift
        plain = timed(strategy.aggregate_train, number, answers(number))
        corrected = answers(number)
        correction.sent(asked)
        cost = timed(correction.correct, number, list(enumerate(corrected)), nodes)
        own = timed(strategy.aggregate_train, number, corrected)
        before = dict(entries)
        saved = timed(save, correction, checkpoint, number, entries)
        for place in before:
            if entries[place] != before[place]:
                (folder / "checkpoint" / before[place]["file"]).unlink()
        found.append((plain, cost, own, Times(cost.wall + own.wall, cost.cpu + own.cpu), saved))
    size_mb = sum(path.stat().st_size for path in (folder / "checkpoint").iterdir()) / 1e6
    peak_mb = peak_of(folder / "traced", strategy, asked, answers, nodes)
    ledger.close()
    medians = [median(times) for times in zip(*found[2:], strict=True)]
    return Cost(sum(map(np.prod, shapes)), places, replies, *medians[:4], peak_mb, size_mb, medians[4])


def save(correction, checkpoint, number, entries):
    """Write the memories that a round has changed."""
    for place, memory in correction.memories.items():
        if memory.number == number:
            entries[place] = checkpoint.write_arrays(f"memory-{place}", memory.to_arrays())


def peak_of(folder, strategy, asked, answers, nodes):
    """Return the largest memory that a correction holds in three rounds [MB]."""
    ledger = Ledger(folder, VirtualClock(NOW))
    correction = ParticipationCorrection(Applicability("location"), strategy, ledger)
    rounds = [list(enumerate(answers(number))) for number in range(3)]
    tracemalloc.start()
    for number, replies in enumerate(rounds):
        correction.sent(asked)
        correction.correct(number, replies, nodes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ledger.close()
    return peak / 1e6


def line(cost):
    """Return a row of the table."""
    plain, more = cost.plain, Times(cost.total.wall - cost.plain.wall, cost.total.cpu - cost.plain.cpu)
    times = [f"{each.wall:,.0f} / {each.cpu:,.0f}" for each in (plain, cost.correction, cost.own)]
    cells = [
        f"{cost.parameters / 1e6:.1f}", str(cost.places), str(cost.replies), *times,
        f"{more.wall:+,.0f} / {more.cpu:+,.0f}",
        f"{more.wall / plain.wall:+.0%} / {more.cpu / plain.cpu:+.0%}", f"{cost.peak_mb:,.0f}",
        f"{cost.checkpoint_mb:,.0f} MB, {cost.checkpoint.wall:,.0f} ms",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "million parameters", "places", "replies", "FedAvg alone, ms", "correction, ms", "FedAvg after it, ms",
    "more, ms", "more, %", "memory, MB", "checkpoint",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, nargs="*", default=[0.1, 1, 10])
    parser.add_argument("--places", type=int, default=40)
    parser.add_argument("--replies", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.1f}; wall / processor\n\n{HEAD}")
    for millions in options.millions:
        for replies in options.replies:
            with tempfile.TemporaryDirectory() as folder:
                cost = measure(int(millions * 1e6), options.places, replies, options.rounds, Path(folder))
            print(line(cost), flush=True)


if __name__ == "__main__":
    main()
