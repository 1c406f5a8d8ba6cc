"""``plan``: from a job and a table of intensity to a plan, in one pure function.

The story, in order: how many turns each client owes (participation), what a turn costs when (grid, groups,
windows), how soon it can all be over (feasibility), which moment to finish by (patience), when rounds open
and who trains (joint), and who exactly (hand-out).
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.accounting import run_now_g
from lowcarb_scheduler.clock import MICROSECOND, format_duration, format_time, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.planning.assignment import Seating
from lowcarb_scheduler.planning.feasibility import Earliest, find_earliest
from lowcarb_scheduler.planning.grid import Grid
from lowcarb_scheduler.planning.groups import Classes, Groups
from lowcarb_scheduler.planning.job import Plan
from lowcarb_scheduler.planning.joint import Solution, solve
from lowcarb_scheduler.planning.model import Model
from lowcarb_scheduler.planning.participation import decide_turns
from lowcarb_scheduler.planning.windows import Windows

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job
    from lowcarb_scheduler.planning.participation import Turns

_MOST_CELLS = 150_000
_BUCKETS = 8
_ROUNDING = 1e-9  # a gap this small is the rounding of sums and the tolerance of solvers


def plan(job: Job, intensity: IntensityTable) -> Plan:
    """Plan which client trains in which round and when each round opens, so that emissions are least.

    Parameters
    ----------
    job : Job
        What is to be planned.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].

    Returns
    -------
    Plan
        With a certified lower bound. Equal input gives an equal plan.

    Raises
    ------
    PlanInfeasibleError
        If no plan obeys the rules of the job.
    ForecastUnavailableError
        If a location of the fleet has no forecast in the job's time.
    """
    turns = decide_turns(job)
    grid = _grid(job, intensity)
    _check_forecast(job, intensity)
    _check_share(job, turns)
    model = _model(job, intensity, turns, grid)
    earliest = find_earliest(model)
    _check_gaps(job, intensity, earliest)
    within = model.until(grid.until(target_us(job, earliest.end_us)))
    return _to_plan(job, intensity, within, solve(within, earliest.slots))


def target_us(job: Job, earliest_us: int) -> int:
    """Return when the last round is over at the latest [µs since 1970 UTC], by patience or as given."""
    finish_by_us = to_us(job.finish_by)
    if job.target_finish is not None:
        return min(max(to_us(job.target_finish), earliest_us), finish_by_us)
    return earliest_us + floor(job.patience * (finish_by_us - earliest_us))


def location_cap(job: Job) -> int:
    """Return the most clients of one location in a round, at least one."""
    return max(1, floor(job.max_location_share * job.clients_per_round + 1e-9))


def _grid(job: Job, intensity: IntensityTable) -> Grid:
    """Return the openings up to the deadline, or say that it is too early."""
    grid = Grid.of(job, intensity)
    first_us = grid.first_us
    needed_us = first_us + (job.rounds - 1) * grid.width * grid.step_us + grid.round_us
    missing_us = needed_us - to_us(job.finish_by)
    if missing_us <= 0:
        return grid
    rounds = f"{job.rounds} round(s) of {format_duration(grid.round_us * MICROSECOND)}"
    if job.finish_by <= from_us(job.opens_from_us):
        reason = f"finish_by is past before the first of {rounds} may open"
    else:
        reason = f"finish_by is {_exactly(missing_us)} too early for {rounds}"
    raise PlanInfeasibleError(
        reason, format_time(from_us(needed_us)), format_time(job.finish_by), job.finish_by
    )


def _exactly(us: int) -> str:
    """Return a duration for people that is never rounded to nothing."""
    return format_duration(us * MICROSECOND) if us >= 1_000_000 else f"{us} µs"


def _check_forecast(job: Job, intensity: IntensityTable) -> None:
    """Refuse locations without any forecast between the first opening and the deadline."""
    names = job.fleet.locations
    columns = intensity.columns(names)
    inside = (intensity.edges_us[1:] > job.opens_from_us) & (intensity.edges_us[:-1] < to_us(job.finish_by))
    known = np.logical_or.reduce(np.isfinite(intensity.values[inside]), axis=0)
    missing = {
        name: "is not in the forecast" if column < 0 else
        f"has no value between {format_time(from_us(job.opens_from_us))} and {format_time(job.finish_by)}"
        for name, column in zip(names, columns, strict=True)
        if column < 0 or not known[column]
    }  # fmt: skip
    if missing:
        available = [name for name in names if name not in missing]
        raise ForecastUnavailableError(missing, available)


def _check_share(job: Job, turns: Turns) -> None:
    """Refuse a cap on locations under which the turns cannot be taken."""
    cap, fleet = location_cap(job), job.fleet
    places, rounds, seats = len(fleet.locations), job.rounds, job.clients_per_round
    clients = np.bincount(fleet.location_index, minlength=places)
    if (most := int(np.minimum(clients, cap).sum())) < seats:
        raise PlanInfeasibleError(
            f"max_location_share {job.max_location_share:g} lets at most {cap} client(s) of a location into a"
            f" round, and {places} location(s) do not fill one",
            seats, most, job.finish_by,
        )  # fmt: skip
    owed = np.bincount(fleet.location_index, weights=turns.least, minlength=places)
    if owed.max() > cap * rounds:
        worst = int(owed.argmax())
        raise PlanInfeasibleError(
            f"max_location_share {job.max_location_share:g} leaves too few seats for the turns of"
            f" {fleet.locations[worst]}",
            int(owed[worst]), cap * rounds, job.finish_by,
        )  # fmt: skip
    allowed = np.bincount(fleet.location_index, weights=turns.most, minlength=places)
    if (most := int(np.minimum(allowed, cap * rounds).sum())) < rounds * seats:
        raise PlanInfeasibleError(
            f"max_location_share {job.max_location_share:g} and participation leave seats empty",
            rounds * seats, most, job.finish_by,
        )  # fmt: skip


def _check_gaps(job: Job, intensity: IntensityTable, earliest: Earliest) -> None:
    """Refuse a job that the gaps of the forecast leave without a plan."""
    if earliest.complete:
        return
    found = len(earliest.slots)
    if found < job.rounds:
        raise PlanInfeasibleError(
            f"only {found} of {job.rounds} round(s) find a window by finish_by in which"
            f" {job.clients_per_round} client(s) have a forecast without a gap"
            f" (the forecast ends {format_time(intensity.end)})",
            job.rounds, found, job.finish_by,
        )  # fmt: skip
    raise PlanInfeasibleError(
        "gaps in the forecast keep some clients from the turns they owe by finish_by",
        job.rounds * job.clients_per_round, "fewer", job.finish_by,
    )  # fmt: skip


def _model(job: Job, intensity: IntensityTable, turns: Turns, grid: Grid) -> Model:
    """Return the problem in numbers."""
    classes = Classes.of(job)
    groups = Groups.of(job, turns, classes, _MOST_CELLS // max(len(grid), 1), _BUCKETS)
    columns = intensity.columns(job.fleet.locations)[classes.location]
    windows = Windows.of(grid, classes, columns, intensity, job.stagger)
    seating = Seating(
        job.clients_per_round, groups.size, groups.least, groups.most, classes.location[groups.klass],
        location_cap(job),
    )  # fmt: skip
    return Model(job.rounds, groups, windows, seating, classes.of_client)


def _to_plan(job: Job, intensity: IntensityTable, model: Model, solution: Solution) -> Plan:
    """Seat clients and charge each for its own window."""
    fleet, groups, windows = job.fleet, model.groups, model.windows
    points, integrals = windows.cheapest_starts(solution.slots, model.boundaries(solution.slots))
    seats = groups.hand_out(solution.assignment.counts, integrals)
    klass = model.class_of_client[seats]
    rows = np.arange(job.rounds)[:, None]
    grid = windows.grid
    starts_us = grid.opens_us[0] + points[rows, klass] * grid.step_us
    ends_us = starts_us + windows.duration_us[klass]
    emissions_g = fleet.power_watts[seats] / 1000.0 * integrals[rows, klass]
    total_g = float(emissions_g.sum())
    opens_us = grid.opens_us[solution.slots]
    closes_us = np.maximum(opens_us + grid.round_us, ends_us.max(axis=1))
    columns = intensity.columns(fleet.locations)[fleet.location_index]
    run_now = run_now_g(
        intensity, columns, fleet.power_watts, job.durations_us,
        job.opens_from_us + np.arange(job.rounds) * job.round_us, job.clients_per_round,
    ).sum()  # fmt: skip
    return Plan(
        fleet=fleet,
        opens_us=opens_us,
        closes_us=closes_us,
        seats=seats,
        starts_us=starts_us,
        ends_us=ends_us,
        client_emissions_g=emissions_g,
        lower_bound_g=total_g if total_g - solution.bound_g <= _ROUNDING * abs(total_g) else solution.bound_g,
        run_now_emissions_g=None if np.isnan(run_now) else float(run_now),
        source=intensity.source,
        signal=intensity.signal,
        synthetic=intensity.synthetic,
        forecast_until=intensity.end,
    )
