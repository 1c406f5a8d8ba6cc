"""One run: for every round, look who is there, plan what remains, hold, and keep the books.

The strategy only translates between this and Flower.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.accounting import emissions_g
from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_duration, format_time, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.flower.books import Books, Round
from lowcarb_scheduler.flower.hold import hold
from lowcarb_scheduler.flower.outlook import Outlook, without_preference
from lowcarb_scheduler.flower.profiles import UNKNOWN_PLACE, Profiles
from lowcarb_scheduler.planning.job import Fleet, Job
from lowcarb_scheduler.policy import replan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.books import Window
    from lowcarb_scheduler.flower.profiles import Place, Profile
    from lowcarb_scheduler.forecasts.source import ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.settings import Settings

logger = logging.getLogger("flwr")

_DEFAULT_DEADLINE: Final = timedelta(hours=24)
_NODES_POLL: Final = timedelta(seconds=2)
_NODES_WAIT: Final = timedelta(seconds=60)  # for nodes that are still registering
_LOG_EVERY: Final = timedelta(minutes=15)
_GRACE: Final = timedelta(seconds=60)  # a round this late on its slot still takes the slot


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a run settles once, as soon as the length of its rounds is known, and then keeps.

    Parameters
    ----------
    round_duration : timedelta
        All of a round.
    finish_by : datetime
        The deadline.
    target_finish : datetime
        Where patience puts the end.
    """

    round_duration: timedelta
    finish_by: datetime
    target_finish: datetime


class CarbonRun:
    """The state of one run.

    Parameters
    ----------
    settings : Settings
        What the run was told.
    places : mapping of str to Place
        What the locations file says of nodes.
    source : ForecastSource or None
        Where intensity comes from; None: rounds open at once.
    clock : Clock
        Tells the time; a VirtualClock jumps through holds, and a round then takes its planned time.
    ledger : Ledger
        Takes what happens.
    about : mapping
        What else ``run_started`` is to say.
    rounds : int
        How many there are to be.
    """

    def __init__(
        self,
        settings: Settings,
        places: Mapping[str, Place],
        source: ForecastSource | None,
        clock: Clock,
        ledger: Ledger,
        about: Mapping[str, Any],
        rounds: int,
    ) -> None:
        self._settings, self._clock, self._rounds = settings, clock, rounds
        self._virtual = isinstance(clock, VirtualClock)
        self._started = clock.now()
        self._schedule = self._settle(settings.round_duration) if settings.round_duration else None
        self._ledger = ledger
        ledger.append(
            "run_started", **about, version=__version__, settings=settings.model_dump(mode="json"),
            rounds=rounds, clients_per_round=settings.clients_per_round,
            round_duration_s=settings.round_duration,
            finish_by=self._schedule.finish_by if self._schedule else None,
            target_finish=self._schedule.target_finish if self._schedule else None,
            grid_from=self._started, patience=settings.patience, participation=settings.participation,
            clock="virtual" if self._virtual else "system",
        )  # fmt: skip
        logger.info("lowcarb: the ledger of this run is %s", ledger.run_dir.absolute())
        self._outlook = Outlook(source, ledger)
        self._books = Books(ledger, self._outlook, self._started)
        self._profiles = Profiles(
            places, settings.default_location, settings.default_power_watts,
            lambda line: self._outlook.degrade("node", line, "its turns still count"),
        )  # fmt: skip
        self._alive: dict[int, Profile] = {}
        self._plan: Plan | None = None
        self._on_forecast = (
            False  # whether the plan rests on a forecast, so that its emissions mean something
        )
        self._announced = False
        if source is None:
            self._outlook.degrade("forecast", "no source is named", "no waiting; set lowcarb-source to wait")

    # -- a round, in the order it happens ------------------------------------------------------------------

    def open_round(self, number: int, grid: Grid, clients_per_round: int, at_least: int) -> list[int]:
        """Wait until the round may open, and return the nodes that train.

        Parameters
        ----------
        number : int
            The round, from 1.
        grid : Grid
            Who is connected.
        clients_per_round : int
            How many are to train.
        at_least : int
            With how many the inner strategy is content.

        Raises
        ------
        PlanInfeasibleError
            If fewer nodes than that are connected until no slack is left.
        """
        self.close_round()
        self._await_nodes(number, grid, clients_per_round, at_least)
        asked_at = self._clock.now()
        self._look(number, grid, clients_per_round, "next round")
        announced: datetime | None = None
        next_line = asked_at

        def opening() -> datetime:
            nonlocal announced, next_line
            self._look(number, grid, clients_per_round, None)
            assert self._plan is not None
            opens_at, now = from_us(self._plan.opens_us[0]), self._clock.now()
            if opens_at > now and opens_at != announced:
                self._announce_hold(number, opens_at, now)
                announced, next_line = opens_at, now + _LOG_EVERY
            elif opens_at > now >= next_line and not self._virtual:
                logger.info("lowcarb: still holding round %d until %s", number, format_time(opens_at))
                next_line = now + _LOG_EVERY
            return opens_at

        return self._dispatch(number, asked_at, hold(self._clock, opening))

    def train_ended(self, done: Mapping[int, Mapping[str, Any] | None], failed: Mapping[int, str]) -> None:
        """Take down who has trained.

        Parameters
        ----------
        done : mapping of int to mapping or None
            By node id, what each good reply says of itself.
        failed : mapping of int to str
            By node id, why it has not.
        """
        if (current := self._books.current) is None:
            return
        if self._virtual:
            self._clock.sleep_until(current.planned_closes_at)
        now = self._clock.now()
        windows = {
            node_id: current.members[node_id][1] if self._virtual else _window(current, said, now)
            for node_id, said in done.items()
            if node_id in current.members
        }
        self._books.train_ended(windows, failed)

    def close_round(self) -> None:
        """Account for the round that is open, if one is."""
        if (current := self._books.current) is None:
            return
        now = self._clock.now()
        if self._schedule is None:
            self._schedule = self._settle(_whole_minutes(now - current.opened_at))
        self._books.close(now, self._schedule.round_duration)

    def evaluated(self, number: int, where: str, metrics: Mapping[str, Any] | None) -> None:
        """Take down the metrics of an evaluation."""
        numbers = {key: value for key, value in (metrics or {}).items() if isinstance(value, int | float)}
        if numbers:
            self._ledger.append("evaluated", round=number, where=where, metrics=numbers)

    def finish(self, status: str) -> None:
        """Sum up and close the ledger."""
        self.close_round()
        length = self._schedule.round_duration if self._schedule else timedelta(0)
        finish_by = self._schedule.finish_by if self._schedule else None
        summary = self._books.finish(status, self._clock.now(), length, finish_by)
        self._ledger.close()
        _log_summary(summary)

    # -- who is there, and what is known -------------------------------------------------------------------

    def _await_nodes(self, number: int, grid: Grid, wanted: int, at_least: int) -> None:
        """Wait for nodes while slack lasts; then go on with those there are if the strategy allows."""
        # A virtual clock must not jump while real nodes register.
        clock = SystemClock() if self._settings.clock != "system" else self._clock
        until = clock.now() + _NODES_WAIT
        if not self._virtual and self._schedule:
            rest = (self._rounds - number + 1) * self._schedule.round_duration
            until = max(until, self._schedule.finish_by - rest)
        said = False
        while (there := len(list(grid.get_node_ids()))) < wanted and clock.now() < until:
            if not said:
                logger.info("lowcarb: %d of %d nodes are connected, waiting for more", there, wanted)
                said = True
            clock.sleep_until(min(until, clock.now() + _NODES_POLL))
        if there < max(at_least, 1):
            finish_by = self._schedule.finish_by if self._schedule else until
            raise PlanInfeasibleError("too few nodes are connected", max(at_least, 1), there, finish_by)
        if there < wanted:
            self._outlook.degrade("nodes", f"{there} of {wanted} are connected", "those there are train")

    def _look(self, number: int, grid: Grid, clients: int, reason: str | None) -> None:
        """See who is there and what is forecast; plan anew if either changed, or for a reason given."""
        ids = sorted(grid.get_node_ids())
        if ids != sorted(self._alive) and ids:
            self._alive = self._profiles.of(grid, ids)
            self._books.welcome(sorted(profile.key for profile in self._alive.values()))
            reason = reason or "nodes changed"
        places = {profile.location for profile in self._alive.values() if profile.location}
        if self._outlook.refresh(places, self._clock.now()):
            reason = reason or "new forecast"
        if reason:
            self._plan_rounds(number, min(clients, len(self._alive)), reason)

    # -- planning ------------------------------------------------------------------------------------------

    def _settle(self, round_duration: timedelta) -> Schedule:
        """Fix deadline and target, now that the length of a round is known."""
        earliest = self._started + self._rounds * round_duration
        told = self._settings.finish_by or max(_DEFAULT_DEADLINE, 2 * self._rounds * round_duration)
        finish_by = self._started + told if isinstance(told, timedelta) else told
        slack = max(finish_by - earliest, timedelta(0))
        return Schedule(round_duration, finish_by, earliest + self._settings.patience * slack)

    def _plan_rounds(self, number: int, clients: int, reason: str) -> None:
        """Plan the remaining rounds on the best knowledge there is, and write the plan down if it is new."""
        previous = self._plan
        plan = None
        if self._schedule:
            job = self._job(number, clients, self._schedule, slot=1 if reason == "next round" else 0)
            plan = self._plan_on_forecast(job, previous)
        else:
            # The first round shows how long one takes. It opens at once.
            length = timedelta(hours=1)
            now = self._clock.now()
            job = self._job(self._rounds, clients, Schedule(length, now + length, now + length), slot=0)
        self._on_forecast = plan is not None
        self._plan = plan or self._plan_at_once(job)
        if previous is None or reason == "next round" or not _same(previous, self._plan):
            self._write_plan(number, reason, self._plan)

    def _plan_on_forecast(self, job: Job, previous: Plan | None) -> Plan | None:
        """Plan on forecast and history; None where these, or the deadline, leave no choice.

        Where the run's grid of openings has no room left, a grid that begins now may have.
        """
        known, actual = self._outlook.forecast, self._outlook.actual
        if known is None and actual is not None:
            known = actual.align(())
        if known is None:
            return None
        trouble = ""
        for attempt in (job, replace(job, grid_from=job.now)):
            try:
                return self._replan(attempt, known, previous)
            except PlanInfeasibleError as error:
                trouble = error.reason
        self._outlook.degrade("plan", trouble, "the next round opens at once")
        return None

    def _replan(self, job: Job, known: IntensityTable, previous: Plan | None) -> Plan:
        """Replan; a place of which nothing is known is neither sought nor shunned."""
        try:
            return replan(job, known, self._outlook.actual, previous=previous)
        except ForecastUnavailableError as error:
            missing = tuple(error.missing)
            if len(missing) == len(job.fleet.locations):
                raise PlanInfeasibleError(
                    "no location has a forecast", len(missing), 0, job.finish_by
                ) from None  # fmt: skip
            fix = "; set lowcarb-locations or lowcarb-default-location" if UNKNOWN_PLACE in missing else ""
            what = f"intensity of {', '.join(missing)}"
            self._outlook.degrade(what, "nothing is known", f"it is planned at the others' mean{fix}")
            neutral = without_preference(known, missing, job.now, job.finish_by)
            return replan(job, known.fill(neutral), self._outlook.actual, previous=previous)

    def _plan_at_once(self, job: Job) -> Plan:
        """Plan rounds back-to-back from now, choosing only who has the fewest turns."""
        assert job.round_duration is not None
        back_to_back = job.now + job.rounds * job.round_duration
        if back_to_back > job.finish_by:
            self._outlook.degrade(
                "deadline", f"{format_time(job.finish_by)} cannot be met any more", "rounds run back-to-back"
            )
        at_once = replace(
            job, patience=0.0, target_finish=None, grid_from=job.now, start_step=job.round_duration,
            finish_by=max(job.finish_by, back_to_back),
        )  # fmt: skip
        return replan(at_once, without_preference(None, job.fleet.locations, job.now, at_once.finish_by))

    def _job(self, number: int, clients: int, schedule: Schedule, slot: int) -> Job:
        """Return the job of the rounds that remain, with the nodes that are alive.

        ``slot`` is the round of the plan so far that opens next: a look a moment after its opening still
        belongs to it, else every little overrun would cost a whole step of the grid.
        """
        now = self._clock.now()
        if self._plan is not None and slot < len(self._plan.opens_us):
            opens_at = from_us(self._plan.opens_us[slot])
            grace = min(_GRACE, schedule.round_duration / 20)
            now = opens_at if opens_at <= now < opens_at + grace else now
        return Job(
            fleet=self._fleet(schedule.round_duration),
            now=now,
            finish_by=schedule.finish_by,
            rounds=self._rounds - number + 1,
            clients_per_round=clients,
            round_duration=schedule.round_duration,
            grid_from=self._started,
            patience=self._settings.patience,
            target_finish=schedule.target_finish,
            participation=self._settings.participation,
            max_location_share=self._settings.max_location_share,
        )

    def _fleet(self, round_duration: timedelta) -> Fleet:
        """Return the nodes that are alive as a fleet."""
        profiles = sorted(self._alive.values(), key=lambda profile: profile.key)
        own = [p.duration if p.duration and p.duration <= round_duration else None for p in profiles]
        frame = pd.DataFrame(
            {
                "id": [profile.key for profile in profiles],
                "location": [profile.place for profile in profiles],
                "power_watts": [profile.power_watts for profile in profiles],
                "duration": pd.Series(own, dtype=object),
                "turns_done": [self._books.turns[profile.key] for profile in profiles],
            }
        )
        assumed = np.array([profile.power_assumed for profile in profiles], dtype=bool)
        return replace(Fleet.from_frame(frame), power_assumed=assumed)

    # -- writing it down -----------------------------------------------------------------------------------

    def _dispatch(self, number: int, asked_at: datetime, opened_at: datetime) -> list[int]:
        """Enter the round that opens, and return the node ids of its clients."""
        assert self._plan is not None
        first = self._plan.rounds[0]
        node_of = {profile.key: node_id for node_id, profile in self._alive.items()}
        shift = opened_at - first.opens_at  # what a system clock woke late by
        members = {
            node_of[client.id]: (
                self._alive[node_of[client.id]], (client.starts_at + shift, client.ends_at + shift)
            )
            for client in first.clients
        }  # fmt: skip
        opened = Round(
            number, opened_at, first.closes_at + shift, self._plan.fleet, members,
            planned_g=first.emissions_g if self._on_forecast else None,
        )  # fmt: skip
        self._books.open(opened, opened_at - asked_at, first.opens_at)
        return list(members)

    def _announce_hold(self, number: int, opens_at: datetime, now: datetime) -> None:
        """Say what is waited for, why, and what it saves."""
        assert self._plan is not None
        planned, at_once = self._plan.client_emissions_g[0].sum(), self._emissions_if_opened(now)
        saves = "" if at_once is None else f", {planned:,.0f} g instead of {at_once:,.0f} g if it opened now"
        reason = f"its clients' grids are cleaner then{saves}"
        self._ledger.append(
            "hold_started", round=number, until=opens_at, seconds=opens_at - now, reason=reason
        )  # fmt: skip
        logger.info(
            "lowcarb: holding round %d/%d until %s (%s): %s",
            number, self._rounds, format_time(opens_at), format_duration(opens_at - now), reason,
        )  # fmt: skip

    def _emissions_if_opened(self, now: datetime) -> float | None:
        """Return what the planned clients would emit if they trained now [gCO2eq], if that is known."""
        plan, known = self._plan, self._outlook.forecast
        if plan is None or known is None:
            return None
        seats, shift = plan.seats[0], to_us(now) - plan.opens_us[0]
        columns = known.columns(plan.fleet.locations)[plan.fleet.location_index[seats]]
        grams = emissions_g(
            known, columns, plan.fleet.power_watts[seats], plan.starts_us[0] + shift, plan.ends_us[0] + shift
        )
        return None if np.isnan(grams).any() else float(grams.sum())

    def _write_plan(self, number: int, reason: str, plan: Plan) -> None:
        """Enter a plan in the ledger; the first one is also shown in the log."""
        names = ("emissions_g", "lower_bound_g", "run_now_emissions_g", "saving")
        numbers = {name: getattr(plan, name) if self._on_forecast else None for name in names}
        windows = [
            {
                "round": number + index,
                "opens_at": planned.opens_at,
                "closes_at": planned.closes_at,
                "emissions_g": planned.emissions_g if self._on_forecast else None,
                "locations": _count(plan, index),
            }
            for index, planned in enumerate(plan.rounds)
        ]
        turns = plan.turns
        self._ledger.append(
            "planned", round=number, reason=reason, basis="forecast" if self._on_forecast else "none",
            finish=plan.finish, **numbers,
            power_assumed=bool(plan.fleet.power_assumed.any()), min_turns=int(turns.min()),
            max_turns=int(turns.max()), clients=list(plan.fleet.ids), windows=windows,
        )  # fmt: skip
        if not self._announced and self._schedule:
            self._announced = True
            for line in _announcement(plan, self._schedule, self._on_forecast):
                logger.info("lowcarb: %s", line)


def _count(plan: Plan, index: int) -> dict[str, int]:
    """Return how many clients of a round each location has."""
    counts = np.bincount(plan.fleet.location_index[plan.seats[index]], minlength=len(plan.fleet.locations))
    return {name: int(count) for name, count in zip(plan.fleet.locations, counts, strict=True) if count}


def _same(one: Plan, other: Plan) -> bool:
    return np.array_equal(one.opens_us, other.opens_us) and np.array_equal(one.seats, other.seats)


def _window(current: Round, said: Mapping[str, Any] | None, now: datetime) -> Window:
    """Return when a node trained: as long as it says if that can be, else until now."""
    elapsed = now - current.opened_at
    seconds = (said or {}).get("duration-s")
    if isinstance(seconds, int | float) and 0 < seconds <= elapsed.total_seconds():
        elapsed = timedelta(seconds=seconds)
    return current.opened_at, current.opened_at + elapsed


def _whole_minutes(duration: timedelta) -> timedelta:
    """Round up to whole minutes: what was seen of one round is no more exact than that."""
    minute = timedelta(minutes=1)
    return max(-(-duration // minute), 1) * minute


def _announcement(plan: Plan, schedule: Schedule, on_forecast: bool) -> list[str]:
    """Return the block that stands before the first hold."""
    fleet = plan.fleet
    lines = [
        f"{len(plan.opens_us)} rounds of {plan.seats.shape[1]} out of {len(fleet)} clients"
        f" in {len(fleet.locations)} location(s), {format_duration(schedule.round_duration)} each",
        f"planned finish {format_time(plan.finish)}, deadline {format_time(schedule.finish_by)}",
    ]
    if not on_forecast:
        return [*lines, "rounds open at once: nothing is known of the intensity to come"]
    if plan.saving is not None and plan.run_now_emissions_g is not None:
        lines.append(
            f"expected {plan.emissions_g:,.0f} gCO2eq, {plan.saving:.1%} less than the"
            f" {plan.run_now_emissions_g:,.0f} g of random clients back-to-back"
        )
    assumed = int(fleet.power_assumed.sum())
    numbers = "SYNTHETIC numbers" if plan.synthetic else "real numbers"
    lines.append(
        f"assumes: {plan.source} forecasts ({numbers}, {plan.signal} signal); power assumed for {assumed}"
        f" of {len(fleet)} clients; energy is power times time, not measured"
    )
    return lines


def _log_summary(summary: Mapping[str, Any]) -> None:
    """Log the four lines a run ends with."""
    grams = {name: summary[name] for name in ("run_now_g", "planned_g", "realised_g")}
    shown = {name: "unknown" if value is None else f"{value:,.0f} g" for name, value in grams.items()}
    saving = "unknown" if summary["saving"] is None else f"{summary['saving']:.1%}"
    logger.info("lowcarb: run %s, %d rounds", summary["status"], len(summary["rounds"]))
    logger.info("lowcarb: run-now %s, planned %s, realised %s", *shown.values())
    logger.info("lowcarb: saving against run-now %s", saving)
    logger.info(
        "lowcarb: %.3f kWh; turns a client %d to %d, Jain's index %.3f",
        summary["energy_kwh"], summary["min_turns"], summary["max_turns"], summary["jain"],
    )  # fmt: skip
