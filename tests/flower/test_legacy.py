"""Strategies of the old API: the planned clients train in the planned windows there, too."""

from __future__ import annotations

import gc
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.client import NumPyClient
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedXgbCyclic,
    Krum,
)
from flwr.serverapp import ServerApp

from lowcarb_scheduler import CarbonClientApp, Synthetic, carbon_aware, carbon_aware_legacy
from lowcarb_scheduler.errors import InputError, PlanMismatchError
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import PLACES, node_configs
from support.runs import RUN, events_of

HOUR = timedelta(hours=1)
NODES = 10
ROUNDS = 3


class Client(NumPyClient):
    """A client that adds one to the model, or breaks."""

    def __init__(self, breaks):
        self.breaks = breaks

    def fit(self, parameters, config):
        if self.breaks:
            raise RuntimeError("out of memory")
        return [array + 1 for array in parameters], 5, {}

    def evaluate(self, parameters, config):
        return float(parameters[0].sum()), 5, {"accuracy": 0.5}


CONFIGS = node_configs(NODES, **{"power-watts": 200.0})


def make_grid(configs=CONFIGS):
    app = CarbonClientApp(client_fn=lambda context: Client(context.node_config.get("breaks")).to_client())
    return InMemoryGrid(app, configs)


@pytest.fixture
def aware(midnight):
    def make(strategy, **changes):
        given = {
            "num_rounds": ROUNDS, "source": Synthetic(), "clock": VirtualClock(midnight),
            "finish_by": 8 * HOUR, "clients_per_round": 4, "round_duration": HOUR, "run_dir": RUN,
        }  # fmt: skip
        return carbon_aware_legacy(strategy, **{**given, **changes})

    return make


def run(strategy, grid, rounds=ROUNDS, manager=None):
    """Run a ServerApp of the old form; return what the strategy ended with."""
    ended = []

    class Noting(SimpleClientManager):
        pass

    components = ServerAppComponents(
        strategy=strategy, config=ServerConfig(num_rounds=rounds), client_manager=manager or Noting()
    )
    app = ServerApp(server_fn=lambda context: ended.append(context) or components)
    app(grid, Context(1, 0, {}, RecordDict(), {}))


def model():
    return ndarrays_to_parameters([np.zeros(3)])


def ends_with(parameters):
    """Return an evaluate_fn that notes the model after each round."""
    return lambda number, arrays, config: parameters.append(arrays) or (0.5, {"score": float(number)})


def sent(grid, kind):
    return [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == kind]


ODD = {"fraction_fit": 0.1, "min_fit_clients": 1, "min_available_clients": NODES, "min_evaluate_clients": 50}


def private(**more):
    return DifferentialPrivacyServerSideFixedClipping(FedAvg(**more), 0.0, 100.0, 8)


@pytest.mark.parametrize("make", [FedAvg, FedAdam, FedMedian, Krum, private])
def test_exactly_the_planned_clients_train_in_the_planned_windows(aware, make):
    grid, models = make_grid(), []
    inner = make(**ODD, initial_parameters=model(), evaluate_fn=ends_with(models))
    run(aware(inner, evaluate_on="planned"), grid)
    planned = [[int(node["id"]) + 101 for node in event["nodes"]] for event in events_of("round_opened")]
    trained = sent(grid, MessageType.TRAIN)
    assert [len(nodes) for nodes in planned] == [4] * ROUNDS
    assert [sorted(trained[4 * k : 4 * k + 4]) for k in range(ROUNDS)] == [sorted(n) for n in planned]
    assert sorted(sent(grid, MessageType.EVALUATE)) == sorted(trained)
    closed = events_of("round_closed")
    assert all(one["closes_at"] <= other["opens_at"] for one, other in pairwise(closed))
    end = events_of("run_finished")[0]
    assert (end["status"], end["late"]) == ("completed", False)
    assert end["energy_kwh"] == pytest.approx(ROUNDS * 4 * 0.2)
    assert {event["location"] for event in events_of("node_done")} <= set(PLACES)
    assert len(models) == ROUNDS + 1
    assert (models[-1][0] > 0).all()
    assert getattr(inner, "strategy", inner).min_available_clients == NODES  # it is lent, not bent


def test_the_model_is_that_of_the_bare_strategy(aware):
    models, expected = [], []
    run(aware(FedAvg(initial_parameters=model(), evaluate_fn=ends_with(models))), make_grid())
    run(FedAvg(initial_parameters=model(), evaluate_fn=ends_with(expected)), make_grid())
    np.testing.assert_allclose(models, expected)


def test_metrics_of_server_and_clients_are_written_down(aware):
    inner = FedAvg(
        initial_parameters=model(), evaluate_fn=ends_with([]),
        evaluate_metrics_aggregation_fn=lambda metrics: {"accuracy": metrics[0][1]["accuracy"]},
    )  # fmt: skip
    run(aware(inner), make_grid())
    told = [(event["round"], event["where"], event["metrics"]) for event in events_of("evaluated")]
    server = [(number, "server", {"loss": 0.5, "score": float(number)}) for number in range(ROUNDS + 1)]
    clients = [(n, "clients", {"loss": 3.0 * n, "accuracy": 0.5}) for n in range(1, ROUNDS + 1)]
    assert sorted(told, key=str) == sorted(server + clients, key=str)


@pytest.mark.parametrize(("where", "asked"), [("planned", 4), ("all", NODES), ("none", 0)])
def test_evaluation_follows_its_setting(aware, where, asked):
    grid = make_grid()
    run(aware(FedAvg(initial_parameters=model()), evaluate_on=where, num_rounds=1), grid, rounds=1)
    assert len(sent(grid, MessageType.EVALUATE)) == asked
    assert events_of("run_finished")[0]["status"] == "completed"


def test_by_default_clients_evaluate_as_the_strategy_samples_them(aware):
    grid = make_grid()
    inner = FedAvg(initial_parameters=model(), fraction_evaluate=0.3, min_available_clients=NODES)
    run(aware(inner), grid)
    evaluated = sent(grid, MessageType.EVALUATE)
    rounds = [set(evaluated[3 * k : 3 * k + 3]) for k in range(ROUNDS)]
    assert [len(nodes) for nodes in rounds] == [3] * ROUNDS
    assert len(events_of("node_evaluated")) == 3 * ROUNDS


def test_a_turn_counts_when_it_is_completed(aware):
    configs = [{"partition-id": k, "location": "DE", "breaks": k == 3} for k in range(5)]
    run(aware(FedAvg(initial_parameters=model()), clients_per_round=2), make_grid(configs))
    failed = events_of("node_failed")
    assert {event["id"] for event in failed} == {"3"}
    assert len(failed) >= 2  # it still owes its turn, and is asked again


def test_by_default_as_many_train_as_the_inner_strategy_samples(aware):
    grid = make_grid()
    inner = FedAvg(fraction_fit=0.3, min_fit_clients=1, initial_parameters=model())
    run(aware(inner, clients_per_round=None), grid)
    assert len(sent(grid, MessageType.TRAIN)) == 3 * ROUNDS


def test_a_strategy_that_picks_one_client_works_with_one_and_refuses_more(aware):
    grid = make_grid()
    run(aware(FedXgbCyclic(initial_parameters=model(), fraction_evaluate=0.0), clients_per_round=1), grid)
    assert len(sent(grid, MessageType.TRAIN)) == ROUNDS
    with pytest.raises(PlanMismatchError, match="clients-per-round = 1"):
        run(aware(FedXgbCyclic(initial_parameters=model()), run_dir=Path("other")), make_grid())


def test_when_it_is_too_late_it_stops_if_it_is_told_to(aware):
    grid = make_grid()
    inner = FedAvg(initial_parameters=model())
    run(aware(inner, finish_by=2 * HOUR, on_late="stop"), grid)
    assert len(events_of("round_closed")) == 2
    assert len(sent(grid, MessageType.TRAIN)) == 2 * 4
    assert len(sent(grid, MessageType.EVALUATE)) == 2 * NODES
    assert events_of("run_finished")[0]["status"] == "out of time"


class Waiting(FedAvg):
    """A strategy that waits for more clients than are planned, in its own way."""

    def __init__(self, ask):
        super().__init__(initial_parameters=model())
        self.ask = ask

    def configure_fit(self, server_round, parameters, client_manager):
        while not self.ask(client_manager):
            pass
        return super().configure_fit(server_round, parameters, client_manager)


@pytest.mark.parametrize(
    "ask",
    [
        lambda manager: manager.num_available() > 4,
        lambda manager: len(manager.all()) > 4,
        lambda manager: manager.wait_for(5, timeout=86_400),
        lambda manager: len(manager.sample(5)) == 5,
    ],
)
def test_a_strategy_that_waits_for_more_is_an_error_that_says_so(aware, ask):
    strategy = aware(Waiting(ask))
    with pytest.raises(PlanMismatchError, match=r"Waiting .* it waits for more"):
        run(strategy, make_grid())
    del strategy
    gc.collect()
    assert events_of("run_finished")[0]["status"] == "failed"


def test_what_is_not_possible_is_refused():
    with pytest.raises(InputError, match="lowcarb-stagger: is not possible with the old API"):
        carbon_aware_legacy(FedAvg(), num_rounds=3, stagger=True)
    with pytest.raises(InputError, match="carbon_aware_legacy"):
        carbon_aware(FedAvg())


def test_disabled_it_is_the_plain_strategy():
    inner = FedAvg()
    assert carbon_aware_legacy(inner, num_rounds=3, enabled=False) is inner


class Proxy:
    """A client as ``start_simulation`` has them: without a Grid, with a partition."""

    def __init__(self, node_id, partition_id):
        self.cid, self.node_id, self.partition_id = str(node_id), node_id, partition_id


def test_without_a_grid_partitions_lead_to_the_locations_file(aware):
    Path("l.toml").write_text('0 = "DE"\n1 = "FR"\n2 = "ES"\n', encoding="utf-8")
    manager = SimpleClientManager()
    for partition, node_id in enumerate((2**63 + 5, 17, 4)):
        manager.register(Proxy(node_id, partition))
    strategy = aware(FedAvg(), clients_per_round=2, locations=Path("l.toml"))
    strategy.initialize_parameters(client_manager=manager)
    instructions = strategy.configure_fit(server_round=1, parameters=model(), client_manager=manager)
    opened = events_of("round_opened")[0]["nodes"]
    where = {"0": "DE", "1": "FR", "2": "ES"}
    assert {node["id"]: node["location"] for node in opened} == {
        str(proxy.partition_id): where[str(proxy.partition_id)] for proxy, _ in instructions
    }


def test_the_model_reaches_clients_unchanged(aware):
    class Looking(FedAvg):
        def configure_fit(self, **kwargs):
            self.seen = parameters_to_ndarrays(kwargs["parameters"])
            return super().configure_fit(**kwargs)

    inner = Looking(initial_parameters=model())
    run(aware(inner, num_rounds=1), make_grid(), rounds=1)
    np.testing.assert_array_equal(inner.seen, [np.zeros(3)])


def test_an_app_of_the_old_form_answers_who_it_is():
    grid = make_grid([{"location": "DE", "name": "a"}])
    (reply,) = grid.send_and_receive([Message(RecordDict(), 101, "query.lowcarb")])
    assert dict(reply.content["lowcarb"]) == {"location": "DE", "name": "a"}
