"""Selection of the clients of a round when it opens.

The plan's clients train, unless some are missing, more are wanted than planned, or the round opens at another
time than planned. Gaps and extra seats go to the best of those who owe turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.planning.fairness import most_of_one_location

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime, timedelta

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Plan

_MOMENT_US: Final = 60_000_000  # a round that opens so much later than planned still opens as planned


@dataclass(frozen=True, slots=True, eq=False)
class UpcomingRound:
    """Round as the standing plan has it.

    Parameters
    ----------
    plan : Plan
        The plan.
    index : int
        Position of the round in it, from 0.
    """

    plan: Plan
    index: int

    @property
    def opens_at(self) -> datetime:
        """Planned opening."""
        return from_us(self.plan.opens_us[self.index])

    @property
    def length(self) -> timedelta:
        """Planned time from opening to closing."""
        return from_us(self.plan.closes_us[self.index]) - self.opens_at

    def emissions_g(self, forecast: IntensityTable | None, opens_at: datetime) -> float | None:
        """Return the emissions of the round for another opening [gCO2eq], None where they are unknown."""
        if forecast is None:
            return None
        plan, index = self.plan, self.index
        shift_us = to_us(opens_at) - plan.opens_us[index]
        starts_us, ends_us = plan.starts_us[index] + shift_us, plan.ends_us[index] + shift_us
        total_g = _grams(forecast, plan, plan.seats[index], starts_us, ends_us).sum()
        return None if np.isnan(total_g) else float(total_g)

    def cleanest_opening(
        self, forecast: IntensityTable | None, earliest: datetime, latest: datetime
    ) -> datetime:
        """Return the opening between two times with the least emissions.

        The first of equals; the earliest time where nothing is known.
        """
        if forecast is None:
            return earliest
        plan, index = self.plan, self.index
        low, high = to_us(earliest), to_us(latest)
        begins_us, ends_us = (times[index] - plan.opens_us[index] for times in (plan.starts_us, plan.ends_us))
        # Emissions are piecewise linear in the opening, so they are least where some client's window begins
        # or ends with a step of the forecast, or at one of the two bounds.
        offsets = np.unique(np.concatenate([begins_us, ends_us]))
        steps = (forecast.edges_us[:, None] - offsets).ravel()
        openings = np.unique(np.concatenate([[low, high], steps[(steps > low) & (steps < high)]]))
        starts_us, stops_us = openings[:, None] + begins_us, openings[:, None] + ends_us
        grams = _grams(forecast, plan, plan.seats[index], starts_us, stops_us).sum(axis=1)
        return earliest if np.isnan(grams).all() else from_us(openings[int(np.nanargmin(grams))])


@dataclass(frozen=True, slots=True, eq=False)
class RoundSelection:
    """Clients of a round and their training windows.

    Parameters
    ----------
    clients : ndarray of int64, shape (n,)
        Positions in the plan's fleet.
    starts_us, ends_us : ndarray of int64, shape (n,)
        Training window of each [µs since 1970 UTC].
    emissions_g : float or None
        Expected emissions of all of them [gCO2eq]; None where they are unknown.
    """

    clients: Ints
    starts_us: Ints
    ends_us: Ints
    emissions_g: float | None


def select_clients(
    planned: UpcomingRound,
    forecast: IntensityTable | None,
    opens_at: datetime,
    alive: Collection[str],
    wanted: int,
    max_location_share: float,
    balance_turns: float | None = None,
) -> RoundSelection:
    """Select the clients that train in a round.

    Parameters
    ----------
    planned : UpcomingRound
        The round as planned.
    forecast : IntensityTable or None
        The newest forecast; None where the plan rests on no forecast.
    opens_at : datetime
        Real opening of the round.
    alive : collection of str
        Ids of the clients that are connected.
    wanted : int
        Number of clients to select; fewer where fewer are connected.
    max_location_share : float
        Largest part of them from one location; it gives way where it would leave seats empty.
    balance_turns : float, optional
        Largest distance of a location's turns from its share of the seats so far; it gives way first.
    """
    plan, index = planned.plan, planned.index
    fleet, seats = plan.fleet, plan.seats[index]
    shift_us = to_us(opens_at) - int(plan.opens_us[index])
    names = set(alive)  # numpy would compare objects one by one with each other
    present = np.fromiter((name in names for name in fleet.ids), np.bool_, len(fleet))
    stay = present[seats]
    free = np.flatnonzero(present & ~np.isin(np.arange(len(fleet)), seats))
    staying = seats[stay]
    opened_us, whole_us = to_us(opens_at), int(plan.closes_us[index] - plan.opens_us[index])
    durations_us = np.where(fleet.durations_us > 0, fleet.durations_us, whole_us)
    joining = np.empty(0, dtype=np.int64)
    if (gaps := wanted - len(staying)) > 0 and len(free):
        starts_us = np.full(len(free), opened_us, dtype=np.int64)
        grams = _grams(forecast, plan, free, starts_us, starts_us + durations_us[free])
        tiers = _by_merit(plan, index, free, grams)
        cap = most_of_one_location(max_location_share, wanted)
        caps = np.full(len(fleet.locations), cap)
        room = caps if balance_turns is None else _room(plan, index, wanted, balance_turns)
        joining = _within_caps(fleet.location_index, staying, tiers, gaps, [np.minimum(room, caps), caps])
    clients = np.concatenate([staying, joining])
    starts_us = np.concatenate([plan.starts_us[index][stay] + shift_us, np.full(len(joining), opened_us)])
    ends_us = np.concatenate([plan.ends_us[index][stay] + shift_us, opened_us + durations_us[joining]])
    # As planned, the plan's own figure is kept: the forecast may not reach as far as its expectation does.
    as_planned = abs(shift_us) <= _MOMENT_US and len(joining) == 0 and stay.all()
    total_g = plan.client_emissions_g[index].sum() if as_planned else np.nan
    if forecast is not None and not as_planned:
        total_g = _grams(forecast, plan, clients, starts_us, ends_us).sum()
    expected_g = None if forecast is None or np.isnan(total_g) else float(total_g)
    return RoundSelection(clients, starts_us, ends_us, expected_g)


def _by_merit(plan: Plan, index: int, free: Ints, grams: Floats) -> list[Ints]:
    """Return free clients, cleanest first: those owed turns by the plan, then the others by fewest turns."""
    owed = np.bincount(plan.seats[index + 1 :].ravel(), minlength=len(plan.fleet))[free] > 0
    turns = np.where(owed, -1, plan.fleet.turns_done[free])
    order = np.lexsort((free, np.nan_to_num(grams, nan=np.inf), turns))
    return np.split(free[order], np.flatnonzero(np.diff(turns[order])) + 1)


def _room(plan: Plan, index: int, wanted: int, balance_turns: float) -> Ints:
    """Return the clients of each location that a round may have at most for balance, shape (L,)."""
    turns = plan.location_turns
    share = turns[-1] / turns[-1].sum()
    allowed = share * (turns[index].sum() + wanted) + balance_turns - turns[index]
    room: Ints = np.maximum(np.floor(allowed + 1e-9), 0.0).astype(np.int64)
    return room


def _within_caps(
    location: Ints, staying: Ints, tiers: Sequence[Ints], gaps: int, caps: Sequence[Ints]
) -> Ints:
    """Return clients whose locations are below their caps, the first tiers first; then any in order.

    Each cap is of shape (L,) and looser than the one before, and counts inside a tier: it gives way to turns.
    """
    count = np.bincount(location[staying], minlength=len(caps[0]))
    joining: list[int] = []
    beyond: list[int] = []
    for tier in tiers:
        left = tier.tolist()
        for cap in caps:
            passed: list[int] = []
            for client in left:
                if len(joining) < gaps and count[location[client]] < cap[location[client]]:
                    count[location[client]] += 1
                    joining.append(client)
                else:
                    passed.append(client)
            left = passed
        beyond += left
    return np.array([*joining, *beyond[: gaps - len(joining)]], dtype=np.int64)


def _grams(
    forecast: IntensityTable | None, plan: Plan, clients: Ints, starts_us: Ints, ends_us: Ints
) -> Floats:
    """Return the emissions of turns [gCO2eq]; 0 without a forecast, NaN in a gap."""
    if forecast is None:
        return np.zeros(len(clients))
    columns = forecast.columns(plan.fleet.locations)[plan.fleet.location_index[clients]]
    return emissions_g(forecast, columns, plan.fleet.power_watts[clients], starts_us, ends_us)


# -- Drop-outs ----------------------------------------------------------------------------------------------

AUTO: Final = 0.95  # probability that enough nodes reply, for ``over_select = auto``


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Drop-outs observed in a run.

    Parameters
    ----------
    asked : int
        Turns requested of nodes.
    failed : int
        Turns not completed.
    """

    asked: int = 0
    failed: int = 0

    def after(self, asked: int, failed: int) -> Dropouts:
        """Return the drop-outs observed after one more round."""
        return Dropouts(self.asked + asked, self.failed + failed)

    @property
    def rate(self) -> float:
        """Part of turns not completed; 0 before the first."""
        return self.failed / self.asked if self.asked else 0.0

    def wanted(self, needed: int, alive: int, over_select: float | Literal["off", "auto"]) -> int:
        """Return the smallest number of nodes to ask so that enough of them reply.

        The smallest m with P(Bin(m, 1 - rate) >= needed) >= target; all connected nodes where no m is enough.

        Parameters
        ----------
        needed : int
            Replies that a round should have.
        alive : int
            Nodes that are connected.
        over_select : "off", "auto" or float
            The target probability.
        """
        if over_select == "off" or self.failed == 0 or alive <= needed:
            return min(needed, alive)
        from scipy.special import bdtr  # slow to import, and few runs over-select

        target = AUTO if over_select == "auto" else over_select
        asked = np.arange(needed, alive + 1)
        enough = 1.0 - bdtr(needed - 1.0, asked, 1.0 - self.rate) >= target
        return int(asked[enough.argmax()]) if enough.any() else alive
