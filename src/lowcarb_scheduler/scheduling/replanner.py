"""The replanner of a run: its schedule, how long rounds take, and the plan that stands."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from lowcarb_scheduler.clock import format_duration, format_time, from_us, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Plan
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.policy import Decision, at_once, decide, fleet_of, job_of
from lowcarb_scheduler.scheduling.schedule import SPARE_PART, Durations, Schedule, observed_round

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from lowcarb_scheduler.accounting.turns import Profile
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.intensity_feed import KnownIntensity
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.settings import Settings

# -- The inputs of a plan: what it rests on. While these stand the plan stands, and does not flap ----------

Reason = Literal[
    "next round", "nodes changed", "new forecast", "fresh actuals", "turns owed", "overrun", "more time"
]
Features = tuple[str, float, "timedelta | None"]


@dataclass(frozen=True, slots=True, eq=False)
class PlanInputs:
    """What a plan rests on.

    Parameters
    ----------
    nodes : mapping of str to tuple
        By key, where a node is, what it draws and how long it takes.
    clients : int
        How many train in a round.
    length : timedelta
        Of a round.
    forecast, actual : IntensityTable or None
        What was known of intensity.
    """

    nodes: Mapping[str, Features]
    clients: int
    length: timedelta
    forecast: IntensityTable | None
    actual: IntensityTable | None

    @classmethod
    def of(
        cls, alive: Iterable[Profile], clients: int, length: timedelta, known: KnownIntensity
    ) -> PlanInputs:
        """Return the inputs of a plan that is made now."""
        nodes = {profile.key: (profile.place, profile.power_watts, profile.duration) for profile in alive}
        return cls(nodes, clients, length, known.forecast, known.actual)

    def memory(self, known: KnownIntensity) -> dict[str, Any]:
        """Return the part of a checkpoint that holds these inputs, where that is known of intensity now."""
        return {"clients": self.clients, "length": self.length, "forecast": self.forecast is known.forecast,
                "actual": self.actual is known.actual}  # fmt: skip

    @classmethod
    def recalled(
        cls, memory: Mapping[str, Any], nodes: Mapping[str, Features], known: KnownIntensity
    ) -> PlanInputs:
        """Return the inputs that :meth:`memory` is of; what has been news then is news again."""
        return cls(
            nodes, memory["clients"], memory["length"], known.forecast if memory["forecast"] else None,
            known.actual if memory["actual"] else None,
        )  # fmt: skip

    def why_not(self, now: PlanInputs, start: datetime, end: datetime) -> Reason | None:
        """Return why a plan on these inputs does not stand on others; None if it does.

        A forecast that says the same between two times is no news.
        """
        if now.clients != self.clients or now.length != self.length:
            return "next round"
        if now.nodes != self.nodes:
            return "nodes changed"
        if now.forecast is not self.forecast and not _same_intensity(self.forecast, now.forecast, start, end):
            return "new forecast"
        return None if now.actual is self.actual else "fresh actuals"


def turns_as_planned(plan: Plan, rounds_done: int, turns: Mapping[str, int]) -> bool:
    """Return whether clients have completed the turns that the first rounds of a plan gave them."""
    planned = np.bincount(plan.seats[:rounds_done].ravel(), minlength=len(plan.fleet))
    done = np.array([turns[key] for key in plan.fleet.ids], dtype=np.int64)
    return bool(np.array_equal(done, plan.fleet.turns_done + planned))


def _same_intensity(
    one: IntensityTable | None, other: IntensityTable | None, start: datetime, end: datetime
) -> bool:
    """Return whether two tables say the same of the same places between two times."""
    if one is None or other is None or set(one.locations) != set(other.locations) or start >= end:
        return False
    low, high = to_us(start), to_us(end)
    edges = np.union1d(one.edges_us, other.edges_us)
    edges = np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]])
    values, others = one.sampled(edges), other.sampled(edges, one.locations)
    return one.signal == other.signal and bool(np.array_equal(values, others, equal_nan=True))


# -- A plan as plain values and arrays, and back: what a checkpoint keeps of it -----------------------------


def plan_to_value(plan: Plan) -> dict[str, Any]:
    """Return a plan as a dict that :class:`~lowcarb_scheduler.flower.checkpoint.codec.Encoder` takes."""
    value = {each.name: getattr(plan, each.name) for each in fields(Plan)}
    fleet = {each.name: getattr(plan.fleet, each.name) for each in fields(Fleet)}
    fleet["ids"] = np.array([*plan.fleet.ids], dtype=np.str_)  # an array of objects would be a pickle
    return {**value, "fleet": fleet, "provenance": asdict(plan.provenance)}


def plan_from_value(value: Mapping[str, Any]) -> Plan:
    """Return the plan of such a dict.

    Raises
    ------
    TypeError, KeyError
        If it is none.
    """
    fleet = value["fleet"]
    kept = Fleet(**{**fleet, "ids": fleet["ids"].astype(object)})
    return Plan(**{**value, "fleet": kept, "provenance": Provenance(**value["provenance"])})


logger = logging.getLogger("flwr")

_FAR_OFF: Final = 0.25  # of the planned length of a round: when they take so much otherwise it is changed
_SURE: Final = 3  # rounds seen, to overrule a length that was given
_UNSEEN_ROUND: Final = timedelta(hours=1)  # stands for a round until one has been seen; nothing waits for it


class Replanner:
    """What a run follows.

    Parameters
    ----------
    settings : Settings
        What the run was told.
    rounds : int
        How many there are to be.
    started : datetime
        When the run began.
    ledger : Ledger
        Takes ``planned``.
    log : RunLog
        Takes warnings.
    as_planned : bool
        Whether rounds take their planned time, as on a virtual clock: until one takes longer, no time is
        kept for that.

    Attributes
    ----------
    schedule : Schedule or None
        Deadline and target; None until the length of a round is known.
    durations : Durations
        How long rounds have taken.
    decision : Decision or None
        The plan that stands.
    """

    def __init__(
        self, settings: Settings, rounds: int, started: datetime, ledger: Ledger, log: RunLog,
        as_planned: bool = False,
    ) -> None:  # fmt: skip
        self._settings, self._rounds, self._started = settings, rounds, started
        self._ledger, self._log, self._as_planned = ledger, log, as_planned
        self.schedule = self._settle(settings.round_duration) if settings.round_duration else None
        self.durations = Durations(settings.round_duration)
        self.decision: Decision | None = None
        self._planned_from = 1  # the round that is the first of the plan
        self._planned_by: datetime | None = None
        self._inputs: PlanInputs | None = None
        self._announced = self._hurried = False

    def rounds_left(self, number: int) -> int:
        """Return how many rounds remain when a round is about to open."""
        return max(self._rounds - number + 1, 1)

    def index(self, number: int) -> int:
        """Return which of the plan's rounds a round is."""
        return number - self._planned_from

    @property
    def length(self) -> timedelta:
        """How long a round is planned; no time while that is not known."""
        return self.schedule.round_duration if self.schedule else timedelta(0)

    def opens_at(self, number: int) -> datetime | None:
        """Return when the plan that stands opens a round; None where it has no such round."""
        if self.decision is None or not 0 <= self.index(number) < len(self.decision.plan.opens_us):
            return None
        return from_us(self.decision.plan.opens_us[self.index(number)])

    # -- the deadline --------------------------------------------------------------------------------------

    def latest_opening(self, number: int) -> datetime | None:
        """Return until when waiting for a round is allowed; None while it is not known how long one takes."""
        rounds = self.rounds_left(number)
        return None if self.schedule is None else self.schedule.latest_opening(rounds, self._needed(rounds))

    def is_out_of_time(self, number: int, now: datetime) -> bool:
        """Return whether a round must not open any more: it would be late, and late runs are to stop."""
        schedule = self.schedule
        if schedule is None or self._settings.on_late != "stop":
            return False
        last = schedule.finish_by - schedule.round_duration
        return schedule.on_slot(last, now) > last

    def length_of(self, took: timedelta) -> timedelta:
        """Return the length a round that is over was planned with; the first one may tell it."""
        if self.schedule is None:
            self.schedule = self._settle(observed_round(took))
        return self.schedule.round_duration

    def round_over(self, took: timedelta, planned: timedelta) -> None:
        """Learn how long a round took, from its opening until the next one could open.

        If rounds take quite another time than planned, those to come are planned with that.
        """
        if self._as_planned and took <= planned:
            return
        self._as_planned, self.durations = False, self.durations.after(took)
        is_sure = self.durations.given is None or len(self.durations.seen_s) >= _SURE
        if (schedule := self.schedule) is None or not is_sure:
            return
        typical, shortest = observed_round(self.durations.typical), observed_round(timedelta(0))
        length = max(schedule.round_duration, shortest)
        if abs(typical - length) > _FAR_OFF * length:
            self.schedule = replace(schedule, round_duration=typical)
            logger.info("lowcarb: rounds take about %s, and are planned so", format_duration(typical))

    def _needed(self, rounds: int) -> timedelta:
        """Return the time to keep free for rounds, where that is more than is planned."""
        if self._as_planned or not self.durations.is_known:
            return timedelta(0)
        return self.durations.needed(rounds, self._settings.deadline_confidence)

    def provisional_deadline(self) -> datetime:
        """Return the deadline, or about when it will be while no round has been seen."""
        return (self.schedule or self._settle(_UNSEEN_ROUND)).finish_by

    def _settle(self, round_duration: timedelta) -> Schedule:
        """Fix deadline and target, now that the length of a round is known."""
        told = self._settings
        spare_part = 0.0 if self._as_planned else SPARE_PART
        return Schedule.settle(
            self._started, self._rounds, round_duration, told.finish_by, told.patience, spare_part
        )

    # -- the plan ------------------------------------------------------------------------------------------

    def why_anew(
        self, number: int, alive: Collection[Profile], turns: Mapping[str, int], clients: int, now: datetime,
        known: KnownIntensity,
    ) -> Reason | None:  # fmt: skip
        """Return why the rounds from this one on are to be planned anew; None where the plan stands."""
        decision, schedule, slot = self.decision, self.schedule, self.opens_at(number)
        if decision is None or schedule is None or slot is None or self._inputs is None:
            return "next round"
        index = self.index(number)
        if len(decision.plan.opens_us) - index != self.rounds_left(number):
            return "next round"  # the first one was planned alone
        if index > 0 and known.forecast is not None and not decision.on_forecast:
            return "next round"  # what has kept it from resting on the forecast may be over
        inputs = PlanInputs.of(alive, clients, schedule.round_duration, known)
        reason = self._inputs.why_not(inputs, now, schedule.finish_by)
        if reason is not None and reason != "fresh actuals":
            return reason
        if not turns_as_planned(decision.plan, index, turns):
            return "turns owed"
        rounds = self.rounds_left(number)
        latest = schedule.latest_opening(rounds, self._needed(rounds))
        if schedule.on_slot(slot, now) > slot or slot > max(latest, now):
            return "overrun"
        if reason is not None:
            return reason
        self._inputs = inputs  # they say the same
        has_gained = self._planned_by is not None and (
            schedule.plan_by(now, rounds, self._needed(rounds)) - self._planned_by > schedule.round_duration
        )
        return "more time" if has_gained and decision.on_forecast else None

    def plan(
        self, number: int, alive: Collection[Profile], turns: Mapping[str, int], clients: int, now: datetime,
        known: KnownIntensity, reason: Reason,
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
        known : KnownIntensity
            Intensity as known at that moment.
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
            job = job_of(self._settings, unseen, unseen.finish_by, now, 1, clients, fleet)
            self.decision = at_once(job, self._log)
        else:
            if (slot := self.opens_at(number)) is not None:
                now = schedule.on_slot(slot, now)
            rounds, length = self.rounds_left(number), schedule.round_duration
            self._planned_by = schedule.plan_by(now, rounds, self._needed(rounds))
            self._note_deadline(schedule, now, rounds)
            fleet = fleet_of(alive, turns, length)
            job = job_of(self._settings, schedule, self._planned_by, now, rounds, clients, fleet)
            self.decision = decide(job, known, previous, self._log)
            self._inputs = PlanInputs.of(alive, clients, length, known)
        self._planned_from = number
        if previous is None or reason == "next round" or not _same_turns(previous, self.decision.plan):
            self._write(number, reason, self.decision)

    def _note_deadline(self, schedule: Schedule, now: datetime, rounds: int) -> None:
        """Say so when the rounds that remain do not fit before the deadline, or leave no time to wait."""
        if now + rounds * schedule.round_duration > schedule.finish_by:
            why = f"{format_time(schedule.finish_by)} cannot be met any more"
            ends = "" if self._settings.on_late == "finish" else ", as many as are in time"
            self._log.warn("deadline", why, f"rounds run back-to-back{ends}")
        elif not self._hurried and schedule.latest_opening(rounds, self._needed(rounds)) <= now:
            self._hurried = True
            logger.info("lowcarb: no waiting for now: the rounds that remain may need all the time there is")

    def memory(self, known: KnownIntensity) -> dict[str, Any]:
        """Return the part of a checkpoint that holds schedule and plan, where that is known of intensity."""
        schedule, decision = self.schedule, self.decision
        return {
            "schedule": None if schedule is None else asdict(schedule),
            "plan": None if decision is None else plan_to_value(decision.plan),
            "on_forecast": decision is not None and decision.on_forecast,
            "planned_from": self._planned_from,
            "planned_by": self._planned_by,
            "inputs": None if self._inputs is None else self._inputs.memory(known),
            "seen_s": list(self.durations.seen_s),
        }

    def recall(self, memory: Mapping[str, Any], nodes: Mapping[str, Features], known: KnownIntensity) -> None:
        """Restore what :meth:`memory` returned, with the nodes and the intensity of then."""
        if (kept := memory["schedule"]) is not None:
            self.schedule = Schedule(**kept)
        if memory["plan"] is not None:
            self.decision = Decision(plan_from_value(memory["plan"]), memory["on_forecast"])
        self._planned_from, self._planned_by = memory["planned_from"], memory["planned_by"]
        if memory["inputs"] is not None:
            self._inputs = PlanInputs.recalled(memory["inputs"], nodes, known)
        self.durations = replace(self.durations, seen_s=tuple(memory["seen_s"]))
        self._as_planned = self._as_planned and not self.durations.seen_s

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
            rests_on=plan.forecast_origin if on_forecast else {},
            finish=plan.finish, **{name: getattr(plan, name) if on_forecast else None for name in names},
            power_assumed=bool(plan.fleet.power_assumed.any()), min_turns=int(turns.min()),
            max_turns=int(turns.max()), windows=windows,
            grid_from=self.schedule.grid_from if self.schedule else None,
            target_finish=self.schedule.target_finish if self.schedule else None,
            finish_by=self.schedule.finish_by if self.schedule else None,
        )  # fmt: skip
        if not self._announced and self.schedule:
            self._announced = True
            latest, mixes = self.latest_opening(number), self._settings.mix_rounds is not None
            for line in messages.plan_lines(decision, self.schedule, latest, mixes):
                logger.info("lowcarb: %s", line)


def _count(plan: Plan, index: int) -> dict[str, int]:
    """Return how many clients of a round each location has."""
    counts = np.bincount(plan.fleet.location_index[plan.seats[index]], minlength=len(plan.fleet.locations))
    return {name: int(count) for name, count in zip(plan.fleet.locations, counts, strict=True) if count}


def _same_turns(one: Plan, other: Plan) -> bool:
    """Return whether the same clients are to train at the same times."""
    rounds = len(other.opens_us)  # of the one, these may be the last
    return np.array_equal(one.opens_us[-rounds:], other.opens_us) and np.array_equal(
        one.fleet.ids[one.seats[-rounds:]], other.fleet.ids[other.seats]
    )
