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

A rule of balance adds a chain of nodes for each location l, with C[l, r] its turns up to round r::

    C[l, r] = C[l, r-1] + sum_{g in l} x[r, g],    low[l, r] <= C[l, r] <= high[l, r]

With one group in each location the programme stays a network. Its constraints bound sums of x over two
families of sets: the rounds, with the caps inside them, and the chains ``{rounds 1..r at l}``, of which the
turns of a location are the last. In either family two sets are disjoint or nested, and the incidence matrix
of two such families is totally unimodular [3]_, as that of any inventory is [1]_. The turns of *several*
groups in a location cross its chain, and vertices may be fractional. But once the C are integers, what
remains is the transportation problem again: seats by location and round are rounded in the network of one
group each, at the duals of the programme, and the groups are seated in them exactly. Small programmes are
branched on C instead.

.. [1] Ahuja, Magnanti and Orlin, Network Flows (1993), section 11.12; inventory: application 1.7.
.. [2] D. F. Crouse, On implementing 2D rectangular assignment algorithms, IEEE Transactions on Aerospace and
       Electronic Systems 52 (2016) 1679-1696.
.. [3] A. Schrijver, Combinatorial Optimization (2003), chapter 41: laminar families, after J. Edmonds (1970).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.planning.milp import (
    balance_rows,
    chain_entries,
    chain_rows,
    distance_entries,
    solve_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.balance import Balance
    from lowcarb_scheduler.planning.milp import Entries, Rows
    from lowcarb_scheduler.planning.model import Limits

_SCALE: Final = 1000.0  # largest cost in the units of the solver, whose tolerances are absolute (1e-7)
_TOLERANCE: Final = 1e-6  # in the same units
_FRACTION: Final = 1e-3  # a count this far from an integer is none

# Above Limits.all_arcs HiGHS gets the arcs that look cheapest, and then those that the dual prices show to be
# missing (column generation).
_ARCS_AT_FIRST: Final = 8  # arcs of a group beyond those that its turns need
_ARCS_AT_ONCE: Final = 4  # arcs of a group or round that are added together
_NEARLY: Final = 1.0  # arcs with a reduced cost up to this are added too, or they would come one by one
_BRANCHED_NODES: Final = 2_000


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
    balance : Balance, optional
        Bounds on the turns of each location after each round.
    """

    seats: int
    members: Ints
    least: Ints
    most: Ints
    location: Ints
    location_cap: int
    balance: Balance | None = None

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
    bound_g : float
        Lower bound on every assignment [gCO2eq]: less than its emissions where a fractional one was rounded.
    prices_g : ndarray of float64, shape (G,) or (G + R P,), or None
        Dual price of a turn: the cost of one more turn of the group [gCO2eq]; then, with a rule of balance,
        the prices of its bounds, by round and location. None from ``linear_sum_assignment``, which computes
        no duals.
    """

    counts: Ints
    emissions_g: float
    bound_g: float
    prices_g: Floats | None = None


def assign(
    seating: Seating, costs_g: Floats, limits: Limits, prices_g: Floats | None = None
) -> Assignment | None:
    """Assign clients to rounds at the lowest emissions; None if no assignment obeys the rules.

    Parameters
    ----------
    seating : Seating
        Rules of seating.
    costs_g : ndarray of float64, shape (R, G)
        Emissions of one client of each group in each round [gCO2eq]; infinite where it cannot train.
    limits : Limits
        Sizes that choose the method; each is exact, but for the rounding of a large fractional vertex.
    prices_g : ndarray of float64, shape (G,) or (G + R P,), optional
        Estimated prices [gCO2eq]: save time and do not change the optimum.
    """
    cells = int(seating.members.sum()) * len(costs_g) * seating.seats
    if cells <= limits.expanded_cells and seating.balance is None and is_single(seating):
        return assign_expanded(seating, costs_g)
    return assign_aggregated(seating, costs_g, limits, prices_g)


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
    total_g = _total(costs_g, counts)
    return Assignment(counts, total_g, total_g)


def assign_aggregated(
    seating: Seating, costs_g: Floats, limits: Limits, prices_g: Floats | None = None
) -> Assignment | None:
    """Solve the transportation problem; parameters as :func:`assign`."""
    possible = np.isfinite(costs_g)
    if not possible.any():
        return None
    scale = float(np.abs(costs_g[possible]).max()) or 1.0
    scaled = np.where(possible, costs_g / scale, np.inf) * _SCALE
    hint = None if prices_g is None else _priced(seating, prices_g) * (_SCALE / scale)
    vertex = find_vertex(seating, scaled, limits, hint)
    if vertex is None:
        return None
    counts = np.rint(vertex.counts).astype(np.int64)
    bound_g = _total(costs_g, counts)
    if not vertex.is_integral:
        assert seating.balance is not None, "a vertex of a network programme is integral"
        whole = _whole(seating, scaled, limits, vertex)
        if whole is None:
            return None
        counts, bound_g = whole, _total(costs_g, vertex.counts)
    assert (counts.sum(axis=1) == seating.seats).all()
    prices_g = vertex.prices(seating.balance) * (scale / _SCALE)
    return Assignment(counts, _total(costs_g, counts), bound_g, prices_g)


def find_vertex(
    seating: Seating, scaled: Floats, limits: Limits, hint: Floats | None = None
) -> Vertex | None:
    """Find the best vertex of the linear programme, exactly; None if it is infeasible.

    Large programmes start from the arcs that look cheapest at estimated prices, with expensive slack in every
    row, and add the arcs that the duals show to be missing until there are none.

    Parameters
    ----------
    seating : Seating
        Rules of seating.
    scaled : ndarray of float64, shape (R, G)
        Costs, of which the largest is about 1000; infinite where a client cannot train.
    limits : Limits
        With the size up to which all arcs are there from the start.
    hint : ndarray of float64, shape (G,) or (R, G), optional
        Estimated price of a seat of each group, in the same units.
    """
    possible = np.isfinite(scaled)
    chained = seating.capped or seating.balance is not None
    if scaled.size <= (8 if chained else 1) * limits.all_arcs:
        return _solve(seating, scaled, possible, slack=None)
    slack = 4.0 * _SCALE
    arcs = _cheapest_arcs(seating, scaled if hint is None else scaled - hint) & possible
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
    return solved


def _priced(seating: Seating, prices_g: Floats) -> Floats:
    """Return the price of a seat of each group [gCO2eq], shape (G,), or (R, G) with a rule of balance."""
    groups = len(seating.members)
    if seating.balance is None:
        return prices_g
    seat_g = seating.balance.seat_prices(prices_g[groups:].reshape(seating.balance.reach.shape))
    return prices_g[:groups] - seat_g[:, seating.location]


@dataclass(frozen=True, slots=True, eq=False)
class Vertex:
    """Solution of the linear programme in scaled units: flows, duals, and whether slack was used."""

    counts: Floats  # (R, G)
    round_price: Floats  # (R,)
    group_price: Floats  # (G,)
    cap_price: Floats  # (R, locations), <= 0
    seat_price: Floats  # (R, P): what a rule of balance adds to the cost of a seat
    slack: bool

    @property
    def is_integral(self) -> bool:
        """True if all flows are integers, to the solver's tolerance."""
        return bool(np.abs(np.rint(self.counts) - self.counts).max() < _FRACTION)

    def reduced(self, scaled: Floats, location: Ints) -> Floats:
        """Return the reduced cost of every arc, shape (R, G)."""
        reduced: Floats = scaled - self.round_price[:, None] - self.group_price
        if self.seat_price.size:
            reduced = reduced + self.seat_price[:, location]
        return reduced - self.cap_price[:, location] if self.cap_price.size else reduced

    def prices(self, balance: Balance | None) -> Floats:
        """Return the prices of turns, and of the bounds of a rule of balance."""
        if balance is None:
            return self.group_price
        bound_price = self.seat_price - np.append(self.seat_price[1:], np.zeros_like(self.seat_price[:1]), 0)
        if balance.turns is None:
            bound_price[-1] = 0.0  # the turns of a location are chosen: no bound on them has a price
        return np.append(self.group_price, bound_price)


class _Rows:
    """Rows of a linear programme, collected as entries: to stack sparse matrices takes longer than to solve.

    Attributes
    ----------
    count : int
        Number of rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._entries: list[Entries] = []
        self._sides: list[NDArray[Any]] = []

    def add(self, sides: NDArray[Any], *entries: Entries) -> None:
        """Add rows with these right-hand sides; the rows of their entries count from the first of them."""
        self._entries += [(row + self.count, column, value) for row, column, value in entries]
        self._sides.append(sides)
        self.count += len(sides)

    def of(self, columns: int) -> tuple[csr_array, NDArray[Any]]:
        """Return matrix and right-hand sides."""
        from scipy.sparse import csr_array

        row, column, value = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        return csr_array((value, (row, column)), shape=(self.count, columns)), np.concatenate(self._sides)


def _solve(
    seating: Seating,
    scaled: Floats,
    arcs: NDArray[np.bool_],
    slack: float | None,
    taken: Ints | None = None,
) -> Vertex | None:
    """Solve the linear programme over some arcs.

    ``taken`` fixes the turns of each location after each round, shape (R, P).
    """
    from scipy.optimize import linprog

    rounds, groups = scaled.shape
    r, g = np.nonzero(arcs)
    flows, fixed = len(r), seating.least == seating.most
    spare = rounds + groups if slack is not None else 0  # one slack column per row
    places = 0 if seating.balance is None else len(seating.balance.done)
    chained = rounds * places  # columns C, and two of slack for each with slack
    columns = flows + spare + chained * (3 if spare else 1)
    own = np.arange(flows)
    row_of_group = np.empty(groups, dtype=np.int64)  # among those of its kind
    row_of_group[fixed], row_of_group[~fixed] = np.arange(fixed.sum()), np.arange((~fixed).sum())
    owed = seating.members * seating.least

    def of_groups(chosen: NDArray[np.bool_], sign: float = 1.0) -> Iterator[Entries]:
        kept, some = own[chosen[g]], np.flatnonzero(chosen)
        yield row_of_group[g[kept]], kept, np.full(len(kept), sign)
        if spare:
            yield row_of_group[some], flows + rounds + some, np.full(len(some), sign)

    equal, upper = _Rows(), _Rows()
    every = np.arange(rounds)
    unfilled = [(every, flows + every, np.ones(rounds))] if spare else []
    equal.add(np.full(rounds, seating.seats), (r, own, np.ones(flows)), *unfilled)
    equal.add(owed[fixed], *of_groups(fixed))
    upper.add((seating.members * seating.most)[~fixed], *of_groups(~fixed))
    upper.add(-owed[~fixed], *of_groups(~fixed, -1.0))
    locations = int(seating.location.max()) + 1 if seating.capped else 0
    if locations:
        caps = np.full(rounds * locations, seating.location_cap)
        upper.add(caps, (r * locations + seating.location[g], own, np.ones(flows)))
    bounds = np.column_stack(
        [np.zeros(columns), np.append(seating.room[g], np.full(columns - flows, np.inf))]
    )
    if seating.balance is not None:
        first, each = flows + spare, np.arange(chained)
        taken_there = r * places + seating.location[g], own, np.full(flows, -1.0)
        slacks = [(each, first + k * chained + each, np.full(chained, 3.0 - 2 * k)) for k in (1, 2) if spare]
        equal.add(np.zeros(chained), chain_entries(rounds, places, first), taken_there, *slacks)
        low, high = (taken, taken) if taken is not None else seating.balance.bounds()
        if taken is not None or seating.balance.turns is not None:
            bounds[first : first + chained] = np.column_stack([np.ravel(low), np.ravel(high)])
        else:
            (row, column, value), constant = distance_entries(seating.balance, first)
            upper.add(np.ravel(high) - constant, (row, column, value))
            upper.add(constant - np.ravel(low), (row, column, -value))
    costs = np.zeros(columns)
    costs[:flows] = scaled[r, g]
    if slack is not None:
        costs[flows : flows + spare] = costs[flows + spare + chained :] = slack
    answer = linprog(
        costs, *(upper.of(columns) if upper.count else (None, None)), *equal.of(columns), bounds,
        method="highs-ds",
    )  # fmt: skip
    if answer.status == 2:  # infeasible
        return None
    if answer.status != 0:
        raise RuntimeError(f"the assignment was not solved: {answer.message}")
    counts = np.zeros((rounds, groups))
    counts[r, g] = answer.x[:flows]
    duals, marginals = answer.eqlin.marginals, answer.ineqlin.marginals
    price, free, owing = np.zeros(groups), int((~fixed).sum()), rounds + int(fixed.sum())
    price[fixed] = duals[rounds:owing]
    price[~fixed] = marginals[:free] - marginals[free : 2 * free]
    caps = marginals[2 * free : 2 * free + rounds * locations].reshape(rounds, locations)
    seat_price = duals[owing:].reshape(rounds, places)
    used = spare and np.delete(answer.x, np.s_[flows + spare : flows + spare + chained])[flows:].max()
    return Vertex(counts, duals[:rounds], price, caps, seat_price, bool(used > _TOLERANCE))


def _cheapest_arcs(seating: Seating, reduced: Floats) -> NDArray[np.bool_]:
    """Return the arcs of lowest reduced cost, of each group and of all, as a mask of shape (R, G)."""
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


# -- Fractional vertices -------------------------------------------------------------------------------------


def _whole(seating: Seating, scaled: Floats, limits: Limits, vertex: Vertex) -> Ints | None:
    """Return integer seats near a fractional vertex of a programme with a rule of balance."""
    rule = seating.balance
    assert rule is not None, "only a rule of balance leaves fractions"
    possible = np.isfinite(scaled)
    if rule.reach.size <= limits.branched_cells:
        return _branched(seating, scaled, possible)
    places = len(rule.done)
    seats = np.zeros((len(scaled), places))
    for place in range(places):
        seats[:, place] = vertex.counts[:, seating.location == place].sum(axis=1)
    if rule.turns is None:
        # The turns of locations are rounded first: the rule is in integers from then on.
        rule = rule.fixed(_rounded(seats.sum(axis=0)))
        settled = replace(seating, balance=rule)
        again = _solve(settled, scaled, possible, slack=None)
        if again is None:
            return _branched(seating, scaled, possible)
        if again.is_integral:
            return np.rint(again.counts).astype(np.int64)
        return _whole(settled, scaled, limits, again)
    room = np.array([seating.room[seating.location == place].sum() for place in range(places)])
    for loose in (0, 1, seating.seats):
        taken = _rounded_seats(rule, seats, vertex.seat_price, np.minimum(room, seating.location_cap), loose)
        if taken is not None and (found := _solve(seating, scaled, possible, None, taken)) is not None:
            return np.rint(found.counts).astype(np.int64)
    return _branched(seating, scaled, possible)


def _rounded(turns: Floats) -> Ints:
    """Return integers of the same sum: the largest remainders are rounded up."""
    whole = np.floor(turns + _TOLERANCE).astype(np.int64)
    up = np.argsort(whole - turns, kind="stable")[: round(turns.sum()) - int(whole.sum())]
    whole[up] += 1
    return whole


def _rounded_seats(rule: Balance, seats: Floats, seat_price: Floats, room: Ints, loose: int) -> Ints | None:
    """Return integer turns after each round, shape (R, P), near fractional seats; None if there are none.

    Parameters
    ----------
    rule : Balance
        With turns of each location.
    seats : ndarray of float64, shape (R, P)
        Fractional seats of each location in each round.
    seat_price : ndarray of float64, shape (R, P)
        Price that the rule puts on them.
    room : ndarray of int64, shape (P,)
        Most seats of a location in a round.
    loose : int
        Seats by which a rounded number may differ further from the fractional one.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, hstack, kron, vstack

    rounds, places = seats.shape
    count = rounds * places
    least = np.maximum(np.floor(seats + _TOLERANCE) - loose, 0.0)
    most = np.minimum(np.ceil(seats - _TOLERANCE) + loose, room)
    low, high = rule.bounds()
    by_round = kron(eye_array(rounds), np.ones((1, places)))
    chain = chain_rows(rounds, places, count, 2 * count) - eye_array(count, 2 * count)
    answer = linprog(
        np.append(-seat_price.ravel(), np.zeros(count)),
        A_eq=vstack([hstack([by_round, 0 * by_round]), chain]),
        b_eq=np.append(np.rint(seats.sum(axis=1)), np.zeros(count)),
        bounds=np.column_stack([np.append(least, low), np.append(most, high)]),
        method="highs-ds",
    )
    return None if answer.x is None else np.rint(answer.x[count:]).astype(np.int64).reshape(rounds, places)


def _branched(seating: Seating, scaled: Floats, possible: NDArray[np.bool_]) -> Ints | None:
    """Return the best integer seats, by branch and bound over the turns of locations after each round."""
    from scipy.sparse import csr_array

    rule = seating.balance
    assert rule is not None, "only a rule of balance leaves fractions"
    (rounds, groups), places = scaled.shape, len(rule.done)
    chained, (r, g) = rounds * places, np.nonzero(possible)
    columns, flows = chained + len(r), chained + np.arange(len(r))

    def rows(index: Ints, count: int) -> csr_array:
        return csr_array((np.ones(len(r)), (index, flows)), shape=(count, columns))

    by_place = rows(r * places + seating.location[g], chained)
    constraints: list[Rows] = [
        (rows(r, rounds), seating.seats, seating.seats),
        (rows(g, groups), seating.members * seating.least, seating.members * seating.most),
        (by_place, 0.0, seating.location_cap),
        (chain_rows(rounds, places, 0, columns) - by_place, 0.0, 0.0),
        *balance_rows(rule, columns),
    ]
    found = solve_rows(
        np.append(np.zeros(chained), scaled[r, g]), constraints, chained,
        np.append(np.full(chained, np.inf), seating.room[g]),
        {"mip_rel_gap": 0.0, "node_limit": _BRANCHED_NODES},
    )  # fmt: skip
    if found.x is None:
        return None
    counts = np.zeros((rounds, groups), dtype=np.int64)
    counts[r, g] = np.rint(found.x[chained:])
    return counts


def _total(costs_g: Floats, counts: Ints | Floats) -> float:
    """Return the sum of costs over the seats taken; costs may be infinite where no seat is."""
    taken = counts > 0
    return float((costs_g[taken] * counts[taken]).sum())
