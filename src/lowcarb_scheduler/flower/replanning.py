"""From who is alive and what is known to a plan: the best knowledge there is, and there is always a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError, PlanInfeasibleError, one_line
from lowcarb_scheduler.flower.plausible import without_preference
from lowcarb_scheduler.flower.profiles import UNKNOWN_PLACE
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job
from lowcarb_scheduler.planning.participation import crowded, fill_evenly, location_cap
from lowcarb_scheduler.policy import replan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime, timedelta

    from lowcarb_scheduler.flower.deadline import Schedule
    from lowcarb_scheduler.flower.outlook import Outlook
    from lowcarb_scheduler.flower.profiles import Profile
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.settings import Settings


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and whether it rests on a forecast: if not, its emissions mean nothing."""

    plan: Plan
    on_forecast: bool


def decide(job: Job, outlook: Outlook, previous: Plan | None) -> Decision:
    """Plan the remaining rounds on the best knowledge there is.

    On forecast and history if they allow it, on the job's grid of openings or else on one that begins now;
    if not, at once. Every step down is noted.
    """
    known, actual = outlook.forecast, outlook.actual
    job = _with_rules_that_can_be_kept(job, outlook)
    if job.grid_from == job.now or (previous is not None and not _keeps_share(previous, job)):
        previous = None  # without slack nothing is waited for, a slot of the plan so far neither
    if known is None and actual is not None:
        known = actual.align(())  # its labels; the history itself is given to replan
    if known is not None:
        trouble = ""
        for attempt in _attempts(job):
            try:
                planned = _replan(attempt, known, outlook, previous)
                _note_bounds(job, planned, outlook)
                return Decision(planned, on_forecast=True)
            except PlanInfeasibleError as error:
                trouble = error.reason
            except LowcarbError as error:
                trouble = one_line(str(error))  # whatever it is, it must not stop the training
        outlook.degrade("plan", trouble, "the next round opens at once")
    return at_once(job, outlook)


def _with_rules_that_can_be_kept(job: Job, outlook: Outlook) -> Job:
    """Return a job whose cap on locations fills a round with the nodes there are, and say what gives way."""
    fleet, seats = job.fleet, job.clients_per_round
    if job.max_location_share == 1:
        return job
    clients = np.bincount(fleet.location_index, minlength=len(fleet.locations))
    cap = location_cap(job)
    while np.minimum(clients, cap).sum() < min(seats, len(fleet)):
        cap += 1
    if cap > location_cap(job):
        why = f"{len(fleet.locations)} location(s) cannot fill a round with {job.max_location_share:g} each"
        outlook.degrade("rules", f"max-location-share: {why}", "it gives way as little as it can")
        job = replace(job, max_location_share=min(cap / seats, 1.0))
    if job.participation == "equal":
        turns = fill_evenly(fleet.turns_done, job.rounds * seats, job.rounds, job.seed)
        for place in crowded(job, turns):
            why = f"max-location-share leaves {fleet.locations[place]} too few seats for equal turns"
            outlook.degrade("rules", why, "nodes of other locations take more turns")
    return job


def _keeps_share(previous: Plan, job: Job) -> bool:
    """Return whether no round that remains of a plan has more clients of a location than a job allows."""
    locations = previous.fleet.location_index[previous.seats[-job.rounds :]]
    most = max(int((locations == place).sum(axis=1).max()) for place in np.unique(locations))
    return most <= location_cap(job)


def _attempts(job: Job) -> Iterator[Job]:
    """Yield a job, and what may have a plan where it has none."""
    yield job
    yield replace(job, grid_from=job.now)
    if isinstance(job.participation, tuple):
        yield replace(job, participation="equal")  # which gives way to a cap on locations


def _note_bounds(job: Job, planned: Plan, outlook: Outlook) -> None:
    """Say so where bounds on turns had to give way."""
    if isinstance(job.participation, tuple):
        least, most = job.participation
        if planned.turns.min() < least or planned.turns.max() > most:
            why = f"participation of {least} to {most} turns cannot be kept by all"
            outlook.degrade("rules", why, "the bounds give way as little as they can")


def _replan(job: Job, known: IntensityTable, outlook: Outlook, previous: Plan | None) -> Plan:
    """Replan; a place of which nothing is known is neither sought nor shunned."""
    try:
        return replan(
            job, known, outlook.actual, outlook.past_forecasts, previous, last_good=outlook.last_good
        )
    except ForecastUnavailableError as error:
        missing = tuple(error.missing)
        if len(missing) == len(job.fleet.locations):
            reason = "no location has a forecast"
            raise PlanInfeasibleError(reason, len(missing), 0, job.finish_by) from None
        fix = "; set lowcarb-locations or lowcarb-default-location" if UNKNOWN_PLACE in missing else ""
        what = f"intensity of {', '.join(missing)}"
        outlook.degrade(what, "nothing is known", f"it is planned at the others' mean{fix}")
        like = known if known.locations else outlook.actual
        neutral = without_preference(like, missing, job.now, job.finish_by)
        return replan(
            job, known.fill(neutral), outlook.actual, outlook.past_forecasts, previous,
            last_good=outlook.last_good, default=missing,
        )  # fmt: skip


def at_once(job: Job, outlook: Outlook) -> Decision:
    """Plan rounds back-to-back from now, choosing only by turns."""
    job = _with_rules_that_can_be_kept(job, outlook)
    hurried = replace(
        job, patience=0.0, target_finish=None, stagger=False, grid_from=job.now,
        start_step=job.round_duration,
    )  # fmt: skip
    flat = without_preference(None, job.fleet.locations, job.now, hurried.finish_by)
    try:
        return Decision(replan(hurried, flat), on_forecast=False)
    except PlanInfeasibleError as error:
        outlook.degrade("rules", error.reason, "turns are shared equally instead")
        lenient = replace(hurried, participation="equal")
        return Decision(replan(lenient, flat), on_forecast=False)


def job_of(
    settings: Settings, schedule: Schedule, plan_by: datetime, now: datetime, rounds: int, clients: int,
    fleet: Fleet,
) -> Job:  # fmt: skip
    """Return the job of the rounds that remain; where there is no slack no slot of the grid is awaited."""
    back_to_back = now + rounds * schedule.round_duration
    no_slack = settings.patience == 0 or back_to_back >= min(schedule.target_finish, plan_by)
    return Job(
        fleet=fleet,
        now=now,
        finish_by=plan_by,
        rounds=rounds,
        clients_per_round=clients,
        round_duration=schedule.round_duration,
        grid_from=now if no_slack else schedule.grid_from,
        patience=settings.patience,
        target_finish=schedule.target_finish if settings.patience > 0 else None,
        participation=settings.participation,
        stagger=settings.stagger,
        max_location_share=settings.max_location_share,
        bounds_count_done=True,
        mix_rounds=settings.mix_rounds if settings.participation == "equal" else None,
    )


def fleet_of(profiles: Iterable[Profile], turns: Mapping[str, int], round_duration: timedelta) -> Fleet:
    """Return nodes as a fleet; a turn that claims to be longer than a round is taken to fill it."""
    nodes = sorted(profiles, key=lambda profile: profile.key)
    own = [p.duration if p.duration and p.duration <= round_duration else None for p in nodes]
    frame = pd.DataFrame(
        {
            "id": [profile.key for profile in nodes],
            "location": [profile.place for profile in nodes],
            "power_watts": [profile.power_watts for profile in nodes],
            "duration": pd.Series(own, dtype=object),
            "turns_done": [turns[profile.key] for profile in nodes],
        }
    )
    assumed = np.array([profile.power_assumed for profile in nodes], dtype=bool)
    return replace(Fleet.from_frame(frame), power_assumed=assumed)
