"""When rounds open and who trains, chosen together, with a proof of how good that is.

Choosing rounds first and clients later does not work: openings at the fleet's mean best hours are usually
worse than openings evenly spaced. So both are priced together. The relaxation proposes openings at the prices
of turns; the exact assignment to them is a plan, and its duals are good prices in turn. From there the best
prices are sought by Polyak's subgradient steps [1]_ towards the best plan so far, a group's step scaled by
its size::

    lambda += pace (best - L) / (s^T D s) D s,    s = turns owed - turns taken,  D = diag(1 / N_g)

Every rule that ends the search counts iterations, so equal input gives an equal plan.

.. [1] B. T. Polyak, Minimization of unsmooth functionals, USSR Computational Mathematics and Mathematical
       Physics 9 (1969) 14-29.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.planning.assignment import Assignment, assign, assign_aggregated
from lowcarb_scheduler.planning.lagrangian import Relaxation, bound_by_client_g, fill_cost_g
from lowcarb_scheduler.planning.milp import solve_exactly

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.model import Model

_PATIENT: Final = 10  # iterations without notable progress until the pace is halved
_NOTABLE: Final = 0.05  # part of the gap that is
_QUICK: Final = 600  # rounds x groups up to which an assignment costs no more than a step
_SLOW: Final = 50_000  # from where on it costs as much as a dozen steps
_FIRST_SEATED: Final = 8  # else the step whose openings are assigned first; the next are as much later
_NUDGES: Final = 100  # assignments tried to improve a plan where they are quick; fewer where they are not
_WORK: Final = 15_000_000  # cells of the relaxation that may be filled in one search
GOOD_ENOUGH: Final = 5e-4  # gap at which a search ends
_WINDOW: Final = 60  # iterations in which ...
_PROGRESS: Final = 0.9  # ... the gap has to shrink to this part of itself
_SMALL: Final = 2_000  # slots x groups up to which a job is solved exactly
_CERTAIN: Final = 1e-10  # gap that is rounding
_TIE: Final = 1e-11  # part of the emissions below which two plans are as good as each other


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


def solve(
    model: Model, start: Ints, near: Solution | None = None, good_enough: float = GOOD_ENOUGH
) -> Solution:
    """Choose openings and seats together.

    Parameters
    ----------
    model : Model
        The problem.
    start : ndarray of int64, shape (R,)
        Openings that are known to be feasible.
    near : Solution, optional
        Of a problem with the same groups and no more time, to begin with.
    good_enough : float
        Gap at which the search ends, as a part of the emissions.
    """
    return _Search(model, Relaxation(model)).run(start, near, good_enough)


class _Search:
    """The best plan and the best bound so far."""

    def __init__(self, model: Model, relaxation: Relaxation) -> None:
        self.model, self.relaxation = model, relaxation
        self.seen: set[bytes] = set()
        self.slots: Ints | None = None
        self.best: Assignment | None = None
        self.bound_g = -np.inf
        self.prices_g: Floats = np.zeros(len(model.groups))

    def run(self, start: Ints, near: Solution | None, good_enough: float) -> Solution:
        """Search from a solution near by, else from openings spread evenly, else from those given."""
        if near is not None:
            self.adopt(near)
        else:
            self.seat(self._spread())
        if self.best is None:
            self.seat(start)
        assert self.best is not None, "the openings given are feasible"
        assert self.slots is not None
        small = self.relaxation.every_span and (
            len(self.model.windows.grid) * len(self.model.groups) <= _SMALL
        )
        good_enough = _CERTAIN if small else good_enough
        self.climb(good_enough)
        if self.gap_g > good_enough * abs(self.best.emissions_g):
            self.seat(self.relaxation.evaluate(self.prices_g).slots)
        if not small and self.gap_g > good_enough * abs(self.best.emissions_g):
            self.nudge(_NUDGES // max(1, self.model.rounds * len(self.model.groups) // _QUICK))
        if small and self.gap_g > _CERTAIN * abs(self.best.emissions_g):
            self.close()
        if near is None:
            self.prefer(start)
        bound_g = self.bound_g
        if not self.model.groups.exact:
            bound_g = bound_by_client_g(self.relaxation, self.prices_g)
        return Solution(self.slots, self.best, bound_g, self.prices_g)

    def climb(self, good_enough: float) -> None:
        """Raise the bound by subgradient steps, and seat the openings they come by."""
        assert self.best is not None
        iterations = int(np.clip(_WORK // self.relaxation.costs_g.size, 60, 400))
        arcs = self.model.rounds * len(self.model.groups)
        seat_at, later = (0, 1.0) if arcs <= _QUICK else (_FIRST_SEATED, 1.5 if arcs <= _SLOW else 3.0)
        prices, pace, stalled = self.prices_g, 1.0, 0
        gaps_g = []
        for iteration in range(iterations):
            relaxed = self.relaxation.evaluate(prices)
            stalled = 0 if relaxed.bound_g > self.bound_g + _NOTABLE * self.gap_g else stalled + 1
            if relaxed.bound_g > self.bound_g:
                self.bound_g, self.prices_g = relaxed.bound_g, prices
            if iteration >= seat_at:
                self.seat(relaxed.slots)
                seat_at = int(seat_at * later)
            gaps_g.append(self.gap_g)
            if self.gap_g <= good_enough * abs(self.best.emissions_g):
                break
            if iteration >= _WINDOW and self.gap_g > _PROGRESS * gaps_g[-1 - _WINDOW]:
                break
            if stalled >= _PATIENT:
                pace, stalled, prices = pace / 2, 0, self.prices_g
                relaxed = self.relaxation.evaluate(prices)
            scaled = relaxed.short / self.model.seating.members
            norm = float(relaxed.short @ scaled)
            if norm == 0:
                break
            prices = prices + pace * (self.best.emissions_g - relaxed.bound_g) / norm * scaled

    def nudge(self, trials: int) -> None:
        """Move one opening at a time between its neighbours, where the prices promise most."""
        relaxation, grid = self.relaxation, self.model.windows.grid
        while trials > 0:
            assert self.best is not None
            assert self.slots is not None
            before_g, slots = self.best.emissions_g, self.slots
            prices_g = self.best.prices_g if self.best.prices_g is not None else self.prices_g
            promise_g = relaxation.fill_g(prices_g).reshape(-1, len(grid)).min(axis=0)
            promise_g[np.isinf(promise_g)] = promise_g[np.isfinite(promise_g)].max(initial=0.0)
            first = np.append(0, slots[:-1] + grid.width)
            last = np.append(slots[1:] - grid.width, len(grid) - 1)
            moves = [
                (promise_g[slot] - promise_g[slots[r]], r, slot)
                for r in range(len(slots))
                for slot in range(first[r], last[r] + 1)
                if slot != slots[r]
            ]
            for _, r, slot in sorted(moves):
                trials -= 1
                moved = slots.copy()
                moved[r] = slot
                self.seat(moved)
                if self.best.emissions_g < before_g or trials <= 0:
                    break
            else:
                return

    def close(self) -> None:
        """Close what gap is left, by branch and bound over the openings that can still matter."""
        assert self.best is not None
        solved = solve_exactly(self.relaxation, self.prices_g, self.best.emissions_g)
        if solved is None:
            return
        self.seat(solved.slots)
        self.bound_g = self.best.emissions_g if solved.optimal else max(self.bound_g, solved.bound_g)

    @property
    def gap_g(self) -> float:
        """What is left between plan and bound [gCO2eq]."""
        assert self.best is not None
        return self.best.emissions_g - self.bound_g

    def seat(self, slots: Ints) -> None:
        """Assign clients to rounds at these openings, and keep that if it is the best so far."""
        if slots.tobytes() in self.seen:
            return
        self.seen.add(slots.tobytes())
        costs_g = self.model.round_costs_g(slots)
        if self._hopeless(costs_g):
            return
        method = assign if self.best else assign_aggregated  # the first one has to bring prices
        found = method(self.model.seating, costs_g, self.prices_g)
        if found is None or (self.best is not None and found.emissions_g >= self.best.emissions_g):
            return
        if self.best is None and found.prices_g is not None and not self.prices_g.any():
            self.prices_g = found.prices_g
        self.best, self.slots = found, slots

    def _hopeless(self, costs_g: Floats) -> bool:
        """Return whether no seats at these costs are better than the best: prices tell sooner than seats."""
        if self.best is None or not np.isfinite(costs_g).all():
            return False
        seating, best_g = self.model.seating, self.best.emissions_g
        return any(
            fill_cost_g(seating, costs_g - prices_g).sum() + prices_g @ self.relaxation.owed(prices_g)
            > best_g + _CERTAIN * abs(best_g)
            for prices_g in (self.best.prices_g, self.prices_g)
            if prices_g is not None
        )

    def prefer(self, slots: Ints) -> None:
        """Take these openings if the seats found are as clean there: nobody waits for nothing."""
        assert self.best is not None
        moved = self._moved(self.best, slots)
        if moved.emissions_g <= self.best.emissions_g + _TIE * abs(self.best.emissions_g):
            self.best, self.slots = moved, slots

    def adopt(self, near: Solution) -> None:
        """Begin with the prices of a similar problem, and with its seats if they are possible here."""
        moved = self._moved(near.assignment, near.slots)
        if np.isfinite(moved.emissions_g):
            self.best, self.slots = moved, near.slots
        self.prices_g = near.prices_g

    def _moved(self, assignment: Assignment, slots: Ints) -> Assignment:
        """Return the same seats in rounds that open at some slots."""
        costs_g, counts = self.model.round_costs_g(slots), assignment.counts
        return Assignment(counts, float(costs_g[counts > 0] @ counts[counts > 0]))

    def _spread(self) -> Ints:
        """Return openings spread evenly over the grid."""
        grid, rounds = self.model.windows.grid, self.model.rounds
        slack = len(grid) - 1 - (rounds - 1) * grid.width
        return np.arange(rounds) * grid.width + slack * np.arange(rounds) // max(rounds - 1, 1)
