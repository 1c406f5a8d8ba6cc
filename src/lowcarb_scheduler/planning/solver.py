"""Solver: openings of rounds and seats of clients, optimised together and with a lower bound.

Choosing rounds first and clients later does not work: openings at the fleet's mean best hours are usually
worse than openings evenly spaced. So both are priced together. The relaxation proposes openings at the prices
of turns; the exact assignment to them is a plan, and its duals are good prices in turn. From there the search
for the best prices takes Polyak's subgradient steps [1]_ towards the best plan so far, the step of a group
scaled by its size::

    lambda += pace (best - L) / (s^T D s) D s,    s = turns owed - turns taken,  D = diag(1 / N_g)

Every rule that ends the search counts iterations, never seconds, so equal input gives an equal plan.

.. [1] B. T. Polyak, Minimization of unsmooth functionals, USSR Computational Mathematics and Mathematical
       Physics 9 (1969) 14-29.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.planning.assignment import Assignment, assign, assign_aggregated
from lowcarb_scheduler.planning.lagrangian import Relaxation, bound_by_client_g
from lowcarb_scheduler.planning.milp import solve_exactly

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.lagrangian import Relaxed, TurnPath
    from lowcarb_scheduler.planning.model import Model

GOOD_ENOUGH: Final = 5e-4  # relative gap at which a search ends
_ROUNDING: Final = 1e-10  # relative gap that is floating-point rounding
_TIE: Final = 1e-11  # relative difference below which two plans count as equal

# Beyond Limits.quick_arcs only the openings of this step and of geometrically later steps are assigned.
_FIRST_SEATED: Final = 8
_MOVES: Final = 100  # assignments tried to improve a plan where they are quick, fewer where they are not
_BALANCED_MOVES: Final = 8  # with a rule of balance, where an assignment takes several times as long

_WORK: Final = 15_000_000  # cells of the relaxation that may be filled in one search
_MOMENTUM: Final = 0.7  # part of a step that is taken again, with a rule of balance
_BALANCED_PACE: Final = 0.25
_BALANCED_WORK: Final = 5_000_000  # as _WORK with a rule of balance: a cell costs more there
_RANGE_STEPS: Final = 20, 100  # fewest and most steps for the bound of a range of turns
_PATIENT: Final = 10  # iterations without notable progress until the pace is halved
_NOTABLE: Final = 0.05  # part of the gap by which the bound rises in notable progress
# The search ends if so many iterations have not shrunk the gap to _PROGRESS times itself.
_WINDOW: Final = 60
_WINDOW_BRIEF: Final = 30  # where it starts from a plan for nearly the same intensity
_PROGRESS: Final = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Solution of a model: openings, seats, and a certified lower bound.

    Parameters
    ----------
    slots : ndarray of int64, shape (R,)
        Openings.
    assignment : Assignment
        Clients of each group in each round.
    bound_g : float
        Lower bound on every plan of the model [gCO2eq].
    prices_g : ndarray of float64, shape (G,) or (G + R P,)
        Prices that prove the bound [gCO2eq]: of turns, and of a rule of balance.
    """

    slots: Ints
    assignment: Assignment
    bound_g: float
    prices_g: Floats

    @property
    def emissions_g(self) -> float:
        """Emissions at the mean powers of the groups [gCO2eq]."""
        return self.assignment.emissions_g


def solve(
    model: Model, start: Ints, near: Solution | None = None, good_enough: float = GOOD_ENOUGH,
    first: Ints | None = None, *, brief: bool = False,
) -> Solution:  # fmt: skip
    """Optimise openings and seats together.

    Parameters
    ----------
    model : Model
        The problem.
    start : ndarray of int64, shape (R,)
        Openings that are known to be feasible.
    near : Solution, optional
        Starting point: the solution of a problem with the same groups and no more time.
    good_enough : float
        Relative gap at which the search ends.
    first : ndarray of int64, shape (R,), optional
        Openings to try first.
    brief : bool
        Whether these are nearly as good as any, so that the search ends soon.
    """
    search, limits = _Search(model, start, near, first), model.limits
    cells = len(model.windows.grid) * len(model.groups)
    small = search.relaxation.every_span and cells <= limits.proven_cells
    enough = limits.proven_gap if small else good_enough
    if search.is_open(enough):
        search.climb(enough, _WINDOW_BRIEF if brief else _WINDOW)
    if search.is_open(enough):
        search.seat(search.relaxation.evaluate(search.prices_g).slots)
    if search.is_open(enough):
        if small:
            search.close()
        if not brief and (not small or (model.seating.balance is not None and search.is_open(good_enough))):
            moves, balance = _MOVES, model.seating.balance
            if balance is not None:  # turns that are free are chosen well enough without moves
                moves = 0 if balance.turns is None else _BALANCED_MOVES
            arcs = model.rounds * len(model.groups)
            search.move_openings(moves // max(1, arcs // max(1, limits.quick_arcs)))
    if near is None:
        search.prefer(start)
    bound_g = search.bound_g
    if not model.groups.exact:
        bound_g = bound_by_client_g(search.relaxation, search.prices_g)
    return Solution(search.slots, search.best, bound_g, search.prices_g)


def bound_of_range(model: Model, path: TurnPath, prices_g: Floats, emissions_g: float) -> float:
    """Return a lower bound on all plans in which the turns of locations follow a path [gCO2eq].

    Parameters
    ----------
    model : Model
        The problem, with the fewest and most turns of each group.
    path : TurnPath
        Turns of groups by location.
    prices_g : ndarray of float64, shape (G,) or (G + R P,)
        Prices from which the search starts.
    emissions_g : float
        Emissions of a known plan [gCO2eq].
    """
    if not model.groups.exact:  # bounds on single clients leave more choice, which keeps it a bound
        return bound_by_client_g(Relaxation(model), prices_g)
    relaxation = Relaxation(model, path)
    ascent = _Ascent(relaxation, prices_g, _BALANCED_PACE, _MOMENTUM)
    for _ in range(int(np.clip(_BALANCED_WORK // relaxation.cells, *_RANGE_STEPS))):
        ascent.evaluate(emissions_g)
        is_open = emissions_g - ascent.bound_g > GOOD_ENOUGH * abs(emissions_g)
        if not is_open or not ascent.step(emissions_g):
            break
    return ascent.bound_g


class _Ascent:
    """Ascent of the bound: Polyak's steps from the prices at hand, and the best prices so far.

    Parameters
    ----------
    relaxation : Relaxation
        Relaxation of the model.
    prices_g : ndarray of float64
        Prices from which the ascent starts [gCO2eq].
    pace : float
        Part of Polyak's step that is taken; halved where the bound does not rise any more.
    momentum : float
        Part of a step that is taken again.

    Attributes
    ----------
    bound_g : float
        Best bound so far [gCO2eq].
    prices_g : ndarray of float64
        Prices of that bound [gCO2eq].
    """

    def __init__(self, relaxation: Relaxation, prices_g: Floats, pace: float, momentum: float) -> None:
        self._relaxation, self._pace, self._momentum = relaxation, pace, momentum
        self.bound_g, self.prices_g = -np.inf, prices_g
        self._at_g, self._direction, self._stalled = prices_g, np.zeros(len(prices_g)), 0

    def evaluate(self, emissions_g: float) -> Relaxed:
        """Evaluate the relaxation at the prices at hand; the gap is that to a plan of these emissions."""
        self._relaxed = relaxed = self._relaxation.evaluate(self._at_g)
        is_notable = relaxed.bound_g > self.bound_g + _NOTABLE * (emissions_g - self.bound_g)
        self._stalled = 0 if is_notable else self._stalled + 1
        if relaxed.bound_g > self.bound_g:
            self.bound_g, self.prices_g = relaxed.bound_g, self._at_g
        return relaxed

    def step(self, emissions_g: float) -> bool:
        """Go towards a bound of these emissions; return whether there is a direction in which it rises."""
        if self._stalled >= _PATIENT:
            self._pace, self._stalled, self._at_g = self._pace / 2, 0, self.prices_g
            self._relaxed = self._relaxation.evaluate(self._at_g)
            self._direction = np.zeros(len(self._at_g))
        relaxed = self._relaxed
        scaled = relaxed.short / self._relaxation.scale
        norm = float(relaxed.short @ scaled)
        if norm == 0:
            return False
        self._direction = scaled + self._momentum * self._direction
        self._at_g = self._at_g + self._pace * (emissions_g - relaxed.bound_g) / norm * self._direction
        return True


class _Search:
    """Search state: the best plan and the best bound so far."""

    def __init__(self, model: Model, start: Ints, near: Solution | None, first: Ints | None) -> None:
        self.model, self.relaxation = model, Relaxation(model)
        self.seen: set[bytes] = set()
        self.prices_g: Floats = np.zeros(len(self.relaxation.scale)) if near is None else near.prices_g
        self.slots, self.best = self._first(start, near, first)
        # Without slack there is one choice of openings, and the bound of its seats is that of all plans.
        is_tight = model.groups.exact and model.windows.grid.is_tight(model.rounds)
        self.bound_g = self.best.bound_g if is_tight else -np.inf

    def _first(self, start: Ints, near: Solution | None, first: Ints | None) -> tuple[Ints, Assignment]:
        """Seat a neighbouring solution's openings, else those to try first, evenly spread ones, or any."""
        if near is not None:
            moved = self._moved(near.assignment, near.slots)
            if np.isfinite(moved.emissions_g):
                return near.slots, moved
        given = [] if first is None else [first]
        for slots in [*given, start] if near is not None else [*given, self._spread(), start]:
            self.seen.add(slots.tobytes())
            # The aggregated assignment brings prices, which the linear assignment does not.
            costs_g = self.model.round_costs_g(slots)
            found = assign_aggregated(self.model.seating, costs_g, self.model.limits, self.prices_g)
            if found is not None:
                if found.prices_g is not None and not self.prices_g.any():
                    self.prices_g = self._first_prices(found, costs_g)
                return slots, found
        raise AssertionError("the openings given are feasible")

    def _first_prices(self, found: Assignment, costs_g: Floats) -> Floats:
        """Return the prices from which the search starts: duals of the first assignment.

        Those of a rule of balance hold for its openings alone, and start from zero: others would pay less.
        """
        assert found.prices_g is not None, "an aggregated assignment has prices"
        if self.model.seating.balance is None:
            return found.prices_g
        free = assign_aggregated(replace(self.model.seating, balance=None), costs_g, self.model.limits)
        prices_g = np.zeros(len(found.prices_g))
        if free is not None and free.prices_g is not None:
            prices_g[: len(free.prices_g)] = free.prices_g
        return prices_g

    def climb(self, good_enough: float, window: int) -> None:
        """Raise the bound by subgradient steps, and seat the openings found on the way.

        It ends where ``window`` iterations have not narrowed the gap enough.
        """
        balanced = self.model.seating.balance is not None
        work, fewest = (_BALANCED_WORK, 20) if balanced else (_WORK, 60)
        iterations = int(np.clip(work // self.relaxation.cells, fewest, 400))
        arcs, limits = self.model.rounds * len(self.model.groups), self.model.limits
        seat_at, later = 0, 1.0
        if arcs > limits.quick_arcs:
            seat_at, later = _FIRST_SEATED, 1.5 if arcs <= limits.slow_arcs else 3.0
        # Bounds of neighbouring rounds pull on the same seats, and plain steps would swing between them.
        momentum, pace = (_MOMENTUM, _BALANCED_PACE) if balanced else (0.0, 1.0)
        ascent = _Ascent(self.relaxation, self.prices_g, pace, momentum)
        gaps_g = []
        for iteration in range(iterations):
            relaxed = ascent.evaluate(self.best.emissions_g)
            self.bound_g, self.prices_g = max(self.bound_g, ascent.bound_g), ascent.prices_g
            if iteration >= seat_at:
                self.seat(relaxed.slots)
                seat_at = int(seat_at * later)
            gaps_g.append(self.gap_g)
            if not self.is_open(good_enough):
                break
            if iteration >= window and self.gap_g > _PROGRESS * gaps_g[-1 - window]:
                break
            if not ascent.step(self.best.emissions_g):
                break

    def move_openings(self, trials: int) -> None:
        """Move one opening at a time between its neighbours, the moves with the lowest fill cost first."""
        relaxation, grid = self.relaxation, self.model.windows.grid
        while trials > 0:
            before_g, slots = self.best.emissions_g, self.slots
            prices_g = self.best.prices_g if self.best.prices_g is not None else self.prices_g
            by_span = relaxation.fill_g(prices_g).reshape(-1, len(relaxation.spans), len(grid))
            fill_g = by_span.min(axis=1)
            fill_g[np.isinf(fill_g)] = fill_g[np.isfinite(fill_g)].max(initial=0.0)
            fill_g = fill_g[relaxation.block]
            first = np.append(0, slots[:-1] + grid.width)
            last = np.append(slots[1:] - grid.width, len(grid) - 1)
            moves = [
                (fill_g[r, slot] - fill_g[r, slots[r]], r, slot)
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
        """Close the gap by branch and bound over the candidates that a better plan can contain."""
        best_g = self.best.emissions_g
        possible = self.relaxation.least_with(self.prices_g) <= best_g + 1e-9 * max(abs(best_g), 1.0)
        order, chosen = np.nonzero(possible)
        slots, spans = (values[chosen] for values in self.relaxation.candidates)
        solved = solve_exactly(self.model, slots, spans, self.relaxation.costs_g[chosen], best_g, order)
        if solved is None:
            return
        self.seat(solved.slots)
        self.bound_g = self.best.emissions_g if solved.optimal else max(self.bound_g, solved.bound_g)

    @property
    def gap_g(self) -> float:
        """Difference between plan and bound [gCO2eq]."""
        return self.best.emissions_g - self.bound_g

    def is_open(self, tolerance: float) -> bool:
        """Return whether the gap is larger than a part of the emissions."""
        return self.gap_g > tolerance * abs(self.best.emissions_g)

    def seat(self, slots: Ints) -> None:
        """Assign clients to rounds at these openings, and keep the assignment if it is the best so far."""
        if slots.tobytes() in self.seen:
            return
        self.seen.add(slots.tobytes())
        costs_g = self.model.round_costs_g(slots)
        if self._hopeless(costs_g):
            return
        found = assign(self.model.seating, costs_g, self.model.limits, self.prices_g)
        if found is not None and found.emissions_g < self.best.emissions_g:
            self.best, self.slots = found, slots

    def _hopeless(self, costs_g: Floats) -> bool:
        """Return whether no seats at these costs can beat the best: a bound costs less than an assignment."""
        if not np.isfinite(costs_g).all():
            return False
        best_g = self.best.emissions_g
        return any(
            self.relaxation.seated_g(costs_g, prices_g) > best_g + _ROUNDING * abs(best_g)
            for prices_g in (self.best.prices_g, self.prices_g)
            if prices_g is not None
        )

    def prefer(self, slots: Ints) -> None:
        """Prefer these openings if the same seats are as clean there: a plan does not wait for no gain."""
        moved = self._moved(self.best, slots)
        if moved.emissions_g <= self.best.emissions_g + _TIE * abs(self.best.emissions_g):
            self.best, self.slots = moved, slots

    def _moved(self, assignment: Assignment, slots: Ints) -> Assignment:
        """Return the same seats, with the costs of rounds that open at ``slots``."""
        costs_g, counts = self.model.round_costs_g(slots), assignment.counts
        return Assignment(counts, float(costs_g[counts > 0] @ counts[counts > 0]), -np.inf)

    def _spread(self) -> Ints:
        """Return openings spread evenly over the grid."""
        grid, rounds = self.model.windows.grid, self.model.rounds
        slack = len(grid) - 1 - (rounds - 1) * grid.width
        return np.arange(rounds) * grid.width + slack * np.arange(rounds) // max(rounds - 1, 1)
