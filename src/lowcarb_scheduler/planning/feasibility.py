"""The earliest finish: how soon all rounds can be over, given the grid and the gaps of the forecast.

Where the forecast has no gap, rounds back-to-back from the first slot are the answer. With gaps, candidate
rounds are told apart by their pattern P alone, the classes that can train in them, and a choice of rounds
y_j is feasible if turns z[q, P] of the strata exist for its m_P = sum_{j in P} y_j rounds of each pattern::

    sum_q z[q, P] = n m_P,    z[q, P] <= N_q m_P,    sum_{q in location} z[q, P] <= cap m_P,
    N_q least_q <= sum_P z[q, P] <= N_q most_q,      chosen rounds do not overlap

For whole m_P this is a flow in a network, so whole turns exist, and they can be spread evenly over the rounds
of a pattern. The earliest end is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.planning.assignment import Seating, assign

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowcarb_scheduler.intensity import Ints
    from lowcarb_scheduler.planning.model import Model


@dataclass(frozen=True, slots=True, eq=False)
class Earliest:
    """The soonest way to seat all rounds.

    Parameters
    ----------
    slots : ndarray of int64, shape (r,)
        Openings, r of them: fewer than asked where that is all that finds a gap-free window.
    end_us : int
        When the last of them is over [µs since 1970 UTC].
    complete : bool
        Whether all rounds are there and an assignment obeys every rule.
    """

    slots: Ints
    end_us: int
    complete: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Rounds with at least n clients: opening slot, first slot after, end [µs], who can train (J, K)."""

    slot: Ints
    next_slot: Ints
    end_us: Ints
    possible: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> _Candidates:
        return _Candidates(self.slot[keep], self.next_slot[keep], self.end_us[keep], self.possible[keep])


def find_earliest(model: Model) -> Earliest:
    """Return the earliest rounds that obey every rule of a model."""
    windows, grid = model.windows, model.windows.grid
    if np.isfinite(windows.integrals[: len(grid)]).all():
        slots = np.arange(min(model.rounds, grid.most_rounds), dtype=np.int64) * grid.width
        end_us = int(grid.opens_us[slots[-1]]) + grid.round_us
        return Earliest(slots, end_us, len(slots) == model.rounds)
    strata = _strata(model)
    candidates = _candidates(model)
    candidates = candidates.where(_enough(strata, model.groups.klass[_firsts(model)], candidates.possible))
    chosen = _pack(candidates, model.rounds)
    complete = len(chosen) == model.rounds
    if complete:
        possible = candidates.possible[chosen][:, model.groups.klass[_firsts(model)]]
        complete = assign(strata, np.where(possible, 0.0, np.inf)) is not None
        if not complete:
            better = _search(model, strata, candidates)
            chosen, complete = (chosen, False) if better is None else (better, True)
    end_us = int(candidates.end_us[chosen[-1]]) if len(chosen) else grid.end_us
    return Earliest(candidates.slot[chosen], end_us, complete)


def _firsts(model: Model) -> Ints:
    """Return the first group of each stratum."""
    return np.unique(model.groups.stratum, return_index=True)[1]


def _strata(model: Model) -> Seating:
    """Return the rules of seating with power left out."""
    first, seating = _firsts(model), model.seating
    return Seating(
        seating.seats, np.add.reduceat(seating.members, first), seating.least[first], seating.most[first],
        seating.location[first], seating.location_cap,
    )  # fmt: skip


def _candidates(model: Model) -> _Candidates:
    """Return the shortest rounds for each opening and set of classes they let train."""
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
    end_us = ends[of_slot, column]
    keep = np.unique(np.stack([of_slot, end_us]), axis=1)
    of_slot, end_us = keep
    possible = ends[of_slot, 1:] <= end_us[:, None]
    next_slot = -((grid.opens_us[0] - end_us) // grid.step_us)
    return _Candidates(of_slot, np.maximum(next_slot, of_slot + grid.width), end_us, possible)


def _enough(strata: Seating, klass: Ints, possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where enough clients can train to fill a round, shape (J,)."""
    locations = np.eye(int(strata.location.max()) + 1)[strata.location]
    room = np.minimum((possible[:, klass] * strata.room) @ locations, strata.location_cap)
    enough: NDArray[np.bool_] = room.sum(axis=1) >= strata.seats
    return enough


def _pack(candidates: _Candidates, rounds: int) -> Ints:
    """Return the candidates that end first one after another, by position; at most R."""
    chosen: list[int] = []
    order = np.lexsort((candidates.slot, candidates.end_us))
    free = 0
    for j in order:
        if candidates.slot[j] >= free:
            chosen.append(int(j))
            free = int(candidates.next_slot[j])
            if len(chosen) == rounds:
                break
    return np.array(chosen, dtype=np.int64)


def _search(model: Model, strata: Seating, candidates: _Candidates) -> Ints | None:
    """Return the candidates of the earliest feasible choice, by position; None where there is none."""
    ends = np.unique(candidates.end_us)
    best = _choose(model, strata, candidates)
    if best is None:
        return None
    low, high = 0, int(np.searchsorted(ends, candidates.end_us[best].max()))
    while low < high:
        middle = (low + high) // 2
        within = np.flatnonzero(candidates.end_us <= ends[middle])
        found = _choose(model, strata, candidates.where(candidates.end_us <= ends[middle]))
        if found is None:
            low = middle + 1
        else:
            best = within[found]
            high = int(np.searchsorted(ends, candidates.end_us[best].max()))
    return best


def _choose(model: Model, strata: Seating, candidates: _Candidates) -> Ints | None:
    """Return a feasible choice among candidates, by position in order of time; None where there is none."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, csr_array, diags_array, hstack, identity, kron, vstack

    klass = model.groups.klass[_firsts(model)]
    patterns, pattern = np.unique(candidates.possible, axis=0, return_inverse=True)
    choices, kinds, parts = len(pattern), len(patterns), len(klass)
    if choices == 0:
        return None
    # Columns: y_j, then z[P, q] with q fastest.
    member = csr_array((np.ones(choices), (pattern, np.arange(choices))), shape=(kinds, choices))
    z_of_pattern = kron(identity(kinds), np.ones((1, parts)), format="csr")
    z_of_part = kron(np.ones((1, kinds)), identity(parts), format="csr")
    place = csr_array((np.ones(parts), (strata.location, np.arange(parts))))
    room = (1.0 * patterns[:, klass] * strata.room).ravel()
    lengths = candidates.next_slot - candidates.slot
    covered = np.repeat(candidates.slot - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    cover = coo_array((np.ones(len(covered)), (covered, np.repeat(np.arange(choices), lengths)))).tocsr()
    wide = kinds * parts
    rounds_of = kron(member, np.ones((parts, 1)))  # m_P beside every z[P, q]
    rounds_by_place = kron(member, np.ones((place.shape[0], 1)))
    owed, allowed = 1.0 * strata.members * strata.least, 1.0 * strata.members * strata.most
    rows: list[tuple[csr_array, ArrayLike, ArrayLike]] = [
        (hstack([cover, csr_array((cover.shape[0], wide))]), -np.inf, 1.0),
        (hstack([np.ones((1, choices)), csr_array((1, wide))]), model.rounds, model.rounds),
        (hstack([-strata.seats * member, z_of_pattern]), 0.0, 0.0),
        (hstack([-diags_array(room) @ rounds_of, identity(wide)]), -np.inf, 0.0),
        (hstack([-strata.location_cap * rounds_by_place, kron(identity(kinds), place)]), -np.inf, 0.0),
        (hstack([csr_array((parts, choices)), z_of_part]), owed, allowed),
    ]
    lower = np.concatenate([np.full(block.shape[0], low) for block, low, _ in rows])
    upper = np.concatenate([np.full(block.shape[0], high) for block, _, high in rows])
    columns = choices + wide
    answer = milp(
        np.zeros(columns),
        constraints=LinearConstraint(vstack([block for block, _, _ in rows]).tocsc(), lower, upper),
        integrality=np.repeat([1, 0], [choices, wide]),
        bounds=Bounds(0.0, np.repeat([1.0, np.inf], [choices, wide])),
    )
    if answer.x is None:
        return None
    return np.flatnonzero(answer.x[:choices] > 0.5)
