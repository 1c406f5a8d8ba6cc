"""Replanner of a run: the standing plan, the inputs it rests on, and the reasons to make another one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from lowcarb_scheduler.accounting.turns import fleet_of, with_turn
from lowcarb_scheduler.clock import format_time, to_us
from lowcarb_scheduler.events import Planned, Window
from lowcarb_scheduler.forecasts.bias_correction import HISTORY
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.planning.balance import balance_turns
from lowcarb_scheduler.planning.fairness import TurnRange, as_even_as_random
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Plan
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.intensity_feed import KnownIntensity
from lowcarb_scheduler.scheduling.policy import Decision, at_once, decide, job_of
from lowcarb_scheduler.scheduling.schedule import Schedule
from lowcarb_scheduler.scheduling.selection import UpcomingRound

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.turns import Profile
    from lowcarb_scheduler.events import Node
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import JobRules, Participation
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.scheduling.schedule import RunTiming

Reason = Literal[
    # Words of the ledger: older reports and readers know them.
    "next round",
    "nodes changed",
    "new forecast",
    "fresh actuals",
    "turns owed",
    "overrun",
    "more time",
    "turns seen",
]
_TOLD: Final = 4  # rounds that a later plan in the ledger has: with all of them it would grow by their square
Features = tuple[str, float, "timedelta | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Nodes and intensity as observed at one moment.

    Parameters
    ----------
    now : datetime
        The moment.
    alive : collection of Profile
        Nodes that are connected.
    turns : mapping of str to int
        Turns that count, by key of the node.
    clients : int
        Number of clients that train in a round.
    known : KnownIntensity
        Intensity as known at that moment.
    turn : timedelta, optional
        Length of turns as seen, of nodes that state none; None if they may take all of a round.
    """

    now: datetime
    alive: Collection[Profile]
    turns: Mapping[str, int]
    clients: int
    known: KnownIntensity
    turn: timedelta | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PlanInputs:
    """Inputs of a plan. While they stand the plan stands, and does not flap.

    Parameters
    ----------
    nodes : mapping of str to tuple
        By key, location, power [W] and duration of each node.
    clients : int
        Number of clients that train in a round.
    length : timedelta
        Length of a round.
    forecast, actual : IntensityTable or None
        Intensity as known then.
    turn : timedelta, optional
        Length of turns of nodes that state none.
    """

    nodes: Mapping[str, Features]
    clients: int
    length: timedelta
    forecast: IntensityTable | None
    actual: IntensityTable | None
    turn: timedelta | None = None

    @classmethod
    def of(
        cls, alive: Iterable[Node], clients: int, length: timedelta, known: KnownIntensity,
        turn: timedelta | None = None,
    ) -> PlanInputs:  # fmt: skip
        """Return the inputs of a plan that is made now."""
        nodes = {node.id: node.features for node in alive}
        return cls(nodes, clients, length, known.forecast, known.actual, turn)

    def memory(self, known: KnownIntensity) -> dict[str, Any]:
        """Return the part of a checkpoint that holds these inputs, for the intensity known now."""
        return {"clients": self.clients, "length": self.length, "forecast": self.forecast is known.forecast,
                "actual": self.actual is known.actual, "turn": self.turn}  # fmt: skip

    def reason_to_replan(self, now: PlanInputs, start: datetime, end: datetime) -> Reason | None:
        """Return the reason why a plan on these inputs does not stand on others; None if it does.

        A forecast with the same values between two times is no news, nor are the same actuals.
        """
        if now.clients != self.clients or now.length != self.length:
            return "next round"
        if now.nodes != self.nodes:
            return "nodes changed"
        if not _same_intensity(self.forecast, now.forecast, start, end):
            return "new forecast"
        if now.turn != self.turn:
            return "turns seen"
        return None if _same_intensity(self.actual, now.actual, start - HISTORY, start) else "fresh actuals"


def turns_as_planned(plan: Plan, rounds_done: int, turns: Mapping[str, int]) -> bool:
    """Return whether clients have completed the turns that the first rounds of a plan gave them."""
    planned = np.bincount(plan.seats[:rounds_done].ravel(), minlength=len(plan.fleet))
    done = np.array([turns[key] for key in plan.fleet.ids], dtype=np.int64)
    return bool(np.array_equal(done, plan.fleet.turns_done + planned))


def _same_intensity(
    one: IntensityTable | None, other: IntensityTable | None, start: datetime, end: datetime
) -> bool:
    """Return whether two tables have the same values at the same locations between two times."""
    if one is other:
        return True
    if one is None or other is None or set(one.locations) != set(other.locations) or start >= end:
        return False
    low, high = to_us(start), to_us(end)
    edges = np.union1d(one.edges_us, other.edges_us)
    edges = np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]])
    values, others = one.sampled(edges), other.sampled(edges, one.locations)
    return one.signal == other.signal and bool(np.array_equal(values, others, equal_nan=True))


# -- Plans in a checkpoint ----------------------------------------------------------------------------------


def plan_to_value(plan: Plan) -> dict[str, Any]:
    """Return a plan as a dict of plain values and arrays."""
    value = {each.name: getattr(plan, each.name) for each in fields(Plan)}
    fleet = {each.name: getattr(plan.fleet, each.name) for each in fields(Fleet)}
    fleet["ids"] = np.array([*plan.fleet.ids], dtype=np.str_)  # an array of objects would be a pickle
    return {**value, "fleet": fleet, "provenance": asdict(plan.provenance)}


def plan_from_value(value: Mapping[str, Any]) -> Plan:
    """Return the plan of a dict that :func:`plan_to_value` made.

    Raises
    ------
    TypeError, KeyError
        If the dict is of another form.
    """
    fleet = value["fleet"]
    kept = Fleet(**{**fleet, "ids": fleet["ids"].astype(object)})
    return Plan(**{**value, "fleet": kept, "provenance": Provenance(**value["provenance"])})


class Replanner:
    """The standing plan of a run, and the decision when to make another one.

    Parameters
    ----------
    rules : JobRules
        Rules of the run's jobs.
    timing : RunTiming
        Deadline of the run, and the time its rounds take.
    ledger : Ledger
        Takes ``planned``.
    log : RunLog
        Takes warnings.
    stops_late : bool
        Whether the run stops before a round that would be late; only for the warning of it.

    Attributes
    ----------
    decision : Decision or None
        The plan that stands.
    """

    def __init__(
        self, rules: JobRules, timing: RunTiming, ledger: Ledger, log: RunLog, stops_late: bool = False
    ) -> None:
        self._rules, self._timing, self._ledger, self._log = rules, timing, ledger, log
        self._stops_late = stops_late
        self.decision: Decision | None = None
        self._planned_from = 1  # the round that is the first of the plan
        self._planned_by: datetime | None = None
        self._inputs: PlanInputs | None = None
        self._announced = self._hurried = False
        self._told_to = 0  # the last round whose window is in the ledger
        self._with_equal_turns: float | None = None  # saving of the first plan if all took equal turns

    def upcoming(self, number: int) -> UpcomingRound | None:
        """Return a round as the standing plan has it; None where the plan has no such round."""
        index = number - self._planned_from
        if self.decision is None or not 0 <= index < len(self.decision.plan.opens_us):
            return None
        return UpcomingRound(self.decision.plan, index)

    def untold(self, number: int) -> tuple[Window, ...] | None:
        """Return the windows from a round on, None where the ledger has that round's already."""
        if (upcoming := self.upcoming(number)) is None or self.decision is None or number <= self._told_to:
            return None
        return self._tell(self.decision, upcoming.index, _TOLD)

    def balance_turns(self, clients: int) -> float | None:
        """Return the largest distance of a location's turns from its share, None without such a rule."""
        return balance_turns(self._rules.balance, self._rules.corrected, clients)

    def time_left(self, number: int, now: datetime) -> timedelta | None:
        """Return the time until a round would open late, None while that is unknown.

        A planned opening that is still ahead must not be missed; after it, or without one, there is time
        until the deadline would be.
        """
        if (latest := self._timing.latest_opening(number)) is None:
            return None
        upcoming = self.upcoming(number)
        return (upcoming.opens_at if upcoming and upcoming.opens_at > now else latest) - now

    def replan(self, number: int, seen: Observation) -> bool:
        """Plan the rounds from one on anew where the standing plan does not hold any more.

        Returns
        -------
        bool
            Whether they were.
        """
        if (reason := self._reason(number, seen)) is None:
            return False
        self._plan(number, seen, reason)
        return True

    def _reason(self, number: int, seen: Observation) -> Reason | None:
        """Return the reason to plan anew, None where the plan stands."""
        decision, schedule, upcoming = self.decision, self._timing.schedule, self.upcoming(number)
        if decision is None or schedule is None or upcoming is None or self._inputs is None:
            return "next round"
        rounds, slot, now = self._timing.rounds_left(number), upcoming.opens_at, seen.now
        if len(decision.plan.opens_us) - upcoming.index != rounds:
            return "next round"  # the first one was planned alone
        if upcoming.index > 0 and seen.known.forecast is not None and not decision.on_forecast:
            return "next round"  # the fault that kept the plan from resting on the forecast may be over
        inputs = PlanInputs.of(seen.alive, seen.clients, schedule.round_duration, seen.known, seen.turn)
        reason = self._inputs.reason_to_replan(inputs, now, schedule.finish_by)
        # Actual intensity arrives all the time, and turns differ: these reasons yield to the others.
        if reason is not None and reason not in ("fresh actuals", "turns seen"):
            return reason
        if not turns_as_planned(decision.plan, upcoming.index, seen.turns):
            return "turns owed"
        latest = self._timing.latest_opening(number)
        if schedule.on_slot(slot, now) > slot or (latest is not None and slot > max(latest, now)):
            return "overrun"
        if reason is not None:
            return reason
        self._inputs = inputs  # equal in content: the next comparison finds the same objects at once
        # A buffer shrinks as rounds turn out shorter: time that comes free is worth a new plan.
        has_gained = (
            self._planned_by is not None
            and self._timing.plan_by(number, now) - self._planned_by > schedule.round_duration
        )
        return "more time" if has_gained and decision.on_forecast else None

    def _plan(self, number: int, seen: Observation, reason: Reason) -> None:
        """Plan the rounds from one on, and enter the plan in the ledger if it is a new one."""
        previous, now = self.decision.plan if self.decision else None, seen.now
        nodes = {profile.id: profile for profile in seen.alive}
        if previous is None:
            self._timing.start_grid(now)
        if (schedule := self._timing.schedule) is None:
            # The first round shows how long one takes. It is planned alone, and opens at once.
            unseen = Schedule.of_unseen_round(now)
            fleet = fleet_of(nodes, seen.turns, unseen.round_duration)
            rules = replace(self._rules, participation="equal")
            job = job_of(rules, unseen, unseen.finish_by, now, 1, seen.clients, fleet)
            self.decision = at_once(job, self._log)
        else:
            # A moment after its slot a round is still planned on it.
            if (upcoming := self.upcoming(number)) is not None:
                now = schedule.on_slot(upcoming.opens_at, now)
            rounds, length = self._timing.rounds_left(number), schedule.round_duration
            self._planned_by = self._timing.plan_by(number, now)
            self._note_deadline(schedule, number, now)
            nodes = {profile.id: profile for profile in with_turn(seen.alive, seen.turn)}
            fleet = fleet_of(nodes, seen.turns, length)
            if self._rules.participation == "auto":
                self._settle_turns(seen.clients, len(fleet))
            job = job_of(
                self._rules, schedule, self._planned_by, now, rounds, seen.clients, fleet, number - 1
            )
            self.decision = decide(job, seen.known, previous, self._log)
            if isinstance(job.participation, TurnRange) and not self._announced:
                equal = replace(job, participation="equal")
                self._with_equal_turns = decide(equal, seen.known, None, self._log).plan.saving
            self._inputs = PlanInputs.of(seen.alive, seen.clients, length, seen.known, seen.turn)
        self._planned_from = number
        # A plan that gives the same turns is no news for the ledger.
        if previous is None or reason == "next round" or not _same_turns(previous, self.decision.plan):
            self._write(number, reason, self.decision)

    def _settle_turns(self, clients: int, nodes: int) -> None:
        """Settle for the whole run whether, and how far, turns may differ by location."""
        chosen = as_even_as_random(self._timing.rounds, clients, nodes) if self._rules.corrected else None
        self._rules = replace(self._rules, participation=chosen or "equal")

    def _note_deadline(self, schedule: Schedule, number: int, now: datetime) -> None:
        """Warn where the remaining rounds end late, and log where they leave no time to wait."""
        if now + self._timing.rounds_left(number) * schedule.round_duration > schedule.finish_by:
            why = f"{format_time(schedule.finish_by)} cannot be met any more"
            ends = ", as many as are in time" if self._stops_late else ""
            self._log.warn("deadline", why, f"rounds run back-to-back{ends}")
        elif not self._hurried and (latest := self._timing.latest_opening(number)) and latest <= now:
            self._hurried = True
            self._log.info(
                "no waiting for now: the remaining rounds may need all the time before the deadline"
            )

    def memory(self, known: KnownIntensity) -> dict[str, Any]:
        """Return the part of a checkpoint that holds the plan, for the intensity known now."""
        decision = self.decision
        return {
            "plan": None if decision is None else plan_to_value(decision.plan),
            "on_forecast": decision is not None and decision.on_forecast,
            "planned_from": self._planned_from,
            "planned_by": self._planned_by,
            "inputs": None if self._inputs is None else self._inputs.memory(known),
            "turns": _turns_to_value(self._rules.participation),
        }

    def recall(self, memory: Mapping[str, Any], nodes: Iterable[Node], known: KnownIntensity) -> None:
        """Restore what :meth:`memory` returned, with the nodes and the intensity of then."""
        if memory["plan"] is not None:
            self.decision = Decision(plan_from_value(memory["plan"]), memory["on_forecast"])
        if (turns := memory.get("turns")) is not None:
            self._rules = replace(self._rules, participation=TurnRange(*turns) if turns else "equal")
        self._planned_from, self._planned_by = memory["planned_from"], memory["planned_by"]
        if (kept := memory["inputs"]) is not None:
            # Intensity that was news then is news again.
            forecast = known.forecast if kept["forecast"] else None
            then = KnownIntensity(forecast, known.actual if kept["actual"] else None)
            self._inputs = PlanInputs.of(nodes, kept["clients"], kept["length"], then, kept.get("turn"))

    def _write(self, number: int, reason: Reason, decision: Decision) -> None:
        """Enter a plan in the ledger, and log the first one."""
        plan, on_forecast, schedule = decision.plan, decision.on_forecast, self._timing.schedule
        windows = self._tell(decision, 0, _TOLD if self._announced else len(plan.opens_us))
        turns = plan.turns
        self._ledger.append(
            Planned(
                round=number, reason=reason, basis="forecast" if on_forecast else "none",
                rests_on=plan.forecast_origin if on_forecast else {}, finish=plan.finish,
                emissions_g=plan.emissions_g if on_forecast else None,
                lower_bound_g=plan.lower_bound_g if on_forecast else None,
                run_now_emissions_g=plan.run_now_emissions_g if on_forecast else None,
                saving=plan.saving if on_forecast else None,
                power_assumed=bool(plan.fleet.power_assumed.any()), min_turns=int(turns.min()),
                max_turns=int(turns.max()), windows=windows,
                grid_from=schedule.grid_from if schedule else None,
                target_finish=schedule.target_finish if schedule else None,
                finish_by=schedule.finish_by if schedule else None,
                saving_with_equal_turns=self._with_equal_turns if on_forecast else None,
            )
        )  # fmt: skip
        if not self._announced and schedule:
            self._announced = True
            latest = self._timing.latest_opening(number)
            # A model that is corrected for who trains when needs no advice on few locations a round.
            quiet = self._rules.corrected or self._rules.mix_rounds is not None
            for line in messages.plan_lines(decision, schedule, latest, quiet, self._with_equal_turns):
                self._log.info(line)
            self._with_equal_turns = None

    def _tell(self, decision: Decision, first: int, most: int) -> tuple[Window, ...]:
        """Return the windows of so many rounds of a plan for the ledger, and note that it has them."""
        windows = tuple(
            Window(
                round=self._planned_from + first + index,
                opens_at=planned.opens_at,
                closes_at=planned.closes_at,
                emissions_g=planned.emissions_g if decision.on_forecast else None,
                locations=_count(decision.plan, first + index),
            )
            for index, planned in enumerate(decision.plan.rounds[first : first + most])
        )
        self._told_to = windows[-1].round
        return windows


def _turns_to_value(participation: Participation) -> list[int] | None:
    """Return a range of turns that a run has settled as plain values, empty for equal turns; else None."""
    if isinstance(participation, TurnRange):
        return [participation.least, participation.most]
    return [] if participation == "equal" else None


def _count(plan: Plan, index: int) -> dict[str, int]:
    """Return the number of clients from each location in a round."""
    counts = np.bincount(plan.fleet.location_index[plan.seats[index]], minlength=len(plan.fleet.locations))
    return {name: int(count) for name, count in zip(plan.fleet.locations, counts, strict=True) if count}


def _same_turns(one: Plan, other: Plan) -> bool:
    """Return whether two plans have the same clients train at the same times."""
    rounds = len(other.opens_us)  # the first plan may be older, and begin with rounds that are over
    return np.array_equal(one.opens_us[-rounds:], other.opens_us) and np.array_equal(
        one.fleet.ids[one.seats[-rounds:]], other.fleet.ids[other.seats]
    )
