"""Feasibility: the earliest finish of all rounds, and the reasons why a job has no plan.

Without gaps in the forecast, rounds back-to-back from the first slot finish first. With gaps, candidate
rounds differ by their pattern P alone, the classes that can train in them, and a choice of rounds y_j is
feasible if turns z[q, P] of the strata q exist for its m_P = sum_{j in P} y_j rounds of each pattern::

    sum_q z[q, P] = n m_P,    z[q, P] <= N_q m_P,    sum_{q in location} z[q, P] <= cap m_P,
    N_q least_q <= sum_P z[q, P] <= N_q most_q,      chosen rounds do not overlap

For integer m_P this is a network flow, so integer turns exist, and they can be spread evenly over the rounds
of a pattern. The earliest end is found by bisection.

A rule of balance depends on the order of the rounds. Where the rounds found without it do not keep it, a
candidate is chosen for each round in turn, with turns z[q, r] of the strata in round r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import MICROSECOND, format_duration, format_time, from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.planning.assignment import Seating, assign
from lowcarb_scheduler.planning.milp import (
    balance_rows,
    chain_rows,
    distance_rows,
    follow_rows,
    occupied_slots,
    solve_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.planning.balance import Balance
    from lowcarb_scheduler.planning.job import Job
    from lowcarb_scheduler.planning.model import Model
    from lowcarb_scheduler.planning.timegrid import Grid

_MOST_COLUMNS: Final = 20_000  # candidates x rounds up to which rounds in an order are searched for
_MOST_NODES: Final = 1_000  # of that search


@dataclass(frozen=True, slots=True, eq=False)
class Earliest:
    """Earliest rounds.

    Parameters
    ----------
    slots : ndarray of int64, shape (r,)
        Openings; fewer than the job's rounds if no more find a window without a gap.
    end_us : int
        End of the last one [µs since 1970 UTC].
    complete : bool
        Whether these are all rounds of the job, and an assignment obeys every rule.
    """

    slots: Ints
    end_us: int
    complete: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Candidate rounds: opening slot, next free slot, end [µs], and classes that can train, shape (J, K)."""

    slot: Ints
    next_slot: Ints
    end_us: Ints
    possible: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> _Candidates:
        return _Candidates(self.slot[keep], self.next_slot[keep], self.end_us[keep], self.possible[keep])


def find_earliest(model: Model) -> Earliest:
    """Find the earliest rounds that obey every rule of a model."""
    windows, grid = model.windows, model.windows.grid
    if np.isfinite(windows.integrals[: len(grid)]).all():
        slots = np.arange(min(model.rounds, grid.most_rounds), dtype=np.int64) * grid.width
        end_us = int(grid.opens_us[slots[-1]]) + grid.round_us
        complete = len(slots) == model.rounds
        if complete and model.seating.balance is not None:
            strata = _strata(model)  # anybody can train at any time, so openings do not matter
            free = np.zeros((model.rounds, len(strata.members)))
            complete = assign(strata, free, model.limits) is not None
        return Earliest(slots, end_us, complete)
    strata, klass = _strata(model), model.groups.klass[_firsts(model)]
    candidates = _candidates(model)
    candidates = candidates.where(strata.can_fill(candidates.possible[:, klass]))
    chosen = _pack(candidates, model.rounds)
    complete = len(chosen) == model.rounds
    costs_g = np.where(candidates.possible[chosen][:, klass], 0.0, np.inf)
    if complete and assign(strata, costs_g, model.limits) is None:
        better = _search(model, strata, candidates)
        chosen, complete = (chosen, False) if better is None else (better, True)
    end_us = int(candidates.end_us[chosen[-1]]) if len(chosen) else grid.end_us
    return Earliest(candidates.slot[chosen], end_us, complete)


def _firsts(model: Model) -> Ints:
    """Return the first group of each stratum."""
    return np.unique(model.groups.stratum, return_index=True)[1]


def _strata(model: Model) -> Seating:
    """Return the rules of seating for strata: power does not matter for feasibility."""
    first, seating = _firsts(model), model.seating
    members = np.add.reduceat(seating.members, first)
    least, most, location = seating.least[first], seating.most[first], seating.location[first]
    cap, balance = seating.location_cap, seating.balance
    return Seating(seating.seats, members, least, most, location, cap, balance)


def _candidates(model: Model) -> _Candidates:
    """Return the shortest round for each opening and each set of classes that can train in it."""
    windows, grid = model.windows, model.windows.grid
    finite = np.isfinite(windows.integrals)
    slot = np.arange(len(grid), dtype=np.int64)
    shortest = grid.opens_us + grid.round_us
    if not windows.stagger:
        return _Candidates(slot, slot + grid.width, shortest, finite[: len(grid)])
    never = len(finite)
    point = np.where(finite, np.arange(never)[:, None], never)
    first_start = np.minimum.accumulate(point[::-1], axis=0)[::-1][: len(grid)]  # (T, K)
    done_us = grid.opens_us[0] + first_start * grid.step_us + windows.duration_us
    ends = np.maximum(done_us, shortest[:, None])
    ends[(first_start == never) | (ends > grid.end_us)] = np.iinfo(np.int64).max
    ends = np.concatenate([shortest[:, None], ends], axis=1)
    of_slot, column = np.nonzero(ends < np.iinfo(np.int64).max)
    of_slot, end_us = np.unique(np.stack([of_slot, ends[of_slot, column]]), axis=1)
    possible = ends[of_slot, 1:] <= end_us[:, None]
    next_slot = -((grid.opens_us[0] - end_us) // grid.step_us)
    return _Candidates(of_slot, np.maximum(next_slot, of_slot + grid.width), end_us, possible)


def _pack(candidates: _Candidates, rounds: int) -> Ints:
    """Return the positions of candidates packed one after another, the earliest end first; at most R.

    For intervals that must not overlap, taking the earliest end first gives the largest number of them.
    """
    chosen, free = list[int](), 0
    for j in np.lexsort((candidates.slot, candidates.end_us)):
        if candidates.slot[j] >= free:
            chosen.append(int(j))
            free = int(candidates.next_slot[j])
            if len(chosen) == rounds:
                break
    return np.array(chosen, dtype=np.int64)


def _search(model: Model, strata: Seating, candidates: _Candidates) -> Ints | None:
    """Return the positions of the feasible choice that ends first; None if there is none."""
    ends = np.unique(candidates.end_us)
    best = _choose(model, strata, candidates)
    if best is None:
        return None
    low, high = 0, int(np.searchsorted(ends, candidates.end_us[best].max()))
    while low < high:
        middle = (low + high) // 2
        within = candidates.end_us <= ends[middle]
        found = _choose(model, strata, candidates.where(within))
        if found is None:
            low = middle + 1
        else:
            best = np.flatnonzero(within)[found]
            high = int(np.searchsorted(ends, candidates.end_us[best].max()))
    return best


def _choose(model: Model, strata: Seating, candidates: _Candidates) -> Ints | None:
    """Return the positions of a feasible choice of candidates, in order of time; None if there is none."""
    from scipy.sparse import csr_array, diags_array, hstack, identity, kron

    klass = model.groups.klass[_firsts(model)]
    patterns, pattern = np.unique(candidates.possible, axis=0, return_inverse=True)
    choices, kinds, parts = len(pattern), len(patterns), len(klass)
    if choices == 0:
        return None
    if strata.balance is not None:
        return _choose_in_order(model, strata, candidates)
    # Columns: y_j, then z[P, q] with q fastest.
    wide = kinds * parts
    member = csr_array((np.ones(choices), (pattern, np.arange(choices))), shape=(kinds, choices))
    z_of_pattern = kron(identity(kinds), np.ones((1, parts)), format="csr")
    z_of_part = kron(np.ones((1, kinds)), identity(parts), format="csr")
    place = csr_array((np.ones(parts), (strata.location, np.arange(parts))))
    room = (1.0 * patterns[:, klass] * strata.room).ravel()
    occupied = occupied_slots(candidates.slot, candidates.next_slot - candidates.slot)
    rounds_of = kron(member, np.ones((parts, 1)))  # m_P beside every z[P, q]
    rounds_by_place = kron(member, np.ones((place.shape[0], 1)))
    owed, allowed = strata.members * strata.least, strata.members * strata.most
    found = solve_rows(
        np.zeros(choices + wide),
        [
            (hstack([occupied, csr_array((occupied.shape[0], wide))]), -np.inf, 1.0),
            (hstack([np.ones((1, choices)), csr_array((1, wide))]), model.rounds, model.rounds),
            (hstack([-strata.seats * member, z_of_pattern]), 0.0, 0.0),
            (hstack([-diags_array(room) @ rounds_of, identity(wide)]), -np.inf, 0.0),
            (hstack([-strata.location_cap * rounds_by_place, kron(identity(kinds), place)]), -np.inf, 0.0),
            (hstack([csr_array((parts, choices)), z_of_part]), owed, allowed),
        ],
        choices,
        np.repeat([1.0, np.inf], [choices, wide]),
    )
    return None if found.x is None else np.flatnonzero(found.x[:choices] > 0.5)


def _choose_in_order(model: Model, strata: Seating, candidates: _Candidates) -> Ints | None:
    """Return the positions of a feasible choice with a rule of balance; None if none is found."""
    from scipy.sparse import csr_array, diags_array, hstack, identity, kron

    balance, klass, width = strata.balance, model.groups.klass[_firsts(model)], model.windows.grid.width
    assert balance is not None, "only a rule of balance asks for an order"
    (rounds, places), parts, last = balance.reach.shape, len(klass), model.windows.last_boundary
    ranks = np.arange(rounds)[:, None]
    fits = (candidates.slot >= ranks * width) & (candidates.slot <= last - (rounds - ranks) * width)
    order, chosen = np.nonzero(fits)
    stock, wide, choices = rounds * places, rounds * parts, len(order)
    if choices > _MOST_COLUMNS or choices == 0:
        return None
    # Columns: C[r, l], then a choice for each candidate in each round, then z[r, q].
    columns, slots = stock + choices + wide, candidates.slot[chosen]
    z = hstack([csr_array((wide, stock + choices)), identity(wide)]).tocsr()
    of_round = csr_array((np.ones(choices), (order, stock + np.arange(choices))), shape=(rounds, columns))
    r, q = np.nonzero(candidates.possible[chosen][:, klass])
    open_to = csr_array((np.ones(len(r)), (order[r] * parts + q, stock + r)), shape=(wide, columns))
    part = np.arange(wide) % parts
    by_place = csr_array((np.ones(wide), (np.arange(wide) // parts * places + strata.location[part],
                          stock + choices + np.arange(wide))), shape=(stock, columns))  # fmt: skip
    spans = candidates.next_slot[chosen] - slots
    found = solve_rows(
        np.zeros(columns),
        [
            (of_round, 1.0, 1.0),
            (follow_rows(slots, spans, order, rounds, stock, columns), -np.inf, 1.0),
            (kron(identity(rounds), np.ones((1, parts))) @ z, strata.seats, strata.seats),
            (z - diags_array(strata.room[part].astype(float)) @ open_to, -np.inf, 0.0),
            (by_place, 0.0, strata.location_cap),
            (kron(np.ones((1, rounds)), identity(parts)) @ z, strata.members * strata.least,
             strata.members * strata.most),
            (chain_rows(rounds, places, 0, columns) - by_place, 0.0, 0.0),
            *balance_rows(balance, columns),
        ],
        stock + choices,
        np.repeat([np.inf, 1.0, np.inf], [stock, choices, wide]),
        {"node_limit": _MOST_NODES},
    )  # fmt: skip
    return None if found.x is None else chosen[found.x[stock : stock + choices] > 0.5]


def _possible(model: Model, slots: Ints) -> NDArray[np.bool_]:
    """Return the strata that can train in each round that opens at these slots, shape (R, Q)."""
    possible: NDArray[np.bool_] = np.isfinite(model.windows.cheapest(slots, model.boundaries(slots))[1])
    return possible[:, model.groups.klass[_firsts(model)]]


def turns_of_strata(model: Model, slots: Ints) -> Ints:
    """Return the turns that the clients of each stratum can take together in rounds at these openings."""
    costs_g = np.where(_possible(model, slots), 0.0, np.inf)
    found = assign(_strata(model), costs_g, model.limits)
    assert found is not None, "rounds that are complete can be seated"
    turns: Ints = found.counts.sum(axis=0)
    return turns


def least_widened(model: Model, slots: Ints) -> Balance | None:
    """Return the rule of balance, widened so that rounds at these openings can keep it; None if not found.

    It is widened by the least sum of excesses, over all locations and rounds.
    """
    from scipy.sparse import csr_array, eye_array

    strata, balance = _strata(model), model.seating.balance
    assert balance is not None, "only a rule of balance can be widened"
    (rounds, places), parts = balance.reach.shape, len(strata.members)
    r, q = np.nonzero(_possible(model, slots))
    stock, flows = rounds * places, np.arange(len(r))
    columns = 2 * stock + len(r)  # C, the excess of each, and z[r, q]

    def rows(index: Ints, count: int) -> csr_array:
        return csr_array((np.ones(len(r)), (index, 2 * stock + flows)), shape=(count, columns))

    by_place, excess = rows(r * places + strata.location[q], stock), eye_array(stock, columns, k=stock)
    distance, constant = distance_rows(balance, 0, columns)
    reach = balance.reach.ravel()
    found = solve_rows(
        np.repeat([0.0, 1.0, 0.0], [stock, stock, len(r)]),
        [
            (rows(r, rounds), strata.seats, strata.seats),
            (rows(q, parts), strata.members * strata.least, strata.members * strata.most),
            (by_place, 0.0, strata.location_cap),
            (chain_rows(rounds, places, 0, columns) - by_place, 0.0, 0.0),
            ((distance - excess).tocsr(), -np.inf, reach - constant),
            ((distance + excess).tocsr(), -reach - constant, np.inf),
        ],
        0,
        np.concatenate([np.full(2 * stock, np.inf), strata.room[q]]),
    )
    if found.x is None:
        return None
    taken = found.x[:stock].reshape(rounds, places)
    # Turns between two integers are rounded to one of them later.
    taken = np.where(np.abs(taken - np.rint(taken)) < 1e-6, np.rint(taken), taken)
    widened = balance.widened(taken)
    return replace(widened, reach=widened.reach + (taken != np.rint(taken)))


# -- Checks -------------------------------------------------------------------------------------------------
# Each check refuses a job that cannot have a plan, before anything is optimised, and names the reason.


def check_time(job: Job, grid: Grid) -> None:
    """Refuse a deadline before which the rounds do not fit back-to-back."""
    needed_us = grid.first_us + (job.rounds - 1) * grid.width * grid.step_us + grid.round_us
    missing_us = needed_us - to_us(job.finish_by)
    if missing_us <= 0:
        return
    rounds = f"{job.rounds} round(s) of {format_duration(grid.round_us * MICROSECOND)}"
    if job.finish_by <= from_us(job.opens_from_us):
        reason = f"finish_by is past before the first of {rounds} may open"
    else:
        # A shortage below a second must not be shown as "0 s".
        short = format_duration(missing_us * MICROSECOND) if missing_us >= 1_000_000 else f"{missing_us} µs"
        reason = f"finish_by is {short} too early for {rounds}"
    needed, available = format_time(from_us(needed_us)), format_time(job.finish_by)
    raise PlanInfeasibleError(reason, needed, available, job.finish_by)


def check_forecast(job: Job, intensity: IntensityTable) -> None:
    """Refuse a location without any forecast between the first opening and the deadline."""
    names = job.fleet.locations
    columns = intensity.columns(names)
    inside = (intensity.edges_us[1:] > job.opens_from_us) & (intensity.edges_us[:-1] < to_us(job.finish_by))
    known = np.logical_or.reduce(np.isfinite(intensity.values[inside]), axis=0)
    missing = {
        name: "is not in the forecast" if column < 0 else
        f"has no value between {format_time(from_us(job.opens_from_us))} and {format_time(job.finish_by)}"
        for name, column in zip(names, columns, strict=True)
        if column < 0 or not known[column]
    }  # fmt: skip
    if missing:
        available = [name for name in names if name not in missing]
        raise ForecastUnavailableError(missing, available)


def check_gaps(job: Job, intensity: IntensityTable, earliest: Earliest) -> None:
    """Refuse a job for which the end or the gaps of the forecast leave no plan."""
    found = len(earliest.slots)
    if found < job.rounds:
        known = f"{job.clients_per_round} client(s) have a forecast without a gap"
        reason = (f"only {found} of {job.rounds} round(s) find a window by finish_by in which {known}"
                  f" (the forecast ends {format_time(intensity.end)})")  # fmt: skip
        raise PlanInfeasibleError(reason, job.rounds, found, job.finish_by)
    if not earliest.complete:
        reason = "gaps in the forecast keep some clients from the turns they owe by finish_by"
        raise PlanInfeasibleError(reason, job.rounds * job.clients_per_round, "fewer", job.finish_by)
