"""The course of a run: its schedule, how long rounds take, and the plan that stands."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lowcarb_scheduler.clock import from_us
from lowcarb_scheduler.flower import wording
from lowcarb_scheduler.flower.deadline import Schedule, observed_round
from lowcarb_scheduler.flower.replanning import at_once, decide, fleet_of, job_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from lowcarb_scheduler.flower.outlook import Outlook
    from lowcarb_scheduler.flower.profiles import Profile
    from lowcarb_scheduler.flower.replanning import Decision
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.settings import Settings

logger = logging.getLogger("flwr")

Reason = Literal["next round", "nodes changed", "new forecast"]

_UNSEEN_ROUND: Final = timedelta(hours=1)  # stands for a round until one has been seen; nothing waits for it


class Course:
    """What a run follows.

    Parameters
    ----------
    settings : Settings
        What the run was told.
    rounds : int
        How many there are to be.
    started : datetime
        When the run began.
    outlook : Outlook
        What is known of carbon intensity.
    ledger : Ledger
        Takes ``planned``.

    Attributes
    ----------
    schedule : Schedule or None
        Deadline and target; None until the length of a round is known.
    decision : Decision or None
        The plan that stands.
    """

    def __init__(
        self, settings: Settings, rounds: int, started: datetime, outlook: Outlook, ledger: Ledger
    ) -> None:
        self._settings, self._rounds, self._started = settings, rounds, started
        self._outlook, self._ledger = outlook, ledger
        self.schedule = self._settle(settings.round_duration) if settings.round_duration else None
        self.decision: Decision | None = None
        self._announced = False

    def rounds_left(self, number: int) -> int:
        """Return how many rounds remain when a round is about to open."""
        return max(self._rounds - number + 1, 1)

    def latest_opening(self, number: int) -> datetime | None:
        """Return until when waiting for a round leaves room for it and the rest; None while unknown."""
        return None if self.schedule is None else self.schedule.latest_opening(self.rounds_left(number))

    def round_over(self, took: timedelta) -> timedelta:
        """Learn from a round that is over, and return the length it was planned with."""
        if self.schedule is None:
            self.schedule = self._settle(observed_round(took))
        return self.schedule.round_duration

    def provisional_deadline(self) -> datetime:
        """Return the deadline, or about when it will be while no round has been seen."""
        return (self.schedule or self._settle(_UNSEEN_ROUND)).finish_by

    def _settle(self, round_duration: timedelta) -> Schedule:
        """Fix deadline and target, now that the length of a round is known."""
        told = self._settings
        return Schedule.settle(self._started, self._rounds, round_duration, told.finish_by, told.patience)

    def plan(
        self, number: int, alive: Collection[Profile], turns: Mapping[str, int], clients: int, now: datetime,
        reason: Reason,
    ) -> None:  # fmt: skip
        """Plan the remaining rounds, and write the plan down if it is a new one.

        Parameters
        ----------
        number : int
            The round that opens next.
        alive : collection of Profile
            Who is there.
        turns : mapping of str to int
            Turns that count, by key.
        clients : int
            How many train in a round.
        now : datetime
            The moment of planning.
        reason : str
            Why it is planned anew.
        """
        previous = self.decision.plan if self.decision else None
        if previous is None and self.schedule:
            # Nodes have been waited for. The grid begins now, or the first slot would be lost.
            self.schedule = replace(self.schedule, grid_from=now)
        if (schedule := self.schedule) is None:
            # The first round shows how long one takes. It is planned alone, and opens at once.
            unseen = Schedule(now, _UNSEEN_ROUND, now + _UNSEEN_ROUND, now + _UNSEEN_ROUND)
            fleet = fleet_of(alive, turns, _UNSEEN_ROUND)
            self.decision = at_once(job_of(self._settings, unseen, now, 1, clients, fleet), self._outlook)
        else:
            slot = 1 if reason == "next round" else 0  # of the plan so far, the round that opens next
            if previous is not None and slot < len(previous.opens_us):
                now = schedule.on_slot(from_us(previous.opens_us[slot]), now)
            fleet = fleet_of(alive, turns, schedule.round_duration)
            job = job_of(self._settings, schedule, now, self.rounds_left(number), clients, fleet)
            self.decision = decide(job, self._outlook, previous)
        if previous is None or reason == "next round" or not _same(previous, self.decision.plan):
            self._write(number, reason, self.decision)

    def _write(self, number: int, reason: Reason, decision: Decision) -> None:
        """Enter a plan in the ledger; the first one is also shown in the log."""
        plan, on_forecast = decision.plan, decision.on_forecast
        names = ("emissions_g", "lower_bound_g", "run_now_emissions_g", "saving")
        windows = [
            {
                "round": number + index,
                "opens_at": planned.opens_at,
                "closes_at": planned.closes_at,
                "emissions_g": planned.emissions_g if on_forecast else None,
                "locations": _count(plan, index),
            }
            for index, planned in enumerate(plan.rounds)
        ]
        turns = plan.turns
        self._ledger.append(
            "planned", round=number, reason=reason, basis="forecast" if on_forecast else "none",
            finish=plan.finish, **{name: getattr(plan, name) if on_forecast else None for name in names},
            power_assumed=bool(plan.fleet.power_assumed.any()), min_turns=int(turns.min()),
            max_turns=int(turns.max()), windows=windows,
            grid_from=self.schedule.grid_from if self.schedule else None,
        )  # fmt: skip
        if not self._announced and self.schedule:
            self._announced = True
            for line in wording.plan_lines(decision, self.schedule):
                logger.info("lowcarb: %s", line)


def _count(plan: Plan, index: int) -> dict[str, int]:
    """Return how many clients of a round each location has."""
    counts = np.bincount(plan.fleet.location_index[plan.seats[index]], minlength=len(plan.fleet.locations))
    return {name: int(count) for name, count in zip(plan.fleet.locations, counts, strict=True) if count}


def _same(one: Plan, other: Plan) -> bool:
    """Return whether the same clients are to train at the same times."""
    return np.array_equal(one.opens_us, other.opens_us) and np.array_equal(
        one.fleet.ids[one.seats], other.fleet.ids[other.seats]
    )
