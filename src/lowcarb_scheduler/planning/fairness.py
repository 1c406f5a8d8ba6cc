"""Fairness: the number of turns each client takes, decided before carbon intensity is considered.

Equal participation is water-filling. With a_c turns done, R rounds and S = R n seats, the turns to come are::

    q_c = clip(level - a_c, 0, R),    level the largest with sum_c q_c <= S

and the seats left over go one each to clients that are exactly at the level, in a seeded order, as long as
the cap of their location leaves it seats. Any such q can be seated with n distinct clients in each round:
sum q = R n and q <= R suffice (hand the turns out cyclically), and under a cap k of a location's clients in
a round, sum q <= R k over the location. An optimiser that could choose who takes the odd turns would give
them to low powers and clean locations: that looks like a saving but only moves the work.

Where the model is corrected for who trains how often, turns may differ from location to location, within a
range. Turns mu +- rho mu have a squared coefficient of variation of at most rho^2, and Jain's index [1]_ is
1 / (1 + cv^2). With random sampling, which draws n of C clients a round, cv^2 is (1 - n / C) / mu. So ::

    rho = min(0.4, sqrt((1 - n / C) / mu)),    mu = R n / C

is the widest range in which turns are at least as even as random sampling makes them. Inside a location its
clients share its turns by water-filling.

.. [1] R. Jain, D. Chiu and W. Hawe, A quantitative measure of fairness and discrimination for resource
       allocation in shared computer systems, DEC TR-301 (1984).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.errors import PlanInfeasibleError

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Ints
    from lowcarb_scheduler.planning.job import Job


_WIDEST: Final = 0.4  # of mu: wider ranges were measured to cost accuracy in some tasks


@dataclass(frozen=True, slots=True)
class TurnRange:
    """Range of turns that may differ from location to location; clients of one location take equally many.

    Parameters
    ----------
    least, most : int
        Bounds on the turns of each client, those done before included.
    """

    least: int
    most: int


def squared_variation_of_random(mean: float, clients_per_round: int, clients: int) -> float:
    """Return the squared coefficient of variation of the turns that random sampling gives.

    Parameters
    ----------
    mean : float
        Mean turns of a client, mu.
    clients_per_round, clients : int
        Clients in a round, n, out of C.
    """
    return max(1.0 - clients_per_round / clients, 0.0) / mean


def as_even_as_random(rounds: int, clients_per_round: int, clients: int) -> TurnRange | None:
    """Return the widest range with turns at least as even as random sampling; None if they have to be equal.

    Parameters
    ----------
    rounds, clients_per_round, clients : int
        Size of the whole job.
    """
    mean = rounds * clients_per_round / clients
    part = min(_WIDEST, sqrt(squared_variation_of_random(mean, clients_per_round, clients)))
    least = min(ceil((1.0 - part) * mean - 1e-9), floor(mean))
    most = max(floor((1.0 + part) * mean + 1e-9), ceil(mean))
    most = min(most, rounds)
    return TurnRange(least, most) if most - least > 1 else None


def range_of(job: Job) -> TurnRange | None:
    """Return the range in which a job's turns differ by location; None where they do not."""
    if isinstance(job.participation, TurnRange):
        return job.participation
    if job.participation != "auto" or not job.corrected:
        return None
    return as_even_as_random(job.rounds, job.clients_per_round, len(job.fleet))


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Bounds on the turns each client takes in this job.

    Parameters
    ----------
    least, most : ndarray of int64, shape (C,)
        0 <= least <= most <= rounds; equal to each other where participation is equal.
    """

    least: Ints
    most: Ints


def decide_turns(job: Job) -> Turns:
    """Decide the bounds on the turns of each client.

    Raises
    ------
    PlanInfeasibleError
        If the fleet is smaller than a round, or no turns add up to the seats within the bounds.
    """
    clients, seats = len(job.fleet), job.rounds * job.clients_per_round
    if job.clients_per_round > clients:
        reason = f"a round takes {job.clients_per_round} distinct clients and the fleet has {clients}"
        raise PlanInfeasibleError(reason, job.clients_per_round, clients, job.finish_by)
    if (bounds := range_of(job)) is not None:
        return _remaining(job, bounds.least, bounds.most, seats)
    if job.participation in ("equal", "auto"):
        room = location_cap(job) * job.rounds
        turns = fill_evenly(job.fleet.turns_done, seats, job.rounds, job.seed, job.fleet.location_index, room)
        return Turns(turns, turns)
    least, most = job.participation if isinstance(job.participation, tuple) else (0, job.rounds)
    if job.bounds_count_done and job.participation != "any":
        return _remaining(job, least, most, seats)
    if least > job.rounds:
        reason = f"participation asks {least} turns of every client, one a round at most"
        raise PlanInfeasibleError(reason, least, job.rounds, job.finish_by)
    most = min(most, job.rounds)
    if clients * least > seats:
        asked = f"participation asks at least {least} turn(s) of each of {clients} clients"
        reason = f"{asked}, more than there are seats in {job.rounds} round(s)"
        raise PlanInfeasibleError(reason, clients * least, seats, job.finish_by)
    if clients * most < seats:
        allowed = f"participation allows at most {most} turn(s) to each of {clients} clients"
        reason = f"{allowed}, fewer than there are seats in {job.rounds} round(s)"
        raise PlanInfeasibleError(reason, seats, clients * most, job.finish_by)
    return Turns(np.full(clients, least, dtype=np.int64), np.full(clients, most, dtype=np.int64))


def share_out(job: Job, turns: Ints) -> Ints:
    """Return the turns of each client, shape (C,), from those of each location, shape (L,)."""
    shared = np.zeros(len(job.fleet), dtype=np.int64)
    for index, count in enumerate(turns.tolist()):
        here = job.fleet.location_index == index
        if here.any():
            shared[here] = fill_evenly(job.fleet.turns_done[here], count, job.rounds, job.seed)
    return shared


def _remaining(job: Job, least: int, most: int, seats: int) -> Turns:
    """Return the bounds that are left after the turns done, loosened for all clients where they conflict."""
    done = job.fleet.turns_done

    def left(bound: int) -> Ints:
        return np.clip(bound - done, 0, job.rounds)

    while left(least).sum() > seats:
        least -= 1
    while left(most).sum() < seats:
        most += 1
    return Turns(left(least), left(max(least, most)))


def location_cap(job: Job) -> int:
    """Return the largest number of clients of one location in a round, at least one."""
    return most_of_one_location(job.max_location_share, job.clients_per_round)


def with_cap(job: Job, cap: int) -> Job:
    """Return a job whose cap is this number of clients of one location in a round."""
    return replace(job, max_location_share=min(cap / job.clients_per_round, 1.0))


def most_of_one_location(share: float, seats: int) -> int:
    """Return the largest number of seats within a share of a round, at least one."""
    return max(1, floor(share * seats + 1e-9))  # 0.29 x 100 is 28.999999999999996 in floats


def open_turns(job: Job, spread: int = 0) -> Turns:
    """Return bounds within which turns are equal whoever takes the odd ones.

    Parameters
    ----------
    job : Job
        Job with equal participation.
    spread : int
        Turns by which they may differ further, to either side.
    """
    done, seats = job.fleet.turns_done, job.rounds * job.clients_per_round
    level = _level(done, seats, job.rounds)
    least, most = (np.clip(level + more - done, 0, job.rounds) for more in (-spread, 1 + spread))
    return Turns(least, most)


def hand_out(job: Job, turns: Turns, part: Ints, taken: Ints) -> Turns:
    """Return the turns of each client from those that parts of a fleet take together.

    Parameters
    ----------
    job : Job
        With the seed of the order in which clients of a part take one more turn.
    turns : Turns
        Bounds that are alike within a part, and differ by one at most.
    part : ndarray of int64, shape (C,)
        Part of each client, of Q; -1 for one that takes no turn.
    taken : ndarray of int64, shape (Q,)
        Turns that each part takes.
    """
    order = np.random.default_rng(job.seed).permutation(len(part))
    given = turns.least.copy()
    for index, count in enumerate(taken.tolist()):
        here = order[part[order] == index]
        given[here[: count - int(given[here].sum())]] += 1
    return Turns(given, given)


def is_seated(job: Job, turns: Turns) -> bool:
    """Return whether the cap on locations leaves seats for these turns, and fills every round."""
    cap, fleet, rounds, seats = location_cap(job), job.fleet, job.rounds, job.clients_per_round
    clients = np.bincount(fleet.location_index, minlength=len(fleet.locations))
    owed, allowed = (np.bincount(fleet.location_index, bound) for bound in (turns.least, turns.most))
    fills = np.minimum(clients, cap).sum() >= seats
    return bool(
        fills and owed.max() <= cap * rounds and np.minimum(allowed, cap * rounds).sum() >= rounds * seats
    )


def _level(turns_done: Ints, seats: int, rounds: int) -> int:
    """Return the largest level up to which all clients can be filled with these seats."""
    # Bisection; at the upper end every client trains in every round.
    low, high = int(turns_done.min()), int(turns_done.max()) + rounds
    while low < high:
        level = (low + high + 1) // 2
        enough = np.clip(level - turns_done, 0, rounds).sum() <= seats
        low, high = (level, high) if enough else (low, level - 1)
    return low


def fill_evenly(
    turns_done: Ints,
    seats: int,
    rounds: int,
    seed: int,
    location: Ints | None = None,
    most: int | None = None,
) -> Ints:
    """Give turns to the clients with fewest first.

    Parameters
    ----------
    turns_done : ndarray of int64, shape (C,)
        Turns completed before.
    seats : int
        Turns to give, at most C x rounds.
    rounds : int
        Largest number of turns for one client.
    seed : int
        Seed of the shuffle that breaks ties; the order of ids would not do, as neighbours often share a
        location.
    location : ndarray of int64, shape (C,), optional
        Location of each client, for ``most``.
    most : int, optional
        Turns of a location beyond which its clients take no odd turn while others can.

    Returns
    -------
    ndarray of int64, shape (C,)
        Turns to come; they add up to ``seats``.
    """
    level = _level(turns_done, seats, rounds)
    turns: Ints = np.clip(level - turns_done, 0, rounds)
    left = seats - int(turns.sum())
    if left:
        ready = np.clip(level + 1 - turns_done, 0, rounds) > turns
        order = np.random.default_rng(seed).permutation(len(turns_done))
        order = order[ready[order]]
        if location is not None and most is not None:
            room = most - np.bincount(location, turns).astype(np.int64)
            full = _rank(location[order]) >= room[location[order]]
            order = np.concatenate([order[~full], order[full]])
        turns[order[:left]] += 1
    return turns


def _rank(location: Ints) -> Ints:
    """Return the number of earlier entries of the same location, for each entry."""
    by_location = np.argsort(location, kind="stable")
    first = np.searchsorted(location[by_location], location[by_location])
    rank = np.empty_like(location)
    rank[by_location] = np.arange(len(location)) - first
    return rank
