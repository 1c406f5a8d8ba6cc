"""Replay of history: what a method would have emitted, had it been followed.

An instance is a fleet, a start and a deadline. Every method does the same work: R rounds of n distinct
clients, everybody in turn, 1 kWh a turn, over by the deadline. At any moment a planner is shown what was
known then, and nothing else (:meth:`History.known`): the newest forecast issued by then, the issues before
it, and the actual intensity of hours that were over, 28 days of each. What it does is charged with actual
intensity.

Savings are measured against the exact expectation for random clients back-to-back, and set in relation to the
saving of a bound that knows the future and no rounds: each client in its own cleanest windows. *Capture* is
the mean saving of a method over the mean saving of that bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import pandas as pd

from lowcarb_scheduler.accounting import emissions_g, run_now_g
from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, from_us, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.correction import HISTORY, correct_forecast
from lowcarb_scheduler.intensity import IntensityTable
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job, Plan
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.policy import replan

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints

HOUR: Final = timedelta(hours=1)
CADENCE: Final = timedelta(hours=6)
_KWH_A_TURN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What kind of job is replayed.

    Parameters
    ----------
    name : str
        How tables call it.
    locations : tuple of str
        Where clients may be.
    clients, clients_per_round, rounds : int
        The size of the job.
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
        if self.round_duration < HOUR or self.round_duration % HOUR:
            problem = f"{self.round_duration} is not a whole number of hours"
            raise InputError("round_duration", problem, "give for example timedelta(hours=1)")

    @property
    def back_to_back(self) -> timedelta:
        """How long the rounds take without waiting."""
        return self.rounds * self.round_duration


_ZONES: Final = (
    "DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE", "US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "US-NY-NYIS",
    "AU-NSW", "AU-VIC", "KR", "CL-SEN", "BR-CS", "DK", "FI", "NO", "PT", "US-MIDW-MISO", "US-NW-PACE", "ZA",
)  # fmt: skip
SETTINGS: Final = {
    "main": Setting("main", _ZONES[:16], 100, 10, 50, HOUR),
    "small": Setting("small", _ZONES[:8], 20, 5, 20, HOUR),
    "large": Setting("large", _ZONES, 400, 40, 50, 2 * HOUR),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What a planner is shown.

    Parameters
    ----------
    forecast : IntensityTable
        The newest issue, whole.
    past_forecasts : tuple of IntensityTable
        The issues before it, oldest first.
    history : IntensityTable
        What had happened.
    """

    forecast: IntensityTable
    past_forecasts: tuple[IntensityTable, ...]
    history: IntensityTable


@dataclass(frozen=True, slots=True)
class History:
    """What happened, and what was forecast.

    Parameters
    ----------
    actual : IntensityTable
        Actual intensity [gCO2eq/kWh].
    issues : tuple of (datetime, IntensityTable)
        Forecasts by the time they were issued, in any order.
    actual_delay : timedelta
        How late the actual intensity of an hour is known.
    """

    actual: IntensityTable
    issues: tuple[tuple[datetime, IntensityTable], ...]
    actual_delay: timedelta = timedelta(0)

    @classmethod
    def from_frames(cls, actual: pd.DataFrame, forecast: pd.DataFrame, locations: Sequence[str]) -> History:
        """Build it from rows of trace files.

        Parameters
        ----------
        actual : pandas.DataFrame
            Columns ``location``, ``time`` and ``g_per_kwh``, as :func:`read_points` returns them.
        forecast : pandas.DataFrame
            The same with ``issued_at``.
        locations : sequence of str
            Which of their locations.

        Raises
        ------
        InputError
            If a location is missing in one of them.
        """
        issues = forecast[forecast["location"].isin(locations)]
        return cls(
            _table(actual, locations, "actual"),
            tuple(
                (cast("pd.Timestamp", issued_at).to_pydatetime(), _table(rows, locations, "forecast"))
                for issued_at, rows in issues.groupby("issued_at")
            ),
        )

    def __post_init__(self) -> None:
        in_order = sorted(self.issues, key=lambda issue: issue[0])
        object.__setattr__(self, "issues", tuple(in_order))

    def known(self, now: datetime) -> Known:
        """Return what was known at a time.

        Raises
        ------
        ForecastUnavailableError
            If there was no forecast or no actual intensity yet.
        """
        now = to_utc(now, "now")
        issued = [table for at, table in self.issues if now - HISTORY <= at <= now]
        over_us = to_us(now - self.actual_delay)
        steps = int(np.searchsorted(self.actual.edges_us, over_us, side="right")) - 1
        if not issued or steps < 1:
            raise ForecastUnavailableError(dict.fromkeys(self.actual.locations, "nothing is known yet"))
        seen = self.actual.relaid(
            self.actual.edges_us[: steps + 1], self.actual.locations, self.actual.values[:steps]
        )
        return Known(issued[-1], tuple(issued[:-1]), seen.slice(now - HISTORY, now) or seen)


@dataclass(frozen=True, slots=True)
class Instance:
    """One job to be replayed."""

    setting: Setting
    fleet: Fleet
    start: datetime
    finish_by: datetime

    def job(
        self, now: datetime, rounds: int, not_before: datetime | None = None, turns: Ints | None = None
    ) -> Job:
        """Return what remains to be planned."""
        fleet = self.fleet if turns is None else replace(self.fleet, turns_done=turns)
        return Job(
            fleet, now, self.finish_by, rounds, self.setting.clients_per_round, self.setting.round_duration,
            not_before=not_before, grid_from=self.start, target_finish=self.finish_by,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What following a method came to.

    Parameters
    ----------
    emissions_g : float
        Under actual intensity [gCO2eq].
    turns : ndarray of int64, shape (C,)
        How often each client trained; all zero where clients are random or a bound.
    """

    emissions_g: float
    turns: Ints

    def __post_init__(self) -> None:
        if np.isnan(self.emissions_g):
            problem = "is not known of all hours until the deadline"
            raise InputError("actual", problem, "give starts that end within the trace, and fill its gaps")


Method = Callable[[Instance, History], Outcome]
Decide = Callable[[Job, Known, Plan | None], Plan]


def instance(
    setting: Setting, seed: int, seeds: int, factor: float, period: tuple[datetime, datetime]
) -> Instance:
    """Return one of several instances whose starts are spread evenly over a period.

    Parameters
    ----------
    setting : Setting
        What kind of job.
    seed, seeds : int
        Which one of how many; it places the clients and the start, the latter in its own part of the period.
    factor : float
        The deadline, in back-to-back makespans.
    period : (datetime, datetime)
        All starts are in it.
    """
    rng = np.random.default_rng(seed)
    places = rng.choice(setting.locations, setting.clients)
    ids = [f"c{k:04}" for k in range(setting.clients)]
    watts = 1000.0 * _KWH_A_TURN / (setting.round_duration / HOUR)
    fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": places, "power_watts": watts}))
    hours = (period[1] - period[0]) // HOUR
    start = period[0] + HOUR * int((seed + rng.random()) / seeds * hours)
    return Instance(setting, fleet, start, start + factor * setting.back_to_back)


# -- methods -----------------------------------------------------------------------------------------------


def run_now(case: Instance, history: History) -> Outcome:
    """Train random clients back-to-back: their exact expectation."""
    round_us = case.setting.round_duration // MICROSECOND
    opens_us = to_us(case.start) + np.arange(case.setting.rounds) * round_us
    return _random_clients(case, history, opens_us)


def bound(case: Instance, history: History) -> Outcome:
    """Put each client in its own cleanest windows, knowing the future and no rounds: nobody can emit less."""
    fleet, setting = case.fleet, case.setting
    starts_us = np.arange(to_us(case.start), to_us(case.finish_by) + 1, HOUR_US)
    length = setting.round_duration // HOUR
    hourly = history.actual.integrate(starts_us[:-1], starts_us[1:])[:, _columns(case, history)]
    most = -(-setting.rounds * setting.clients_per_round // setting.clients)
    costs = np.diff(_cheapest_windows(hourly, length, most), axis=0)[:, fleet.location_index]
    everybody, extra = divmod(setting.rounds * setting.clients_per_round, setting.clients)
    total = costs[:everybody].sum() + (np.sort(costs[everybody])[:extra].sum() if extra else 0.0)
    return Outcome(float(total * 1e-3 * fleet.power_watts[0]), np.zeros(len(fleet), np.int64))


def perfect(case: Instance, history: History) -> Outcome:
    """Follow the joint plan, knowing the future."""
    planned = plan(case.job(case.start, case.setting.rounds), history.actual)
    return _charged(case, history, planned, case.setting.rounds)


def one_shot(case: Instance, history: History) -> Outcome:
    """Follow the joint plan on what is expected at the start, never revised."""
    return follow(case, history, ours_decide, every=None)


def rolling(case: Instance, history: History) -> Outcome:
    """Follow the joint plan on plain forecasts, revised every six hours, and climatology beyond them."""
    return follow(case, history, plain_decide)


def ours(case: Instance, history: History) -> Outcome:
    """Do what a run does: :func:`~lowcarb_scheduler.replan` every six hours."""
    return follow(case, history, ours_decide)


def temporal_only(case: Instance, history: History) -> Outcome:
    """Move rounds of random clients in time: planned like ours, in one place that is the fleet's mean."""
    shares = np.bincount(case.fleet.location_index) / len(case.fleet)

    def mean(table: IntensityTable) -> IntensityTable:
        return table.relaid(
            table.edges_us, ("fleet",), table.align(case.fleet.locations).values @ shares[:, None]
        )

    one_place = replace(
        case.fleet, locations=("fleet",), location_index=np.zeros(len(case.fleet), dtype=np.int64)
    )
    of_fleet = History(
        mean(history.actual), tuple((at, mean(table)) for at, table in history.issues), history.actual_delay
    )
    return follow(replace(case, fleet=one_place), of_fleet, ours_decide)


METHODS: Final[Mapping[str, Method]] = {
    "run-now": run_now,
    "temporal-only": temporal_only,
    "one-shot": one_shot,
    "rolling": rolling,
    "ours": ours,
    "perfect": perfect,
    "bound": bound,
}


def ours_decide(job: Job, known: Known, previous: Plan | None) -> Plan:
    """Decide as a run does."""
    return replan(job, known.forecast, known.history, known.past_forecasts, previous)


def plain_decide(job: Job, known: Known, previous: Plan | None) -> Plan:
    """Decide on the forecast as it is."""
    forecast = known.forecast.align(job.fleet.locations)
    usual = correct_forecast(
        forecast.align(()).align(job.fleet.locations), known.history, job.now, job.finish_by
    )
    now_on = forecast.slice(job.now, job.finish_by)
    return plan(job, usual if now_on is None else now_on.fill(usual))


def follow(case: Instance, history: History, decide: Decide, every: timedelta | None = CADENCE) -> Outcome:
    """Follow a planner through time; a round that has begun is not changed any more.

    Parameters
    ----------
    case : Instance
        The job.
    history : History
        Of which the planner is shown what was known by then.
    decide : callable
        Plans the remaining rounds; it is given the job, what is known, and the plan so far.
    every : timedelta, optional
        How often it is asked; None asks once.
    """
    now, free_from, left = case.start, case.start, case.setting.rounds
    turns = np.zeros(len(case.fleet), np.int64)
    emitted, previous = 0.0, None
    while left:
        planned = decide(case.job(now, left, max(now, free_from), turns), history.known(now), previous)
        begun = left if every is None else int((planned.opens_us < to_us(now + every)).sum())
        outcome = _charged(case, history, planned, begun)
        emitted, turns = emitted + outcome.emissions_g, turns + outcome.turns
        if begun:
            free_from = from_us(planned.closes_us[begun - 1])
        left, now, previous = left - begun, now + (every or HOUR), planned
    if free_from > case.finish_by or np.ptp(turns) > 1:
        raise InputError("decide", "broke the deadline or the turns", "obey the job")
    return Outcome(emitted, turns)


# -- accounts ----------------------------------------------------------------------------------------------


def _charged(case: Instance, history: History, planned: Plan, rounds: int) -> Outcome:
    """Return what the first rounds of a plan really emitted."""
    seats, fleet = planned.seats[:rounds], case.fleet
    columns = _columns(case, history)[fleet.location_index[seats]]
    grams = emissions_g(
        history.actual,
        columns,
        fleet.power_watts[seats],
        planned.starts_us[:rounds],
        planned.ends_us[:rounds],
    )
    return Outcome(float(grams.sum()), np.bincount(seats.ravel(), minlength=len(fleet)))


def _random_clients(case: Instance, history: History, opens_us: Ints) -> Outcome:
    """Return the expectation of rounds of random clients."""
    fleet, round_us = case.fleet, case.setting.round_duration // MICROSECOND
    grams = run_now_g(
        history.actual, _columns(case, history)[fleet.location_index], fleet.power_watts,
        np.full(len(fleet), round_us), opens_us, case.setting.clients_per_round,
    )  # fmt: skip
    return Outcome(float(grams.sum()), np.zeros(len(fleet), np.int64))


def _columns(case: Instance, history: History) -> Ints:
    return history.actual.columns(case.fleet.locations)


def _cheapest_windows(hourly: Floats, length: int, most: int) -> Floats:
    """Return the least cost of 0, 1, ... ``most`` windows that do not overlap; shape (most + 1, L).

    Windows of ``length`` hours that begin at full hours; by dynamic programming over hours.
    """
    window = np.concatenate([np.zeros((1, hourly.shape[1])), np.cumsum(hourly, axis=0)])
    window = window[length:] - window[:-length]
    best = np.full((most + 1, *hourly.shape), np.inf)
    best = np.concatenate([best, best[:, :1]], axis=1)  # by hour until which windows may last
    best[0] = 0.0
    for count in range(1, most + 1):
        ending = best[count - 1, :-length] + window
        best[count, length:] = np.minimum.accumulate(ending, axis=0)
    return best[:, -1]


def _table(rows: pd.DataFrame, locations: Sequence[str], field: str) -> IntensityTable:
    """Return rows of a trace as a table with these columns."""
    points = {
        str(name): (own["time"].to_numpy("datetime64[us]").astype(np.int64), own["g_per_kwh"].to_numpy())
        for name, own in rows[rows["location"].isin(locations)].groupby("location", observed=True)
    }
    if missing := [name for name in locations if name not in points]:
        raise InputError("location", f"{missing[0]} is missing in the {field}", "leave it out of the setting")
    return IntensityTable.from_points(points).align(locations)
