"""Schedules of clients. Each trains the same model in the same rounds with Flower's own FedAvg."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from accuracy_study.task import Images, new_weights, right, split, train
from lowcarb_scheduler import CarbonClientApp, carbon_aware
from lowcarb_scheduler.accounting.emissions import emissions_g, run_now_g
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.backtest import Instance, chosen_by_rule_2022
from lowcarb_scheduler.backtest.methods import owed_turns
from lowcarb_scheduler.clock import MICROSECOND, to_us
from lowcarb_scheduler.flower.grid import ScopedGrid, pinned_sampling
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from lowcarb_scheduler.forecasts.base import ForecastSource

Choose = Callable[[int, datetime], Sequence[int]]  # the clients of a round, by its number and opening


@dataclass(frozen=True, slots=True)
class World:
    """Setup that all schedules share: clients, data and carbon intensity.

    Parameters
    ----------
    case : Instance
        Job with its fleet, start and deadline.
    source : ForecastSource
        Forecast and actual intensity.
    seed : int
        Seed of all random draws.
    """

    case: Instance
    source: ForecastSource
    seed: int

    def opening(self, number: int) -> datetime:
        """Return the opening of a round that does not wait."""
        return self.case.start + (number - 1) * self.case.scenario.round_duration

    def back_to_back(self) -> list[datetime]:
        """Return the openings of all rounds without waiting."""
        return [self.opening(number) for number in range(1, self.case.scenario.rounds + 1)]

    def grid(self) -> InMemoryGrid:
        """Return a grid of clients, each with its own images."""
        fleet = self.case.fleet
        owned = split(fleet.location_index, np.random.default_rng([self.seed, 1]))
        places = np.array(fleet.locations)[fleet.location_index]
        configs = [
            {"partition-id": k, "location": str(place), "power-watts": float(watts)}
            for k, (place, watts) in enumerate(zip(places, fleet.power_watts, strict=True))
        ]
        return InMemoryGrid(_client_app(owned, self.seed), configs)

    def emissions_g(self, opens: Sequence[datetime], clients: np.ndarray) -> np.ndarray:
        """Return the actual emissions of rounds of clients [gCO2eq], shape (R,)."""
        opens_us = np.array([to_us(when) for when in opens])[:, None]
        columns, fleet = self.case.fleet.location_index[clients], self.case.fleet
        ends_us = opens_us + self.case.scenario.round_duration // MICROSECOND
        actual = self._actual(opens)
        return emissions_g(actual, columns, fleet.power_watts[clients], opens_us, ends_us).sum(axis=1)

    def run_now_g(self) -> float:
        """Return the expected emissions of random clients back-to-back [gCO2eq]."""
        opens, scenario, fleet = self.back_to_back(), self.case.scenario, self.case.fleet
        durations = np.full(len(fleet), scenario.round_duration // MICROSECOND)
        opens_us = np.array([to_us(when) for when in opens])
        return float(
            run_now_g(
                self._actual(opens), fleet.location_index, fleet.power_watts, durations, opens_us,
                scenario.clients_per_round,
            ).sum()
        )  # fmt: skip

    def _actual(self, opens: Sequence[datetime]) -> Any:
        locations = self.case.fleet.locations
        end = max(opens) + self.case.scenario.round_duration
        return self.source.actual(locations, min(opens), end).align(locations)


@dataclass(frozen=True, slots=True)
class Followed:
    """Result of a schedule.

    Parameters
    ----------
    opens : list of datetime
        Openings of the rounds.
    clients : ndarray of int, shape (R, n)
        Clients that trained in them.
    right : list of int
        Number of correctly classified test images after each round.
    """

    opens: list[datetime]
    clients: np.ndarray
    right: list[int]


class Choosing(FedAvg):
    """FedAvg that trains the clients that a function chooses; its rounds do not wait."""

    def __init__(self, world: World, choose: Choose) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._world, self._choose = world, choose

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build messages for the chosen clients."""
        nodes = sorted(grid.get_node_ids())
        chosen = self._choose(server_round, self._world.opening(server_round))
        scope = ScopedGrid(grid, [nodes[k] for k in chosen], type(self).__name__)
        with pinned_sampling(self, "train", len(chosen)):
            return list(super().configure_train(server_round, arrays, config, scope))


def plain(world: World, draw: int = 0) -> Followed:
    """Train random clients back-to-back with plain FedAvg."""
    scenario = world.case.scenario
    random.seed(1000 * draw + world.seed)  # FedAvg draws from it
    strategy = FedAvg(
        fraction_train=scenario.clients_per_round / scenario.clients,
        min_train_nodes=scenario.clients_per_round,
        fraction_evaluate=0.0,
    )
    return _followed(world, strategy)


def plain_again(world: World) -> Followed:
    """Repeat plain FedAvg with another draw: the difference is the noise of the study."""
    return plain(world, draw=1)


def region_after_region(world: World) -> Followed:
    """Train regions in turn, all clients equally often: a control that must lose accuracy."""
    scenario = world.case.scenario
    by_region = np.argsort(world.case.fleet.location_index, kind="stable")
    blocks = scenario.clients // scenario.clients_per_round

    def choose(number: int, now: datetime) -> Sequence[int]:
        block = (number - 1) * blocks // scenario.rounds
        first = block * scenario.clients_per_round
        return [int(k) for k in by_region[first : first + scenario.clients_per_round]]

    return _followed(world, Choosing(world, choose))


def rule_2022(world: World) -> Followed:
    """Follow the rule of flwr-lowcarb, back-to-back, on the newest forecast of each round."""
    case, taken = world.case, np.zeros(len(world.case.fleet), np.int64)
    owed = owed_turns(case)

    def choose(number: int, now: datetime) -> Sequence[int]:
        forecast = world.source.forecast(case.fleet.locations, now).intensity.align(case.fleet.locations)
        left = case.scenario.rounds - number + 1
        chosen = chosen_by_rule_2022(case, forecast, now, taken, owed, left)
        taken[chosen] += 1
        return [int(k) for k in chosen]

    return _followed(world, Choosing(world, choose))


def scheduled(world: World, patience: float, **settings: Any) -> Followed:
    """Train with :func:`carbon_aware` around FedAvg, as a user does."""
    case = world.case
    with tempfile.TemporaryDirectory() as folder:
        strategy = carbon_aware(
            FedAvg(fraction_evaluate=0.0),
            source=world.source,
            clock=VirtualClock(case.start),
            finish_by=case.finish_by,
            patience=patience,
            clients_per_round=case.scenario.clients_per_round,
            round_duration=case.scenario.round_duration,
            run_dir=Path(folder) / "run",
            archive_dir="none",
            **settings,
        )
        found = _followed(world, strategy)
        run = summarise(read_ledger(Path(folder) / "run"))
    assert run.finish is not None
    assert run.finish <= case.finish_by
    return Followed([each.opens_at for each in run.rounds], found.clients, found.right)


MIXED: Final = {"mix_rounds": 10, "max_location_share": 0.2}
SPREAD: Final = {"mix_rounds": 10, "max_location_share": 0.1}  # every client of a round from another region
SCHEDULES: Final[dict[str, Callable[[World], Followed]]] = {
    "plain FedAvg": plain,
    "plain FedAvg, drawn again": plain_again,
    "the rule of 2022": rule_2022,
    **{f"patience {p:g}": partial(scheduled, patience=p) for p in (0.0, 0.5, 1.0)},
    **{f"patience {p:g}, mixed": partial(scheduled, patience=p, **MIXED) for p in (0.0, 0.5, 1.0)},
    **{f"patience {p:g}, spread": partial(scheduled, patience=p, **SPREAD) for p in (0.0, 0.5, 1.0)},
    "region after region": region_after_region,
}


def _followed(world: World, strategy: FedAvg) -> Followed:
    """Train with a strategy; openings are recorded as if its rounds did not wait."""
    grid, scenario = world.grid(), world.case.scenario
    nodes = {node_id: k for k, node_id in enumerate(sorted(grid.get_node_ids()))}
    found: list[int] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found.append(right(arrays.to_numpy_ndarrays()))
        return MetricRecord({})

    strategy.start(grid, ArrayRecord(new_weights()), num_rounds=scenario.rounds, evaluate_fn=evaluate)
    trained: dict[int, list[int]] = defaultdict(list)
    for message in grid.sent:
        if message.metadata.message_type == "train":
            trained[int(message.content["config"]["server-round"])].append(
                nodes[message.metadata.dst_node_id]
            )
    clients = np.array([trained[number] for number in range(1, scenario.rounds + 1)])
    return Followed(world.back_to_back(), clients, found[1:])  # the first is of the new weights


def _client_app(owned: Sequence[Images], seed: int) -> CarbonClientApp:
    """Return an app whose clients train on their own images."""
    app = CarbonClientApp()

    @app.train()
    def train_here(message: Message, context: Any) -> Message:
        client = int(context.node_config["partition-id"])
        rng = np.random.default_rng([seed, 2, int(message.content["config"]["server-round"]), client])
        trained = train(message.content["arrays"].to_numpy_ndarrays(), owned[client], rng)
        metrics = MetricRecord({"num-examples": len(owned[client])})
        return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)

    return app
