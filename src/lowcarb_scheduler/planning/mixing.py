"""Mixing: everybody in turn in every few rounds, for data that differs from place to place.

A plan that is free to choose lets the clients of a place train one after the other while its grid is clean.
Each takes its turns, yet the model hears of one place for many rounds, and forgets what it has learned
elsewhere. So the rounds can be planned in blocks: in each block turns are shared out equally anew, those with
fewest before first, and each block has its part of the time. What a block owes is decided before carbon is
looked at; inside it the planner is free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.errors import PlanInfeasibleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan


def blocks_of(job: Job) -> list[int]:
    """Return how many rounds each block of a job has; the first goes on where earlier rounds have left it."""
    size = job.mix_rounds
    if size is None:
        return [job.rounds]
    done = round(int(job.fleet.turns_done.sum()) / job.clients_per_round)
    first = min(size - done % size, job.rounds)
    rest, odd = divmod(job.rounds - first, size)
    return [first, *[size] * rest, *([odd] if odd else [])]


def plan_in_blocks(
    job: Job, intensity: IntensityTable, target_us: int, solve: Callable[[Job, IntensityTable], Plan]
) -> Plan:
    """Plan a job block by block.

    Parameters
    ----------
    job : Job
        With ``mix_rounds``.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].
    target_us : int
        When the last round is over at the latest [µs since 1970 UTC]; a block has its part of the time.
    solve : callable
        Plans a job as one block.

    Returns
    -------
    Plan
        Without a lower bound. Where gaps leave a block without a plan, the rounds are planned as one block.
    """
    whole = replace(job, mix_rounds=None)
    fleet, opens_from_us = job.fleet, job.opens_from_us
    span_us, planned, parts = target_us - opens_from_us, 0, []
    for rounds in blocks_of(job):
        planned += rounds
        after_us = (job.rounds - planned) * job.round_us
        part = replace(
            whole,
            fleet=fleet,
            rounds=rounds,
            not_before=from_us(opens_from_us),
            grid_from=from_us(job.grid_from_us),
            finish_by=from_us(to_us(job.finish_by) - after_us),
            target_finish=from_us(job.opens_from_us + span_us * planned // job.rounds),
        )
        try:
            parts.append(solve(part, intensity))
        except PlanInfeasibleError:
            return solve(replace(whole, target_finish=from_us(target_us)), intensity)
        opens_from_us = int(parts[-1].closes_us[-1])
        fleet = replace(fleet, turns_done=parts[-1].turns)
    return _joined(job, intensity, parts)


def _joined(job: Job, intensity: IntensityTable, parts: Sequence[Plan]) -> Plan:
    """Return plans that follow each other as one."""
    return replace(
        parts[0],
        fleet=job.fleet,
        opens_us=np.concatenate([part.opens_us for part in parts]),
        closes_us=np.concatenate([part.closes_us for part in parts]),
        seats=np.concatenate([part.seats for part in parts]),
        starts_us=np.concatenate([part.starts_us for part in parts]),
        ends_us=np.concatenate([part.ends_us for part in parts]),
        client_emissions_g=np.concatenate([part.client_emissions_g for part in parts]),
        lower_bound_g=None,
        run_now_emissions_g=job.run_now_g(intensity),
    )
