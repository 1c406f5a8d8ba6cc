"""Aggregation: groups of interchangeable clients, so that a million plan as quickly as a thousand.

Clients that share location, training time, power and turns to come are interchangeable, so it is enough to
decide how many of a group train in each round, x[r, g] <= N_g. Handing those seats out cyclically inside the
group gives each member floor or ceil of X_g / N_g turns, and never two in a round, because the group's seats
in a round are at most N_g consecutive ones.

Where powers all differ, a stratum (clients that differ by power alone) is cut into buckets of neighbouring
powers, each priced at its mean. The members of the stratum are then matched to its seats exactly: with one
turn each, the largest power takes the cleanest seat, optimal by the rearrangement inequality [1]_.

.. [1] Hardy, Littlewood and Pólya, Inequalities, 2nd ed. (1952), section 10.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.fleet import Fleet


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Classes of clients: the K pairs of location and training time that occur in a fleet.

    Parameters
    ----------
    location : ndarray of int64, shape (K,)
        Position in the fleet's locations.
    duration_us : ndarray of int64, shape (K,)
        Training time [µs].
    of_client : ndarray of int64, shape (C,)
        The class of each client.
    """

    location: Ints
    duration_us: Ints
    of_client: Ints

    @classmethod
    def of(cls, fleet: Fleet, durations_us: Ints) -> Classes:
        """Sort the clients of a fleet into classes; ``durations_us`` [µs] has shape (C,)."""
        durations, duration_index = np.unique(durations_us, return_inverse=True)
        code = fleet.location_index * len(durations) + duration_index
        # Counting is several times as fast as sorting a million codes.
        used = np.flatnonzero(np.bincount(code))
        position = np.full(len(fleet.locations) * len(durations), -1, dtype=np.int64)
        position[used] = np.arange(len(used))
        return cls(used // len(durations), durations[used % len(durations)], position[code])


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of clients that are planned as one, G of them.

    Parameters
    ----------
    klass : ndarray of int64, shape (G,)
        Class (location and training time) of each group.
    stratum : ndarray of int64, shape (G,)
        Stratum of each group, ascending; groups of one stratum differ by power alone.
    kilowatts : ndarray of float64, shape (G,)
        Mean power of the members [kW].
    size : ndarray of int64, shape (G,)
        Number of members, N_g.
    least, most : ndarray of int64, shape (G,)
        Bounds on the turns of each member.
    members : ndarray of int64, shape (sum of N_g,)
        Clients by group; inside a stratum by descending power, then id.
    member_kilowatts : ndarray of float64, shape (sum of N_g,)
        Power of each of them [kW].
    exact : bool
        Whether all members of each group draw the same power.
    """

    klass: Ints
    stratum: Ints
    kilowatts: Floats
    size: Ints
    least: Ints
    most: Ints
    members: Ints
    member_kilowatts: Floats
    exact: bool

    def __len__(self) -> int:
        return len(self.klass)

    @classmethod
    def of(
        cls, power_watts: Floats, least: Ints, most: Ints, classes: Classes, most_groups: int, buckets: int
    ) -> Groups:
        """Group the clients that take part.

        Parameters
        ----------
        power_watts : ndarray of float64, shape (C,)
            Power of each client [W].
        least, most : ndarray of int64, shape (C,)
            Bounds on the turns of each client.
        classes : Classes
            Their locations and training times.
        most_groups : int
            Largest number of groups for which every power stays a group of its own.
        buckets : int
            Largest number of groups in a stratum otherwise.
        """
        part = np.flatnonzero(most > 0)
        power = power_watts[part]
        # Both bounds in one number, of which there are few: equal turns differ by one.
        base = int(most.max()) + 1
        bounds, bound_index = np.unique(least[part] * base + most[part], return_inverse=True)
        code = classes.of_client[part] * len(bounds) + bound_index
        order = np.lexsort((-power, code))  # stable: equal powers stay in the order of ids
        members, power, code = part[order], power[order], code[order]
        new_stratum = _changes(code)
        new_group = new_stratum | _changes(power)
        exact = int(new_group.sum()) <= most_groups
        if not exact:
            new_group = _cut(new_stratum, new_group, buckets)
            exact = bool(new_group[_changes(power)].all())  # no power changes inside a group
        first = np.flatnonzero(new_group)
        size = np.diff(np.append(first, len(members)))
        total_watts = np.add.reduceat(power, first)
        kilowatts = power[first] if exact else total_watts / size
        bound = bounds[code[first] % len(bounds)]
        return cls(
            klass=code[first] // len(bounds),
            stratum=np.cumsum(new_stratum)[first] - 1,
            kilowatts=kilowatts / 1000.0,
            size=size,
            least=bound // base,
            most=bound % base,
            members=members,
            member_kilowatts=power / 1000.0,
            exact=exact,
        )

    def of_client(self, clients: int) -> Ints:
        """Return the group of each of so many clients, shape (C,); -1 for those that take no part."""
        group = np.full(clients, -1, dtype=np.int64)
        group[self.members] = np.repeat(np.arange(len(self)), self.size)
        return group

    def apart(self) -> Groups:
        """Return the same clients in groups of equal power."""
        group = np.repeat(np.arange(len(self)), self.size)
        first = np.flatnonzero(_changes(self.stratum[group]) | _changes(self.member_kilowatts))
        of = group[first]
        size = np.diff(np.append(first, len(group)))
        return Groups(self.klass[of], self.stratum[of], self.member_kilowatts[first], size, self.least[of],
                      self.most[of], self.members, self.member_kilowatts, exact=True)  # fmt: skip

    def spread(self, prices_g: Floats, finer: Groups) -> Floats:
        """Return prices for a finer grouping, linear in power between the prices of this one.

        Parameters
        ----------
        prices_g : ndarray of float64, shape (G,)
            Prices of a turn [gCO2eq].
        finer : Groups
            The same clients in more groups.
        """
        prices = np.empty(len(finer))
        for stratum in range(int(self.stratum[-1]) + 1):
            own, of = self.stratum == stratum, finer.stratum == stratum
            prices[of] = np.interp(finer.kilowatts[of], self.kilowatts[own][::-1], prices_g[own][::-1])
        return prices

    def hand_out(self, counts: Ints, integrals: Floats) -> Ints:
        """Seat clients: the cleanest seats of a stratum go to its largest powers.

        Parameters
        ----------
        counts : ndarray of int64, shape (R, G)
            Clients of each group in each round.
        integrals : ndarray of float64, shape (R, K)
            Integral of intensity over the window of each class in each round [g h / kWh].

        Returns
        -------
        ndarray of int64, shape (R, n)
            The clients of each round, ascending.
        """
        rounds = len(counts)
        # Only where every member takes one turn may the groups of a stratum share their seats: sorted by
        # power, no client then sits twice in a round. Elsewhere each group keeps its own seats.
        single = (self.least == 1) & (self.most == 1)
        pool = np.cumsum(_changes(self.stratum) | ~single) - 1
        pools = int(pool[-1]) + 1
        pool_size = np.bincount(pool, weights=self.size, minlength=pools).astype(np.int64)
        group, seat_round = np.repeat(np.arange(len(self)), rounds), np.tile(np.arange(rounds), len(self))
        order = np.lexsort((seat_round, integrals[seat_round, self.klass[group]], pool[group]))
        group, seat_round = group[order], seat_round[order]
        repeat = counts[seat_round, group]
        seat_pool, seat_round = np.repeat(pool[group], repeat), np.repeat(seat_round, repeat)
        taken = np.bincount(seat_pool, minlength=pools)
        rank = np.arange(len(seat_pool)) - (np.cumsum(taken) - taken)[seat_pool]
        first = np.cumsum(pool_size) - pool_size
        client = self.members[first[seat_pool] + rank % pool_size[seat_pool]]
        return np.sort(client[np.argsort(seat_round, kind="stable")].reshape(rounds, -1), axis=1)


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the positions at which a value differs from the one before; the first always does."""
    return np.concatenate([[True], values[1:] != values[:-1]])


def _cut(new_stratum: NDArray[np.bool_], new_group: NDArray[np.bool_], buckets: int) -> NDArray[np.bool_]:
    """Return the positions at which groups begin if strata of many powers are cut into equal buckets."""
    stratum = np.cumsum(new_stratum) - 1
    first = np.flatnonzero(new_stratum)
    size = np.diff(np.append(first, len(stratum)))
    powers = np.add.reduceat(new_group.astype(np.int64), first)
    bucket = (np.arange(len(stratum)) - first[stratum]) * buckets // size[stratum]
    return np.where(powers[stratum] <= buckets, new_group, new_stratum | _changes(bucket))
