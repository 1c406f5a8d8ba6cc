"""When rounds open and who trains, chosen together, with a proof of how good that is.

Put a price lambda_g on every turn of group g. Then rounds no longer compete for turns, and what remains is to
fill each candidate round as cheaply as the prices allow, and to choose R candidates that do not overlap::

    phi[j]      = min sum_g (c[j, g] - lambda_g) x_g     over n seats, room and caps: greedy
    D[r][t]     = min(D[r][t-1], min over j closing at t of D[r-1][slot j] + phi[j])
    L(lambda)   = D[R][M] + sum_g lambda_g X_g,  X_g = most owed turns where lambda_g < 0, else least

L is a lower bound on every plan, for any prices; the best prices are sought by Polyak's subgradient steps
[1]_, each group's step scaled by its size. The rounds the programme D opens are then filled by the exact
assignment, whose duals are good prices in turn. Choosing rounds first and clients later does not work:
openings at the fleet's mean best hours are usually worse than openings evenly spaced.

.. [1] B. T. Polyak, Minimization of unsmooth functionals, USSR Comput. Math. Math. Phys. 9 (1969) 14-29;
       M. L. Fisher, The Lagrangian relaxation method for solving integer programming problems,
       Management Science 27 (1981) 1-18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.planning.assignment import Assignment, assign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.assignment import Seating
    from lowcarb_scheduler.planning.model import Model

_ITERATIONS: Final = 60
_GOOD_ENOUGH: Final = 1e-6  # gap at which the search ends


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Openings, seats and a certificate.

    Parameters
    ----------
    slots : ndarray of int64, shape (R,)
        Openings.
    assignment : Assignment
        Who trains.
    bound_g : float
        Lower bound on every plan of the model [gCO2eq].
    prices_g : ndarray of float64, shape (G,)
        The prices of turns that prove it.
    """

    slots: Ints
    assignment: Assignment
    bound_g: float
    prices_g: Floats

    @property
    def emissions_g(self) -> float:
        """Emissions at the groups' mean powers [gCO2eq]."""
        return self.assignment.emissions_g


class Relaxation:
    """Evaluates L(lambda) of a model.

    Parameters
    ----------
    model : Model
        The problem.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        grid, last = model.windows.grid, model.windows.last_boundary
        self.spans = _spans(model)
        longest = np.append(self.spans[1:] - 1, last)  # a span stands for all up to the next one
        slots = np.tile(np.arange(len(grid), dtype=np.int64), len(self.spans))
        spans = np.repeat(self.spans, len(grid))
        boundaries = np.minimum(slots + np.repeat(longest, len(grid)), last)
        costs_g = model.costs_g(model.windows.cheapest(slots, boundaries))
        possible = np.isfinite(costs_g)
        self.fits = (slots + spans <= last) & _fills(model.seating, possible)
        finite = costs_g[possible]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        dear = high + 10.0 * (high - low) + abs(high)  # stands for "cannot train"; any number keeps L a bound
        self.costs_g = np.where(possible, costs_g, dear)

    def evaluate(self, prices_g: Floats) -> tuple[float, Ints, Ints]:
        """Return L [g], the openings that attain it (R,), and the turns they take of each group (G,)."""
        seating, turns = self.model.seating, self.turns(prices_g)
        phi = np.full(len(self.costs_g), np.inf)
        reduced = self.costs_g - prices_g
        phi = np.where(self.fits, fill(seating, reduced)[0], np.inf)
        value, chosen = self._choose(phi)
        taken = fill(seating, reduced[chosen])[1].sum(axis=0)
        return value + float(prices_g @ turns), chosen % len(self.model.windows.grid), taken

    def turns(self, prices_g: Floats) -> Ints:
        """Return the turns owed by each group that make lambda X least, shape (G,)."""
        seating = self.model.seating
        return seating.members * np.where(prices_g < 0, seating.most, seating.least)

    def _choose(self, phi: Floats) -> tuple[float, Ints]:
        """Return the cheapest R candidates that do not overlap, in order, and their sum: the programme D."""
        rounds, slots, last = (
            self.model.rounds,
            len(self.model.windows.grid),
            self.model.windows.last_boundary,
        )
        phi = phi.reshape(len(self.spans), slots)
        best = np.full((rounds + 1, last + 1), np.inf)
        best[0] = 0.0
        for r in range(1, rounds + 1):
            row = best[r]
            for span, cost in zip(self.spans, phi, strict=True):
                stop = min(slots, last + 1 - span)
                np.minimum(
                    row[span : span + stop], best[r - 1, :stop] + cost[:stop], out=row[span : span + stop]
                )
            np.minimum.accumulate(row, out=row)
        chosen = np.empty(rounds, dtype=np.int64)
        boundary = last
        for r in range(rounds, 0, -1):
            boundary = int(np.argmax(best[r] <= best[r, boundary]))
            for k, span in enumerate(self.spans):
                slot = boundary - span
                if 0 <= slot < slots and best[r - 1, slot] + phi[k, slot] <= best[r, boundary]:
                    break
            chosen[r - 1] = k * slots + slot
            boundary = int(slot)
        return float(best[rounds, last]), chosen


def fill(seating: Seating, reduced_g: Floats) -> tuple[Floats, Ints]:
    """Fill candidate rounds with the cheapest clients.

    Parameters
    ----------
    seating : Seating
        Rules, of which turns are left out.
    reduced_g : ndarray of float64, shape (J, G)
        Cost of a client of each group, less the price of its turn [gCO2eq].

    Returns
    -------
    phi : ndarray of float64, shape (J,)
        The sum over n seats [gCO2eq].
    counts : ndarray of int64, shape (J, G)
        Clients of each group.
    """
    room = seating.room
    order = np.argsort(reduced_g, axis=1, kind="stable")
    in_order = room[order]
    if seating.capped:
        in_order = _capped(in_order, seating.location[order], seating.location_cap)
    before = np.cumsum(in_order, axis=1) - in_order
    taken = np.clip(seating.seats - before, 0, in_order)
    phi = (taken * np.take_along_axis(reduced_g, order, axis=1)).sum(axis=1)
    counts = np.zeros_like(taken)
    np.put_along_axis(counts, order, taken, axis=1)
    return phi, counts


def _capped(room: Ints, location: Ints, cap: int) -> Ints:
    """Return what is left of room where the groups before it in its row share a location's cap."""
    by_place = np.argsort(location, axis=1, kind="stable")
    place = np.take_along_axis(location, by_place, axis=1)
    total = np.cumsum(np.take_along_axis(room, by_place, axis=1), axis=1)
    new = np.concatenate([np.ones((len(place), 1), bool), place[:, 1:] != place[:, :-1]], axis=1)
    before = total - np.take_along_axis(room, by_place, axis=1)
    start = np.maximum.accumulate(np.where(new, before, -1), axis=1)
    within = np.clip(cap - (before - start), 0, np.take_along_axis(room, by_place, axis=1))
    result = np.empty_like(room)
    np.put_along_axis(result, by_place, within, axis=1)
    return result


def _fills(seating: Seating, possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where enough clients can train to take every seat, shape (J,)."""
    places = np.zeros((len(possible), int(seating.location.max()) + 1))
    room = possible * seating.room
    for g, place in enumerate(seating.location):
        places[:, place] += room[:, g]
    enough: NDArray[np.bool_] = np.minimum(places, seating.location_cap).sum(axis=1) >= seating.seats
    return enough


def _spans(model: Model) -> Ints:
    """Return the spans of rounds that the relaxation tells apart [slots]."""
    width, last = model.windows.grid.width, model.windows.last_boundary
    if not model.windows.stagger:
        return np.array([width], dtype=np.int64)
    return np.arange(width, last + 1, dtype=np.int64)


def solve(model: Model, start: Ints) -> Solution:
    """Choose openings and seats together.

    Parameters
    ----------
    model : Model
        The problem.
    start : ndarray of int64, shape (R,)
        Openings that are known to be feasible.
    """
    relaxation = Relaxation(model)
    tried: dict[bytes, Assignment | None] = {}

    def seat(slots: Ints) -> Assignment | None:
        key = slots.tobytes()
        if key not in tried:
            tried[key] = assign(model.seating, model.round_costs_g(slots))
        return tried[key]

    best = seat(start)
    assert best is not None
    best_slots = start
    prices = best.prices_g if best.prices_g is not None else np.zeros(len(model.groups))
    best_prices, bound, pace, stalled = prices, -np.inf, 1.0, 0
    for iteration in range(_ITERATIONS):
        value, slots, taken = relaxation.evaluate(prices)
        if value > bound:
            bound, best_prices, stalled = value, prices, 0
        else:
            stalled += 1
        found = seat(slots) if iteration < 8 or iteration % 4 == 0 else None
        if found is not None and found.emissions_g < best.emissions_g:
            best, best_slots = found, slots
        missing = best.emissions_g - bound
        if missing <= _GOOD_ENOUGH * max(abs(best.emissions_g), 1e-9):
            break
        if found is not None and found.prices_g is not None and iteration < 4:
            prices = found.prices_g
            continue
        if stalled >= 4:
            pace, prices, stalled = pace / 2, best_prices, 0
            value, slots, taken = relaxation.evaluate(prices)
        short = relaxation.turns(prices) - taken
        scaled = short / model.seating.members
        norm = float(short @ scaled)
        if norm == 0:
            break
        prices = prices + pace * max(best.emissions_g - value, 0.0) / norm * scaled
    return Solution(best_slots, best, bound, best_prices)
