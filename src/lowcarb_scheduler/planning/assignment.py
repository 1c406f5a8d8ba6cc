"""Assignment of clients to rounds whose windows are given: all rounds together, exactly.

Assigning client-turns to seats is a linear assignment. Clients of a group are interchangeable, so a
transportation problem from groups to rounds has the same optimum::

    min sum c[r, g] x[r, g]
    sum_g x[r, g] = n                              every seat is taken
    N_g least_g <= sum_r x[r, g] <= N_g most_g     turns
    sum_{g in location} x[r, g] <= cap             no round trains at one location only
    0 <= x[r, g] <= min(N_g, n)                    distinct clients in a round

Its matrix is that of a network (the caps are laminar), so the vertices of the linear programme are integral
[1]_. The expanded matrix of client-turns and seats is solved by ``linear_sum_assignment`` [2]_ where it is
small and no client takes two turns; with two, copies of a client could land in one round.

.. [1] Ahuja, Magnanti and Orlin, Network Flows (1993), section 11.12.
.. [2] D. F. Crouse, On implementing 2D rectangular assignment algorithms, IEEE Transactions on Aerospace and
       Electronic Systems 52 (2016) 1679-1696.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, Ints

EXPANDED_CELLS: Final = 20_000  # clients x seats up to which linear_sum_assignment is used
_SCALE: Final = 1000.0  # largest cost in the units of the solver, whose tolerances are absolute (1e-7)
_TOLERANCE: Final = 1e-6  # in the same units

# HiGHS takes between 0.1 s and 40 s on raw matrices of 50,000 arcs. Above _ALL_ARCS (groups x rounds) it gets
# the arcs that look cheapest, and then those that the dual prices show to be missing (column generation).
_ALL_ARCS: Final = 4_000
_ARCS_AT_FIRST: Final = 8  # arcs of a group beyond those that its turns need
_ARCS_AT_ONCE: Final = 4  # arcs of a group or round that are added together
_NEARLY: Final = 1.0  # arcs with a reduced cost up to this are added too, or they would come one by one


@dataclass(frozen=True, slots=True, eq=False)
class Seating:
    """Rules of seating groups of clients.

    Parameters
    ----------
    seats : int
        Clients in each round, n.
    members : ndarray of int64, shape (G,)
        Number of clients in each group, N_g.
    least, most : ndarray of int64, shape (G,)
        Bounds on the turns of each member.
    location : ndarray of int64, shape (G,)
        Location of each group.
    location_cap : int
        Largest number of clients of one location in a round.
    """

    seats: int
    members: Ints
    least: Ints
    most: Ints
    location: Ints
    location_cap: int

    @property
    def room(self) -> Ints:
        """Largest number of clients of each group in one round, shape (G,)."""
        return np.minimum(self.members, min(self.seats, self.location_cap))

    def can_fill(self, possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether enough clients can train to take every seat of each candidate round, shape (J,).

        Parameters
        ----------
        possible : ndarray of bool, shape (J, G)
            Groups that can train in each candidate.
        """
        if possible.all():
            return np.ones(len(possible), dtype=bool)
        order = np.argsort(self.location, kind="stable")
        first = np.unique(self.location[order], return_index=True)[1]
        by_location = np.add.reduceat((possible * self.room)[:, order], first, axis=1)
        enough: NDArray[np.bool_] = np.minimum(by_location, self.location_cap).sum(axis=1) >= self.seats
        return enough

    @property
    def capped(self) -> bool:
        """True if the cap of a location can bind on several groups together; room covers single groups."""
        room, groups = np.bincount(self.location, weights=self.room), np.bincount(self.location)
        binds = bool(((room > self.location_cap) & (groups > 1)).any())
        return binds and self.location_cap < self.seats


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Assignment of groups to rounds, with the prices of turns.

    Parameters
    ----------
    counts : ndarray of int64, shape (R, G)
        Clients of each group in each round.
    emissions_g : float
        Sum of costs [gCO2eq].
    prices_g : ndarray of float64, shape (G,), or None
        Dual price of a turn: the cost of one more turn of the group [gCO2eq]. None from
        ``linear_sum_assignment``, which computes no duals.
    """

    counts: Ints
    emissions_g: float
    prices_g: Floats | None = None


def assign(seating: Seating, costs_g: Floats, prices_g: Floats | None = None) -> Assignment | None:
    """Assign clients to rounds at the lowest emissions; None if no assignment obeys the rules.

    Parameters
    ----------
    seating : Seating
        Rules of seating.
    costs_g : ndarray of float64, shape (R, G)
        Emissions of one client of each group in each round [gCO2eq]; infinite where it cannot train.
    prices_g : ndarray of float64, shape (G,), optional
        Estimated price of a turn of each group [gCO2eq]: saves time and does not change the optimum.
    """
    cells = int(seating.members.sum()) * len(costs_g) * seating.seats
    if cells <= EXPANDED_CELLS and is_single(seating):
        return assign_expanded(seating, costs_g)
    return assign_aggregated(seating, costs_g, prices_g)


def is_single(seating: Seating) -> bool:
    """Return whether the expanded linear assignment is exact: no client takes two turns, no cap binds."""
    owed = (seating.least == seating.most).all() or not seating.least.any()
    together = np.bincount(seating.location, weights=seating.members)
    free = seating.location_cap >= min(seating.seats, int(together.max()))
    return bool(seating.most.max() <= 1 and owed and free)


def assign_expanded(seating: Seating, costs_g: Floats) -> Assignment | None:
    """Assign client by client and seat by seat; exact where :func:`is_single` holds."""
    from scipy.optimize import linear_sum_assignment

    rounds, groups = costs_g.shape
    group_of_client = np.repeat(np.arange(groups), seating.members)
    round_of_seat = np.repeat(np.arange(rounds), seating.seats)
    try:
        clients, seats = linear_sum_assignment(costs_g[round_of_seat][:, group_of_client].T)
    except ValueError:  # scipy: no assignment of finite cost
        return None
    counts = np.zeros((rounds, groups), dtype=np.int64)
    np.add.at(counts, (round_of_seat[seats], group_of_client[clients]), 1)
    return Assignment(counts, _total(costs_g, counts))


def assign_aggregated(seating: Seating, costs_g: Floats, prices_g: Floats | None = None) -> Assignment | None:
    """Solve the transportation problem, exactly.

    Large problems start from the arcs that look cheapest at estimated prices, with expensive slack in every
    row, and add the arcs that the duals show to be missing until there are none.
    """
    possible = np.isfinite(costs_g)
    if not possible.any():
        return None
    scale = float(np.abs(costs_g[possible]).max()) or 1.0
    scaled = np.where(possible, costs_g / scale, np.inf) * _SCALE
    if costs_g.size <= (8 if seating.capped else 1) * _ALL_ARCS:
        return _finish(seating, costs_g, _solve(seating, scaled, possible, slack=None), scale)
    slack = 4.0 * _SCALE
    hint = np.zeros(len(seating.members)) if prices_g is None else prices_g * (_SCALE / scale)
    arcs = _cheapest_arcs(seating, scaled, hint) & possible
    while True:
        solved = _solve(seating, scaled, arcs, slack)
        if solved is None:
            return None
        reduced = np.where(possible & ~arcs, solved.reduced(scaled, seating.location), np.inf)
        if reduced.min() >= -_TOLERANCE:
            break
        arcs |= (reduced < _NEARLY) & _least(reduced, _ARCS_AT_ONCE)
    if solved.slack:  # all useful arcs are in, yet slack was cheaper: solve without it, or find it infeasible
        solved = _solve(seating, scaled, possible, slack=None)
    return _finish(seating, costs_g, solved, scale)


@dataclass(frozen=True, slots=True, eq=False)
class _Solved:
    """Solution of the linear programme in scaled units: flows, duals, and whether slack was used."""

    counts: Floats  # (R, G)
    round_price: Floats  # (R,)
    group_price: Floats  # (G,)
    cap_price: Floats  # (R, locations), <= 0
    slack: bool

    def reduced(self, scaled: Floats, location: Ints) -> Floats:
        """Return the reduced cost of every arc, shape (R, G)."""
        reduced: Floats = scaled - self.round_price[:, None] - self.group_price
        return reduced - self.cap_price[:, location] if self.cap_price.size else reduced


def _solve(seating: Seating, scaled: Floats, arcs: NDArray[np.bool_], slack: float | None) -> _Solved | None:
    """Solve the linear programme over some arcs."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, vstack

    rounds, groups = scaled.shape
    r, g = np.nonzero(arcs)
    flows, fixed = len(r), seating.least == seating.most
    spare = rounds + groups if slack is not None else 0  # one slack column per row
    columns, one = flows + spare, np.ones(flows)

    def rows(index: Ints, count: int) -> csr_array:
        return csr_array((one, (index, np.arange(flows))), shape=(count, columns))

    by_round, by_group = rows(r, rounds), rows(g, groups)
    if spare:
        by_round = by_round + eye_array(rounds, columns, k=flows, format="csr")
        by_group = by_group + eye_array(groups, columns, k=flows + rounds, format="csr")
    fixed_rows, free_rows = np.flatnonzero(fixed), np.flatnonzero(~fixed)
    owed = seating.members * seating.least
    upper = [by_group[free_rows], -by_group[free_rows]]
    limits = [(seating.members * seating.most)[free_rows], -owed[free_rows]]
    locations = int(seating.location.max()) + 1 if seating.capped else 0
    if locations:
        upper.append(rows(r * locations + seating.location[g], rounds * locations))
        limits.append(np.full(rounds * locations, seating.location_cap))
    answer = linprog(
        np.concatenate([scaled[r, g], np.full(spare, slack if slack is not None else 0.0)]),
        A_ub=vstack(upper) if len(free_rows) or locations else None,
        b_ub=np.concatenate(limits) if len(free_rows) or locations else None,
        A_eq=vstack([by_round, by_group[fixed_rows]]),
        b_eq=np.concatenate([np.full(rounds, seating.seats), owed[fixed_rows]]),
        bounds=np.column_stack([np.zeros(columns), np.append(seating.room[g], np.full(spare, np.inf))]),
        method="highs-ds",
    )
    if answer.status == 2:  # infeasible
        return None
    if answer.status != 0:
        raise RuntimeError(f"the assignment was not solved: {answer.message}")
    counts = np.zeros((rounds, groups))
    counts[r, g] = answer.x[:flows]
    duals, bounds = answer.eqlin.marginals, answer.ineqlin.marginals
    price = np.zeros(groups)
    price[fixed_rows] = duals[rounds:]
    price[free_rows] = bounds[: len(free_rows)] - bounds[len(free_rows) : 2 * len(free_rows)]
    caps = bounds[2 * len(free_rows) :].reshape(rounds, locations) if locations else np.empty((rounds, 0))
    used = bool(spare and answer.x[flows:].max() > _TOLERANCE)
    return _Solved(counts, duals[:rounds], price, caps, used)


def _cheapest_arcs(seating: Seating, scaled: Floats, group_price: Floats) -> NDArray[np.bool_]:
    """Return the arcs that look cheapest, of each group and of all, as a mask of shape (R, G)."""
    reduced = scaled - group_price
    order = np.argsort(reduced, axis=1)
    filled = np.argmax(np.cumsum(seating.room[order], axis=1) >= seating.seats, axis=1)
    marginal = np.take_along_axis(order, filled[:, None], axis=1)
    price = np.take_along_axis(reduced, marginal, axis=1)  # of each round: the cost of its last seat
    reduced = reduced - np.where(np.isfinite(price), price, 0.0)
    needed = -(-seating.members * seating.most // seating.room) + _ARCS_AT_FIRST
    rank = np.argsort(np.argsort(reduced, axis=0), axis=0)
    most = min(reduced.size - 1, _ARCS_AT_FIRST * sum(reduced.shape))
    cheap: NDArray[np.bool_] = reduced <= np.partition(reduced, most, axis=None)[most]
    return cheap | (rank < needed)


def _least(reduced: Floats, count: int) -> NDArray[np.bool_]:
    """Return a mask of the entries that are among the ``count`` least of their row or column."""
    rounds, groups = reduced.shape
    of_round = np.partition(reduced, min(count, groups) - 1, axis=1)[:, [min(count, groups) - 1]]
    of_group = np.partition(reduced, min(count, rounds) - 1, axis=0)[[min(count, rounds) - 1]]
    least: NDArray[np.bool_] = (reduced <= of_round) | (reduced <= of_group)
    return least


def _finish(seating: Seating, costs_g: Floats, solved: _Solved | None, scale: float) -> Assignment | None:
    """Return the solution with integer seats and prices in grams."""
    if solved is None:
        return None
    counts = np.rint(solved.counts).astype(np.int64)
    assert np.abs(counts - solved.counts).max() < 1e-3, "a vertex of a network programme is integral"
    assert (counts.sum(axis=1) == seating.seats).all()
    return Assignment(counts, _total(costs_g, counts), solved.group_price * (scale / _SCALE))


def _total(costs_g: Floats, counts: Ints) -> float:
    """Return the sum of costs over the seats taken; costs may be infinite where no seat is."""
    taken = counts > 0
    return float((costs_g[taken] * counts[taken]).sum())
