"""Lagrangian relaxation: a lower bound on the emissions of every plan, and the rounds that attain it.

Put a price lambda_g on every turn of group g. Then rounds no longer compete for turns. What remains is to
fill each candidate round j as cheaply as the prices allow, at the fill cost phi[j], and to choose R
candidates that do not overlap, by dynamic programming over boundaries t::

    phi[j]    = min sum_g (c[j, g] - lambda_g) x_g    over n seats, room and caps: cheapest first
    D[r][t]   = min(D[r][t-1], min over j that end by t of D[r-1][slot_j] + phi[j])
    L(lambda) = D[R][M] + sum_g lambda_g X_g,    X_g = the most turns of g where lambda_g < 0, else the least

L bounds every plan from below, whatever the prices [1]_. With stagger a candidate is a slot and a span. On
large jobs one span stands for all up to the next: it takes the time of the shortest and offers the windows
of the longest, which keeps L a bound.

A rule of balance is priced like the turns: its prices w make a seat of location l cost W[l, r] more in
round r, so phi depends on the round too, and its bounds add a constant
(:mod:`~lowcarb_scheduler.planning.balance`). On large jobs only every so many rounds have a price, and the
rounds between them share a phi: fewer bounds count, and L stays a bound.

.. [1] M. L. Fisher, The Lagrangian relaxation method for solving integer programming problems, Management
       Science 27 (1981) 1-18.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.assignment import Seating
    from lowcarb_scheduler.planning.model import Model

_BOUND_SCALE: Final = 10.0  # size of a bound of balance, in rounds of clients, for the steps of a search


class Relaxed(NamedTuple):
    """Value of the relaxation at some prices, and the rounds that attain it."""

    bound_g: float  # L [gCO2eq]
    slots: Ints  # (R,) openings
    short: Floats | Ints  # (G,) turns owed less turns taken, (R P,) turns beyond bounds: a subgradient of L


class TurnPath(NamedTuple):
    """Order in which the turns of locations go to groups, where a plan chooses how many a location takes."""

    base: Ints  # (G,) turns of each group at the fewest turns of its location
    further: tuple[Ints, ...]  # of each location with a choice, the group of each further turn

    def cheapest(self, turn_g: Floats) -> Ints:
        """Return the turns of each group, shape (G,), at which turns of these prices cost least in sum."""
        turns = self.base.copy()
        for group in self.further:
            cost_g = np.cumsum(turn_g[group])
            most = int(np.argmin(cost_g))
            if cost_g[most] < 0:
                turns += np.bincount(group[: most + 1], minlength=len(turns))
        return turns


class Relaxation:
    """Lagrangian relaxation of a model, evaluated at any prices.

    Parameters
    ----------
    model : Model
        The problem.
    path : TurnPath, optional
        Turns of groups by location; without it, each group has bounds of its own.

    Attributes
    ----------
    spans : ndarray of int64, shape (S,)
        Lengths of candidate rounds [slots]; a candidate j is a span and a slot, slot fastest, J = S T.
    integrals : ndarray of float64, shape (J, K)
        Cleanest integral of each class in each candidate [g h / kWh].
    costs_g : ndarray of float64, shape (J, G)
        Emissions of one client of each group in each candidate [gCO2eq].
    fits : ndarray of bool, shape (J,)
        Candidates that end in time, can be filled, and are not dominated by a shorter one.
    block : ndarray of int64, shape (R,)
        Block of each round, of B: the rounds of one have the same fill costs. One without a rule of balance.
    scale : ndarray of float64, shape (G,) or (G + R P,)
        Size of what each price stands for: a step of the search is divided by it.

    Prices [gCO2eq] are those of a turn of each group, shape (G,), and, with a rule of balance for P
    locations, of the turns of each location after each round, together of shape (G + R P,).
    """

    def __init__(self, model: Model, path: TurnPath | None = None) -> None:
        self.model, self._path = model, path
        grid, last = model.windows.grid, model.windows.last_boundary
        self.spans = _spans(model)
        longest = np.append(self.spans[1:] - 1, last)
        slots, spans = self.candidates
        boundaries = np.minimum(slots + np.repeat(longest, len(grid)), last)
        self.integrals = model.windows.cheapest(slots, boundaries)[1]
        costs_g = model.costs_g(self.integrals)
        possible = np.isfinite(costs_g)
        self.fits = (slots + spans <= last) & model.seating.can_fill(possible)
        self.fits &= ~self._dominated()
        finite = costs_g[possible]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        # Infinite costs times zero seats would be NaN; any finite cost for "cannot train" keeps L a bound.
        prohibitive = high + 10.0 * (high - low) + abs(high)
        self.costs_g = costs_g if possible.all() else np.where(possible, costs_g, prohibitive)
        self._balance = model.seating.balance
        self.scale = model.seating.members
        self.block = np.zeros(model.rounds, dtype=np.int64)
        if self._balance is not None:
            self.block = self._blocks()
            starts, stops = np.array([self._slots(rounds) for rounds in self._parts(self.block)]).T
            slots, _ = self.candidates
            inside = (slots >= starts[:, None]) & (slots < stops[:, None]) & self.fits
            self._block_of_candidate, self._candidate = np.nonzero(inside)
            self.scale = np.append(
                self.scale, np.full(self._balance.reach.size, _BOUND_SCALE * model.seating.seats)
            )

    def _dominated(self) -> NDArray[np.bool_]:
        """Return whether a shorter span in its place offers every class as clean a window, shape (J,)."""
        grid = self.model.windows.grid
        integrals = self.integrals.reshape(len(self.spans), len(grid), -1)
        dominated = np.zeros(integrals.shape[:2], dtype=bool)
        dominated[1:] = (integrals[1:] == integrals[:-1]).all(axis=2)
        later = np.diff(self.spans) == 1
        dominated[1:, :-1] |= later[:, None] & (integrals[1:, :-1] == integrals[:-1, 1:]).all(axis=2)
        return dominated.ravel()

    @property
    def every_span(self) -> bool:
        """True if every span of a round is a candidate of its own."""
        return not self.model.windows.stagger or bool(self.spans[0] + len(self.spans) > self.spans[-1])

    def _blocks(self) -> Ints:
        """Return the block of each round: as many blocks as can be filled quickly."""
        rounds = np.arange(self.model.rounds)
        per_slot = len(self.spans) * len(self.model.groups)
        blocks, most = self.model.rounds, self.model.limits.block_cells
        while True:
            block = rounds * blocks // self.model.rounds
            slots = sum(max(stop - start, 0) for start, stop in map(self._slots, self._parts(block)))
            if blocks == 1 or slots * per_slot <= most:
                return block
            blocks = max(1, min(blocks - 1, blocks * most // (slots * per_slot)))

    @staticmethod
    def _parts(block: Ints) -> list[Ints]:
        """Return the rounds of each block."""
        return np.split(np.arange(len(block)), np.flatnonzero(np.diff(block)) + 1)

    def _slots(self, rounds: Ints) -> tuple[int, int]:
        """Return the first slot at which these rounds can open, and the one after the last."""
        width, last = self.model.windows.grid.width, self.model.windows.last_boundary
        stop = last - (self.model.rounds - int(rounds[-1])) * width + 1
        return int(rounds[0]) * width, min(stop, len(self.model.windows.grid))

    def _split(self, prices_g: Floats) -> tuple[Floats, Floats]:
        """Return the prices of turns, (G,), and of balance, (R, P), summed over the rounds of a block."""
        assert self._balance is not None, "only a rule of balance has prices of its own"
        groups = len(self.model.groups)
        bound_g = prices_g[groups:].reshape(self._balance.reach.shape)
        last = np.append(np.diff(self.block) > 0, True)
        if last.all():
            return prices_g[:groups], bound_g
        summed = np.zeros_like(bound_g)
        summed[last] = np.add.reduceat(bound_g, np.flatnonzero(np.diff(self.block, prepend=-1)), axis=0)
        return prices_g[:groups], summed

    def evaluate(self, prices_g: Floats) -> Relaxed:
        """Evaluate L at ``prices_g`` [gCO2eq]."""
        value, chosen = self.choose(self.fill_g(prices_g))
        counts = fill(self.model.seating, self.priced_g(self.costs_g[chosen], prices_g))
        short = self._short(prices_g, counts)
        return Relaxed(value + self.constant_g(prices_g), chosen % len(self.model.windows.grid), short)

    def priced_g(self, costs_g: Floats, prices_g: Floats) -> Floats:
        """Return the costs of the R rounds, shape (R, G), less the prices of their turns [gCO2eq]."""
        if self._balance is None:
            return costs_g - prices_g
        turn_g, bound_g = self._split(prices_g)
        return costs_g - turn_g + self._balance.seat_prices(bound_g)[:, self.model.seating.location]

    def constant_g(self, prices_g: Floats) -> float:
        """Return the part of L that does not depend on the rounds [gCO2eq]."""
        turn_g = prices_g[: len(self.model.groups)]
        return float(turn_g @ self.owed(prices_g)) + self.bounds_g(prices_g)

    def bounds_g(self, prices_g: Floats) -> float:
        """Return the part of L that a rule of balance puts on its bounds [gCO2eq]."""
        return 0.0 if self._balance is None else self._balance.constant(self._split(prices_g)[1])

    def _short(self, prices_g: Floats, counts: Ints) -> Floats | Ints:
        """Return a subgradient of L where rounds are filled so, counts of shape (R, G)."""
        short: Ints = self.owed(prices_g) - counts.sum(axis=0)
        if self._balance is None:
            return short
        taken = np.zeros(self._balance.reach.shape)
        np.add.at(taken.T, self.model.seating.location, counts.T)
        excess = self._balance.excess(self._split(prices_g)[1], np.cumsum(taken, axis=0))
        excess[:-1][np.diff(self.block) == 0] = 0.0  # no price inside a block
        if self._balance.turns is not None:
            excess[-1] = 0.0  # the prices of turns stand for that
        return np.append(short.astype(np.float64), excess)

    def seated_g(self, costs_g: Floats, prices_g: Floats) -> float:
        """Return a lower bound on seats of given costs, shape (R, G) [gCO2eq]."""
        filled: float = fill_cost_g(self.model.seating, self.priced_g(costs_g, prices_g)).sum()
        return filled + self.constant_g(prices_g)

    def fill_g(self, prices_g: Floats) -> Floats:
        """Return the fill cost phi of each candidate [gCO2eq], infinite if it does not fit; shape (B, J)."""
        where, price_g = self.priced_candidates(prices_g)
        return self.by_block(fill_cost_g(self.model.seating, self.costs_g[where] - price_g))

    def priced_candidates(self, prices_g: Floats) -> tuple[Ints | slice, Floats]:
        """Return the candidates of all blocks, and the price of a turn in each [gCO2eq].

        Without a rule of balance these are all candidates, and prices of shape (G,); with one, the
        candidates of a block follow those of the block before, and prices have a row for each.
        """
        if self._balance is None:
            return slice(None), prices_g
        turn_g, bound_g = self._split(prices_g)
        last = np.flatnonzero(np.append(np.diff(self.block) > 0, True))
        by_block_g = turn_g - self._balance.seat_prices(bound_g)[last][:, self.model.seating.location]
        return self._candidate, by_block_g[self._block_of_candidate]

    def by_block(self, phi_g: Floats) -> Floats:
        """Return values of :meth:`priced_candidates`, infinite where one does not fit, as shape (B, J)."""
        if self._balance is None:
            return np.where(self.fits, phi_g, np.inf)[None]
        every = np.full((int(self.block[-1]) + 1, len(self.costs_g)), np.inf)
        every[self._block_of_candidate, self._candidate] = phi_g
        return every

    def owed(self, prices_g: Floats) -> Ints:
        """Return the turns X of each group that minimise lambda X, shape (G,)."""
        seating = self.model.seating
        turn_g = prices_g[: len(seating.members)]
        if self._path is not None:
            return self._path.cheapest(turn_g)
        return seating.members * np.where(turn_g < 0, seating.most, seating.least)

    def least_with(self, prices_g: Floats) -> Floats:
        """Return a lower bound on the plans that contain each candidate [gCO2eq], shape (1, J).

        L with the candidate forced in: the best rounds before it, and as their mirror image those after it.
        With a rule of balance of shape (R, J), for each candidate as each of the rounds.
        """
        rounds, last = self.model.rounds, self.model.windows.last_boundary
        slots, spans = self.candidates
        ends = slots + spans
        phi_g = self.fill_g(prices_g)
        before = self._tabulate(slots, ends, phi_g[self.block])
        after = self._tabulate(last - ends, last - slots, phi_g[self.block[::-1]])
        least = np.full((1 if self._balance is None else rounds, phi_g.shape[1]), np.inf)
        inside = np.minimum(ends, last)
        for r in range(rounds):
            row = least[min(r, len(least) - 1)]
            with_it = before[r, slots] + after[rounds - 1 - r, last - inside]
            np.minimum(row, with_it + phi_g[self.block[r]], out=row)
        return least + self.constant_g(prices_g)

    @property
    def cells(self) -> int:
        """Number of cells that are filled to evaluate L once."""
        return self.costs_g.size if self._balance is None else len(self._candidate) * self.costs_g.shape[1]

    @property
    def candidates(self) -> tuple[Ints, Ints]:
        """Slot and span of each candidate, both of shape (J,)."""
        slots = len(self.model.windows.grid)
        return np.tile(np.arange(slots), len(self.spans)), np.repeat(self.spans, slots)

    def _tabulate(self, slots: Ints, ends: Ints, phi_g: Floats) -> Floats:
        """Return the table D for candidates in any order, shape (R + 1, M + 1); phi by round, (R, J)."""
        best = np.full((self.model.rounds + 1, self.model.windows.last_boundary + 1), np.inf)
        best[0] = 0.0
        use = np.isfinite(phi_g).any(axis=0)
        slots, ends, phi_g = slots[use], ends[use], phi_g[:, use]
        for r in range(1, len(best)):
            np.minimum.at(best[r], ends, best[r - 1, slots] + phi_g[r - 1])
            np.minimum.accumulate(best[r], out=best[r])
        return best

    def choose(self, phi_g: Floats) -> tuple[float, Ints]:
        """Return the least sum of R candidates that do not overlap, and these in order: the programme D.

        Parameters
        ----------
        phi_g : ndarray of float64, shape (B, J)
            Fill cost of each candidate in the rounds of each block [gCO2eq].
        """
        rounds, windows = self.model.rounds, self.model.windows
        slots, last = len(windows.grid), windows.last_boundary
        phi_g = phi_g.reshape(-1, len(self.spans), slots)
        best = np.full((rounds + 1, last + 1), np.inf)
        best[0] = 0.0
        for r in range(1, rounds + 1):
            row = best[r]
            for span, cost in zip(self.spans, phi_g[self.block[r - 1]], strict=True):
                stop = min(slots, last + 1 - span)
                ends = row[span : span + stop]
                np.minimum(ends, best[r - 1, :stop] + cost[:stop], out=ends)
            np.minimum.accumulate(row, out=row)
        chosen = np.empty(rounds, dtype=np.int64)
        boundary = last
        for r in range(rounds, 0, -1):  # trace back along the earliest boundaries that attain the least sum
            boundary = int(np.argmax(best[r] <= best[r, boundary]))
            if len(self.spans) == 1:
                boundary -= int(self.spans[0])
                chosen[r - 1] = boundary
                continue
            starts = boundary - self.spans
            inside = np.flatnonzero((starts >= 0) & (starts < slots))
            sums = best[r - 1, starts[inside]] + phi_g[self.block[r - 1], inside, starts[inside]]
            span = int(inside[np.argmin(sums)])
            boundary = int(starts[span])
            chosen[r - 1] = span * slots + boundary
        return float(best[rounds, last]), chosen


def fill_cost_g(seating: Seating, reduced_g: Floats) -> Floats:
    """Return the cost of filling candidate rounds with the cheapest clients, shape (J,) [gCO2eq].

    Parameters
    ----------
    seating : Seating
        Rules; bounds on turns are ignored, prices stand for them.
    reduced_g : ndarray of float64, shape (J, G)
        Cost of a client of each group, less the price of its turn [gCO2eq].
    """
    order, taken = _cheapest_first(seating, reduced_g, "quicksort")  # ties cost the same, whichever is taken
    cost: Floats = np.einsum("jg,jg->j", np.take_along_axis(reduced_g, order, axis=1), taken)
    return cost


def fill(seating: Seating, reduced_g: Floats) -> Ints:
    """Return the cheapest clients of candidate rounds, counts of shape (J, G); see :func:`fill_cost_g`."""
    order, taken = _cheapest_first(seating, reduced_g, "stable")
    counts = np.zeros(reduced_g.shape, dtype=np.int64)
    np.put_along_axis(counts, order, taken, axis=1)
    return counts


def _cheapest_first(
    seating: Seating, reduced_g: Floats, kind: Literal["quicksort", "stable"]
) -> tuple[Ints, Ints]:
    """Return groups in order of cost, and the clients taken of each; both of shape (J, at most G)."""
    room = seating.room
    # Any ``enough`` groups fill a round; the others need not be sorted.
    enough = int(np.searchsorted(np.cumsum(np.sort(room)), seating.seats)) + 1
    if seating.capped or enough >= 0.7 * len(room):
        order = np.argsort(reduced_g, axis=1, kind=kind)
    else:
        some = np.argpartition(reduced_g, enough - 1, axis=1)[:, :enough]
        some.sort(axis=1)  # ties go to the first group
        within = np.argsort(np.take_along_axis(reduced_g, some, axis=1), axis=1, kind=kind)
        order = np.take_along_axis(some, within, axis=1)
    left = room[order]
    if seating.capped:
        left = _capped(left, seating.location.astype(np.int32)[order], seating.location_cap)
    taken: Ints = np.clip(seating.seats - (np.cumsum(left, axis=1) - left), 0, left)
    return order, taken


def _capped(room: Ints, location: NDArray[np.int32], cap: int) -> Ints:
    """Return the room of groups after those before it in its row have used the cap of their location."""
    narrow = location.astype(np.int16) if location.max() < np.iinfo(np.int16).max else location
    by_place = np.argsort(narrow, axis=1, kind="stable")  # sorting 16 bits is five times as fast
    place, room = np.take_along_axis(location, by_place, axis=1), np.take_along_axis(room, by_place, axis=1)
    before = np.cumsum(room, axis=1) - room
    begins = np.concatenate([np.ones((len(place), 1), bool), place[:, 1:] != place[:, :-1]], axis=1)
    before_place = np.maximum.accumulate(np.where(begins, before, -1), axis=1)
    left = np.empty_like(room)
    np.put_along_axis(left, by_place, np.clip(cap - (before - before_place), 0, room), axis=1)
    return left


def _spans(model: Model) -> Ints:
    """Return the spans of candidate rounds [slots]: all, or geometrically spaced ones where they are many."""
    width, last = model.windows.grid.width, model.windows.last_boundary
    if not model.windows.stagger:
        return np.array([width], dtype=np.int64)
    every = np.arange(width, last + 1, dtype=np.int64)
    cells = model.limits.span_cells // (2 if model.seating.capped else 1)  # a cap makes filling twice as slow
    most = max(6, cells // (len(model.windows.grid) * len(model.groups)))
    if len(every) <= most:
        return every
    growing = np.unique(np.rint(np.geomspace(1, len(every), most)).astype(np.int64)) - 1
    return every[growing]


# -- Bound by client ----------------------------------------------------------------------------------------
# Where powers all differ, groups are buckets of neighbouring powers, and L at their mean powers is no bound.
# But any price for any client gives a bound, so take prices that are linear in power between the means of
# the buckets, lambda_c = alpha + beta p_c, and bound phi by its dual at the thresholds tau of the buckets'
# own solution, which equal the seat price mu where no cap binds::
#
#     phi[j] >= n mu_j - sum_l cap (mu_j - tau_jl) + sum_c min(0, p_c I_j - lambda_c - tau_jl)
#
# Inside a segment of powers the last sum runs over those with p_c (I_j - beta) < alpha + tau: the first or
# the last of the sorted powers, found by one binary search and two prefix sums.


def bound_by_client_g(relaxation: Relaxation, prices_g: Floats) -> float:
    """Return a lower bound on every plan, each client at its own power [gCO2eq].

    Parameters
    ----------
    relaxation : Relaxation
        Of a model whose groups hold clients of different power.
    prices_g : ndarray of float64, shape (G,)
        Prices of a turn at each group's mean power [gCO2eq].
    """
    turn_g = prices_g[: len(relaxation.model.groups)]
    where, price_g = relaxation.priced_candidates(prices_g)
    phi_g, owed_g = _filled_by_client(relaxation, where, turn_g, turn_g - price_g)
    return relaxation.choose(relaxation.by_block(phi_g))[0] + owed_g + relaxation.bounds_g(prices_g)


def _filled_by_client(
    relaxation: Relaxation, where: Ints | slice, turn_g: Floats, seat_g: Floats
) -> tuple[Floats, float]:
    """Return lower bounds on the fill cost of some candidates, and the price of all turns that are owed.

    Parameters
    ----------
    relaxation : Relaxation
        Of the model.
    where : ndarray of int64 or slice
        The candidates, J of them.
    turn_g : ndarray of float64, shape (G,)
        Price of a turn at each group's mean power [gCO2eq].
    seat_g : ndarray of float64, shape (G,) or (J, G)
        Price that a rule of balance puts on a seat [gCO2eq].
    """
    groups, seating = relaxation.model.groups, relaxation.model.seating
    seat_price, place_price = _thresholds(seating, relaxation.costs_g[where] - (turn_g - seat_g))
    phi = seating.seats * seat_price
    if seating.capped:
        phi = phi - seating.location_cap * (seat_price[:, None] - place_price).sum(axis=1)
    owed = 0.0
    last = np.cumsum(groups.size)
    edges = np.append(np.flatnonzero(np.diff(groups.stratum, prepend=-1)), len(groups))
    for low, high in pairwise(edges):
        kilowatts = groups.member_kilowatts[last[low] - groups.size[low] : last[high - 1]][::-1]
        nodes, prices = groups.kilowatts[low:high][::-1], turn_g[low:high][::-1]
        integral = relaxation.integrals[where, groups.klass[low]]
        tau = place_price[:, seating.location[low]] if seating.capped else seat_price
        for alpha, beta, part in _segments(nodes, prices, kilowatts):
            price = alpha + beta * part
            owed += float((price * np.where(price < 0, groups.most[low], groups.least[low])).sum())
            phi = phi + _negative_part(part, integral - beta, alpha + tau - seat_g[..., low])
    return phi, owed


def _thresholds(seating: Seating, reduced: Floats) -> tuple[Floats, Floats]:
    """Return mu (J,) and tau (J, locations): the price of a round's last seat, by round and by location."""
    taken = fill(seating, reduced)
    seat_price = np.where(taken > 0, reduced, -np.inf).max(axis=1)
    if not seating.capped:
        return seat_price, np.empty((len(reduced), 0))
    place_price = np.repeat(seat_price[:, None], int(seating.location.max()) + 1, axis=1)
    refused = np.where(taken < seating.room, reduced, np.inf)
    for g, place in enumerate(seating.location):
        place_price[:, place] = np.minimum(place_price[:, place], refused[:, g])
    return seat_price, place_price


def _segments(nodes: Floats, prices: Floats, kilowatts: Floats) -> list[tuple[float, float, Floats]]:
    """Return (alpha, beta, powers) of each segment between neighbouring nodes; all ascending in power."""
    distinct = np.concatenate([[True], np.diff(nodes) > 0])
    nodes, prices = nodes[distinct], prices[distinct]
    if len(nodes) == 1:
        return [(float(prices[0]), 0.0, kilowatts)]
    slopes = np.diff(prices) / np.diff(nodes)
    cuts = np.searchsorted(kilowatts, nodes[1:-1])
    parts = np.split(kilowatts, cuts)
    alphas = prices[:-1] - slopes * nodes[:-1]
    return [(float(a), float(b), part) for a, b, part in zip(alphas, slopes, parts, strict=True)]


def _negative_part(kilowatts: Floats, slope: Floats, offset: Floats) -> Floats:
    """Return sum over powers p of min(0, p slope - offset), for each slope and offset; shape of those."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = np.searchsorted(kilowatts, offset / slope)  # powers below it are negative where slope > 0
    total = np.concatenate([[0.0], np.cumsum(kilowatts)])
    flat = np.isinf(slope)  # a gap: no client can train
    slope = np.where(flat, 0.0, slope)
    below = slope * total[cut] - offset * cut
    above = slope * (total[-1] - total[cut]) - offset * (len(kilowatts) - cut)
    level = np.minimum(0.0, -offset) * len(kilowatts)
    value = np.where(slope > 0, below, np.where(slope < 0, above, level))
    result: Floats = np.where(flat, 0.0, np.minimum(value, 0.0))
    return result
