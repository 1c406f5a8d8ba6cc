"""Planning problem in arrays: groups of clients, their windows, the rules of seating, and limits.

The solvers know this model alone; :mod:`~lowcarb_scheduler.planning.planner` builds it from a job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, Ints
    from lowcarb_scheduler.planning.aggregation import Groups
    from lowcarb_scheduler.planning.assignment import Seating
    from lowcarb_scheduler.planning.balance import Balance
    from lowcarb_scheduler.planning.timegrid import Grid, Windows


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes up to which the planner uses its exact and its finer methods.

    Beyond them it takes shortcuts. Those widen the gap between a plan and its bound, and never break a rule
    or the bound. The defaults keep a plan of a large fleet within seconds.

    Parameters
    ----------
    proven_cells : int
        Slots x groups up to which branch and bound closes the gap.
    proven_gap : float
        Relative gap that counts as closed there; by default no more than sums and solvers round.
    quick_arcs : int
        Rounds x groups up to which an assignment costs about as much as a step of the relaxation. Beyond,
        only the openings of a few steps are assigned.
    slow_arcs : int
        Rounds x groups from which it costs a dozen steps, and still fewer openings are assigned.
    expanded_cells : int
        Clients x seats up to which ``linear_sum_assignment`` is used; its time grows with their cube.
    all_arcs : int
        Rounds x groups up to which HiGHS gets all arcs at once, and eight times as many with caps or
        balance: it takes between 0.1 s and 40 s on raw matrices of 50,000.
    branched_cells : int
        Rounds x locations up to which a fractional vertex is branched on; beyond, it is rounded.
    span_cells : int
        Candidate rounds x groups up to which every length of a staggered round is a candidate of its own.
    block_cells : int
        Candidate rounds x groups that are filled at a time with a rule of balance; where every round has a
        price of its own there are more, so beyond this neighbouring rounds share one.
    apart_cells : int
        Slots x groups up to which every power is a group of its own; beyond, neighbouring powers share a
        bucket.
    buckets : tuple of int
        Buckets of power in each class of clients: fewest; most where turns are fixed; most where they are
        free, which buckets then decide.
    refined_arcs : int
        Rounds x groups up to which the last assignment tells the powers of a bucket apart again.
    """

    proven_cells: int = 2_000
    proven_gap: float = 1e-10
    quick_arcs: int = 600
    slow_arcs: int = 50_000
    expanded_cells: int = 20_000
    all_arcs: int = 4_000
    branched_cells: int = 150
    span_cells: int = 1_000_000
    block_cells: int = 400_000
    apart_cells: int = 150_000
    buckets: tuple[int, int, int] = (2, 8, 32)
    refined_arcs: int = 120_000


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Planning problem: R rounds, G groups of clients, T slots.

    Parameters
    ----------
    rounds : int
        Rounds to open, R.
    groups : Groups
        Clients, in G groups of interchangeable ones.
    windows : Windows
        Cost of training by class, on a grid of T slots.
    seating : Seating
        Rules of seating the groups.
    class_of_client : ndarray of int64, shape (C,)
        Location and training time of each client, as a column of ``windows``.
    limits : Limits
        Sizes up to which it is solved by exact and finer methods.
    """

    rounds: int
    groups: Groups
    windows: Windows
    seating: Seating
    class_of_client: Ints
    limits: Limits

    def until(self, grid: Grid) -> Model:
        """Return the same problem on a shorter grid with the same first slot."""
        return replace(self, windows=self.windows.until(grid))

    def without_stagger(self) -> Model:
        """Return the same problem with clients that all start when their round opens."""
        return replace(self, windows=replace(self.windows, stagger=False))

    def strata_of_clients(self) -> Ints:
        """Return the stratum of each client, shape (C,); -1 for those that take no part."""
        group = self.groups.of_client(len(self.class_of_client))
        return np.where(group < 0, -1, self.groups.stratum[group])

    def regrouped(self, groups: Groups) -> Model:
        """Return the same problem with a finer grouping of its clients."""
        location = np.zeros(int(self.groups.klass.max()) + 1, dtype=np.int64)
        location[self.groups.klass] = self.seating.location
        seating = replace(
            self.seating, members=groups.size, least=groups.least, most=groups.most,
            location=location[groups.klass],
        )  # fmt: skip
        return replace(self, groups=groups, seating=seating)

    def balanced(self, balance: Balance | None) -> Model:
        """Return the same problem with another rule of balance, or none."""
        return replace(self, seating=replace(self.seating, balance=balance))

    def boundaries(self, slots: Ints) -> Ints:
        """Return the boundary by which each round that opens at ``slots`` is over, shape (R,).

        A round without stagger is over after its width; with stagger it may last until the next one opens.
        """
        if self.windows.stagger:
            return np.append(slots[1:], self.windows.last_boundary)
        return slots + self.windows.grid.width

    def costs_g(self, integrals: Floats) -> Floats:
        """Return the emissions of one client of each group [gCO2eq], shape (J, G).

        Parameters
        ----------
        integrals : ndarray of float64, shape (J, K)
            By class [g h / kWh]; infinite where it cannot train.
        """
        per_group = integrals[:, self.groups.klass]
        with np.errstate(invalid="ignore"):  # zero power times an infinite integral
            return np.where(np.isinf(per_group), np.inf, per_group * self.groups.kilowatts)

    def round_costs_g(self, slots: Ints) -> Floats:
        """Return :meth:`costs_g` of rounds that open at ``slots``, shape (R, G)."""
        return self.costs_g(self.windows.cheapest(slots, self.boundaries(slots))[1])
