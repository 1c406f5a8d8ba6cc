"""What could be chosen when a run began: plans for some values of patience, and where the run ended.

The plans rest on what was forecast then, corrected by what was known of the past, as the ledger has both.
All is in the energy that was really drawn: where turns took more or less than power times time, or were not
completed, plans are scaled by that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting import known_sum
from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, parse_time
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.flower.plausible import without_preference
from lowcarb_scheduler.forecasts.correction import correct_forecast
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job
from lowcarb_scheduler.planning.tradeoff import tradeoff
from lowcarb_scheduler.policy import looked_ahead
from lowcarb_scheduler.report.hindsight import without_fine_stagger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from lowcarb_scheduler.flower.turns import Node
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Participation
    from lowcarb_scheduler.planning.tradeoff import Frontier
    from lowcarb_scheduler.report.hindsight import Rules
    from lowcarb_scheduler.report.record import Beginning, Record, Worked

POINTS: Final = 6  # values of patience


@dataclass(frozen=True, slots=True)
class Stand:
    """A point beside the front: where something was over, and what it emitted.

    Parameters
    ----------
    name : str
        ``run-now``, ``planned`` or ``realised``.
    finish : datetime
        When its last round closes.
    emissions_g : float
        What it emits [gCO2eq].
    """

    name: str
    finish: datetime
    emissions_g: float


@dataclass(frozen=True, slots=True)
class RunFront:
    """What could be chosen when the run began, and where it stood in the end.

    Parameters
    ----------
    frontier : Frontier
        Plans for some values of patience, on what was expected at the start.
    stands : tuple of Stand
        Run-now, as expected then; and once the run has completed, what was planned when each round opened,
        and what was realised; each where it is known.
    first_round : int
        The first of the rounds this is about: 2 where the length of a round was not given.
    """

    frontier: Frontier
    stands: tuple[Stand, ...]
    first_round: int = 1


def front_of(record: Record, rules: Rules, realised_g: Mapping[int, float | None]) -> RunFront | None:
    """Return what could be chosen when a run began.

    Parameters
    ----------
    record : Record
        The run.
    rules : Rules
        What bound it.
    realised_g : mapping of int to float or None
        What its rounds have emitted, by number [gCO2eq].

    Returns
    -------
    RunFront or None
        None where no round of the first plan has closed, or it rested on no forecast.
    """
    begun = record.beginning
    if begun is None or begun.forecast is None or begun.planned["basis"] != "forecast":
        return None
    first = begun.planned["round"]
    rounds = [worked for worked in record.rounds if worked.number >= first]
    if not rounds:
        return None
    drawn = _drawn(rounds)
    try:
        job = _job_at_the_start(record, begun, rules, rounds[0].length, drawn)
        expected = _expected(job, begun, begun.forecast)
        frontier = tradeoff(without_fine_stagger(job, expected), expected, POINTS)
    except LowcarbError:
        return None  # the run found a way around what was in its way; a front has none
    back_to_back = rules.grid_from + job.rounds * rounds[0].length
    stands = [_stand("run-now", back_to_back, frontier.run_now_emissions_g)]
    if record.has_completed:
        finish = rounds[-1].closes_at
        stands += [
            _stand("planned", finish, known_sum(worked.planned_g for worked in rounds), drawn),
            _stand("realised", finish, known_sum(realised_g[worked.number] for worked in rounds)),
        ]
    return RunFront(frontier, tuple(stand for stand in stands if stand is not None), first)


def _stand(name: str, finish: datetime, emissions_g: float | None, drawn: float = 1.0) -> Stand | None:
    return None if emissions_g is None else Stand(name, finish, emissions_g * drawn)


def _drawn(rounds: list[Worked]) -> float:
    """Return the energy that was drawn over that planned for the same rounds; 1 while none has closed."""
    planned_watts_us = 0.0
    for worked in rounds:
        for member in worked.members:
            if (node := worked.nodes.get(member.key)) is not None:
                planned_watts_us += node.power_watts * ((member.ends_at - member.starts_at) // MICROSECOND)
    kwh = sum(turn.energy_kwh for worked in rounds for turn in worked.turns)
    return kwh / (planned_watts_us / 1000 / HOUR_US) if planned_watts_us > 0 else 1.0


def _job_at_the_start(record: Record, begun: Beginning, rules: Rules, length: timedelta, drawn: float) -> Job:
    """Return the job as it was when the run was first planned."""
    told, windows = record.started["settings"], begun.planned["windows"]
    participation: Participation = _participation(record.started["participation"])
    return Job(
        fleet=_fleet(begun.nodes, begun.turns, length // MICROSECOND, drawn),
        now=begun.planned["at"],
        finish_by=parse_time(begun.planned["finish_by"], "finish_by"),
        rounds=len(windows),
        clients_per_round=sum(windows[0]["locations"].values()),
        round_duration=length,
        grid_from=rules.grid_from,
        participation=participation,
        stagger=rules.stagger,
        max_location_share=told.get("max_location_share", 1.0),
        bounds_count_done=True,
    )


def _participation(told: object) -> Participation:
    return (int(told[0]), int(told[1])) if isinstance(told, list | tuple) else told  # type: ignore[return-value]


def _fleet(nodes: Mapping[str, Node], turns: Mapping[str, int], round_us: int, drawn: float) -> Fleet:
    ids = sorted(nodes)
    own_us = np.array(
        [(nodes[key].duration or MICROSECOND * 0) // MICROSECOND for key in ids], dtype=np.int64
    )
    locations, index = np.unique([nodes[key].place for key in ids], return_inverse=True)
    return Fleet(
        ids=np.array(ids, dtype=object),
        locations=tuple(str(name) for name in locations),
        location_index=index.astype(np.int64),
        power_watts=np.array([nodes[key].power_watts for key in ids], dtype=np.float64) * drawn,
        power_assumed=np.zeros(len(ids), dtype=bool),
        durations_us=np.where(own_us <= round_us, own_us, 0),
        turns_done=np.array([turns.get(key, 0) for key in ids], dtype=np.int64),
    )


def _expected(job: Job, begun: Beginning, forecast: IntensityTable) -> IntensityTable:
    """Return what was expected; a place of which nothing was known is at the others' mean."""
    until = looked_ahead(job)
    expected = correct_forecast(forecast.align(job.fleet.locations), begun.actual, job.now, until)
    blank = np.flatnonzero(np.isnan(expected.values).all(axis=0))
    if not len(blank):
        return expected
    unknown = [expected.locations[column] for column in blank]
    return expected.fill(without_preference(expected, unknown, job.now, until))
