"""Nodes come, go, fail and lie over a long run: turns stay even, rounds stay full, and it ends in time."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import PLACES, fails, make_app
from support.runs import RUN, most_of_one_place, named
from support.runs import run as run_on

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
STABLE = 12  # nodes that are there all along
LIES = (
    {"power-watts": float("nan")}, {"power-watts": -1.0}, {"power-watts": 1e12}, {"location": "<script>"},
    {"location": "x" * 10_000}, {"location": "=cmd"}, {"location": "[red]"}, {"location": "a\nb"},
    {"duration-minutes": float("inf")}, {"duration-minutes": -5.0},
)  # fmt: skip


def config(node, **lies):
    return {"partition-id": node, "location": PLACES[node % len(PLACES)], "power-watts": 200.0, **lies}


class Churning(FedAvg):
    """A strategy after each round of which a node may come or go, or come back."""

    def __init__(self, grid, rng, rate):
        super().__init__(fraction_evaluate=0.0)
        self.grid, self.rng, self.rate = grid, rng, rate
        self.away, self.there, self.next = [], list(range(STABLE, 30)), 30
        self.ids = dict(zip(range(30), grid.get_node_ids(), strict=True))

    def aggregate_train(self, server_round, replies):
        if self.rng.random() < self.rate:
            self.leave() if self.rng.random() < 0.5 and len(self.there) > 8 else self.join()
        return super().aggregate_train(server_round, replies)

    def leave(self):
        node = self.there.pop(int(self.rng.integers(len(self.there))))
        self.grid.kill(self.ids[node])
        self.away.append(node)

    def join(self):
        if self.away and self.rng.random() < 0.5:
            node, lies = self.away.pop(0), {}
        else:
            node, self.next, lies = self.next, self.next + 1, LIES[self.next % len(LIES)]
        self.ids[node] = self.grid.join(config(node, **lies))
        self.there.append(node)


def run(rounds, rate, breaks=lambda node, number: False, seed=1, **settings):
    grid = InMemoryGrid(make_app(on_train=fails(breaks)), [config(node) for node in range(30)])
    strategy = Churning(grid, np.random.default_rng(seed), rate)
    given = {"source": None, "clients_per_round": 5, "round_duration": 15 * MINUTE, "finish_by": 60 * HOUR}
    return run_on(grid, VirtualClock(MONDAY), rounds, strategy, **{**given, **settings})


def turns_of(events):
    return Counter(event["id"] for event in named(events, "node_done"))


@pytest.mark.parametrize("rounds", [60, pytest.param(200, marks=pytest.mark.soak)])
def test_with_churn_and_invalid_claims_turns_stay_even_and_rounds_full(rounds):
    events = run(rounds, rate=0.3, max_location_share=0.4)
    end = named(events, "run_finished")[0]
    assert (end["status"], end["late"], len(end["rounds"])) == ("completed", False, rounds)
    turns = turns_of(events)
    stable = [turns[str(node)] for node in range(STABLE)]
    assert max(stable) - min(stable) <= 1
    assert max(turns.values()) <= max(stable)  # who came late owes nothing for the past
    opened = named(events, "round_opened")
    assert {len(event["nodes"]) for event in opened} == {5}
    assert max(most_of_one_place(event) for event in opened) <= 2
    came, went = (sum(len(e[name]) for e in named(events, "nodes")) for name in ("joined", "left"))
    assert came > 30 + rounds / 10
    assert went > 15 * rounds / 200
    text = (RUN / "ledger.jsonl").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "x" * 200 not in text


def test_the_same_on_forecasts_with_holds():
    events = run(12, rate=0.6, seed=3, source=Synthetic(), finish_by=24 * HOUR, max_location_share=0.4,
                 round_duration=HOUR)  # fmt: skip
    end = named(events, "run_finished")[0]
    assert (end["status"], end["late"], len(end["rounds"])) == ("completed", False, 12)
    assert any(event["held_s"] > 0 for event in named(events, "round_opened"))
    assert max(most_of_one_place(event) for event in named(events, "round_opened")) <= 2
    assert "nodes changed" in {event["reason"] for event in named(events, "planned")}
    turns = turns_of(events)
    assert {turns[str(node)] for node in range(STABLE)} <= {1, 2, 3}


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_turns_are_even_in_completed_work_where_nodes_drop_out_at_random(rate):
    rng = np.random.default_rng(5)
    dropped = {(str(node), number) for node in range(30) for number in range(1, 41) if rng.random() < 0.15}
    events = run(48, rate, breaks=lambda node, number: (str(node), number) in dropped)
    failed = Counter(event["id"] for event in named(events, "node_failed"))
    assert sum(failed.values()) > 20
    turns = turns_of(events)
    stable = [turns[str(node)] for node in range(STABLE)]
    assert max(stable) - min(stable) <= 1


def test_a_node_that_fails_for_ever_is_asked_no_more_often_than_the_others():
    events = run(60, 0.0, breaks=lambda node, number: node == 3)
    failed = Counter(event["id"] for event in named(events, "node_failed"))
    turns = turns_of(events)
    assert set(failed) == {"3"}
    assert turns["3"] == 0
    assert 5 <= failed["3"] <= max(turns.values()) + 2
    (noted,) = (event for event in named(events, "degraded") if event["what"] == "node")
    assert noted["why"] == "3 has failed 3 times in a row"


def test_who_joins_late_takes_its_share_from_then_on():
    class Joining(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 30:
                for node in range(30, 33):
                    grid.join(config(node))
            return super().aggregate_train(server_round, replies)

    grid = InMemoryGrid(make_app(), [config(node) for node in range(9)])
    events = run_on(
        grid, VirtualClock(MONDAY), 60, Joining(fraction_evaluate=0.0), source=None, clients_per_round=4,
        round_duration=15 * MINUTE,
    )  # fmt: skip
    turns = turns_of(events)
    first, late = ([turns[str(node)] for node in nodes] for nodes in (range(9), range(30, 33)))
    assert max(first) - min(first) <= 1
    before = 30 * 4 / 9  # what the first had when the others came
    assert all(abs(count - (min(first) - before)) <= 2 for count in late)


def test_a_cap_that_no_round_can_keep_gives_way_and_holds_again_when_it_can():
    class Opening(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 3:
                for node in range(6, 12):
                    grid.join({"partition-id": node, "location": ("GB", "ES")[node % 2]})
            return super().aggregate_train(server_round, replies)

    grid = InMemoryGrid(make_app(), [{"partition-id": k, "location": ("DE", "FR")[k % 2]} for k in range(6)])
    events = run_on(
        grid, VirtualClock(MONDAY), 6, Opening(fraction_evaluate=0.0), clients_per_round=4,
        round_duration=HOUR, finish_by=12 * HOUR, max_location_share=0.25,
    )  # fmt: skip
    assert [most_of_one_place(event) for event in named(events, "round_opened")] == [2, 2, 2, 1, 1, 1]
    (rules,) = (event for event in named(events, "degraded") if event["what"] == "rules")
    assert rules["why"] == "no plan keeps max-location-share any more, with the turns done so far"


def test_a_cap_gives_way_to_equal_turns_and_it_is_said():
    grid = InMemoryGrid(make_app(), [{"partition-id": k, "location": "FR" if k else "DE"} for k in range(8)])
    events = run_on(
        grid, VirtualClock(MONDAY), 7, round_duration=HOUR, finish_by=12 * HOUR, max_location_share=0.5
    )
    assert max(most_of_one_place(event) for event in named(events, "round_opened")) == 2
    assert set(turns_of(events).values()) == {1, 2}
    whys = [event["why"] for event in named(events, "degraded") if event["what"] == "rules"]
    assert whys == ["no plan keeps max-location-share any more, with the turns done so far"]
