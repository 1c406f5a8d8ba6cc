"""Scenario of a backtest: the size of a job, and instances of it with their clients, start and deadline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import JobRules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lowcarb_scheduler.intensity import Ints
    from lowcarb_scheduler.planning.job import Job

HOUR: Final = timedelta(hours=1)
REPLAN_EVERY: Final = timedelta(hours=6)
KWH_A_TURN: Final = 1.0  # equal for all clients: a saving comes from places and hours, not from small devices


@dataclass(frozen=True, slots=True)
class Scenario:
    """Scenario: the size of the job that is replayed.

    Parameters
    ----------
    name : str
        Name in tables.
    locations : tuple of str
        Possible locations of clients.
    clients, clients_per_round, rounds : int
        Size of the job.
    round_duration : timedelta
        Length of a round, and of a client's turn in it: whole hours.
    """

    name: str
    locations: tuple[str, ...]
    clients: int
    clients_per_round: int
    rounds: int
    round_duration: timedelta

    def __post_init__(self) -> None:
        if not self.locations or len(set(self.locations)) < len(self.locations):
            problem = "has a name twice" if self.locations else "is empty"
            raise InputError("locations", problem, "name each location once, at least one")
        for field in ("clients", "clients_per_round", "rounds"):
            if getattr(self, field) < 1:
                raise InputError(field, f"{getattr(self, field)} is not positive", "give at least 1")
        if self.clients_per_round > self.clients:
            problem = f"{self.clients_per_round} is more than the {self.clients} clients"
            raise InputError("clients_per_round", problem, "give at most as many as there are clients")
        # The bound places windows at full hours; with parts of hours it would be no bound.
        if self.round_duration < HOUR or self.round_duration % HOUR:
            problem = f"{self.round_duration} is not a whole number of hours"
            raise InputError("round_duration", problem, "give for example timedelta(hours=1)")

    @classmethod
    def of(cls, places: Sequence[str]) -> Scenario:
        """Return a scenario like *small* at any places: 20 rounds of an hour, five turns per client."""
        clients = min(max(5 * len(places), 20), 100)
        return cls("own places", tuple(places), clients, clients // 4, 20, HOUR)

    @property
    def back_to_back(self) -> timedelta:
        """Duration of all rounds without waiting."""
        return self.rounds * self.round_duration


# Zones with hourly actuals and 96-hour forecasts, spread over continents; "small" takes the first 8.
_ZONES: Final = (
    "DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE", "US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "US-NY-NYIS",
    "AU-NSW", "AU-VIC", "KR", "CL-SEN", "BR-CS", "DK", "FI", "NO", "PT", "US-MIDW-MISO", "US-NW-PACE", "ZA",
)  # fmt: skip
SCENARIOS: Final = {
    "main": Scenario("main", _ZONES[:16], 100, 10, 50, HOUR),
    "small": Scenario("small", _ZONES[:8], 20, 5, 20, HOUR),
    "large": Scenario("large", _ZONES, 400, 40, 50, 2 * HOUR),
}


@dataclass(frozen=True, slots=True)
class Instance:
    """Instance of a scenario: one job to be replayed.

    Parameters
    ----------
    scenario : Scenario
        Size of the job.
    fleet : Fleet
        Clients with their locations.
    start, finish_by : datetime
        Start and deadline of the job.
    replan_every : timedelta
        Time between two plans, for methods that revise their plan.
    """

    scenario: Scenario
    fleet: Fleet
    start: datetime
    finish_by: datetime
    replan_every: timedelta = REPLAN_EVERY

    def job(
        self, now: datetime, rounds: int, not_before: datetime | None = None, turns: Ints | None = None
    ) -> Job:
        """Build the job of the remaining rounds; for every method they open at full hours after the start."""
        fleet = self.fleet if turns is None else replace(self.fleet, turns_done=turns)
        rules = JobRules(round_duration=self.scenario.round_duration, start_step=HOUR)
        return rules.job(
            fleet, now, self.finish_by, rounds, self.scenario.clients_per_round,
            not_before=not_before, grid_from=self.start, target_finish=self.finish_by,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a method on an instance.

    Parameters
    ----------
    emissions_g : float
        Emissions under actual intensity [gCO2eq].
    turns : ndarray of int64, shape (C,)
        Turns of each client; all zero for run-now and the bound.
    """

    emissions_g: float
    turns: Ints

    def __post_init__(self) -> None:
        # Intensity integrated over a gap is NaN; as a mean over instances it would go unnoticed.
        if np.isnan(self.emissions_g):
            problem = "is not known of all hours until the deadline"
            raise InputError("actual", problem, "give starts that end within the trace, and fill its gaps")


def instance(
    scenario: Scenario, seed: int, seeds: int, factor: float, period: tuple[datetime, datetime],
    replan_every: timedelta = REPLAN_EVERY,
) -> Instance:  # fmt: skip
    """Draw one of several instances whose starts are spread evenly over a period.

    Parameters
    ----------
    scenario : Scenario
        Size of the job.
    seed, seeds : int
        Number of the instance, and of all instances. The seed draws the locations of clients and the start;
        starts are stratified: each instance has its own part of the period.
    factor : float
        Deadline in back-to-back times.
    period : (datetime, datetime)
        Earliest and latest start.
    replan_every : timedelta
        Time between two plans, for methods that revise their plan.
    """
    rng = np.random.default_rng(seed)
    places = rng.choice(scenario.locations, scenario.clients)
    ids = [f"c{k:04}" for k in range(scenario.clients)]
    watts = 1000.0 * KWH_A_TURN / (scenario.round_duration / HOUR)
    fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": places, "power_watts": watts}))
    hours = (period[1] - period[0]) // HOUR  # starts lie on full hours, as actual intensity does
    start = period[0] + HOUR * int((seed + rng.random()) / seeds * hours)
    return Instance(scenario, fleet, start, start + factor * scenario.back_to_back, replan_every)
