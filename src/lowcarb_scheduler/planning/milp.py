"""Small jobs to proven optimality: a mixed-integer programme over the candidate rounds that can still matter.

With y_j whether candidate round j takes place and x_jg how many of group g train in it::

    min sum c[j, g] x[j, g]
    sum_j y_j = R,     at most one y_j covers any moment
    sum_g x[j, g] = n y_j,    x[j, g] <= N_g y_j,    sum_{g in location} x[j, g] <= cap y_j
    N_g least_g <= sum_j x[j, g] <= N_g most_g

Only y has to be whole: once it is, the rest is a flow in a network. A candidate is left out if every plan
with it costs more than the best plan known, by the relaxation with that candidate forced in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.lagrangian import Relaxation

_MOST_COLUMNS: Final = 20_000  # candidates that matter x groups
_MOST_NODES: Final = 5_000
_SCALE: Final = 1e4  # a plan in the solver's units, whose tolerances are absolute (1e-6)


class Proven(NamedTuple):
    """What branch and bound found."""

    slots: Ints  # (R,) openings
    bound_g: float  # no plan emits less
    optimal: bool  # whether the openings are proven best, to the solver's tolerance


def solve_exactly(relaxation: Relaxation, prices_g: Floats, best_g: float) -> Proven | None:
    """Return the openings of a best plan, with a proof; None if the programme is too large.

    Parameters
    ----------
    relaxation : Relaxation
        Of the model, which tells every candidate round apart.
    prices_g : ndarray of float64, shape (G,)
        Good prices of turns [gCO2eq].
    best_g : float
        Emissions of a known plan [gCO2eq].
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, csr_array, hstack, identity, kron, vstack

    model, seating = relaxation.model, relaxation.model.seating
    slack = 1e-9 * max(abs(best_g), 1.0)
    kept = np.flatnonzero(relaxation.least_with(prices_g) <= best_g + slack)
    choices, groups = len(kept), len(seating.members)
    if choices * groups > _MOST_COLUMNS:
        return None
    slots = kept % len(model.windows.grid)
    lengths = relaxation.spans[kept // len(model.windows.grid)]
    covered = np.repeat(slots - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    # Columns: y_j, then x[j, g] with g fastest.
    wide = choices * groups
    cover = coo_array((np.ones(len(covered)), (covered, np.repeat(np.arange(choices), lengths)))).tocsr()
    per_round = kron(identity(choices), np.ones((1, groups)))
    per_group = kron(np.ones((1, choices)), identity(groups))
    room = kron(identity(choices), seating.room[:, None].astype(float))
    no_x = csr_array((1, wide))
    rows = [
        (hstack([np.ones((1, choices)), no_x]), model.rounds, model.rounds),
        (hstack([cover, csr_array((cover.shape[0], wide))]), -np.inf, 1.0),
        (hstack([-seating.seats * identity(choices), per_round]), 0.0, 0.0),
        (hstack([-room, identity(wide)]), -np.inf, 0.0),
        (hstack([csr_array((groups, choices)), per_group]), seating.members * seating.least,
         seating.members * seating.most),
    ]  # fmt: skip
    if seating.capped:
        place = csr_array((np.ones(groups), (seating.location, np.arange(groups))))
        caps = kron(identity(choices), np.full((place.shape[0], 1), float(seating.location_cap)))
        rows.append((hstack([-caps, kron(identity(choices), place)]), -np.inf, 0.0))
    costs_g = relaxation.costs_g[kept].ravel()
    scale = _SCALE / max(abs(best_g), float(np.abs(costs_g).max()), 1e-12)
    answer = milp(
        np.concatenate([np.zeros(choices), costs_g * scale]),
        constraints=LinearConstraint(
            vstack([block for block, _, _ in rows]).tocsc(),
            np.concatenate([np.full(block.shape[0], low, dtype=float) for block, low, _ in rows]),
            np.concatenate([np.full(block.shape[0], high, dtype=float) for block, _, high in rows]),
        ),
        integrality=np.repeat([1, 0], [choices, wide]),
        bounds=Bounds(0.0, np.concatenate([np.ones(choices), np.tile(seating.room, choices)])),
        # What presolve could take out is out already; on programmes this small it takes half of the time.
        options={"mip_rel_gap": 0.0, "node_limit": _MOST_NODES, "presolve": False},
    )
    if answer.x is None:
        return None
    chosen = np.sort(slots[answer.x[:choices] > 0.5])
    return Proven(chosen, min(float(answer.mip_dual_bound) / scale, best_g), answer.status == 0)
