"""Mixed-integer programme: small jobs solved to proven optimality by branch and bound.

With y_j = 1 if candidate round j takes place, and x_jg clients of group g that train in it::

    min sum c[j, g] x[j, g]
    sum_j y_j = R,     at most one y_j covers any moment
    sum_g x[j, g] = n y_j,    x[j, g] <= N_g y_j,    sum_{g in location} x[j, g] <= cap y_j
    N_g least_g <= sum_j x[j, g] <= N_g most_g

Only y has to be declared integer: once it is, the rest is a network flow, whose vertices are integral. The
caller leaves out candidates that no plan better than the best known one can contain.

A rule of balance depends on the order of rounds: a candidate then stands for one round r of the R, each r has
one candidate, those of neighbouring rounds follow each other, and the turns C[l, r] of each location after
each round are integers within bounds (:mod:`~lowcarb_scheduler.planning.balance`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike
    from scipy.optimize import OptimizeResult
    from scipy.sparse import csr_array

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.balance import Balance
    from lowcarb_scheduler.planning.model import Model

    Rows = tuple[csr_array, ArrayLike, ArrayLike]  # matrix, lower and upper bounds of its rows
    Entries = tuple[Ints, Ints, Floats]  # row, column and value of each entry of a sparse matrix

_MOST_COLUMNS: Final = 20_000  # candidates x groups
_MOST_BALANCED: Final = 2_000  # the same with a rule of balance, where candidates are told apart by round
_MOST_CHOSEN: Final = 400  # the same where it leaves turns open: rounding them costs little, proving it much
_MOST_NODES: Final = 5_000  # of the branch-and-bound tree; a limit in seconds would make plans irreproducible
_SCALE: Final = 1e4  # a plan in the solver's units, whose tolerances are absolute (1e-6)


class ProvenOpenings(NamedTuple):
    """Result of branch and bound: openings, a lower bound, and whether they meet."""

    slots: Ints  # (R,)
    bound_g: float  # no plan emits less [gCO2eq]
    optimal: bool  # to the solver's tolerance


def occupied_slots(slots: Ints, spans: Ints) -> csr_array:
    """Return a matrix of slots by candidate rounds, 1 where a round that opens at a slot occupies a slot.

    Parameters
    ----------
    slots, spans : ndarray of int64, shape (J,)
        Opening and length of each candidate [slots].
    """
    from scipy.sparse import coo_array

    covered = np.repeat(slots - (np.cumsum(spans) - spans), spans) + np.arange(spans.sum())
    return coo_array((np.ones(len(covered)), (covered, np.repeat(np.arange(len(slots)), spans)))).tocsr()


def solve_rows(
    costs: Floats, rows: Sequence[Rows], choices: int, upper: Floats, options: Mapping[str, Any] | None = None
) -> OptimizeResult:
    """Minimise a linear cost of columns >= 0, of which the first ``choices`` are integers.

    Parameters
    ----------
    costs, upper : ndarray of float64, shape (columns,)
        Cost and upper bound of each column.
    rows : sequence of (matrix, low, high)
        Constraints low <= matrix @ columns <= high.
    choices : int
        Number of integer columns.
    options : mapping, optional
        Options of :func:`scipy.optimize.milp`.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import vstack

    low, high = (
        np.concatenate([np.full(row[0].shape[0], row[side], dtype=float) for row in rows]) for side in (1, 2)
    )
    return milp(
        costs,
        constraints=LinearConstraint(vstack([row[0] for row in rows]).tocsc(), low, high),
        integrality=np.repeat([1, 0], [choices, len(costs) - choices]),
        bounds=Bounds(0.0, upper),
        options=options,
    )


def solve_exactly(
    model: Model, slots: Ints, spans: Ints, costs_g: Floats, best_g: float, order: Ints
) -> ProvenOpenings | None:
    """Find the openings of a best plan, with a proof; None if the programme is too large.

    Parameters
    ----------
    model : Model
        The problem.
    slots, spans : ndarray of int64, shape (J,)
        Candidate rounds: opening, and length [slots].
    costs_g : ndarray of float64, shape (J, G)
        Emissions of one client of each group in each candidate [gCO2eq].
    best_g : float
        Emissions of a known plan [gCO2eq].
    order : ndarray of int64, shape (J,)
        Round that each candidate can be, from 0; of no meaning without a rule of balance.
    """
    from scipy.sparse import csr_array, hstack, identity, kron

    seating, choices, groups = model.seating, len(slots), len(model.groups)
    most = _MOST_COLUMNS
    if seating.balance is not None:
        most = _MOST_CHOSEN if seating.balance.turns is None else _MOST_BALANCED
    if choices * groups > most:
        return None
    # Columns: y_j, then x[j, g] with g fastest.
    wide = choices * groups
    occupied = occupied_slots(slots, spans)
    per_round = kron(identity(choices), np.ones((1, groups)))
    per_group = kron(np.ones((1, choices)), identity(groups))
    room = kron(identity(choices), seating.room[:, None].astype(float))
    rows: list[Rows] = [
        (hstack([np.ones((1, choices)), csr_array((1, wide))]), model.rounds, model.rounds),
        (hstack([occupied, csr_array((occupied.shape[0], wide))]), -np.inf, 1.0),
        (hstack([-seating.seats * identity(choices), per_round]), 0.0, 0.0),
        (hstack([-room, identity(wide)]), -np.inf, 0.0),
        (hstack([csr_array((groups, choices)), per_group]), seating.members * seating.least,
         seating.members * seating.most),
    ]  # fmt: skip
    if seating.capped:
        place = csr_array((np.ones(groups), (seating.location, np.arange(groups))))
        caps = kron(identity(choices), np.full((place.shape[0], 1), float(seating.location_cap)))
        rows.append((hstack([-caps, kron(identity(choices), place)]), -np.inf, 0.0))
    upper = np.concatenate([np.ones(choices), np.tile(seating.room, choices)])
    integers = choices
    if seating.balance is not None:
        rows = _in_order(model, rows, slots, spans, order)
        integers += seating.balance.reach.size
        upper = np.append(np.full(seating.balance.reach.size, np.inf), upper)
    scale = _SCALE / max(abs(best_g), float(np.abs(costs_g).max()), 1e-12)
    found = solve_rows(
        np.concatenate([np.zeros(len(upper) - wide), costs_g.ravel() * scale]),
        rows,
        integers,
        upper,
        # The bound has removed what presolve could; on programmes this small it would take half of the time.
        {"mip_rel_gap": 0.0, "node_limit": _MOST_NODES, "presolve": False},
    )
    if found.x is None:
        return None
    chosen = np.sort(slots[found.x[integers - choices : integers] > 0.5])
    return ProvenOpenings(chosen, min(float(found.mip_dual_bound) / scale, best_g), found.status == 0)


def _in_order(model: Model, rows: Sequence[Rows], slots: Ints, spans: Ints, order: Ints) -> list[Rows]:
    """Return the rows with columns C before them, and the rows of a rule of balance."""
    from scipy.sparse import csr_array, hstack

    seating, balance = model.seating, model.seating.balance
    assert balance is not None, "only a rule of balance asks for an order"
    (rounds, places), choices, groups = balance.reach.shape, len(slots), len(model.groups)
    stock, wide = rounds * places, choices * groups
    columns = stock + choices + wide

    def ones(index: Ints, column: Ints, count: int) -> csr_array:
        return csr_array((np.ones(len(index)), (index, column)), shape=(count, columns))

    each, first = np.arange(choices), stock
    result: list[Rows] = [(hstack([csr_array((row[0].shape[0], stock)), row[0]]), *row[1:]) for row in rows]
    result.append((ones(order, first + each, rounds), 1.0, 1.0))
    result.append((follow_rows(slots, spans, order, rounds, first, columns), -np.inf, 1.0))
    flows = np.arange(wide)
    taken = ones(order[flows // groups] * places + seating.location[flows % groups], first + choices + flows,
                 stock)  # fmt: skip
    result.append((chain_rows(rounds, places, 0, columns) - taken, 0.0, 0.0))
    return [*result, *balance_rows(balance, columns)]


def follow_rows(slots: Ints, spans: Ints, order: Ints, rounds: int, first: int, columns: int) -> csr_array:
    """Return rows of which each is at most 1 if rounds follow each other.

    Parameters
    ----------
    slots, spans, order : ndarray of int64, shape (J,)
        Opening and length of each candidate [slots], and the round that it can be.
    rounds : int
        Number of rounds.
    first, columns : int
        Column of the first candidate, and number of columns.
    """
    from scipy.sparse import csr_array

    # Round r opens at time t or before, or round r - 1 ends after it: not both.
    times = np.unique(slots)
    opens = np.nonzero((slots[:, None] <= times) & (order > 0)[:, None])
    ends = np.nonzero(((slots + spans)[:, None] > times) & (order < rounds - 1)[:, None])
    row = np.append(order[opens[0]] * len(times) + opens[1], (order[ends[0]] + 1) * len(times) + ends[1])
    column = first + np.append(opens[0], ends[0])
    return csr_array((np.ones(len(row)), (row, column)), shape=(rounds * len(times), columns))


# -- Turns of locations after each round ---------------------------------------------------------------------


def chain_entries(rounds: int, places: int, first: int) -> Entries:
    """Return the entries of :func:`chain_rows`."""
    own, later = np.arange(rounds * places), np.arange(places, rounds * places)
    values = np.repeat([1.0, -1.0], [len(own), len(later)])
    return np.append(own, later), first + np.append(own, later - places), values


def chain_rows(rounds: int, places: int, first: int, columns: int) -> csr_array:
    """Return the rows C[l, r] - C[l, r-1], by round and location, for columns C from ``first`` on."""
    return _matrix(chain_entries(rounds, places, first), rounds * places, columns)


def distance_entries(balance: Balance, first: int) -> tuple[Entries, Floats]:
    """Return entries and constant of the distance of turns C from their share, for columns from `first`."""
    rounds, places = balance.reach.shape
    own = np.arange(rounds * places)
    last = first + (rounds - 1) * places + own % places
    values = np.append(np.ones(len(own)), -np.repeat(balance.part, places))
    entries = np.append(own, own), np.append(first + own, last), values
    return entries, np.outer(1.0 - balance.part, balance.done).ravel()


def distance_rows(balance: Balance, first: int, columns: int) -> tuple[csr_array, Floats]:
    """Return rows and constant of the distance of turns C from their share, for columns from ``first`` on."""
    entries, constant = distance_entries(balance, first)
    return _matrix(entries, balance.reach.size, columns), constant


def _matrix(entries: Entries, rows: int, columns: int) -> csr_array:
    """Return the matrix of entries; those of one place add up."""
    from scipy.sparse import csr_array

    row, column, value = entries
    return csr_array((value, (row, column)), shape=(rows, columns))


def balance_rows(balance: Balance, columns: int) -> list[Rows]:
    """Return the bounds of a rule of balance on columns C, which are the first ones."""
    from scipy.sparse import eye_array

    low, high = map(np.ravel, balance.bounds())
    if balance.turns is not None:
        return [(eye_array(balance.reach.size, columns, format="csr"), low, high)]
    rows, constant = distance_rows(balance, 0, columns)
    return [(rows, low - constant, high - constant)]
