"""Groups of interchangeable clients: what makes a million of them as quick to plan as a thousand.

Clients that share location, training time, power and turns to come are interchangeable, so it is enough to
decide how many of a group train in each round, x[r, g] <= N_g. Handing those seats out cyclically inside the
group gives each member floor or ceil of X_g / N_g turns, and never two in a round, because a round's seats
are at most N_g consecutive ones.

Where powers all differ, a stratum (all of the above but power) is cut into buckets of neighbouring powers,
each priced at its mean. Who of the stratum sits where is then sorted exactly: with one turn each, the
largest power takes the cleanest seat, which is optimal by the rearrangement inequality [1]_.

.. [1] Hardy, Littlewood and Pólya, Inequalities, 2nd ed. (1952), section 10.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.fairness import Turns
    from lowcarb_scheduler.planning.job import Job


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The K pairs of location and training time that occur in a fleet.

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
    def of(cls, job: Job) -> Classes:
        """Return the classes of a job's fleet."""
        durations, duration_index = np.unique(job.durations_us, return_inverse=True)
        code = job.fleet.location_index * len(durations) + duration_index
        used = np.flatnonzero(np.bincount(code, minlength=len(job.fleet.locations) * len(durations)))
        position = np.full(len(job.fleet.locations) * len(durations), -1, dtype=np.int64)
        position[used] = np.arange(len(used))
        return cls(used // len(durations), durations[used % len(durations)], position[code])


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """G groups of clients that are planned as one.

    Parameters
    ----------
    klass : ndarray of int64, shape (G,)
        The class (location and training time) of each group.
    stratum : ndarray of int64, shape (G,)
        Groups of one stratum differ by power alone; ascending.
    kilowatts : ndarray of float64, shape (G,)
        Mean power of the members [kW].
    size : ndarray of int64, shape (G,)
        Members, N_g.
    least, most : ndarray of int64, shape (G,)
        Turns each member takes.
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
    def of(cls, job: Job, turns: Turns, classes: Classes, most_groups: int, buckets: int) -> Groups:
        """Group the clients that take part.

        Parameters
        ----------
        job, turns, classes
            What is to be grouped.
        most_groups : int
            Powers are kept apart if that makes no more groups than this.
        buckets : int
            Else, in how many groups a stratum is cut at most.
        """
        part = np.flatnonzero(turns.most > 0)
        power = job.fleet.power_watts[part]
        base = job.rounds + 1
        bounds, bound_index = np.unique(
            turns.least[part] * base + turns.most[part], return_inverse=True
        )  # few values: equal turns differ by one
        code = classes.of_client[part] * len(bounds) + bound_index
        order = np.lexsort((-power, code))  # stable: ties stay in the order of ids
        members, power, code = part[order], power[order], code[order]
        new_stratum = np.concatenate([[True], code[1:] != code[:-1]])
        new_group = new_stratum | np.concatenate([[True], power[1:] != power[:-1]])
        exact = int(new_group.sum()) <= most_groups
        if not exact:
            new_group = _cut(new_stratum, new_group, buckets)
            exact = not _differs(power, new_group)
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

    def apart(self) -> Groups:
        """Return the same clients in groups of equal power."""
        group = np.repeat(np.arange(len(self)), self.size)
        stratum = self.stratum[group]
        new = np.ones(len(group), dtype=bool)
        new[1:] = (stratum[1:] != stratum[:-1]) | (np.diff(self.member_kilowatts) != 0)
        first = np.flatnonzero(new)
        of = group[first]
        size = np.diff(np.append(first, len(group)))
        return Groups(self.klass[of], self.stratum[of], self.member_kilowatts[first], size, self.least[of],
                      self.most[of], self.members, self.member_kilowatts, exact=True)  # fmt: skip

    def spread(self, prices_g: Floats, finer: Groups) -> Floats:
        """Return prices of a finer grouping: linear in power between those of this one."""
        prices = np.empty(len(finer))
        for stratum in range(int(self.stratum[-1]) + 1):
            own, of = self.stratum == stratum, finer.stratum == stratum
            prices[of] = np.interp(finer.kilowatts[of], self.kilowatts[own][::-1], prices_g[own][::-1])
        return prices

    def hand_out(self, counts: Ints, integrals: Floats) -> Ints:
        """Seat clients.

        Parameters
        ----------
        counts : ndarray of int64, shape (R, G)
            How many of each group train in each round.
        integrals : ndarray of float64, shape (R, K)
            Integral of intensity over the window of each class in each round [g h / kWh].

        Returns
        -------
        ndarray of int64, shape (R, n)
            The clients of each round, ascending.
        """
        rounds = len(counts)
        single = (self.least == 1) & (self.most == 1)
        pool = np.cumsum(np.concatenate([[True], (self.stratum[1:] != self.stratum[:-1]) | ~single[1:]])) - 1
        pools = int(pool[-1]) + 1
        pool_size = np.bincount(pool, weights=self.size, minlength=pools).astype(np.int64)
        group, seat_round = (index.ravel() for index in np.meshgrid(
            np.arange(len(self)), np.arange(rounds), indexing="ij"))  # fmt: skip
        order = np.lexsort((seat_round, integrals[seat_round, self.klass[group]], pool[group]))
        group, seat_round = group[order], seat_round[order]
        repeat = counts[seat_round, group]
        seat_pool, seat_round = np.repeat(pool[group], repeat), np.repeat(seat_round, repeat)
        taken = np.bincount(seat_pool, minlength=pools)
        rank = np.arange(len(seat_pool)) - (np.cumsum(taken) - taken)[seat_pool]
        first = np.cumsum(pool_size) - pool_size
        client = self.members[first[seat_pool] + rank % pool_size[seat_pool]]
        return np.sort(client[np.argsort(seat_round, kind="stable")].reshape(rounds, -1), axis=1)


def _cut(new_stratum: np.ndarray, new_group: np.ndarray, buckets: int) -> np.ndarray:
    """Return where groups begin if strata of many powers are cut into buckets of equal size."""
    stratum = np.cumsum(new_stratum) - 1
    first = np.flatnonzero(new_stratum)
    size = np.diff(np.append(first, len(stratum)))
    powers = np.add.reduceat(new_group.astype(np.int64), first)
    bucket = (np.arange(len(stratum)) - first[stratum]) * buckets // size[stratum]
    new_bucket = new_stratum | np.concatenate([[True], bucket[1:] != bucket[:-1]])
    return np.where(powers[stratum] <= buckets, new_group, new_bucket)


def _differs(power: Floats, new_group: np.ndarray) -> bool:
    """Return whether two members of one group draw different power."""
    return bool(((power[1:] != power[:-1]) & ~new_group[1:]).any())
