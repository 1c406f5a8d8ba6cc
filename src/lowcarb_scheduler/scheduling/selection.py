"""The line-up of a round: who trains in it when it opens, and when.

It is the plan's, unless somebody is missing, more are wanted than planned, or the round opens at another time
than planned. Gaps and extra places go to the best of those who owe turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.clock import from_us, to_us

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Plan

_MOMENT_US: Final = 60_000_000  # a round that opens so much later than planned still opens as planned


@dataclass(frozen=True, slots=True, eq=False)
class RoundSelection:
    """Who trains in a round.

    Parameters
    ----------
    clients : ndarray of int64, shape (n,)
        Positions in the plan's fleet.
    starts_us, ends_us : ndarray of int64, shape (n,)
        When each of them is to train [µs since 1970 UTC].
    emissions_g : float or None
        What they are expected to emit [gCO2eq]; None where that is not known.
    """

    clients: Ints
    starts_us: Ints
    ends_us: Ints
    emissions_g: float | None


def select_clients(
    plan: Plan,
    index: int,
    known: IntensityTable | None,
    opens_at: datetime,
    there: Collection[str],
    wanted: int,
    max_location_share: float,
) -> RoundSelection:
    """Return who trains in a round of a plan.

    Parameters
    ----------
    plan : Plan
        The plan that stands.
    index : int
        Which of its rounds opens.
    known : IntensityTable or None
        What is forecast; None where the plan rests on no forecast.
    opens_at : datetime
        When the round opens.
    there : collection of str
        The ids of those who are there.
    wanted : int
        How many are to train; fewer do where there are no more.
    max_location_share : float
        Largest part of them from one location; it gives way where it leaves places empty.
    """
    fleet, planned = plan.fleet, plan.seats[index]
    shift_us = to_us(opens_at) - int(plan.opens_us[index])
    names = set(there)  # numpy would compare objects one by one with each other
    present = np.fromiter((name in names for name in fleet.ids), np.bool_, len(fleet))
    stay = present[planned]
    free = np.flatnonzero(present & ~np.isin(np.arange(len(fleet)), planned))
    taken = planned[stay]
    opened_us, whole_us = to_us(opens_at), int(plan.closes_us[index] - plan.opens_us[index])
    durations_us = np.where(fleet.durations_us > 0, fleet.durations_us, whole_us)
    joining = np.empty(0, dtype=np.int64)
    if (places := wanted - len(taken)) > 0 and len(free):
        starts_us = np.full(len(free), opened_us, dtype=np.int64)
        grams = _grams(known, plan, free, starts_us, starts_us + durations_us[free])
        order = _by_merit(plan, index, free, grams)
        cap = max(1, floor(max_location_share * wanted + 1e-9))
        joining = _within_cap(fleet.location_index, taken, order, places, cap)
    clients = np.concatenate([taken, joining])
    starts_us = np.concatenate([plan.starts_us[index][stay] + shift_us, np.full(len(joining), opened_us)])
    ends_us = np.concatenate([plan.ends_us[index][stay] + shift_us, opened_us + durations_us[joining]])
    as_planned = abs(shift_us) <= _MOMENT_US and len(joining) == 0 and stay.all()
    total_g = plan.client_emissions_g[index].sum() if as_planned else np.nan
    if known is not None and not as_planned:
        total_g = _grams(known, plan, clients, starts_us, ends_us).sum()
    emitted = None if known is None or np.isnan(total_g) else float(total_g)
    return RoundSelection(clients, starts_us, ends_us, emitted)


def cleanest_opening(
    plan: Plan, index: int, known: IntensityTable | None, earliest: datetime, latest: datetime
) -> datetime:
    """Return when, between two moments, the clients of a plan's round would emit least.

    What they emit is piecewise linear in the opening, so it is least where one of their windows begins or
    ends with a step of the forecast. The first of equals; the earliest moment where nothing is known.
    """
    if known is None:
        return earliest
    seats, low, high = plan.seats[index], to_us(earliest), to_us(latest)
    begins_us, ends_us = (times[index] - plan.opens_us[index] for times in (plan.starts_us, plan.ends_us))
    offsets = np.unique(np.concatenate([begins_us, ends_us]))
    steps = (known.edges_us[:, None] - offsets).ravel()
    openings = np.unique(np.concatenate([[low, high], steps[(steps > low) & (steps < high)]]))
    grams = _grams(known, plan, seats, openings[:, None] + begins_us, openings[:, None] + ends_us).sum(axis=1)
    return earliest if np.isnan(grams).all() else from_us(openings[int(np.nanargmin(grams))])


def emissions_at(plan: Plan, index: int, known: IntensityTable | None, opens_at: datetime) -> float | None:
    """Return what a round's clients would emit if it opened then [gCO2eq], None where that is not known."""
    if known is None:
        return None
    shift_us = to_us(opens_at) - plan.opens_us[index]
    starts_us, ends_us = plan.starts_us[index] + shift_us, plan.ends_us[index] + shift_us
    total_g = _grams(known, plan, plan.seats[index], starts_us, ends_us).sum()
    return None if np.isnan(total_g) else float(total_g)


def _by_merit(plan: Plan, index: int, free: Ints, grams: Floats) -> Ints:
    """Return clients, those first that the plan owes turns, of these the cleanest; then fewest turns done."""
    owed = np.bincount(plan.seats[index + 1 :].ravel(), minlength=len(plan.fleet))[free] > 0
    turns = np.where(owed, 0, plan.fleet.turns_done[free])
    return free[np.lexsort((free, np.nan_to_num(grams, nan=np.inf), turns, ~owed))]


def _within_cap(location: Ints, taken: Ints, order: Ints, places: int, cap: int) -> Ints:
    """Return the first so many clients whose locations are below a cap; then whoever comes first."""
    count = np.bincount(location[taken], minlength=int(location.max()) + 1)
    within: list[int] = []
    beyond: list[int] = []
    for client in order:
        if len(within) == places:
            break
        if count[location[client]] < cap:
            count[location[client]] += 1
            within.append(int(client))
        else:
            beyond.append(int(client))
    return np.array([*within, *beyond[: places - len(within)]], dtype=np.int64)


def _grams(known: IntensityTable | None, plan: Plan, clients: Ints, starts_us: Ints, ends_us: Ints) -> Floats:
    """Return what turns would emit [gCO2eq]; 0 where nothing is known, NaN in a gap."""
    if known is None:
        return np.zeros(len(clients))
    columns = known.columns(plan.fleet.locations)[plan.fleet.location_index[clients]]
    return emissions_g(known, columns, plan.fleet.power_watts[clients], starts_us, ends_us)


# -- Drop-outs: how often nodes that were asked to train have not, and how many to ask so that enough do ----

AUTO: Final = 0.95  # probability that enough nodes reply, where none is given


@dataclass(frozen=True, slots=True)
class Dropouts:
    """What was seen of drop-outs.

    Parameters
    ----------
    asked : int
        Turns that nodes were asked for.
    failed : int
        Turns that came to nothing.
    """

    asked: int = 0
    failed: int = 0

    def after(self, asked: int, failed: int) -> Dropouts:
        """Return what is known after one more round."""
        return Dropouts(self.asked + asked, self.failed + failed)

    @property
    def rate(self) -> float:
        """The part of turns that came to nothing; 0 while nothing was seen."""
        return self.failed / self.asked if self.asked else 0.0

    def wanted(self, needed: int, there: int, over_select: float | Literal["off", "auto"]) -> int:
        """Return the fewest nodes to ask so that enough of them reply.

        The smallest m with P(Bin(m, 1 - rate) >= needed) >= target; all that are there where none is enough.

        Parameters
        ----------
        needed : int
            How many replies a round is to have.
        there : int
            How many nodes there are.
        over_select : "off", "auto" or float
            That target.
        """
        if over_select == "off" or self.failed == 0 or there <= needed:
            return min(needed, there)
        from scipy.special import bdtr

        target = AUTO if over_select == "auto" else over_select
        asked = np.arange(needed, there + 1)
        enough = 1.0 - bdtr(needed - 1.0, asked, 1.0 - self.rate) >= target
        return int(asked[enough.argmax()]) if enough.any() else there
