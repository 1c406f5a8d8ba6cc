"""Memory of a run: it does not grow with finished rounds, beyond a few numbers per round."""

from __future__ import annotations

import gc
import tracemalloc
from datetime import timedelta

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import IntensityTable, carbon_aware
from lowcarb_scheduler.accounting.turns import Profile, TurnReport
from lowcarb_scheduler.clock import HOUR_US, VirtualClock, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.scheduling.messages import RunLog
from lowcarb_scheduler.scheduling.recorder import Round, RunRecorder
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import make_app, node_configs
from support.ledgers import replayed
from support.report_ledger import run_events
from support.runs import RUN

HOUR = timedelta(hours=1)
BOOKS_BYTES = 256  # a round, at most: five numbers, and a place among the others
RUN_BYTES = 2048  # a round, at most, with Flower's own record of its metrics


@pytest.mark.parametrize("rounds", [400, pytest.param(4000, marks=pytest.mark.soak)])
def test_books_keep_a_few_numbers_a_round_however_many_nodes_it_had(midnight, rounds):
    clock = VirtualClock(midnight)
    ledger = Ledger(RUN, clock)
    ledger.append(replayed(run_events()).started)
    recorder = RunRecorder(ledger, RunLog(ledger), midnight)
    about = {"location": "DE", "power_watts": 1000.0, "duration": None, "power_assumed": False}
    profiles = [Profile(id=f"node-{k}", node_id=k, **about) for k in range(4)]
    recorder.update_nodes(profiles)
    used = {}
    tracemalloc.start()
    for number in range(1, rounds + 1):
        opened_at = clock.now()
        window = (opened_at, opened_at + HOUR)
        members = {p.node_id: (p, window) for p in profiles}
        recorder.open(Round(number, opened_at, window[1], members, 400.0), timedelta(0), opened_at)
        clock.sleep_until(window[1])
        recorder.train_ended({p.node_id: (window, TurnReport()) for p in profiles}, {})
        recorder.evaluated(number, [(p, window, TurnReport()) for p in profiles], 0, {"score": 0.5}, None)
        recorder.close(clock.now(), HOUR, None)
        if number in (rounds // 4, rounds):
            gc.collect()
            used[number] = tracemalloc.get_traced_memory()[0]
    growth = (used[rounds] - used[rounds // 4]) / (rounds - rounds // 4)
    edges = np.arange(to_us(midnight), to_us(clock.now()) + HOUR_US + 1, HOUR_US)
    actual = IntensityTable(edges, ("DE",), np.full((len(edges) - 1, 1), 100.0), Provenance("x", "average"))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    summary = recorder.finish("completed", None, actual)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    ledger.close()
    assert growth < BOOKS_BYTES
    size = (RUN / "ledger.jsonl").stat().st_size
    assert size > 2500 * rounds
    assert peak < 2000 * rounds  # it is read a round at a time: figures of all rounds stay, not their lines
    assert summary.realised_g == pytest.approx(rounds * 400.0)
    assert summary.run_now_g == pytest.approx(rounds * 400.0)
    assert summary.evaluation_g == pytest.approx(rounds * 400.0)


@pytest.mark.parametrize("rounds", [30, pytest.param(2000, marks=pytest.mark.soak)])
def test_a_whole_run_keeps_a_few_numbers_a_round(midnight, caplog, rounds):
    caplog.set_level("ERROR", "flwr")  # pytest remembers every line
    grid, used = InMemoryGrid(make_app(), node_configs(20, ["DE"])), {}

    class Watching(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            grid.sent.clear()  # the grid of a test remembers everything
            if server_round in (rounds // 3, rounds - 1):
                gc.collect()
                used[server_round] = tracemalloc.get_traced_memory()[0]
            return super().aggregate_evaluate(server_round, replies)

    def start(rounds, run_dir):
        settings = {"clients_per_round": 10, "round_duration": HOUR, "run_dir": run_dir}
        strategy = carbon_aware(Watching(), clock=VirtualClock(midnight), **settings)
        strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=rounds)

    start(2, RUN.with_name("before"))  # what is imported and cached once is no part of a round
    used.clear()
    tracemalloc.start()
    start(rounds, RUN)
    tracemalloc.stop()
    first, last = sorted(used)
    assert (used[last] - used[first]) / (last - first) < RUN_BYTES
