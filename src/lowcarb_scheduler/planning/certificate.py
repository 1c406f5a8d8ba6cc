"""A lower bound for fleets whose powers all differ, client by client.

Groups are then buckets of neighbouring powers, and L at their mean powers bounds nothing. But any price for
any client gives a bound, so take prices that are linear in power between the buckets' means,
lambda_c = alpha + beta p_c, and bound phi by its dual at the buckets' own thresholds tau, which are mu where
no location's cap binds::

    phi[j] >= n mu_j - sum_l cap (mu_j - tau_jl) + sum_c min(0, p_c I_j - lambda_c - tau_jl)

Inside a segment of powers the last sum runs over those with p_c (I_j - beta) < alpha + tau: the first or the
last of the sorted powers, one binary search and two prefix sums away.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lowcarb_scheduler.planning.relaxation import fill

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats
    from lowcarb_scheduler.planning.relaxation import Relaxation


def bound_by_client_g(relaxation: Relaxation, prices_g: Floats) -> float:
    """Return a lower bound on every plan, each client at its own power [gCO2eq].

    Parameters
    ----------
    relaxation : Relaxation
        Of a model whose groups hold clients of different power.
    prices_g : ndarray of float64, shape (G,)
        Prices of a turn at each group's mean power [gCO2eq].
    """
    model = relaxation.model
    groups, seating = model.groups, model.seating
    seat_price, place_price = _thresholds(relaxation, prices_g)
    phi = seating.seats * seat_price
    if seating.capped:
        phi = phi - seating.location_cap * (seat_price[:, None] - place_price).sum(axis=1)
    owed = 0.0
    last = np.cumsum(groups.size)
    edges = np.append(np.flatnonzero(np.diff(groups.stratum, prepend=-1)), len(groups))
    for low, high in pairwise(edges):
        kilowatts = groups.member_kilowatts[last[low] - groups.size[low] : last[high - 1]][::-1]
        nodes, prices = groups.kilowatts[low:high][::-1], prices_g[low:high][::-1]
        integral = relaxation.integrals[:, groups.klass[low]]
        tau = place_price[:, seating.location[low]] if seating.capped else seat_price
        for alpha, beta, part in _segments(nodes, prices, kilowatts):
            price = alpha + beta * part
            owed += float((price * np.where(price < 0, groups.most[low], groups.least[low])).sum())
            phi = phi + _negative_part(part, integral - beta, alpha + tau)
    phi = np.where(relaxation.fits, phi, np.inf)
    return relaxation.choose(phi)[0] + owed


def _thresholds(relaxation: Relaxation, prices_g: Floats) -> tuple[Floats, Floats]:
    """Return mu (J,) and tau (J, locations): costs of the last seat of a round, and of a place in it."""
    seating = relaxation.model.seating
    reduced = relaxation.costs_g - prices_g
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
    """Return (alpha, beta, powers) of each stretch between neighbouring nodes; all ascending in power."""
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
    flat = np.isinf(slope)  # nobody trains in a gap
    slope = np.where(flat, 0.0, slope)
    below = slope * total[cut] - offset * cut
    above = slope * (total[-1] - total[cut]) - offset * (len(kilowatts) - cut)
    level = np.minimum(0.0, -offset) * len(kilowatts)
    value = np.where(slope > 0, below, np.where(slope < 0, above, level))
    result: Floats = np.where(flat, 0.0, np.minimum(value, 0.0))
    return result
