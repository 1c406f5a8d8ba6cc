"""The strategy on an in-memory grid and a virtual clock: who trains, when, and what is written down."""

from __future__ import annotations

import random
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, MessageType, MetricRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedXgbCyclic,
)

from lowcarb_scheduler import Forecast, IntensityTable, Synthetic, carbon_aware
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.errors import InputError, PlanInfeasibleError, PlanMismatchError
from lowcarb_scheduler.flower.client import QUERY
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import add_one, make_app, node_configs
from support.forecast_sources import Flat
from support.runs import RUN, asked, events_of, trained

HOUR = timedelta(hours=1)
NODES = 10


@pytest.fixture
def grid():
    return InMemoryGrid(make_app(add_one), node_configs(NODES, **{"power-watts": 200.0}))


@pytest.fixture
def aware(midnight):
    def make(strategy=None, **changes):
        given = {
            "source": Synthetic(), "clock": VirtualClock(midnight), "finish_by": 24 * HOUR,
            "clients_per_round": 4, "round_duration": HOUR, "run_dir": RUN,
        }  # fmt: skip
        return carbon_aware(strategy or FedAvg(), **{**given, **changes})

    return make


def run(strategy, grid, rounds=5, **more):
    return strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=rounds, timeout=5, **more)


class FromScratch(FedAvg):
    """A strategy with a start() of its own."""

    def start(self, grid, initial_arrays, num_rounds=3, **kwargs):
        self.began = True
        return super().start(grid, initial_arrays, num_rounds, **kwargs)


@pytest.mark.parametrize(
    "inner",
    [
        FedAvg(),
        FedAvg(fraction_train=0.1, min_available_nodes=NODES, min_train_nodes=1),
        FedAvg(fraction_train=1.0, fraction_evaluate=0.0),
        FedAdam(),
        FedMedian(),
        FromScratch(),
        DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 4),
    ],
    ids=lambda inner: f"{type(inner).__name__}",
)
def test_exactly_the_planned_nodes_train_in_the_planned_windows(aware, grid, inner):
    strategy = aware(inner, balance="off")
    result = run(strategy, grid)
    planned = [sorted(int(node["id"]) + 101 for node in e["nodes"]) for e in events_of("round_opened")]
    assert [sorted(nodes) for nodes in trained(grid).values()] == planned
    assert all(len(nodes) == 4 for nodes in planned)
    closed = events_of("round_closed")
    assert len(closed) == 5
    assert all(one["closes_at"] <= other["opens_at"] for one, other in pairwise(closed))
    assert closed[-1]["closes_at"] <= events_of("run_started")[0]["finish_by"]
    assert isinstance(strategy, type(inner))
    assert len(result.arrays) == 1


def test_it_waits_and_the_ledger_proves_the_saving(aware, grid):
    run(aware(), grid)
    summary = summarise(read_ledger(RUN))
    assert summary.status == "completed"
    assert sum(bool(r.held) for r in summary.rounds) >= 1
    assert events_of("hold_started")
    end = events_of("run_finished")[0]
    assert end["realised_g"] == pytest.approx(summary.realised_g)
    assert end["realised_g"] != pytest.approx(end["planned_g"])  # forecasts err, and it is not hidden
    assert 0 < end["saving"] == pytest.approx(1 - end["realised_g"] / end["run_now_g"])
    assert end["energy_kwh"] == pytest.approx(5 * 4 * 0.2)
    assert {e["energy_basis"] for e in events_of("node_done")} == {"estimated"}
    assert all(e["synthetic"] for e in events_of("forecast") + events_of("actual"))


def test_turns_are_shared_equally(aware, grid):
    run(aware(), grid, rounds=7)  # 28 turns of 10 clients
    turns = summarise(read_ledger(RUN)).turns
    assert sorted(turns.values()) == [2, 2, 3, 3, 3, 3, 3, 3, 3, 3]


def test_patience_0_never_waits(aware, grid):
    run(aware(patience=0.0), grid)
    assert [e["held_s"] for e in events_of("round_opened")] == [0.0] * 5
    assert not events_of("hold_started")


def test_without_a_source_rounds_open_at_once_and_it_says_so(aware, grid):
    run(aware(source=None), grid)
    assert [e["held_s"] for e in events_of("round_opened")] == [0.0] * 5
    assert events_of("degraded")[0]["why"] == "no source is named"
    end = events_of("run_finished")[0]
    assert (end["planned_g"], end["realised_g"], end["run_now_g"], end["saving"]) == (None,) * 4


class Breaking:
    """A source that is good for some calls and then raises."""

    def __init__(self, good):
        self.good, self.source = good, Synthetic()

    def forecast(self, locations, now):
        self.good -= 1
        if self.good < 0:
            raise OSError("connection reset")
        return self.source.forecast(locations, now)

    def actual(self, locations, start, end):
        raise ValueError("no such endpoint")


@pytest.mark.parametrize("good", [0, 1, 3])
def test_a_source_that_breaks_stops_nothing(aware, grid, good):
    run(aware(source=Breaking(good)), grid)
    closed = events_of("round_closed")
    assert len(closed) == 5
    assert closed[-1]["closes_at"] <= events_of("run_started")[0]["finish_by"]
    assert "OSError: connection reset" in {e["why"] for e in events_of("degraded")}
    assert all(e["realised_g"] is None for e in closed)
    if good == 0:
        assert [e["held_s"] for e in events_of("round_opened")] == [0.0] * 5


def test_a_place_nobody_forecasts_does_not_stop_the_waiting(aware):
    class Partial(Synthetic):
        def forecast(self, locations, now):
            return super().forecast([place for place in locations if place != "FR"], now)

        def actual(self, locations, start, end):
            return super().actual([place for place in locations if place != "FR"], start, end)

    grid = InMemoryGrid(make_app(), node_configs(NODES))
    run(aware(source=Partial()), grid)
    assert len(events_of("round_closed")) == 5
    assert any("FR" in e["what"] for e in events_of("degraded"))
    assert min(summarise(read_ledger(RUN)).turns.values()) >= 1  # its clients train too


def test_nodes_that_are_nowhere_are_named(aware):
    grid = InMemoryGrid(make_app(), [{"partition-id": k} for k in range(6)])
    run(aware(), grid, rounds=2)
    why = next(e["why"] for e in events_of("degraded") if e["what"] == "locations")
    assert why == "6 of 6 node(s) have no location (0, 1, 2, 3, 4, ...)"


def test_a_place_a_source_with_a_closed_list_does_not_know_spares_the_others(aware):
    grid = InMemoryGrid(make_app(), node_configs(6, ["DE", "Frankfurt", "GB"]))
    run(aware(clients_per_round=2), grid)
    assert any(e["held_s"] > 0 for e in events_of("round_opened"))
    noted = next(e["why"] for e in events_of("degraded") if e["what"] == "node")
    assert noted.startswith("location 'Frankfurt' is not known to the source")
    assert noted.endswith("it is ignored (2 nodes: '1', '4')")


def test_a_node_lost_in_the_hold_is_replaced(aware, grid, midnight):
    class Killing(VirtualClock):
        def sleep_until(self, when):
            super().sleep_until(when)
            if not killed_in and (held := events_of("hold_started")):
                grid.kill(101)
                killed_in.append(held[0]["round"])

    killed_in = []
    run(aware(clock=Killing(midnight)), grid, rounds=8)
    assert "nodes changed" in {e["reason"] for e in events_of("planned")}
    after = [nodes for number, nodes in trained(grid).items() if number >= killed_in[0]]
    assert len(after) > 1
    assert all(101 not in nodes and len(nodes) == 4 for nodes in after)
    assert not events_of("node_failed")


def test_a_turn_counts_when_it_is_completed(aware):
    configs = [{"partition-id": k, "location": "DE", "breaks": k == 3} for k in range(5)]
    grid = InMemoryGrid(make_app(), configs)
    run(aware(clients_per_round=2), grid, rounds=4)
    failed = events_of("node_failed")
    assert {e["id"] for e in failed} == {"3"}
    assert "out of memory" in failed[0]["reason"]
    assert len(failed) >= 2  # it still owes its turn, and is asked again
    assert summarise(read_ledger(RUN)).turns["3"] == 0


def test_a_node_that_joins_late_owes_nothing_for_the_past(aware, grid):
    class Joining(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 5:
                grid.join({"partition-id": 10, "location": "DE"})
            return super().aggregate_train(server_round, replies)

    run(aware(Joining()), grid, rounds=10)
    rounds = trained(grid)
    late = sum(101 + NODES in nodes for nodes in rounds.values())
    assert 1 <= late <= 3  # its share of the five rounds it was there for


def evaluated(grid):
    """Return the ids of the nodes that were asked to evaluate, by round."""
    rounds = {}
    for number, node_id in asked(grid, MessageType.EVALUATE):
        rounds.setdefault(number, []).append(node_id)
    return rounds


@pytest.mark.parametrize(("where", "nodes"), [("planned", 4), ("all", NODES), ("none", 0)])
def test_evaluation_follows_its_setting(aware, grid, where, nodes, caplog):
    caplog.set_level("INFO", "flwr")
    run(aware(FedAvg(fraction_evaluate=0.3), evaluate_on=where), grid, rounds=1)
    found = evaluated(grid).get(1, [])
    assert len(found) == nodes
    if where == "planned":
        assert set(found) == set(trained(grid)[1])
    first = [line for line in caplog.messages if line.startswith("lowcarb:")][:2]
    assert any("evaluation on nodes: " in line for line in first)  # metrics depend on it


class Seeded(FedAvg):
    """A strategy whose samples for evaluation are known."""

    def configure_evaluate(self, server_round, arrays, config, grid):
        random.seed(server_round)
        return super().configure_evaluate(server_round, arrays, config, grid)


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_by_default_those_evaluate_that_the_bare_strategy_would_sample(aware, grid, fraction):
    """From all connected nodes: those that were chosen to train are no random sample of the data."""
    run(aware(Seeded(fraction_evaluate=fraction)), grid, rounds=3)
    bare = InMemoryGrid(make_app(add_one), node_configs(NODES))
    run(Seeded(fraction_evaluate=fraction), bare, rounds=3)
    assert evaluated(grid) == evaluated(bare)
    assert {len(nodes) for nodes in evaluated(grid).values()} == {round(fraction * NODES)}
    assert len({node_id for nodes in trained(grid).values() for node_id in nodes}) > 4


def test_nodes_that_are_gone_when_it_is_evaluated_are_not_waited_for(aware, grid):
    class Losing(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 1:
                for node_id in range(103, 101 + NODES):
                    grid.kill(node_id)
            return super().aggregate_train(server_round, replies)

    run(aware(Losing(min_evaluate_nodes=5)), grid, rounds=1)
    assert {number: set(nodes) for number, nodes in evaluated(grid).items()} == {1: {101, 102}}


def test_below_the_quorum_of_the_strategy_nobody_evaluates(aware, grid):
    class Losing(FedAvg):
        def aggregate_train(self, server_round, replies):
            grid.kill(110)
            return super().aggregate_train(server_round, replies)

    with pytest.raises(PlanInfeasibleError, match=r"needed 10, available 9"):
        run(aware(Losing(min_available_nodes=NODES)), grid, rounds=2)
    assert not evaluated(grid)
    (noted,) = (event for event in events_of("degraded") if event["what"] == "evaluation")
    assert noted["why"] == "9 of 10 nodes that the strategy requires are connected"


def test_who_joins_in_a_round_may_evaluate_it_and_is_in_its_accounts(aware, grid):
    class Joining(FedAvg):
        def aggregate_train(self, server_round, replies):
            grid.join({"partition-id": 10, "location": "DE"})
            return super().aggregate_train(server_round, replies)

    run(aware(Joining()), grid, rounds=1)
    assert len(evaluated(grid)[1]) == NODES + 1
    assert {event["id"] for event in events_of("node_evaluated")} == {str(k) for k in range(NODES + 1)}


def test_metrics_of_server_and_clients_are_written_down(aware, grid):
    exact = aware(participation_correction="off")  # the places of the second round are others
    run(exact, grid, rounds=2, evaluate_fn=lambda number, _: MetricRecord({"loss": float(number)}))
    assert [(e["round"], e["where"], e["metrics"]) for e in events_of("evaluated")] == [
        (0, "server", {"loss": 0.0}),
        (1, "clients", {"score": 3.0}),
        (1, "server", {"loss": 1.0}),
        (2, "clients", {"score": 6.0}),
        (2, "server", {"loss": 2.0}),
    ]


def test_flat_intensity_is_worth_no_wait_and_saves_nothing(aware, grid):
    run(aware(source=Flat()), grid)
    assert [e["held_s"] for e in events_of("round_opened")] == [0.0] * 5
    assert events_of("run_finished")[0]["saving"] == pytest.approx(0.0)


def test_bounds_on_turns_hold_over_the_whole_run(aware, grid):
    run(aware(participation="1,3"), grid, rounds=5)
    turns = summarise(read_ledger(RUN)).turns.values()
    assert (min(turns), max(turns)) >= (1, 1)
    assert max(turns) <= 3
    assert not [e for e in events_of("degraded") if e["what"] in ("rules", "plan")]


def test_sources_whose_signals_differ_are_not_mixed_and_stop_nothing(aware, grid):
    class Mixed(Synthetic):
        def actual(self, locations, start, end):
            table = super().actual(locations, start, end)
            return IntensityTable(table.edges_us, table.locations, table.values, Provenance("s", "unknown"))

    run(aware(source=Mixed()), grid)
    assert len(events_of("round_closed")) == 5
    assert "its signal is unknown, the forecast's average" in {e["why"] for e in events_of("degraded")}


def test_a_source_with_dirty_times_stops_nothing(aware, grid):
    class Dirty(Synthetic):
        def forecast(self, locations, now):
            known = super().forecast(locations, now)
            edges = known.intensity.edges_us.copy()
            edges[1:-1] += 1000  # a millisecond late, all but the first
            edges = np.sort(np.append(edges, edges[3] + 1000))
            values = np.repeat(known.intensity.values, [1, 1, 1, 2, *[1] * 92], axis=0)
            dirty = IntensityTable(edges, known.intensity.locations, values, Provenance("dirty", "average"))
            return Forecast(dirty, known.generated_at)

    run(aware(source=Dirty()), grid)
    assert len(events_of("round_closed")) == 5


def test_names_that_collide_stop_nothing(aware):
    names = ["a@103", "a", "a", "a@103", "b", "c"]
    grid = InMemoryGrid(make_app(), [{"name": name, "location": "DE"} for name in names])
    run(aware(clients_per_round=3), grid, rounds=2)
    assert len(summarise(read_ledger(RUN)).turns) == 6


def test_a_node_that_comes_back_is_itself(aware, grid):
    class Restarting(FedAvg):
        def aggregate_train(self, server_round, replies):
            grid.kill(101 if server_round == 1 else 110 + server_round - 1)
            grid.join({"partition-id": 0, "location": "DE"})
            return super().aggregate_train(server_round, replies)

    run(aware(Restarting()), grid, rounds=5)
    turns = summarise(read_ledger(RUN)).turns
    assert sorted(turns) == sorted(str(k) for k in range(NODES))
    assert sorted(turns.values()) == [2] * NODES


def test_when_all_nodes_go_in_the_hold_it_is_an_error_not_a_round_for_nobody(aware, grid, midnight):
    class Ending(VirtualClock):
        def sleep_until(self, when):
            super().sleep_until(when)
            if events_of("hold_started"):
                for node_id in list(grid.get_node_ids()):
                    grid.kill(node_id)

    with pytest.raises(PlanInfeasibleError, match=r"too few nodes are connected \(needed 2, available 0\)"):
        run(aware(clock=Ending(midnight)), grid)
    assert not events_of("node_failed")


def test_inside_another_strategy_it_is_refused_with_the_right_nesting(aware, grid):
    inner = aware(FedAvg())
    outer = DifferentialPrivacyServerSideFixedClipping(inner, 0.1, 1.0, 4)
    with pytest.raises(InputError, match=r"carbon_aware\(DP\(FedAvg\(\)\)\)"):
        run(outer, grid)
    with pytest.raises(InputError, match="wrap it once"):
        aware(inner)


def test_evaluation_on_all_never_waits_without_end(aware, grid):
    run(aware(FedAvg(min_evaluate_nodes=50), evaluate_on="all"), grid, rounds=1)
    assert len(evaluated(grid)[1]) == NODES


class OwnArguments(FedAvg):
    """A strategy whose start() hands on what it is given."""

    def start(self, grid, *args, **kwargs):
        return super().start(grid, *args, **kwargs)


@pytest.mark.parametrize("rounds", [(2,), ()])
def test_a_start_that_hands_on_its_arguments_is_understood(aware, grid, rounds):
    seen = []
    strategy = aware(OwnArguments())
    strategy.start(grid, ArrayRecord([np.zeros(3)]), *rounds, evaluate_fn=lambda n, _: seen.append(n))
    assert len(events_of("round_closed")) == (rounds[0] if rounds else 3)
    assert seen


class Stopping(VirtualClock):
    """A clock that can break."""

    broken = False

    def now(self):
        if self.broken:
            raise RuntimeError("the clock has stopped")
        return super().now()


def test_training_is_not_lost_to_books_that_cannot_be_closed(aware, grid, midnight, caplog):
    clock = Stopping(midnight)

    class Last(FedAvg):
        def start(self, *args, **kwargs):
            result = super().start(*args, **kwargs)
            clock.broken = True
            return result

    result = run(aware(Last(), clock=clock), grid, rounds=1)
    assert len(result.arrays) == 1
    assert "the ledger could not be closed: RuntimeError: the clock has stopped" in caplog.text
    assert not events_of("run_finished")


def test_a_strategy_that_only_evaluates_is_left_alone(aware, grid):
    run(aware(FedAvg(fraction_train=0.0)), grid, rounds=1)
    assert trained(grid) == {}


def test_a_password_in_a_url_is_not_kept(aware, grid):
    run(aware(sdk_url="https://me:hunter2@sdk.example"), grid, rounds=1)
    text = (RUN / "ledger.jsonl").read_text(encoding="utf-8")
    assert "hunter2" not in text
    assert "https://***@sdk.example" in text


def test_disabled_it_is_the_plain_strategy(aware, grid):
    run(aware(FedAvg(fraction_train=0.5), enabled=False), grid, rounds=2)
    assert all(len(nodes) == 5 for nodes in trained(grid).values())
    assert not RUN.exists()
    assert QUERY not in {m.metadata.message_type for m in grid.sent}


def test_by_default_as_many_train_as_the_inner_strategy_samples(aware, grid):
    run(aware(FedAvg(fraction_train=0.3), clients_per_round=None), grid, rounds=2)
    assert all(len(nodes) == 3 for nodes in trained(grid).values())


def test_a_strategy_that_picks_its_own_nodes_is_an_error_not_an_endless_wait(aware, grid):
    class Stubborn(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            while len(list(grid.get_node_ids())) < 8:
                pass
            return super().configure_train(server_round, arrays, config, grid)

    with pytest.raises(PlanMismatchError, match="waits for more"):
        run(aware(Stubborn()), grid)
    assert events_of("run_finished")[0]["status"] == "failed"


def test_one_node_at_a_time_strategies_work_with_one_and_refuse_more(aware, grid):
    run(aware(FedXgbCyclic(), clients_per_round=1), grid, rounds=3)
    assert [len(nodes) for nodes in trained(grid).values()] == [1, 1, 1]
    with pytest.raises(PlanMismatchError, match="clients-per-round = 1"):
        run(aware(FedXgbCyclic(), run_dir=Path("other")), grid, rounds=1)


def test_too_few_nodes_is_an_error_that_names_both_numbers(aware, grid):
    for node_id in list(grid.get_node_ids())[1:]:
        grid.kill(node_id)
    with pytest.raises(PlanInfeasibleError, match=r"too few nodes are connected \(needed 2, available 1\)"):
        run(aware(), grid)


def test_fewer_nodes_than_planned_train_with_those_there_are(aware, grid):
    for node_id in list(grid.get_node_ids())[3:]:
        grid.kill(node_id)
    run(aware(), grid, rounds=2)
    assert all(len(nodes) == 3 for nodes in trained(grid).values())
    assert "3 of 4 are connected" in {e["why"] for e in events_of("degraded")}


def test_a_deadline_that_cannot_be_met_runs_back_to_back_and_says_so(aware, grid):
    run(aware(finish_by=3 * HOUR), grid)
    assert [e["held_s"] for e in events_of("round_opened")] == [0.0] * 5
    assert "deadline" in {e["what"] for e in events_of("degraded")}
    assert events_of("run_finished")[0]["late"] is True


def test_a_rule_that_cannot_be_obeyed_stops_no_training_and_is_named(aware, grid):
    run(aware(participation="0,1"), grid)  # 20 seats, 10 nodes with one turn each
    assert len(events_of("round_closed")) == 5
    rules = next(e for e in events_of("degraded") if e["what"] == "rules")
    assert rules["why"] == "participation of 0 to 1 turns cannot be kept by all"
    assert set(summarise(read_ledger(RUN)).turns.values()) == {2}


def test_a_ledger_is_never_overwritten(aware, grid):
    run(aware(), grid, rounds=1)
    before = (RUN / "ledger.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds the ledger of a run"):
        run(aware(), grid, rounds=1)
    assert (RUN / "ledger.jsonl").read_bytes() == before


def test_equal_runs_write_equal_ledgers(aware, midnight):
    ledgers = []
    for name in ("ledger-a", "ledger-b"):
        run(
            aware(clock=VirtualClock(midnight), run_dir=Path(name)),
            InMemoryGrid(make_app(), node_configs(NODES)),
        )
        ledgers.append((Path(name) / "ledger.jsonl").read_text(encoding="utf-8").replace(name, "run"))
    assert ledgers[0] == ledgers[1]


def test_a_virtual_clock_needs_to_know_how_long_a_round_is(aware, grid):
    with pytest.raises(InputError) as caught:
        run(aware(round_duration=None), grid)
    assert caught.value.field == "lowcarb-round-duration"


def test_a_bad_setting_fails_before_anything_trains(aware):
    with pytest.raises(InputError, match="patience"):
        aware(patience=1.5)
    with pytest.raises(InputError, match="did you mean patience"):
        aware(patienc=1.0)
    with pytest.raises(InputError, match="source"):
        aware(source="carbon-aware-sdl")
