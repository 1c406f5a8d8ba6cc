"""What makes a job impossible, found before anything is optimised and said in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.clock import MICROSECOND, format_duration, format_time, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.planning.feasibility import Earliest
from lowcarb_scheduler.planning.participation import location_cap

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.grid import Grid
    from lowcarb_scheduler.planning.job import Job
    from lowcarb_scheduler.planning.participation import Turns


def check_time(job: Job, grid: Grid) -> None:
    """Refuse a deadline before which the rounds do not fit back-to-back."""
    needed_us = grid.first_us + (job.rounds - 1) * grid.width * grid.step_us + grid.round_us
    missing_us = needed_us - to_us(job.finish_by)
    if missing_us <= 0:
        return
    rounds = f"{job.rounds} round(s) of {format_duration(grid.round_us * MICROSECOND)}"
    if job.finish_by <= from_us(job.opens_from_us):
        reason = f"finish_by is past before the first of {rounds} may open"
    else:
        reason = f"finish_by is {_exactly(missing_us)} too early for {rounds}"
    needed, available = format_time(from_us(needed_us)), format_time(job.finish_by)
    raise PlanInfeasibleError(reason, needed, available, job.finish_by)


def _exactly(us: int) -> str:
    """Return a duration for people that is never rounded to nothing."""
    return format_duration(us * MICROSECOND) if us >= 1_000_000 else f"{us} µs"


def check_forecast(job: Job, intensity: IntensityTable) -> None:
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


def check_share(job: Job, turns: Turns) -> None:
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


def check_grid(job: Job, intensity: IntensityTable, grid: Grid) -> None:
    """Refuse a job whose rounds may not even open before the forecast ends."""
    if len(grid) == 0:
        check_gaps(job, intensity, Earliest(np.empty(0, dtype=np.int64), 0, complete=False))


def check_gaps(job: Job, intensity: IntensityTable, earliest: Earliest) -> None:
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
