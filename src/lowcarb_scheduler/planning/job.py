"""Job and plan: the rounds to be planned with their rules, and the planned rounds with their clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import numpy as np

from lowcarb_scheduler.accounting.emissions import jain_index, run_now_g, saving
from lowcarb_scheduler.clock import MICROSECOND, format_duration, from_us, to_us, to_utc
from lowcarb_scheduler.documents import SCHEMA_VERSION, to_plain
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.planning.balance import Balance, balance_turns
from lowcarb_scheduler.planning.fairness import TurnRange
from lowcarb_scheduler.planning.fleet import Fleet  # noqa: TC001  users of this module need it at run time
from lowcarb_scheduler.planning.timegrid import default_step_us

if TYPE_CHECKING:
    import pandas as pd

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints, Provenance


LOOKED_AHEAD: Final = timedelta(days=60)  # shortest time for which intensity is expected, deadline permitting
_LONGEST_WORK: Final = timedelta(days=200 * 365)
_MOST_COUNTED: Final = 10**9  # rounds, clients of a round, and the like

Participation = Literal["equal", "any", "auto"] | tuple[int, int] | TurnRange


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Job to be planned: the remaining rounds, the fleet that trains them, and the rules they obey.

    Parameters
    ----------
    fleet : Fleet
        Clients that can train.
    now : datetime
        Time of planning. Aware, like all times here.
    finish_by : datetime
        Deadline: the last round closes by then.
    rounds : int
        Remaining rounds, at least 1.
    clients_per_round : int
        Distinct clients in each round, at least 1.
    round_duration : timedelta, optional
        Length of a whole round: training, transfer, aggregation, evaluation. Default: the longest client
        duration.
    not_before : datetime, optional
        Earliest opening of a round. Default: now.
    grid_from : datetime, optional
        Rounds open on ``grid_from + k * start_step``. Default: now.
    start_step : timedelta, optional
        Spacing of possible openings. Default: the forecast's step, or its gcd with round_duration.
    patience : float
        Trade-off of time and carbon, in [0, 1]: the plan ends by
        ``earliest_finish + patience * (finish_by - earliest_finish)``.
    target_finish : datetime, optional
        The latest end itself, if it is already known; overrides ``patience``.
    participation : "equal", "any", "auto" or (int, int)
        Equal: remaining turns go to clients with the fewest turns. (min, max): bounds on turns in this job.
        Auto: if the run is ``corrected``, turns differ by location in the widest range in which they are at
        least as even as those of random sampling; else equal.
    stagger : bool
        If true, a client may start anywhere inside its round.
    max_location_share : float
        Largest part of a round's clients from one location, in (0, 1].
    seed : int
        Seed that breaks ties of participation.
    bounds_count_done : bool
        If true, bounds on turns include turns done before, and equal turns give way to
        ``max_location_share``. The remaining rounds of a run need both.
    mix_rounds : int, optional
        Number of rounds after which turns are shared out equally anew, for data that differs by location.
        Default: all rounds together.
    balance : float, "auto" or "off", optional
        Largest distance of each location's turns so far from its share of all seats so far, after every
        round, in rounds of clients: 1.2 allows 12 turns with 10 clients in a round. Auto: 1.2 if the run
        is ``corrected``, else 0.8. Default: off.
    corrected : bool
        Whether the run corrects its model for who trains when; "auto" depends on it.
    rounds_done : int, optional
        Number of rounds before, by which ``mix_rounds`` counts. Default: as many as the turns done make,
        which is wrong where clients have joined or left.

    Raises
    ------
    InputError
        If a value is impossible in itself.
    """

    fleet: Fleet
    now: datetime
    finish_by: datetime
    rounds: int
    clients_per_round: int
    round_duration: timedelta | None = None
    not_before: datetime | None = None
    grid_from: datetime | None = None
    start_step: timedelta | None = None
    patience: float = 1.0
    target_finish: datetime | None = None
    participation: Participation = "equal"
    stagger: bool = False
    max_location_share: float = 1.0
    seed: int = 0
    bounds_count_done: bool = False
    mix_rounds: int | None = None
    balance: float | Literal["auto"] | None = None
    corrected: bool = True
    rounds_done: int | None = None

    def __post_init__(self) -> None:
        for name in ("now", "finish_by", "not_before", "grid_from", "target_finish"):
            if (time := getattr(self, name)) is not None:
                object.__setattr__(self, name, to_utc(time, name))
        for name in ("rounds", "clients_per_round"):
            _check_whole(name, getattr(self, name), least=1)
        if self.mix_rounds is not None:
            _check_whole("mix_rounds", self.mix_rounds, least=1)
            if self.participation != "equal":
                raise InputError("mix_rounds", "shares turns out equally", 'leave participation "equal"')
        _check_whole("seed", self.seed, least=0)
        if self.rounds_done is not None:
            _check_whole("rounds_done", self.rounds_done, least=0)
        for name, low in (("patience", True), ("max_location_share", False)):
            _check_fraction(name, getattr(self, name), zero_allowed=low)
        for name in ("round_duration", "start_step"):
            duration = getattr(self, name)
            if duration is not None and (not isinstance(duration, timedelta) or duration < MICROSECOND):
                raise InputError(name, f"{duration!s} is not positive", "give for example 30 minutes")
        self._check_durations()
        if self.rounds * self.round_us > _LONGEST_WORK // MICROSECOND:
            problem = f"{self.rounds:,} of {format_duration(self.round_us * MICROSECOND)} take over 200 years"
            raise InputError("rounds", problem, "give fewer or shorter ones")
        object.__setattr__(self, "participation", _check_participation(self.participation))
        object.__setattr__(self, "balance", _check_balance(self.balance))
        if self.participation == "auto" and self.fleet.turns_done.any():
            problem = '"auto" chooses a range for a whole job, and clients have turns done'
            raise InputError("participation", problem, 'give "equal" or bounds such as [3, 7]')

    def _check_durations(self) -> None:
        """Set the default round duration, and refuse a client that does not fit into the round."""
        longest_us = int(self.fleet.durations_us.max())
        longest = timedelta(microseconds=longest_us)
        if self.round_duration is None:
            if not longest:
                raise InputError("round_duration", "is not given, nor is any client's", "give one of them")
            object.__setattr__(self, "round_duration", longest)
        if longest_us > self.round_us:
            client = self.fleet.ids[int(self.fleet.durations_us.argmax())]
            whole = format_duration(self.round_us * MICROSECOND)
            raise InputError(
                "round_duration",
                f"client {client!r} trains {format_duration(longest)}, longer than the round of {whole}",
                "lengthen the round or shorten the client's duration",
            )

    @property
    def round_us(self) -> int:
        """Length of a round [µs]."""
        assert self.round_duration is not None  # set on construction
        return self.round_duration // MICROSECOND

    @property
    def opens_from_us(self) -> int:
        """Earliest opening of a round, on the grid or not [µs since 1970 UTC]."""
        return max(to_us(self.now), to_us(self.not_before or self.now))

    @property
    def grid_from_us(self) -> int:
        """Origin of the grid of openings [µs since 1970 UTC]."""
        return to_us(self.grid_from or self.now)

    @property
    def balance_turns(self) -> float | None:
        """Largest distance of a location's turns from its share of the seats so far; None without a rule."""
        return balance_turns(self.balance, self.corrected, self.clients_per_round)

    @property
    def durations_us(self) -> Ints:
        """Training time of each client [µs], shape (C,): its own, else the whole round."""
        return np.where(self.fleet.durations_us > 0, self.fleet.durations_us, self.round_us)

    def run_now_g(self, intensity: IntensityTable) -> float | None:
        """Return the expected emissions of random clients back-to-back from not_before [gCO2eq].

        None if one of them would touch a gap.
        """
        fleet = self.fleet
        opens_us = self.opens_from_us + np.arange(self.rounds, dtype=np.int64) * self.round_us
        columns = intensity.columns(fleet.locations)[fleet.location_index]
        total_g = run_now_g(
            intensity, columns, fleet.power_watts, self.durations_us, opens_us, self.clients_per_round
        ).sum()
        return None if np.isnan(total_g) else float(total_g)


@dataclass(frozen=True, slots=True)
class JobRules:
    """Rules of a job, apart from its fleet, its times and its size.

    A run, its hindsight plan, a job file and a backtest build their jobs from these rules with :meth:`job`,
    so that the same settings always mean the same job. The ledger stores them among the settings of a run.
    Parameters are those of :class:`Job`.
    """

    round_duration: timedelta | None = None
    start_step: timedelta | None = None
    patience: float = 1.0
    participation: Participation = "equal"
    stagger: bool = False
    max_location_share: float = 1.0
    seed: int = 0
    bounds_count_done: bool = False
    mix_rounds: int | None = None
    balance: float | Literal["auto", "off"] | None = None
    corrected: bool = True

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], **changes: Any) -> JobRules:
        """Select the rules among settings; a rule that is missing or None has its default.

        Parameters
        ----------
        settings : mapping of str to object
            Settings of a run, those in a ledger, or the keys of a job file.
        **changes
            Rules that are used instead.
        """
        # The mode of the correction decides what auto means, also in the settings that a ledger holds.
        corrected = settings.get("participation_correction", "auto") != "off"
        values = {"corrected": corrected, **settings, **changes}
        names = (rule.name for rule in fields(cls))
        return cls(**{name: values[name] for name in names if values.get(name) is not None})

    def job(
        self, fleet: Fleet, now: datetime, finish_by: datetime, rounds: int, clients_per_round: int, *,
        not_before: datetime | None = None, grid_from: datetime | None = None,
        target_finish: datetime | None = None, rounds_done: int | None = None,
    ) -> Job:  # fmt: skip
        """Build the job that these rules make of a fleet, its times and its size.

        Raises
        ------
        InputError
            If a value is impossible in itself.
        """
        rules = {rule.name: getattr(self, rule.name) for rule in fields(self)}
        return Job(fleet, now, finish_by, rounds, clients_per_round,
                   not_before=not_before, grid_from=grid_from, target_finish=target_finish,
                   rounds_done=rounds_done, **rules)  # fmt: skip


def start_step_us(job: Job, intensity: IntensityTable) -> int:
    """Return the spacing of possible openings [µs]: the job's own, else :func:`default_step_us`."""
    if job.start_step is not None:
        return job.start_step // MICROSECOND
    return default_step_us(intensity.step // MICROSECOND, job.round_us)


def looked_ahead(job: Job) -> datetime:
    """Return the time until which intensity is expected: the deadline, or less if that is very far away.

    Nothing is known of windows months from now, and steps of minutes until a deadline in a century would
    exceed any memory. At least twice the back-to-back time of the rounds, and 60 days, are covered.
    """
    # In whole numbers: twice the time of very many rounds is longer than any timedelta.
    enough_us = max(LOOKED_AHEAD // MICROSECOND, 2 * job.rounds * job.round_us)
    return from_us(min(to_us(job.finish_by), job.opens_from_us + enough_us))


class PlannedClient(NamedTuple):
    """Turn of a client in a round."""

    id: str
    location: str
    starts_at: datetime
    ends_at: datetime
    emissions_g: float


@dataclass(frozen=True, slots=True, eq=False)
class PlannedClients(Sequence[PlannedClient]):
    """Clients of a round: a lazy sequence over the arrays of the plan."""

    plan: Plan
    round_index: int

    def __len__(self) -> int:
        return int(self.plan.seats.shape[1])

    @overload
    def __getitem__(self, index: int) -> PlannedClient: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlannedClient]: ...
    def __getitem__(self, index: int | slice) -> PlannedClient | Sequence[PlannedClient]:
        """Return one client, or a list for a slice."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        plan, r = self.plan, self.round_index
        client = plan.seats[r, index]
        return PlannedClient(
            str(plan.fleet.ids[client]),
            plan.fleet.locations[plan.fleet.location_index[client]],
            from_us(plan.starts_us[r, index]),
            from_us(plan.ends_us[r, index]),
            float(plan.client_emissions_g[r, index]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PlannedRound:
    """Round of a plan.

    Parameters
    ----------
    opens_at, closes_at : datetime
        Planned opening, and planned end of the whole round.
    emissions_g : float
        Expected emissions of its training [gCO2eq].
    clients : sequence of PlannedClient
        Clients that train, by id.
    """

    opens_at: datetime
    closes_at: datetime
    emissions_g: float
    clients: PlannedClients


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Plan: the clients and the opening of every round.

    Parameters
    ----------
    fleet : Fleet
        C clients.
    opens_us, closes_us : ndarray of int64, shape (R,)
        Openings and ends of the rounds, in order and without overlap [µs since 1970 UTC].
    seats : ndarray of int64, shape (R, n)
        Clients of each round as positions in ``fleet``, ascending.
    starts_us, ends_us : ndarray of int64, shape (R, n)
        Training window of each of them [µs since 1970 UTC].
    client_emissions_g : ndarray of float64, shape (R, n)
        Expected emissions of each of them [gCO2eq].
    lower_bound_g : float or None
        Lower bound on the expected emissions of every plan that obeys the rules of the job [gCO2eq].
    run_now_emissions_g : float or None
        Expected emissions of random clients back-to-back from not_before [gCO2eq]; None where a gap makes
        it undefined.
    provenance : Provenance
        Source and signal of the intensity that the plan is made on.
    forecast_until : datetime
        End of that intensity.
    forecast_origin : mapping of str to float
        Origin of the intensity at the start of turns (forecast, corrected, climatology, last good, default),
        as parts of all turns; empty if it is unknown.
    relaxed : mapping of str to str
        Rules that no plan keeps, and so this one keeps as far as it can: by name, the reason.
    """

    fleet: Fleet
    opens_us: Ints
    closes_us: Ints
    seats: Ints
    starts_us: Ints
    ends_us: Ints
    client_emissions_g: Floats
    lower_bound_g: float | None
    run_now_emissions_g: float | None
    provenance: Provenance
    forecast_until: datetime
    forecast_origin: Mapping[str, float] = field(default_factory=dict)
    relaxed: Mapping[str, str] = field(default_factory=dict)

    @property
    def rounds(self) -> tuple[PlannedRound, ...]:
        """The rounds, in order."""
        return tuple(
            PlannedRound(
                from_us(self.opens_us[r]),
                from_us(self.closes_us[r]),
                float(self.client_emissions_g[r].sum()),
                PlannedClients(self, r),
            )
            for r in range(len(self.opens_us))
        )

    @property
    def emissions_g(self) -> float:
        """Expected emissions of the whole plan [gCO2eq]."""
        return float(self.client_emissions_g.sum())

    @property
    def gap(self) -> float | None:
        """Relative gap to the lower bound, see :func:`relative_gap`; None without a bound."""
        return None if self.lower_bound_g is None else relative_gap(self.emissions_g, self.lower_bound_g)

    @property
    def saving(self) -> float | None:
        """Part of the run-now emissions that is avoided; None where run-now is undefined or not positive."""
        return saving(self.emissions_g, self.run_now_emissions_g)

    @property
    def finish(self) -> datetime:
        """Planned end of the last round."""
        return from_us(self.closes_us[-1])

    @property
    def location_turns(self) -> Ints:
        """Turns of each location before and after each round, shape (R + 1, L); turns done are included."""
        fleet, places = self.fleet, len(self.fleet.locations)
        taken = np.zeros((len(self.seats) + 1, places), dtype=np.int64)
        np.add.at(taken[0], fleet.location_index, fleet.turns_done)
        rounds = np.repeat(np.arange(1, len(taken)), self.seats.shape[1])
        np.add.at(taken, (rounds, fleet.location_index[self.seats.ravel()]), 1)
        return np.cumsum(taken, axis=0)

    @property
    def imbalance(self) -> float:
        """Largest distance of a location's turns from its share of those so far, after any round [turns]."""
        done, *after = self.location_turns.astype(np.float64)
        rounds, seats = self.seats.shape
        rule = Balance.of(done, rounds, seats, reach=0.0, turns=None)
        return float(np.abs(rule.distance(np.array(after) - done)).max())

    @property
    def turns(self) -> Ints:
        """Turns of each client at the end of the plan, shape (C,); turns done before are included."""
        return self.fleet.turns_done + np.bincount(self.seats.ravel(), minlength=len(self.fleet))

    def to_frame(self) -> pd.DataFrame:
        """Return a frame with one row per turn: round and its window, client and its window, emissions."""
        import pandas as pd

        times = partial(pd.to_datetime, unit="us", utc=True)
        rounds, seats = self.seats.shape
        seat = self.seats.ravel()
        names = np.array(self.fleet.locations, dtype=object)
        return pd.DataFrame(
            {
                "round": np.repeat(np.arange(1, rounds + 1), seats),
                "opens_at": times(np.repeat(self.opens_us, seats)),
                "closes_at": times(np.repeat(self.closes_us, seats)),
                "id": self.fleet.ids[seat],
                "location": names[self.fleet.location_index[seat]],
                "starts_at": times(self.starts_us.ravel()),
                "ends_at": times(self.ends_us.ravel()),
                "emissions_g": self.client_emissions_g.ravel(),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the document that ``lowcarb plan --json`` prints, with times as text."""
        turns = self.turns
        document = {
            "schema_version": SCHEMA_VERSION,
            **self.provenance.to_dict(),
            "forecast_until": self.forecast_until,
            "emissions_g": self.emissions_g,
            "lower_bound_g": self.lower_bound_g,
            "gap": self.gap,
            "run_now_emissions_g": self.run_now_emissions_g,
            "saving": self.saving,
            "finish": self.finish,
            "power_assumed": bool(self.fleet.power_assumed.any()),
            "jain": jain_index(turns),
            "min_turns": int(turns.min()),
            "max_turns": int(turns.max()),
            **({"relaxed": dict(self.relaxed)} if self.relaxed else {}),
            **({"forecast_origin": dict(self.forecast_origin)} if self.forecast_origin else {}),
            "rounds": [
                {
                    "round": number,
                    "opens_at": planned.opens_at,
                    "closes_at": planned.closes_at,
                    "emissions_g": planned.emissions_g,
                    "clients": [client._asdict() for client in planned.clients],
                }
                for number, planned in enumerate(self.rounds, start=1)
            ],
        }
        plain: dict[str, Any] = to_plain(document)
        return plain


def relative_gap(emissions_g: float, lower_bound_g: float) -> float:
    """Return the largest part of some emissions that a better plan could avoid, by their lower bound."""
    if emissions_g == lower_bound_g:
        return 0.0
    return (emissions_g - lower_bound_g) / max(abs(emissions_g), 1e-9)


# -- Checks of values ---------------------------------------------------------------------------------------


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(name, f"{value!r} is not a whole number >= {least}", f"give {least} or more")
    if value > _MOST_COUNTED:
        raise InputError(name, f"is more than {_MOST_COUNTED:,}", "give a number that can be counted to")


def _check_fraction(name: str, value: object, zero_allowed: bool) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1 or (value == 0 and not zero_allowed):  # type: ignore[arg-type,operator]
        lower = "from 0" if zero_allowed else "above 0 and up"
        raise InputError(name, f"{value!r} is not {lower} to 1", f"give a number {lower} to 1")


def _check_balance(value: object) -> float | Literal["auto"] | None:
    if value is None or value == "off":
        return None
    if value == "auto":
        return value
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        problem = f"{value!r:.80} is neither a number >= 0 nor auto or off"
        raise InputError("balance", problem, "give for example 1.2, for 1.2 rounds of clients")
    return float(value)  # type: ignore[arg-type]


def _check_participation(value: object) -> Participation:
    if value == "equal" or value == "any" or value == "auto" or isinstance(value, TurnRange):
        return value
    bounds = tuple(value) if isinstance(value, list | tuple) else ()
    whole = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
    if len(bounds) != 2 or not whole or not 0 <= bounds[0] <= bounds[1]:
        raise InputError("participation", f"{value!r} is not understood",
                         'give "equal", "auto", "any" or [min, max] turns with 0 <= min <= max')  # fmt: skip
    return bounds[0], bounds[1]
