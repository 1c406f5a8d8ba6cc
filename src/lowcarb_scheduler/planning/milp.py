"""Mixed-integer programme: small jobs solved to proven optimality by branch and bound.

With y_j = 1 if candidate round j takes place, and x_jg clients of group g that train in it::

    min sum c[j, g] x[j, g]
    sum_j y_j = R,     at most one y_j covers any moment
    sum_g x[j, g] = n y_j,    x[j, g] <= N_g y_j,    sum_{g in location} x[j, g] <= cap y_j
    N_g least_g <= sum_j x[j, g] <= N_g most_g

Only y has to be declared integer: once it is, the rest is a network flow, whose vertices are integral. The
caller leaves out candidates that no plan better than the best known one can contain.
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
    from lowcarb_scheduler.planning.model import Model

    Rows = tuple[csr_array, ArrayLike, ArrayLike]  # matrix, lower and upper bounds of its rows

_MOST_COLUMNS: Final = 20_000  # candidates x groups
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
    model: Model, slots: Ints, spans: Ints, costs_g: Floats, best_g: float
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
    """
    from scipy.sparse import csr_array, hstack, identity, kron

    seating, choices, groups = model.seating, len(slots), len(model.groups)
    if choices * groups > _MOST_COLUMNS:
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
    scale = _SCALE / max(abs(best_g), float(np.abs(costs_g).max()), 1e-12)
    found = solve_rows(
        np.concatenate([np.zeros(choices), costs_g.ravel() * scale]),
        rows,
        choices,
        np.concatenate([np.ones(choices), np.tile(seating.room, choices)]),
        # The bound has removed what presolve could; on programmes this small it would take half of the time.
        {"mip_rel_gap": 0.0, "node_limit": _MOST_NODES, "presolve": False},
    )
    if found.x is None:
        return None
    chosen = np.sort(slots[found.x[:choices] > 0.5])
    return ProvenOpenings(chosen, min(float(found.mip_dual_bound) / scale, best_g), found.status == 0)
