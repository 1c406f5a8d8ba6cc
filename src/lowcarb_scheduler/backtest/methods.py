"""Methods of a backtest: each decides which clients train when, and is charged with actual intensity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g, run_now_g
from lowcarb_scheduler.backtest.history import History, Known
from lowcarb_scheduler.backtest.scenario import HOUR, Instance, Outcome
from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, from_us, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
from lowcarb_scheduler.planning.fairness import decide_turns
from lowcarb_scheduler.planning.job import Job, Plan
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.scheduling.policy import replan

if TYPE_CHECKING:
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

# -- Rule of flwr-lowcarb, 2022 -----------------------------------------------------------------------------
# The carbon-aware client selection that was published for Flower in 2022, re-implemented from its
# description. A round opens as soon as the one before has closed. Each client has its own window of the
# forecast, which begins now and grows with its turns, up to 36 h: a client with few turns looks a short way
# ahead, sees little improvement to come, and is chosen soon. A client above the 80th percentile of its window
# is skipped; of the others, those with the least improvement to come are chosen first. Where too few are
# left, skipped clients follow in the same order.
#
# To do the same work as every method, all clients take equal turns here: a client that has taken its own is
# out, and one that owes a turn in every remaining round comes first.

LONGEST: Final = timedelta(hours=36)
SKIPPED_ABOVE: Final = 80  # percentile of the window


def owed_turns(case: Instance) -> Ints:
    """Return the turns of each client in the whole job, shape (C,)."""
    return decide_turns(case.job(case.start, case.scenario.rounds)).most


def chosen_by_rule_2022(
    case: Instance, forecast: IntensityTable, now: datetime, taken: Ints, owed: Ints, rounds_left: int
) -> Ints:
    """Choose the clients of the round that opens now.

    Parameters
    ----------
    case : Instance
        Instance that is replayed.
    forecast : IntensityTable
        Forecast from now on [gCO2eq/kWh]; windows end where it ends.
    now : datetime
        Opening of the round.
    taken, owed : ndarray of int64, shape (C,)
        Turns taken so far, and in the whole job.
    rounds_left : int
        Remaining rounds, this one included.

    Returns
    -------
    ndarray of int64, shape (n,)
        Positions in the fleet, ascending.
    """
    fleet, scenario = case.fleet, case.scenario
    length_us = scenario.round_duration // MICROSECOND
    opens_us = to_us(now) + HOUR_US * np.arange(LONGEST // timedelta(hours=1))
    columns = forecast.columns(fleet.locations)[fleet.location_index]
    grams = forecast.integrate(opens_us, opens_us + length_us)[:, columns].T  # (C, openings)
    hours = np.maximum(1, np.rint(len(opens_us) * taken / np.maximum(owed, 1)).astype(np.int64))
    now_g = np.nan_to_num(grams[:, 0])  # without a forecast, now is as good as any time
    to_come, skipped = np.zeros(len(fleet)), np.zeros(len(fleet), dtype=bool)
    for length in np.unique(hours):
        alike = hours == length
        window = np.column_stack([now_g[alike], grams[alike, 1:length]])
        to_come[alike] = now_g[alike] - np.nanmin(window, axis=1)
        # nanpercentile is many times slower, so it is used where there is a gap alone.
        percentile = np.nanpercentile if np.isnan(window).any() else np.percentile
        skipped[alike] = now_g[alike] > percentile(window, SKIPPED_ABOVE, axis=1)
    left = owed - taken
    # A seeded order of equals: by position, the same clients would win all ties.
    tie = np.random.default_rng([int(taken.sum()), to_us(case.start) // HOUR_US]).random(len(fleet))
    order = np.lexsort((tie, to_come, skipped, left < rounds_left, left < 1))
    return np.sort(order[: scenario.clients_per_round])


# -- Methods ------------------------------------------------------------------------------------------------

Method = Callable[[Instance, History], Outcome]
Decide = Callable[[Job, Known, Plan | None], Plan]


def run_now(case: Instance, history: History) -> Outcome:
    """Return the exact expectation of random clients back-to-back."""
    fleet, round_us = case.fleet, case.scenario.round_duration // MICROSECOND
    grams = run_now_g(
        history.actual, _columns(case, history)[fleet.location_index], fleet.power_watts,
        np.full(len(fleet), round_us), _back_to_back_us(case), case.scenario.clients_per_round,
    )  # fmt: skip
    return Outcome(float(grams.sum()), np.zeros(len(fleet), np.int64))


def bound(case: Instance, history: History) -> Outcome:
    """Return a lower bound: each client in its own cleanest windows, known in advance, without rounds."""
    fleet, scenario = case.fleet, case.scenario
    starts_us = np.arange(to_us(case.start), to_us(case.finish_by) + 1, HOUR_US)
    length = scenario.round_duration // HOUR
    hourly = history.actual.integrate(starts_us[:-1], starts_us[1:])[:, _columns(case, history)]
    # Clients take floor or ceil of their share of turns; the cheapest clients take the odd ones.
    most = -(-scenario.rounds * scenario.clients_per_round // scenario.clients)
    costs = np.diff(_cheapest_windows(hourly, length, most), axis=0)[:, fleet.location_index]
    each, extra = divmod(scenario.rounds * scenario.clients_per_round, scenario.clients)
    total = costs[:each].sum() + (np.sort(costs[each])[:extra].sum() if extra else 0.0)
    return Outcome(float(total * 1e-3 * fleet.power_watts[0]), np.zeros(len(fleet), np.int64))


def perfect(case: Instance, history: History) -> Outcome:
    """Follow the plan made with perfect information."""
    planned = plan(case.job(case.start, case.scenario.rounds), history.actual)
    return _charged(case, history, planned.seats, planned.starts_us, planned.ends_us)


def one_shot(case: Instance, history: History) -> Outcome:
    """Follow the plan made at the start, never revised."""
    return follow(case, history, scheduler_decide, every=None)


def rolling(case: Instance, history: History) -> Outcome:
    """Follow plans on uncorrected forecasts, with climatology beyond their end, revised regularly."""
    return follow(case, history, plain_decide, case.replan_every)


def scheduler(case: Instance, history: History) -> Outcome:
    """Follow plans as a run does: :func:`~lowcarb_scheduler.replan`, revised regularly."""
    return follow(case, history, scheduler_decide, case.replan_every)


def temporal_only(case: Instance, history: History) -> Outcome:
    """Move rounds of random clients in time, planned at the mean intensity of the fleet's locations."""
    fleet = case.fleet
    shares = np.bincount(fleet.location_index) / len(fleet)

    def mean(table: IntensityTable) -> IntensityTable:
        values = table.align(fleet.locations).values @ shares[:, None]
        return table.relaid(table.edges_us, ("fleet",), values)

    one_place = replace(fleet, locations=("fleet",), location_index=np.zeros(len(fleet), dtype=np.int64))
    issues = history.between(case.start, case.finish_by).issues
    means = History(
        mean(history.actual), tuple((at, mean(table)) for at, table in issues), history.actual_delay
    )
    return follow(replace(case, fleet=one_place), means, scheduler_decide, case.replan_every)


def flwr_lowcarb_2022(case: Instance, history: History) -> Outcome:
    """Choose clients by the rule of 2022, back-to-back: it knew no deadline."""
    round_us = case.scenario.round_duration // MICROSECOND
    seats = seats_by_rule_2022(case, history)
    starts_us = np.broadcast_to(_back_to_back_us(case)[:, None], seats.shape)
    return _charged(case, history, seats, starts_us, starts_us + round_us)


def seats_by_rule_2022(case: Instance, history: History) -> Ints:
    """Return the clients of each round by the rule of 2022 on what is known at its time, shape (R, n)."""
    scenario = case.scenario
    owed, taken = owed_turns(case), np.zeros(len(case.fleet), np.int64)
    seats = np.empty((scenario.rounds, scenario.clients_per_round), np.int64)
    for number in range(scenario.rounds):
        now = case.start + number * scenario.round_duration
        forecast = history.known(now).forecast
        seats[number] = chosen_by_rule_2022(case, forecast, now, taken, owed, scenario.rounds - number)
        taken[seats[number]] += 1
    return seats


METHODS: Final[Mapping[str, Method]] = {
    "run-now": run_now,
    "temporal-only": temporal_only,
    "flwr-lowcarb-2022": flwr_lowcarb_2022,
    "one-shot": one_shot,
    "rolling": rolling,
    "scheduler": scheduler,
    "perfect": perfect,
    "bound": bound,
}


def scheduler_decide(job: Job, known: Known, previous: Plan | None) -> Plan:
    """Plan as a run does."""
    return replan(job, known.forecast, known.history, known.past_forecasts, previous)


def plain_decide(job: Job, known: Known, previous: Plan | None) -> Plan:
    """Plan on the forecast as it is, with climatology beyond its end."""
    forecast = known.forecast.align(job.fleet.locations)
    usual = correct_forecast(
        forecast.align(()).align(job.fleet.locations), known.history, job.now, job.finish_by
    )
    now_on = forecast.slice(job.now, job.finish_by)
    return plan(job, usual if now_on is None else now_on.fill(usual))


def follow(case: Instance, history: History, decide: Decide, every: timedelta | None) -> Outcome:
    """Follow a planner through time; rounds that have begun are not changed any more.

    Parameters
    ----------
    case : Instance
        Instance that is replayed.
    history : History
        Actual intensity and past forecasts; the planner gets the part known at each time.
    decide : callable
        Plans the remaining rounds from the job, the data available, and the previous plan.
    every : timedelta or None
        Time between two plans; None plans once.

    Raises
    ------
    InputError
        If a plan broke a rule of the job, or actual intensity has a gap.
    """
    now, free_from, left = case.start, case.start, case.scenario.rounds
    turns = np.zeros(len(case.fleet), np.int64)
    emitted, previous = 0.0, None
    while left:
        planned = decide(case.job(now, left, max(now, free_from), turns), history.known(now), previous)
        started = left if every is None else int((planned.opens_us < to_us(now + every)).sum())
        outcome = _charged(
            case, history, planned.seats[:started], planned.starts_us[:started], planned.ends_us[:started]
        )
        emitted, turns = emitted + outcome.emissions_g, turns + outcome.turns
        if started:
            free_from = from_us(planned.closes_us[started - 1])
        left, now, previous = left - started, now + (every or HOUR), planned
    # A method that breaks the deadline or equal turns would win every comparison.
    if free_from > case.finish_by or np.ptp(turns) > 1:
        raise InputError("decide", "broke the deadline or the turns", "obey the job")
    return Outcome(emitted, turns)


# -- Accounting ---------------------------------------------------------------------------------------------


def _charged(case: Instance, history: History, seats: Ints, starts_us: Ints, ends_us: Ints) -> Outcome:
    """Charge turns with actual intensity; all arrays have shape (R, n)."""
    fleet = case.fleet
    columns = _columns(case, history)[fleet.location_index[seats]]
    grams = emissions_g(history.actual, columns, fleet.power_watts[seats], starts_us, ends_us)
    return Outcome(float(grams.sum()), np.bincount(seats.ravel(), minlength=len(fleet)))


def _back_to_back_us(case: Instance) -> Ints:
    """Return the openings of rounds that do not wait [µs since 1970 UTC], shape (R,)."""
    round_us = case.scenario.round_duration // MICROSECOND
    return to_us(case.start) + np.arange(case.scenario.rounds, dtype=np.int64) * round_us


def _columns(case: Instance, history: History) -> Ints:
    return history.actual.columns(case.fleet.locations)


def _cheapest_windows(hourly: Floats, length: int, most: int) -> Floats:
    """Return the least cost of 0, 1, ... ``most`` windows that do not overlap, shape (most + 1, L).

    Parameters
    ----------
    hourly : ndarray of float64, shape (H, L)
        Integral of intensity over each hour [g h / kWh].
    length : int
        Length of a window [h]; windows begin at full hours.
    most : int
        Largest number of windows.
    """
    window = np.concatenate([np.zeros((1, hourly.shape[1])), np.cumsum(hourly, axis=0)])
    window = window[length:] - window[:-length]
    best = np.full((most + 1, *hourly.shape), np.inf)
    best = np.concatenate([best, best[:, :1]], axis=1)  # second axis: the hour by which windows have ended
    best[0] = 0.0
    for count in range(1, most + 1):
        ending = best[count - 1, :-length] + window
        best[count, length:] = np.minimum.accumulate(ending, axis=0)
    return best[:, -1]
