"""World: clients, their places and data, carbon intensity, and the job that all schedules do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from accuracy_study.data import Skew, split
from lowcarb_scheduler import CarbonClientApp, Fleet, Synthetic
from lowcarb_scheduler.accounting.emissions import emissions_g, run_now_g
from lowcarb_scheduler.backtest import SCENARIOS, Instance
from lowcarb_scheduler.backtest.scenario import KWH_A_TURN, REPLAN_EVERY, Scenario
from lowcarb_scheduler.clock import MICROSECOND, to_us
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.sources.traces import Traces
from lowcarb_scheduler.testing import InMemoryGrid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flwr.app import Context

    from accuracy_study.data import Examples
    from accuracy_study.task import Task
    from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout
    from lowcarb_scheduler.intensity import IntensityTable

_HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ANSWERS: Final = 4096  # of a source that are kept: some runs' worth
PLACES: Final = {
    4: ("DE", "US-CAL-CISO", "AU-NSW", "CL-SEN"),
    16: SCENARIOS["main"].locations,
    # There are 24 zones; eight of them are two places each, as the regions of a cloud are.
    32: (
        *SCENARIOS["large"].locations,
        "australiaeast",
        "brazilsouth",
        "centralus",
        "francecentral",
        "germanywestcentral",
        "italynorth",
        "swedencentral",
        "uksouth",
    ),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting of the study: what a table is about.

    Parameters
    ----------
    skew : Skew
        How unevenly data are dealt out.
    places : {4, 16, 32}
        Number of places where clients are.
    deadline : float
        Deadline in back-to-back times.
    clients, clients_per_round, rounds : int
        Size of the job; a round lasts an hour.
    """

    skew: Skew = field(default_factory=Skew)
    places: int = 16
    deadline: float = 2.0
    clients: int = 100
    clients_per_round: int = 10
    rounds: int = 50

    def with_rounds(self, rounds: int) -> Setting:
        """Return the same setting with another number of rounds."""
        return replace(self, rounds=rounds)

    @property
    def scenario(self) -> Scenario:
        """The job as a scenario of the backtest."""
        return Scenario(
            "accuracy", PLACES[self.places], self.clients, self.clients_per_round, self.rounds, _HOUR
        )


@dataclass(frozen=True, slots=True)
class Intensities:
    """Source of carbon intensity, and the period in which runs start and end.

    Parameters
    ----------
    begin, end : datetime
        The period.
    actual, forecast : Path, optional
        Trace files; without them intensities are synthetic.
    """

    begin: datetime
    end: datetime
    actual: Path | None = None
    forecast: Path | None = None

    @property
    def source(self) -> ForecastSource:
        """The source."""
        return _remembering(self.forecast, self.actual)


class Remembering(ForecastSource):
    """Source with a new forecast every six hours that answers the same question from memory.

    Runs of a seed ask the same at the same times. Synthetic forecasts could be issued every hour, as few real
    ones are; a study would plan six times as often for a saving that is hardly larger.
    """

    def __init__(self, source: ForecastSource) -> None:
        self.name, self.signal, self.locations = source.name, source.signal, source.locations
        self._source = source
        self._forecast, self._actual = (
            lru_cache(_ANSWERS)(source.forecast),
            lru_cache(_ANSWERS)(source.actual),
        )

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the newest forecast that is known at ``now``."""
        return self._forecast(tuple(locations), now - (now - _EPOCH) % REPLAN_EVERY)

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the recorded intensity in [start, end)."""
        return self._actual(tuple(locations), start, end)

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return forecasts issued in [start, end)."""
        return self._source.past_forecasts(locations, start, end, every)


@cache
def _remembering(forecast: Path | None, actual: Path | None) -> Remembering:
    # One for each process: traces take seconds to read.
    return Remembering(Synthetic() if forecast is None else Traces(forecast, signal="average", actual=actual))


@dataclass(frozen=True)
class World:
    """Setup that all schedules of a seed share.

    Parameters
    ----------
    setting : Setting
        Size and skew.
    intensities : Intensities
        Carbon intensity.
    seed : int
        Seed of all random draws: places, start, data, batches.
    stratum, strata : int
        Part of the period in which the run starts, and number of parts: starts of a study are spread evenly.
    """

    setting: Setting
    intensities: Intensities
    seed: int
    stratum: int
    strata: int

    @cached_property
    def case(self) -> Instance:
        """Fleet, start and deadline."""
        scenario, rng = self.setting.scenario, np.random.default_rng(self.seed)
        ids = [f"c{k:04}" for k in range(scenario.clients)]
        places = rng.choice(scenario.locations, scenario.clients)
        watts = 1000 * KWH_A_TURN / (scenario.round_duration / _HOUR)
        fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": places, "power_watts": watts}))
        allowed = self.setting.deadline * scenario.back_to_back
        hours = (self.intensities.end - allowed - self.intensities.begin) // _HOUR
        start = self.intensities.begin + _HOUR * int((self.stratum + rng.random()) / self.strata * hours)
        return Instance(scenario, fleet, start, start + allowed)

    @property
    def source(self) -> ForecastSource:
        """Source of carbon intensity."""
        return self.intensities.source

    def opening(self, number: int) -> datetime:
        """Return the opening of a round that does not wait."""
        return self.case.start + (number - 1) * self.case.scenario.round_duration

    def back_to_back(self) -> list[datetime]:
        """Return the openings of all rounds without waiting."""
        return [self.opening(number) for number in range(1, self.setting.rounds + 1)]

    def node_configs(self) -> list[dict[str, Any]]:
        """Return the profile of each node."""
        fleet = self.case.fleet
        places = np.array(fleet.locations)[fleet.location_index]
        return [
            {"partition-id": k, "location": str(place), "power-watts": float(watts)}
            for k, (place, watts) in enumerate(zip(places, fleet.power_watts, strict=True))
        ]

    def trained(self, task: Task, message: Message, client: int) -> Message:
        """Return the reply of a client that trains on its own examples."""
        examples, number = _dealt(self, task)[client], int(message.content["config"]["server-round"])
        # Seeded by round and client: whatever the order of calls, and the process, it trains the same.
        rng = np.random.default_rng([self.seed, 2, number, client])
        weights = task.train(message.content["arrays"].to_numpy_ndarrays(), examples, rng)
        metrics = MetricRecord({"num-examples": len(examples)})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    def grid(self, task: Task) -> InMemoryGrid:
        """Return a grid of clients, each with its own examples."""
        app = CarbonClientApp()

        @app.train()
        def train_here(message: Message, context: Context) -> Message:
            return self.trained(task, message, int(context.node_config["partition-id"]))

        return InMemoryGrid(app, self.node_configs())

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


@lru_cache(maxsize=8)
def _dealt(world: World, task: Task) -> list[Examples]:
    """Return the examples of each client."""
    rng = np.random.default_rng([world.seed, 1])
    return split(task.data(), world.setting.skew, world.case.fleet.location_index, rng)
